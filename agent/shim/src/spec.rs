//! From a task's spec to the OCI bundle that the container library reads, and the checks before it.
//!
//! All of it is a function of the spec and of what its node holds, so that the agent's tests can ask what a shim would say.
//! The bundle holds neither the task's environment nor its secrets: those go from memory to execve and tmpfs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::capabilities::{self, FOR_ENTRY};
use crate::protocol::{Health, Mount, Network, TaskSpec};
use crate::sensitive::Sensitive;
use crate::{cgroup, limits};

/// Where programs are looked for when the task's environment has no PATH.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where secrets with a relative target appear.
pub const SECRETS_FOLDER: &str = "/run/secrets";
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const CPU_PERIOD_US: i64 = 100_000;
/// The smallest quota the kernel takes.
const CPU_QUOTA_MIN_US: i64 = 1_000;
const FILE_BYTES_MAX: usize = 1_000 << 10;

/// Refuses what cannot be run, naming it. Nothing was changed yet.
///
/// # Errors
/// A sentence for the user.
pub fn check(spec: &TaskSpec) -> Result<(), String> {
    let id_is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if spec.task_id.is_empty() || spec.task_id.len() > 64 || !spec.task_id.chars().all(id_is_plain) {
        return Err("task id must be 1 to 64 letters, digits, `-`, `_` or `.`".into());
    }
    if spec.task_id.chars().all(|c| c == '.') {
        return Err("task id must not be dots only".into());
    }
    if spec.args.first().is_none_or(String::is_empty) {
        return Err("no command specified".into());
    }
    if spec.tty {
        return Err("tty is not supported yet".into());
    }
    if spec.init {
        return Err("init is not supported yet".into());
    }
    cgroup::checked(&spec.cgroups_path).map_err(|error| error.to_string())?;
    for path in [&spec.upper_dir, &spec.work_dir, &spec.log.dir] {
        if !path.is_absolute() {
            return Err(format!("{} must be an absolute path", path.display()));
        }
    }
    if !spec.exit_dir.as_os_str().is_empty() && !spec.exit_dir.is_absolute() {
        return Err(format!("{} must be an absolute path", spec.exit_dir.display()));
    }
    if !spec.cwd.is_empty() && !spec.cwd.starts_with('/') {
        return Err(format!("working directory {:?} must be absolute", spec.cwd));
    }
    if spec.env.iter().any(|entry| entry.expose().contains(&0)) {
        return Err("an environment entry contains a zero byte".into());
    }
    check_names(spec)?;
    check_hostname(&spec.hostname)?;
    signal(&spec.stop_signal)?;
    spec.mounts.iter().try_for_each(check_mount)?;
    check_files(spec)?;
    spec.ulimits.iter().try_for_each(limits::check)?;
    spec.health.as_ref().map_or(Ok(None), probe_command)?;
    if let Network::Path(path) = &spec.network
        && !path.exists()
    {
        return Err(format!("there is no network namespace at {}", path.display()));
    }
    spec.sysctls.keys().try_for_each(|key| check_sysctl(key))?;
    if spec.network == Network::Host && spec.sysctls.keys().any(|key| key.starts_with("net.")) {
        return Err("sysctls of net. are not allowed in the host's network".into());
    }
    Ok(())
}

/// What goes into hosts and resolv.conf must stay on its line and in its field.
fn check_names(spec: &TaskSpec) -> Result<(), String> {
    let hosts = spec.extra_hosts.iter().flat_map(|entry| [&entry.host, &entry.address]);
    let dns = &spec.dns;
    let names = dns.servers.iter().chain(&dns.search).chain(&dns.options);
    match hosts.chain(names).find(|name| name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control())) {
        Some(bad) => Err(format!("invalid host, server or option {bad:?}")),
        None => Ok(()),
    }
}

/// What has no namespace is the node's.
fn check_sysctl(key: &str) -> Result<(), String> {
    const OWN: [&str; 5] = ["net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"];
    let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    if !is_plain || key.contains("..") || !OWN.iter().any(|prefix| key.starts_with(prefix)) {
        return Err(format!("sysctl {key:?} is not one of the task's own namespaces"));
    }
    Ok(())
}

fn check_hostname(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.len() > 63 || !name.chars().all(plain) {
        return Err(format!("invalid hostname {name:?}"));
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<(), String> {
    check_target(mount.target())?;
    if let Mount::Bind { source, propagation, .. } = mount {
        if !source.is_absolute() {
            return Err(format!("bind source {} must be an absolute path", source.display()));
        }
        if !source.exists() {
            return Err(format!("invalid mount config for type \"bind\": bind source path does not exist: {}", source.display()));
        }
        if ["rshared", "shared"].contains(&propagation.as_str()) {
            return Err(format!("bind propagation {propagation:?} is not supported: mounts of a task do not reach its node"));
        }
        if !["", "rprivate", "private", "rslave", "slave"].contains(&propagation.as_str()) {
            return Err(format!("unknown bind propagation {propagation:?}"));
        }
    }
    Ok(())
}

fn check_target(target: &str) -> Result<(), String> {
    if !target.starts_with('/') || target.trim_matches('/').is_empty() || has_dots(target) {
        return Err(format!("mount target {target:?} must be absolute, not the root, and without `..`"));
    }
    Ok(())
}

fn has_dots(path: &str) -> bool {
    path.contains('\0') || path.split('/').any(|part| part == ".." || part == ".")
}

fn check_files(spec: &TaskSpec) -> Result<(), String> {
    let mut targets = BTreeSet::new();
    for (kind, folder, files) in
        [("secret", format!("{SECRETS_FOLDER}/"), &spec.secrets), ("config", "/".to_owned(), &spec.configs)]
    {
        for file in files {
            let inside = file.target.trim_matches('/');
            if inside.is_empty() || has_dots(&file.target) || inside.contains("//") {
                return Err(format!("{kind} {}: invalid target {:?}", file.name, file.target));
            }
            if file.bytes.len() > FILE_BYTES_MAX {
                return Err(format!("{kind} {}: larger than {FILE_BYTES_MAX} bytes", file.name));
            }
            let absolute = match file.target.starts_with('/') {
                true => format!("/{inside}"),
                false => format!("{folder}{inside}"),
            };
            if !targets.insert(absolute) {
                return Err(format!("{kind} {}: target {:?} is used twice", file.name, file.target));
            }
        }
    }
    Ok(())
}

/// The program that probes a task's health; none when the check is off.
///
/// # Errors
/// Names an unknown kind of test.
pub fn probe_command(health: &Health) -> Result<Option<Vec<String>>, String> {
    let rest = || health.test[1..].to_vec();
    match health.test.first().map(String::as_str) {
        None | Some("NONE") => Ok(None),
        Some("CMD") if health.test.len() > 1 => Ok(Some(rest())),
        Some("CMD-SHELL") if health.test.len() == 2 => Ok(Some([vec!["/bin/sh".to_owned(), "-c".to_owned()], rest()].concat())),
        Some(other) => Err(format!("invalid health check test {other:?}")),
    }
}

/// A signal by name, with or without `SIG`, or by number; empty is SIGTERM.
///
/// # Errors
/// Names what is no signal.
pub fn signal(name: &str) -> Result<i32, String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if short.is_empty() {
        return Ok(libc::SIGTERM);
    }
    let unknown = || format!("invalid signal: {name}");
    if let Ok(number) = short.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number).ok_or_else(unknown);
    }
    let real_time = |base: &str, sign: i32, from: i32| {
        let offset = short.strip_prefix(base)?;
        let offset = if offset.is_empty() { 0 } else { offset.get(1..)?.parse::<i32>().ok()? };
        Some(from + sign * offset).filter(|number| (34..=64).contains(number))
    };
    if let Some(number) = real_time("RTMIN", 1, 34).or_else(|| real_time("RTMAX", -1, 64)) {
        return Ok(number);
    }
    format!("SIG{short}").parse::<nix::sys::signal::Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

/// The host name inside: the spec's, else the task id's beginning.
pub fn hostname(spec: &TaskSpec) -> String {
    match spec.hostname.is_empty() {
        true => spec.task_id.chars().take(12).collect(),
        false => spec.hostname.clone(),
    }
}

/// The whole environment: what the image and the service say, plus what every task has.
pub fn environment(spec: &TaskSpec, home: &str) -> Vec<Sensitive> {
    let has = |key: &str| {
        let prefix = format!("{key}=");
        spec.env.iter().any(|entry| entry.expose().starts_with(prefix.as_bytes()))
    };
    let defaults = [("PATH", PATH_DEFAULT.to_owned()), ("HOSTNAME", hostname(spec)), ("HOME", home.to_owned())];
    let missing = defaults.into_iter().filter(|(key, _)| !has(key));
    let missing = missing.map(|(key, value)| Sensitive::from(format!("{key}={value}")));
    missing.chain(spec.env.iter().cloned()).collect()
}

/// The bundle's `config.json`. `network` is the namespace to join; `binds` are (source, target, read-only) of files the shim itself made.
pub fn oci(
    spec: &TaskSpec,
    capability_set: u64,
    held: u64,
    network: Option<&std::path::Path>,
    binds: &[(String, String, bool)],
) -> Value {
    let names = capabilities::names((capability_set | FOR_ENTRY) & held);
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "cgroup"}),
    ];
    if let Some(path) = network {
        namespaces.push(json!({"type": "network", "path": path}));
    }
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    json!({
        "ociVersion": "1.0.2",
        "hostname": hostname(spec),
        "root": {"path": "../rootfs", "readonly": spec.read_only},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["task"],
            "env": [format!("PATH={PATH_DEFAULT}")],
            "cwd": cwd,
            "capabilities": {"bounding": names, "effective": names, "permitted": names},
        },
        "mounts": mounts(spec, binds),
        "linux": {
            "cgroupsPath": spec.cgroups_path,
            "namespaces": namespaces,
            "resources": resources(spec),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    })
}

/// What the task has mounted, for a refusal that names none of it: all but what every task has.
pub fn named_mounts(spec: &TaskSpec) -> String {
    /// Targets that are named.
    const NAMED_MAX: usize = 16;
    let files = spec.secrets.iter().chain(&spec.configs).map(|file| file.target.as_str());
    let targets: Vec<&str> = spec.mounts.iter().map(Mount::target).chain(files).take(NAMED_MAX).collect();
    if targets.is_empty() { String::new() } else { format!("; one of these targets cannot be mounted: {}", targets.join(", ")) }
}

fn resources(spec: &TaskSpec) -> Value {
    let limits = &spec.resources;
    let pids = match limits.pids {
        0 => -1,
        some => i64::try_from(some).unwrap_or(i64::MAX),
    };
    let mut resources = json!({
        "pids": {"limit": pids},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    if limits.memory_bytes > 0 {
        resources["memory"] = json!({"limit": limits.memory_bytes});
    }
    if limits.nano_cpus > 0 {
        let quota = (limits.nano_cpus as i128 * CPU_PERIOD_US as i128 / 1_000_000_000) as i64;
        resources["cpu"] = json!({"quota": quota.max(CPU_QUOTA_MIN_US), "period": CPU_PERIOD_US});
    }
    resources
}

fn mounts(spec: &TaskSpec, binds: &[(String, String, bool)]) -> Vec<Value> {
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": source, "options": options});
    let shut = ["nosuid", "noexec", "nodev"];
    let mut system = vec![
        mount("/proc", "proc", "proc", &shut),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &shut),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    let mut own: Vec<(String, Value)> = Vec::new();
    for (source, target, read_only) in binds {
        let mut options = vec!["rbind", "rprivate", "nosuid", "nodev", "noexec"];
        options.extend(read_only.then_some("ro"));
        own.push((target.clone(), mount(target, "bind", source, &options)));
    }
    for wanted in &spec.mounts {
        let value = match wanted {
            // The library takes no word of propagation: see `entry`.
            Mount::Bind { source, target, read_only, .. } => {
                let mut options = vec!["rbind"];
                options.extend(read_only.then_some("rro"));
                mount(target, "bind", &source.to_string_lossy(), &options)
            }
            Mount::Tmpfs { target, size_bytes, mode } => {
                let mode = format!("mode={:o}", if *mode == 0 { 0o1777 } else { *mode });
                let size = format!("size={size_bytes}");
                let mut options = vec!["nosuid", "nodev", "noexec", &mode];
                options.extend((*size_bytes > 0).then_some(size.as_str()));
                mount(target, "tmpfs", "tmpfs", &options)
            }
        };
        own.push((wanted.target().to_owned(), value));
    }
    // A mount must not hide one below it, so the shallow ones go first.
    own.sort_by_key(|(target, _)| target.split('/').filter(|part| !part.is_empty()).count());
    system.extend(own.into_iter().map(|(_, value)| value));
    system
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_any_name() {
        for (name, expect) in [
            ("", Some(15)),
            ("TERM", Some(15)),
            ("SIGQUIT", Some(3)),
            ("sigint", Some(2)),
            ("9", Some(9)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX+1", Some(63)),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("RTMIN+x", None),
        ] {
            assert_eq!(signal(name).ok(), expect, "{name}");
        }
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let good = TaskSpec {
            task_id: "t1".into(),
            args: vec!["sh".into()],
            cgroups_path: "/skep/t1".into(),
            upper_dir: "/u".into(),
            work_dir: "/w".into(),
            log: crate::protocol::LogSpec { dir: "/l".into(), ..Default::default() },
            ..TaskSpec::default()
        };
        assert_eq!(check(&good), Ok(()));
        let refused = |change: &dyn Fn(&mut TaskSpec), expect: &str| {
            let mut spec = good.clone();
            change(&mut spec);
            let error = check(&spec).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        refused(&|s| s.task_id = "../x".into(), "task id");
        refused(&|s| s.args.clear(), "no command specified");
        refused(&|s| s.tty = true, "tty");
        refused(&|s| s.init = true, "init");
        refused(&|s| s.cgroups_path = "/a/../..".into(), "cgroup path");
        refused(&|s| s.cwd = "data".into(), "working directory");
        refused(&|s| s.env.push("A=\0".into()), "zero byte");
        refused(&|s| s.dns.servers.push("1.1.1.1\nnameserver x".into()), "invalid host");
        refused(&|s| s.stop_signal = "NOPE".into(), "invalid signal: NOPE");
        refused(&|s| s.mounts.push(Mount::Tmpfs { target: "/a/../b".into(), size_bytes: 0, mode: 0 }), "mount target");
        refused(
            &|s| {
                s.mounts.push(Mount::Bind {
                    source: "/nope/at/all".into(),
                    target: "/a".into(),
                    read_only: false,
                    propagation: String::new(),
                });
            },
            "bind source path does not exist: /nope/at/all",
        );
        let file = |target: &str| crate::protocol::FileSpec {
            name: "pw".into(),
            version: 1,
            target: target.into(),
            uid: 0,
            gid: 0,
            mode: 0o400,
            bytes: "x".into(),
        };
        refused(&|s| s.secrets.push(file("../pw")), "invalid target");
        refused(&|s| s.secrets.extend([file("pw"), file("/run/secrets/pw")]), "used twice");
        refused(&|s| s.ulimits.push(crate::protocol::Ulimit { name: "x".into(), soft: 1, hard: 1 }), "ulimit");
        refused(&|s| drop(s.sysctls.insert("vm.swappiness".into(), "1".into())), "sysctl \"vm.swappiness\" is not one of");
        refused(&|s| drop(s.sysctls.insert("net/../vm.swappiness".into(), "1".into())), "is not one of");
        refused(
            &|s| {
                s.network = Network::Host;
                s.sysctls.insert("net.core.somaxconn".into(), "1".into());
            },
            "net.",
        );
    }
}
