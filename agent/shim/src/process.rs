//! Which process a number means: a pid alone is reused, a pid with its start time on one boot is not.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process of this boot, as its own pid namespace numbers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_ticks: u64,
    /// Of the boot it belongs to.
    pub boot_id: String,
}

impl ProcessId {
    /// A running process by its number.
    pub fn of(pid: i32) -> io::Result<Self> {
        let start_ticks = start_ticks(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// Whether it ran since the machine was started.
    pub fn is_of_this_boot(&self) -> io::Result<bool> {
        Ok(boot_id()? == self.boot_id)
    }

    /// Whether that very process still runs; a zombie does not.
    pub fn is_alive(&self) -> io::Result<bool> {
        Ok(boot_id()? == self.boot_id && start_ticks(self.pid)? == Some(self.start_ticks))
    }
}

/// Whether this process may lock whatever memory it uses. Locking under a limit could fail in the middle of the work.
pub fn may_lock_memory() -> bool {
    const IPC_LOCK: u64 = 1 << 14;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure that is passed.
    let is_unlimited = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } == 0 && limit.rlim_cur == libc::RLIM_INFINITY;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    is_unlimited || effective.is_some_and(|set| set & IPC_LOCK != 0)
}

/// Keeps all memory of this process, what it will use later too, from being swapped out. Children have their own.
pub fn lock_memory() -> io::Result<()> {
    if !may_lock_memory() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    // SAFETY: a call on numbers.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// None when there is no such process, or only its zombie.
fn start_ticks(pid: i32) -> io::Result<Option<u64>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The command's name may hold anything; what follows its last parenthesis cannot.
    let stat = String::from_utf8_lossy(&stat);
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return Ok(None);
    }
    fields
        .nth(18)
        .and_then(|ticks| ticks.parse().ok())
        .map(Some)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive().unwrap());
        for other in
            [ProcessId { start_ticks: own.start_ticks + 1, ..own.clone() }, ProcessId { boot_id: "other".into(), ..own.clone() }]
        {
            assert!(!other.is_alive().unwrap());
        }
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32);
        child.wait().unwrap();
        if let Ok(id) = id {
            assert!(!id.is_alive().unwrap());
        }
        assert_eq!(start_ticks(child.id() as i32).unwrap(), None);
    }
}
