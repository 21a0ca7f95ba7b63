//! Capability names and the set a task gets: Docker's default fourteen, plus what it adds, minus what it drops.
//!
//! Sets are 64-bit masks. A capability this node does not itself hold cannot be given away and is left out, except
//! when the task asked for it by name: then the start is refused.

/// Names by number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set: a80425fb.
pub const DEFAULT: u64 = 0xa804_25fb;
/// What our own last steps before the task's program need: SETGID, SETUID, SETPCAP, SYS_ADMIN.
pub const FOR_ENTRY: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 21;

/// A capability that does not exist or cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CapabilityError {
    /// No such name.
    #[error("unknown capability {0:?}")]
    Unknown(String),
    /// This node lacks it.
    #[error("capability {0:?} is not available on this node")]
    NotHeld(String),
}

/// The mask of one name, with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Result<u64, CapabilityError> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == short)
        .map(|number| 1 << number)
        .ok_or_else(|| CapabilityError::Unknown(name.to_owned()))
}

/// The names of a mask, with `CAP_`.
pub fn names(mask: u64) -> Vec<String> {
    (0..NAMES.len()).filter(|number| mask & 1 << number != 0).map(|number| format!("CAP_{}", NAMES[number])).collect()
}

/// A task's set. As in Docker, `ALL` is every capability, and a name in `add` wins over `ALL` in `drop`.
pub fn resolve(add: &[String], drop: &[String], held: u64) -> Result<u64, CapabilityError> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let mut set = DEFAULT & held;
    if drop.iter().any(is_all) {
        set = 0;
    }
    if add.iter().any(is_all) {
        set = held & ((1 << NAMES.len()) - 1);
    }
    for name in drop.iter().filter(|name| !is_all(name)) {
        set &= !bit(name)?;
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        let bit = bit(name)?;
        if held & bit == 0 {
            return Err(CapabilityError::NotHeld(name.clone()));
        }
        set |= bit;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_dockers() {
        let all = (1 << 41) - 1;
        let check = |add: &[&str], drop: &[&str], held, expect| {
            let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
            assert_eq!(resolve(&own(add), &own(drop), held), expect, "{add:?} {drop:?}");
        };
        check(&[], &[], all, Ok(DEFAULT));
        check(&[], &["ALL"], all, Ok(0));
        check(&["NET_BIND_SERVICE"], &["all"], all, Ok(1 << 10));
        check(&["ALL"], &[], all, Ok(all));
        check(&["ALL"], &["cap_sys_admin"], all, Ok(all & !(1 << 21)));
        check(&["cap_sys_nice"], &["CHOWN"], all, Ok(DEFAULT & !1 | 1 << 23));
        check(&[], &[], all & !1, Ok(DEFAULT & !1));
        check(&["SYS_RESOURCE"], &[], DEFAULT, Err(CapabilityError::NotHeld("SYS_RESOURCE".into())));
        check(&["NOPE"], &[], all, Err(CapabilityError::Unknown("NOPE".into())));
        assert_eq!(names(DEFAULT).len(), 14);
    }
}
