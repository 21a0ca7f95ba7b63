//! The rules of a container's spec that need nothing but the spec.
//!
//! Admission checks what a user asks for, and the agent what that has become on its
//! node, with every placeholder filled in, by this one function. A placeholder is text
//! here; whether it can be filled in is for admission to say.

use super::{
    ConfigReference, ContainerSpec, DnsConfig, FileTarget, HealthConfig, Mount, MountKind, SecretReference, ULIMITS, Ulimit,
};
use crate::said::MEMORY_MAX;
use crate::text::{self, is_word};
use crate::{Refusal, image};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Linux capabilities, without their prefix.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "WAKE_ALARM",
];

/// Signals by name, without `SIG`.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
    "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Bind propagations. The kernel knows `shared` and `rshared` as well: they would carry a task's mounts to its node.
const PROPAGATIONS: [&str; 5] = ["", "rprivate", "private", "rslave", "slave"];
/// The shortest duration of a health check.
const HEALTH_MIN: Duration = Duration::from_millis(1);
/// The longest host name.
const HOSTNAME_MAX: usize = 63;
/// The highest mode of a file.
const MODE_MAX: u32 = 0o7777;
/// Where secrets with a relative target appear.
pub const SECRETS_FOLDER: &str = "/run/secrets";
/// The most bytes that the secrets and configs of one task have together: they reach its
/// shim in one message.
pub const FILES_LENGTH_MAX: u64 = 24 * 1024 * 1024;

/// Checks the bytes of all secrets and configs of one task together.
///
/// # Errors
/// Names them and the limit.
pub fn check_files_length(n_bytes: u64) -> Result<(), Refusal> {
    if n_bytes <= FILES_LENGTH_MAX {
        return Ok(());
    }
    let what = format!("all secrets and configs of a task together ({n_bytes} bytes)");
    Err(Refusal::TooLarge { what, limit: format!("{FILES_LENGTH_MAX} bytes") })
}

impl ContainerSpec {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        check_image(&self.image)?;
        text::check_labels("container label", &self.labels)?;
        for (field, list) in [("entrypoint", &self.command), ("argument", &self.args)] {
            list.iter().try_for_each(|argument| text::check(field, argument))?;
        }
        if self.command.first().is_some_and(String::is_empty) {
            return Err(Refusal::invalid("entrypoint", "", "it begins with a program"));
        }
        if self.init == Some(true) {
            return Err(Refusal::Unsupported { what: "an init process in the container (--init)".into() });
        }
        check_hostname(&self.hostname)?;
        self.env.iter().try_for_each(|variable| check_env(variable))?;
        if !self.dir.is_empty() && !self.dir.starts_with('/') {
            return Err(Refusal::invalid("working directory", &self.dir, "it must be an absolute path"));
        }
        text::check_path("working directory", &self.dir)?;
        check_user(&self.user)?;
        self.groups.iter().try_for_each(|group| check_account("group", group, group))?;
        self.mounts.iter().try_for_each(check_mount)?;
        check_stop_signal(&self.stop_signal)?;
        self.healthcheck.as_ref().map_or(Ok(()), check_health)?;
        for host in &self.hosts {
            check_address("host address", &host.address)?;
            if !is_word(&host.name) {
                let reason = "a name without blanks and control characters belongs to the address";
                return Err(Refusal::invalid("host name", &host.name, reason));
            }
            text::check_length("host name", &host.name)?;
        }
        check_dns(&self.dns)?;
        for capability in self.capability_add.iter().chain(&self.capability_drop) {
            check_capability(capability)?;
        }
        self.sysctls.iter().try_for_each(|(key, value)| check_sysctl(key, value))?;
        check_ulimits(&self.ulimits)?;
        if !(-1000..=1000).contains(&self.oom_score_adj) {
            let value = self.oom_score_adj.to_string();
            return Err(Refusal::invalid("oom-score-adj", value, "it must be between -1000 and 1000"));
        }
        check_places(self)
    }
}

/// Whether a text holds placeholders: what it is in the end is known on the node only.
pub fn has_placeholder(text: &str) -> bool {
    text.contains("{{")
}

fn check_image(image: &str) -> Result<(), Refusal> {
    if image.is_empty() {
        return Err(Refusal::invalid("image", image, "an image reference must be given"));
    }
    let form = "an image reference has the form [registry/]name[:tag][@digest], its name in lower case";
    image::parse(image).map(drop).map_err(|rule| Refusal::invalid("image", image, format!("{form}; {rule}")))
}

fn check_hostname(hostname: &str) -> Result<(), Refusal> {
    if hostname.is_empty() || has_placeholder(hostname) {
        return text::check("hostname", hostname);
    }
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if hostname.len() > HOSTNAME_MAX || !hostname.split('.').all(is_part) {
        let reason = format!("a host name has letters, digits, '-' and '.', and at most {HOSTNAME_MAX} characters");
        return Err(Refusal::invalid("hostname", hostname, reason));
    }
    Ok(())
}

fn check_env(variable: &str) -> Result<(), Refusal> {
    // The value may be confidential: a refusal shows the name only.
    let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
    if name.is_empty() || !variable.contains('=') {
        return Err(Refusal::invalid("environment variable", name, "it has the form KEY=VALUE"));
    }
    text::check("environment variable", name)?;
    if value.contains('\0') || variable.len() > text::TEXT_MAX {
        let max = text::TEXT_MAX;
        let reason = format!("its value must not contain a NUL character, and name and value have at most {max} bytes");
        return Err(Refusal::invalid("environment variable", name, reason));
    }
    Ok(())
}

fn check_user(user: &str) -> Result<(), Refusal> {
    if user.is_empty() {
        return Ok(());
    }
    let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    check_account("user", user, name)?;
    group.map_or(Ok(()), |group| check_account("user", user, group))
}

fn check_account(field: &str, given: &str, name: &str) -> Result<(), Refusal> {
    text::check_length(field, given)?;
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b'/');
    if name.is_empty() || !is_name || (is_number && !name.parse::<u32>().is_ok_and(|number| number < u32::MAX)) {
        let reason = "an account is a name or a number; a user has the form name|uid[:group|gid]";
        return Err(Refusal::invalid(field, given, reason));
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<(), Refusal> {
    text::check_absolute("mount target", &mount.target)?;
    match mount.kind {
        MountKind::Bind => {
            if mount.source != "/" {
                text::check_absolute("mount source", &mount.source)?;
            }
            if !PROPAGATIONS.contains(&mount.propagation.as_str()) {
                let why = if mount.propagation.ends_with("shared") { "mounts of a task do not reach its node; " } else { "" };
                let reason = format!("{why}it is one of {}", PROPAGATIONS[1..].join(", "));
                return Err(Refusal::invalid("bind-propagation", &mount.propagation, reason));
            }
            if mount.tmpfs_size != 0 || mount.tmpfs_mode != 0 {
                return Err(Refusal::invalid(
                    "mount",
                    &mount.target,
                    "a size or mode belongs to a tmpfs mount, not to a bind mount",
                ));
            }
        }
        MountKind::Tmpfs => {
            if !mount.source.is_empty() {
                return Err(Refusal::invalid("mount source", &mount.source, "a tmpfs mount has no source"));
            }
            if mount.create_source || !mount.propagation.is_empty() {
                return Err(Refusal::invalid("mount", &mount.target, "bind options do not belong to a tmpfs mount"));
            }
            if mount.tmpfs_mode > MODE_MAX {
                let value = format!("{:o}", mount.tmpfs_mode);
                return Err(Refusal::invalid("tmpfs-mode", value, "a mode has at most four octal digits"));
            }
            if mount.tmpfs_size > MEMORY_MAX {
                let value = mount.tmpfs_size.to_string();
                return Err(Refusal::invalid("tmpfs-size", value, "it must be at most 1EiB; 0 is no limit"));
            }
        }
    }
    Ok(())
}

fn check_stop_signal(signal: &str) -> Result<(), Refusal> {
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let is_number = name.parse::<u32>().is_ok_and(|number| (1..=64).contains(&number));
    let is_real_time =
        name.strip_prefix("RTMIN+").or(name.strip_prefix("RTMAX-")).is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 30));
    if signal.is_empty() || is_number || is_real_time || SIGNALS.contains(&name) || matches!(name, "RTMIN" | "RTMAX") {
        return Ok(());
    }
    Err(Refusal::invalid("stop-signal", signal, "it is a signal's name, such as SIGTERM, or its number"))
}

fn check_health(health: &HealthConfig) -> Result<(), Refusal> {
    let joined = health.test.join(" ");
    let refuse = |reason: &str| Err(Refusal::invalid("health check", &joined, reason));
    match health.test.first().map(String::as_str) {
        None => {}
        Some("NONE") if health.test.len() == 1 => {}
        Some("NONE") => return refuse("NONE takes no arguments"),
        Some("CMD") if health.test.len() >= 2 => {}
        Some("CMD-SHELL") if health.test.len() == 2 => {}
        Some("CMD") => return refuse("CMD needs a program"),
        Some("CMD-SHELL") => return refuse("CMD-SHELL needs one command line"),
        Some(_) => return refuse("it begins with NONE, CMD or CMD-SHELL"),
    }
    health.test.iter().try_for_each(|argument| text::check("health check", argument))?;
    let durations = [
        ("health-interval", health.interval),
        ("health-timeout", health.timeout),
        ("health-start-period", health.start_period),
        ("health-start-interval", health.start_interval),
    ];
    for (field, duration) in durations {
        if let Some(duration) = duration.filter(|duration| !duration.is_zero() && *duration < HEALTH_MIN) {
            return Err(Refusal::invalid(field, format!("{duration:?}"), "it must be 0 or at least 1ms"));
        }
    }
    Ok(())
}

fn check_address(field: &str, address: &str) -> Result<(), Refusal> {
    match address.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Refusal::invalid(field, address, "it must be an IP address")),
    }
}

fn check_dns(dns: &DnsConfig) -> Result<(), Refusal> {
    dns.nameservers.iter().try_for_each(|server| check_address("dns", server))?;
    for (field, list) in [("dns-search", &dns.search), ("dns-option", &dns.options)] {
        if let Some(text) = list.iter().find(|text| !is_word(text)) {
            return Err(Refusal::invalid(field, text, "it must be one word without control characters"));
        }
        list.iter().try_for_each(|text| text::check_length(field, text))?;
    }
    Ok(())
}

fn check_capability(capability: &str) -> Result<(), Refusal> {
    let upper = capability.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if upper == "ALL" || CAPABILITIES.contains(&name) {
        return Ok(());
    }
    Err(Refusal::invalid("capability", capability, "it is not a known capability, such as CAP_NET_RAW, nor ALL"))
}

fn check_sysctl(key: &str, value: &str) -> Result<(), Refusal> {
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    let known = ["net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"];
    if !is_key || !known.iter().any(|prefix| key.starts_with(prefix)) || key.contains("..") {
        let reason =
            "only parameters of the task's own namespaces can be set: net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*";
        return Err(Refusal::invalid("sysctl", key, reason));
    }
    text::check_path("sysctl", key)?;
    text::check(&format!("value of sysctl {key}"), value)
}

fn check_ulimits(ulimits: &[Ulimit]) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for ulimit in ulimits {
        let value = format!("{}={}:{}", ulimit.name, ulimit.soft, ulimit.hard);
        if !ULIMITS.contains(&ulimit.name.as_str()) {
            return Err(Refusal::invalid("ulimit", value, format!("it is one of {}", ULIMITS.join(", "))));
        }
        if !seen.insert(&ulimit.name) {
            return Err(Refusal::invalid("ulimit", value, "it is given twice"));
        }
        if ulimit.soft < -1 || ulimit.hard < -1 || !ulimit.is_ordered() {
            return Err(Refusal::invalid("ulimit", value, "the soft limit must not exceed the hard limit; -1 is unlimited"));
        }
    }
    Ok(())
}

/// What is at a path of the container, for a refusal.
struct Place {
    what: String,
    is_file: bool,
}

/// No two things appear at one path, nothing below a file, and no mount over the folder
/// of the secrets.
fn check_places(container: &ContainerSpec) -> Result<(), Refusal> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for mount in &container.mounts {
        let path = mount.target.trim_end_matches('/').to_owned();
        let place = Place { what: format!("mount {}", mount.target), is_file: false };
        if places.insert(path, place).is_some() {
            return Err(Refusal::invalid("mount target", &mount.target, "duplicate mount point: two mounts have this target"));
        }
    }
    let unmountable = |mount: &&Mount| {
        is_in_proc(&mount.target) && (mount.kind == MountKind::Tmpfs || mount.target.trim_end_matches('/') != PROC)
    };
    if let Some(mount) = container.mounts.iter().find(unmountable) {
        return Err(Refusal::invalid("mount target", &mount.target, IN_PROC));
    }
    let is_relative = |secret: &&SecretReference| !secret.file.name.starts_with('/');
    if let Some(secret) = container.secrets.iter().find(is_relative)
        && let Some(mount) = container.mounts.iter().find(|mount| is_at_or_below(&mount.target, SECRETS_FOLDER))
    {
        let reason = format!("secret {} appears in {SECRETS_FOLDER}, where nothing else can be mounted", secret.name);
        return Err(Refusal::invalid("mount target", &mount.target, reason));
    }
    for SecretReference { name, file, .. } in &container.secrets {
        check_file("secret", name, file, SECRETS_FOLDER, &mut places)?;
    }
    for ConfigReference { name, file, .. } in &container.configs {
        check_file("config", name, file, "", &mut places)?;
    }
    for (path, place) in &places {
        let above = path.match_indices('/').filter_map(|(end, _)| Some((&path[..end], places.get(&path[..end])?)));
        if let Some((file, above)) = above.into_iter().find(|(_, above)| above.is_file) {
            let field = place.what.split(' ').next().map(|kind| format!("{kind} target")).unwrap_or_default();
            let reason = format!("{} and {} have a conflicting target: {file} is a file, not a folder", above.what, place.what);
            return Err(Refusal::invalid(field, path, reason));
        }
    }
    Ok(())
}

/// Where every container has the kernel's own view of it.
const PROC: &str = "/proc";
/// What may be put in front of that view, as the container runtimes have it (for lxcfs).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];
const IN_PROC: &str = "nothing can be mounted in /proc but some of its files, such as /proc/cpuinfo";

fn is_in_proc(target: &str) -> bool {
    let path = target.trim_end_matches('/');
    is_at_or_below(path, PROC) && !PROC_FILES.contains(&path)
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_file(
    what: &str,
    name: &str,
    file: &FileTarget,
    folder: &str,
    places: &mut BTreeMap<String, Place>,
) -> Result<(), Refusal> {
    let field = format!("{what} target");
    if file.name.is_empty() {
        return Err(Refusal::invalid(field, name, "a target must be given"));
    }
    if file.mode > MODE_MAX {
        return Err(Refusal::invalid(format!("{what} mode"), format!("{:o}", file.mode), "a mode has at most four octal digits"));
    }
    for (owner, number) in [("uid", file.uid), ("gid", file.gid)] {
        // The kernel reads it as "leave it as it is".
        if number == u32::MAX {
            let reason = format!("the highest {owner} is {}", u32::MAX - 1);
            return Err(Refusal::invalid(format!("{what} {owner}"), number.to_string(), reason));
        }
    }
    let path = if file.name.starts_with('/') {
        text::check_absolute(&field, &file.name)?;
        // Where it appears: a slash at the end makes no other place.
        file.name.trim_end_matches('/').to_owned()
    } else {
        text::check_path(&field, &file.name)?;
        text::check_parts(&field, &file.name, &file.name)?;
        format!("{folder}/{}", file.name)
    };
    if is_in_proc(&path) {
        return Err(Refusal::invalid(field, &file.name, IN_PROC));
    }
    match places.insert(path.clone(), Place { what: format!("{what} {name}"), is_file: true }) {
        Some(other) => {
            let other = other.what;
            let reason = format!("{other} and {what} {name} have a conflicting target: both would appear at {path}");
            Err(Refusal::invalid(field, &file.name, reason))
        }
        None => Ok(()),
    }
}
