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
