//! What this node says of itself.

use skep_model::node::NodeDescription;
use skep_model::resources::Resources;
use skep_model::service::Platform;
use std::collections::BTreeMap;

/// Billionths of a core in a core.
const NANOS_PER_CPU: u64 = 1_000_000_000;

/// Host name, platform and resources of this machine, with labels set on the daemon.
pub fn describe(labels: BTreeMap<String, String>) -> NodeDescription {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    NodeDescription {
        hostname: hostname(),
        platform: Platform { architecture: std::env::consts::ARCH.into(), os: "linux".into() },
        resources: Resources { nano_cpus: cpus * NANOS_PER_CPU, memory_bytes: memory() },
        engine_version: skep_model::version::RELEASE.into(),
        engine_labels: labels,
        underlay: None,
    }
}

/// This machine's host name.
pub fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Bytes of memory of this machine.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
