//! The last steps on a task's mounts, taken inside its mount namespace before its program begins: what the container
//! library leaves open. The cgroup mounts of version 1 become read-only, and bind mounts get their propagation.

use std::ffi::CString;
use std::io;

use skep_shim::protocol::{Mount, TaskSpec};

const CGROUP: &str = "/sys/fs/cgroup";

/// What is to be done.
pub struct Mounts {
    /// Targets of the task's own mounts, each without a slash at its end.
    own: Vec<String>,
    /// Targets of its binds, and how changes of the node's mounts below the source reach them.
    binds: Vec<(String, libc::c_ulong)>,
}

impl Mounts {
    /// As the spec has it.
    pub fn of(spec: &TaskSpec) -> Self {
        let plain = |target: &str| format!("/{}", target.trim_matches('/'));
        let binds = spec.mounts.iter().filter_map(|mount| match mount {
            Mount::Bind { target, propagation, .. } => Some((plain(target), propagation_flags(propagation))),
            Mount::Tmpfs { .. } => None,
        });
        Self { own: spec.mounts.iter().map(|mount| plain(mount.target())).collect(), binds: binds.collect() }
    }

    /// Does it, in the task's mount namespace and root. An error is a sentence.
    pub fn settle(&self) -> Result<(), String> {
        for (target, flags) in &self.binds {
            propagate(target, *flags).map_err(|error| format!("cannot set the propagation of the mount {target}: {error}"))?;
        }
        let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("cannot read the mounts: {error}"))?;
        let mounted = text.lines().filter_map(|line| line.split(' ').nth(4));
        for path in mounted.filter(|path| self.is_systems_cgroup(path)) {
            read_only(path).map_err(|error| format!("cannot make {path} read-only: {error}"))?;
        }
        Ok(())
    }

    /// A cgroup mount that the task did not ask for itself. Where it did, it gets what it asked for.
    fn is_systems_cgroup(&self, path: &str) -> bool {
        is_at_or_below(path, CGROUP) && !self.own.iter().any(|own| is_at_or_below(path, own))
    }
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn propagation_flags(name: &str) -> libc::c_ulong {
    match name {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        _ => libc::MS_PRIVATE | libc::MS_REC,
    }
}

fn propagate(target: &str, flags: libc::c_ulong) -> io::Result<()> {
    let target = CString::new(target)?;
    // SAFETY: the path is terminated; the other pointers may be null in this use of the call.
    match unsafe { libc::mount(std::ptr::null(), target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Another mount of the task hides it: nobody can reach it.
            error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT | libc::ENOTDIR)) => Ok(()),
            error => Err(error),
        },
    }
}

fn read_only(path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    let (none, flags) = (std::ptr::null(), libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY);
    let flags = flags | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: the path is terminated; a remount reads no other pointer.
    match unsafe { libc::mount(none, path.as_ptr(), none, flags, none.cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_mounts_are_the_systems_unless_the_task_brings_its_own() {
        let mounts = |targets: &[&str]| {
            let tmpfs = |target: &&str| Mount::Tmpfs { target: target.to_string(), size_bytes: 0, mode: 0 };
            Mounts::of(&TaskSpec { mounts: targets.iter().map(tmpfs).collect(), ..TaskSpec::default() })
        };
        for (own, path, expect) in [
            (&[][..], "/sys/fs/cgroup", true),
            (&[], "/sys/fs/cgroup/memory", true),
            (&[], "/sys/fs/cgroups", false),
            (&[], "/sys", false),
            (&["/data"], "/sys/fs/cgroup/memory", true),
            (&["/sys/fs/cgroup/"], "/sys/fs/cgroup/memory", false),
            (&["/sys"], "/sys/fs/cgroup", false),
            (&["/sys/fs/cgroup/memory"], "/sys/fs/cgroup/memory", false),
            (&["/sys/fs/cgroup/memory"], "/sys/fs/cgroup/pids", true),
        ] {
            assert_eq!(mounts(own).is_systems_cgroup(path), expect, "{own:?} {path}");
        }
    }
}
