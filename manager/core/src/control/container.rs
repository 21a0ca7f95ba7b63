//! The rules of a container's spec.

use super::{template, text};
use skep_model::Refusal;
use skep_model::container::{ContainerSpec, DnsConfig, HealthConfig, Mount, MountKind, ULIMITS, Ulimit};
use std::collections::BTreeSet;
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

/// Checks everything that can be checked without the cluster.
pub(super) fn check(container: &ContainerSpec) -> Result<(), Refusal> {
    check_image(&container.image)?;
    text::check_labels("container label", &container.labels)?;
    for (field, list) in [("entrypoint", &container.command), ("argument", &container.args)] {
        list.iter().try_for_each(|argument| text::check(field, argument))?;
    }
    if container.command.first().is_some_and(String::is_empty) {
        return Err(Refusal::invalid("entrypoint", "", "it begins with a program"));
    }
    if container.init == Some(true) {
        return Err(Refusal::Unsupported { what: "an init process in the container (--init)".into() });
    }
    check_hostname(&container.hostname)?;
    container.env.iter().try_for_each(|variable| check_env(variable))?;
    if !container.dir.is_empty() && !container.dir.starts_with('/') {
        return Err(Refusal::invalid("working directory", &container.dir, "it must be an absolute path"));
    }
    text::check("working directory", &container.dir)?;
    check_user(&container.user)?;
    container.groups.iter().try_for_each(|group| check_account("group", group, group))?;
    container.mounts.iter().try_for_each(check_mount)?;
    check_stop_signal(&container.stop_signal)?;
    container.healthcheck.as_ref().map_or(Ok(()), check_health)?;
    for host in &container.hosts {
        check_address("host address", &host.address)?;
        if !is_word(&host.name) {
            let reason = "a name without blanks and control characters belongs to the address";
            return Err(Refusal::invalid("host name", &host.name, reason));
        }
    }
    check_dns(&container.dns)?;
    for capability in container.capability_add.iter().chain(&container.capability_drop) {
        check_capability(capability)?;
    }
    container.sysctls.keys().try_for_each(|key| check_sysctl(key))?;
    check_ulimits(&container.ulimits)?;
    if !(-1000..=1000).contains(&container.oom_score_adj) {
        let value = container.oom_score_adj.to_string();
        return Err(Refusal::invalid("oom-score-adj", value, "it must be between -1000 and 1000"));
    }
    Ok(())
}

fn check_image(image: &str) -> Result<(), Refusal> {
    if image.is_empty() {
        return Err(Refusal::invalid("image", image, "an image reference must be given"));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+".contains(&byte);
    // A registry's host may have capitals, the repository's last part and its path not.
    let path = image.split_once('/').map_or(image, |(_, path)| path);
    let name = path.split(['@', ':']).next().unwrap_or_default();
    let has_capital = name.bytes().any(|byte| byte.is_ascii_uppercase());
    if !image.bytes().all(is_allowed)
        || image.starts_with(['/', ':', '@', '-', '.'])
        || image.ends_with(['/', ':', '@'])
        || has_capital
    {
        let reason = "an image reference has the form [registry/]name[:tag][@digest], its name in lower case";
        return Err(Refusal::invalid("image", image, reason));
    }
    Ok(())
}

fn check_hostname(hostname: &str) -> Result<(), Refusal> {
    template::check("hostname", hostname)?;
    if hostname.is_empty() || template::has_placeholder(hostname) {
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
    if value.contains('\0') || value.len() > text::TEXT_MAX {
        let reason = format!("its value must not contain a NUL character and has at most {} bytes", text::TEXT_MAX);
        return Err(Refusal::invalid("environment variable", name, reason));
    }
    template::check("environment variable", value)
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
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':' && byte != b'/');
    if name.is_empty() || !is_name || (is_number && !name.parse::<u32>().is_ok_and(|number| number < u32::MAX)) {
        let reason = "an account is a name or a number; a user has the form name|uid[:group|gid]";
        return Err(Refusal::invalid(field, given, reason));
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<(), Refusal> {
    template::check("mount source", &mount.source)?;
    template::check("mount target", &mount.target)?;
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
            if mount.tmpfs_mode > 0o7777 {
                let value = format!("{:o}", mount.tmpfs_mode);
                return Err(Refusal::invalid("tmpfs-mode", value, "a mode has at most four octal digits"));
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
    }
    Ok(())
}

/// Whether a text stays on its line and in its field of `hosts` and `resolv.conf`.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

fn check_capability(capability: &str) -> Result<(), Refusal> {
    let upper = capability.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" || CAPABILITIES.contains(&name) {
        return Ok(());
    }
    Err(Refusal::invalid("capability", capability, "it is not a known capability, such as CAP_NET_RAW, nor ALL"))
}

fn check_sysctl(key: &str) -> Result<(), Refusal> {
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    let known = ["net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm"];
    if !is_key || !known.iter().any(|prefix| key.starts_with(prefix)) || key.contains("..") {
        let reason =
            "only parameters of the task's own namespaces can be set: net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*";
        return Err(Refusal::invalid("sysctl", key, reason));
    }
    Ok(())
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
