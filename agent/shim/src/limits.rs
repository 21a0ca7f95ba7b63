//! What a task's processes inherit from nobody: process limits, the kernel's preference when memory runs out, the umask.
//!
//! Docker's defaults, set explicitly, whatever the daemon runs with. A limit that the task asked for is set exactly or the
//! start fails and says why; a default that this node cannot grant becomes what it can.
//!
//! All of it is set on the first process by its number, from outside: raising needs rights that the task must not have.

use std::fs;
use std::io;

use crate::protocol::{TaskSpec, Ulimit};

/// Of every process of a task.
pub const UMASK: libc::mode_t = 0o022;

const UNLIMITED: u64 = libc::RLIM_INFINITY;
const MIB: u64 = 1 << 20;

/// One limit: kernel's number, soft, hard.
pub type Limit = (u32, u64, u64);

type Default = Option<(u64, u64)>;

/// Names and numbers, and Docker's default where it has one; the rest is the kernel's.
const TABLE: [(&str, u32, Default); 16] = [
    ("as", libc::RLIMIT_AS, Some((UNLIMITED, UNLIMITED))),
    ("core", libc::RLIMIT_CORE, Some((UNLIMITED, UNLIMITED))),
    ("cpu", libc::RLIMIT_CPU, Some((UNLIMITED, UNLIMITED))),
    ("data", libc::RLIMIT_DATA, Some((UNLIMITED, UNLIMITED))),
    ("fsize", libc::RLIMIT_FSIZE, Some((UNLIMITED, UNLIMITED))),
    ("locks", libc::RLIMIT_LOCKS, Some((UNLIMITED, UNLIMITED))),
    ("memlock", libc::RLIMIT_MEMLOCK, Some((8 * MIB, 8 * MIB))),
    ("msgqueue", libc::RLIMIT_MSGQUEUE, Some((819_200, 819_200))),
    ("nice", libc::RLIMIT_NICE, Some((0, 0))),
    ("nofile", libc::RLIMIT_NOFILE, Some((MIB, MIB))),
    ("nproc", libc::RLIMIT_NPROC, Some((UNLIMITED, UNLIMITED))),
    ("rss", libc::RLIMIT_RSS, Some((UNLIMITED, UNLIMITED))),
    ("rtprio", libc::RLIMIT_RTPRIO, Some((0, 0))),
    ("rttime", libc::RLIMIT_RTTIME, Some((UNLIMITED, UNLIMITED))),
    // The kernel derives it from the memory of the machine.
    ("sigpending", libc::RLIMIT_SIGPENDING, None),
    ("stack", libc::RLIMIT_STACK, Some((8 * MIB, UNLIMITED))),
];

/// Refuses a limit that no kernel has, and a value below -1.
pub fn check(limit: &Ulimit) -> Result<(), String> {
    if !TABLE.iter().any(|(name, ..)| *name == limit.name) {
        return Err(format!("invalid ulimit type: {}", limit.name));
    }
    if limit.soft < -1 || limit.hard < -1 || value(limit.soft) > value(limit.hard) {
        return Err(format!(
            "invalid ulimit {}={}:{}: each is a number, or -1, and the first not above the second",
            limit.name, limit.soft, limit.hard
        ));
    }
    Ok(())
}

/// Sets all limits of a process that has not begun the task's program; returns what they are now.
pub fn set(process: i32, spec: &TaskSpec) -> Result<Vec<Limit>, String> {
    let mut set = Vec::new();
    for (name, number, default) in TABLE {
        // As with Docker, the last one of a name counts.
        if let Some(asked) = spec.ulimits.iter().rev().find(|limit| limit.name == name) {
            set.push(set_exactly(process, number, asked)?);
        } else if let Some((soft, hard)) = default {
            set.push(set_default(process, number, soft, hard).map_err(|error| format!("cannot set ulimit {name}: {error}"))?);
        }
    }
    Ok(set)
}

fn set_exactly(process: i32, number: u32, asked: &Ulimit) -> Result<Limit, String> {
    let wanted = (number, value(asked.soft), value(asked.hard));
    prlimit(process, wanted).map_err(|error| {
        let name = &asked.name;
        let own = current(process, number).map_or_else(|error| error.to_string(), |(_, hard)| text(hard));
        format!(
            "cannot set ulimit {name}={}:{}: {error}; the hard limit of {name} on this node is {own}: ask for no more, or \
             raise it for skepd",
            text(wanted.1),
            text(wanted.2)
        )
    })?;
    Ok(wanted)
}

fn set_default(process: i32, number: u32, soft: u64, hard: u64) -> io::Result<Limit> {
    let wanted = (number, soft, hard);
    match prlimit(process, wanted) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        result => return result.map(|()| wanted),
    }
    let (_, most) = current(process, number)?;
    let granted = (number, soft.min(most), hard.min(most));
    prlimit(process, granted).map(|()| granted)
}

fn value(wanted: i64) -> u64 {
    u64::try_from(wanted).unwrap_or(UNLIMITED)
}

fn text(limit: u64) -> String {
    if limit == UNLIMITED { "unlimited".into() } else { limit.to_string() }
}

fn prlimit(process: i32, (number, soft, hard): Limit) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads the structure that is passed and writes none.
    match unsafe { libc::prlimit(process, number, &limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn current(process: i32, number: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure that is passed.
    match unsafe { libc::prlimit(process, number, std::ptr::null(), &mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the preference of the kernel's out-of-memory killer. A default that may not be set, since the daemon itself runs
/// with a higher one, leaves it; a score that was asked for is set or is an error.
pub fn set_oom_score(process: i32, asked: Option<i32>) -> Result<(), String> {
    let path = format!("/proc/{process}/oom_score_adj");
    match fs::write(&path, asked.unwrap_or(0).to_string()) {
        Err(error) if asked.is_some() => {
            let own = fs::read_to_string(&path).unwrap_or_default();
            Err(format!(
                "cannot set oom-score-adj {}: {error}; skepd may not go below {} (CAP_SYS_RESOURCE)",
                asked.unwrap_or(0),
                own.trim()
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit { name: name.into(), soft, hard }
    }

    #[test]
    fn limits_are_checked() {
        for (limit, expect) in [
            (ulimit("core", -1, -1), true),
            (ulimit("nofile", 1, 1), true),
            (ulimit("nofile", 0, -1), true),
            (ulimit("nofile", -1, 5), false),
            (ulimit("nofile", 6, 5), false),
            (ulimit("nofile", -2, 5), false),
            (ulimit("files", 1, 1), false),
        ] {
            assert_eq!(check(&limit).is_ok(), expect, "{limit:?}");
        }
    }
}
