//! A task's cgroup in every hierarchy of this machine: version 1, version 2, or both at once. The container library makes
//! it, with the limits; what that leaves out is added by [`confine`].
//!
//! A task has the same path in every hierarchy. Removal first kills, then removes the folders from the deepest up;
//! a folder may stay busy for some milliseconds after its last process died, so removal waits for it, with a deadline.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::devices;

/// Why a cgroup could not be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A path that could leave the hierarchy, or name its root.
    #[error("cgroup path {0:?} must be absolute, below the root and without `..`")]
    BadPath(String),
    /// A file operation failed.
    #[error("cannot {verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nothing would keep the task from the devices of the node.
    #[error(
        "this node cannot control devices: no cgroup hierarchy of version 1 has the devices controller, and {path} takes no \
         device program"
    )]
    NoDeviceControl {
        /// The task's folder in the unified hierarchy, or where that should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Processes did not die, or folders stayed busy.
    #[error("cgroup {path} is still busy after {waited:?}")]
    Busy {
        /// Which folder.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Version 2, in which one hierarchy has every controller.
    pub unified: bool,
    /// Controllers of a version 1 hierarchy.
    pub controllers: Vec<String>,
}

/// The hierarchies mounted in this process's mount namespace.
pub fn hierarchies() -> Result<Vec<Hierarchy>, CgroupError> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let text = fs::read_to_string(&path).map_err(|source| CgroupError::File { verb: "read", path, source })?;
    Ok(parse_mountinfo(&text))
}

fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let kind: Vec<&str> = kind.split(' ').collect();
        let Some(mount_point) = mount.split(' ').nth(4) else { continue };
        let unified = match kind.first() {
            Some(&"cgroup") => false,
            Some(&"cgroup2") => true,
            _ => continue,
        };
        let controllers = match kind.get(2) {
            Some(options) if !unified => options.split(',').map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let mount_point = PathBuf::from(unescape(mount_point));
        if !found.iter().any(|h| h.mount_point == mount_point) {
            found.push(Hierarchy { mount_point, unified, controllers });
        }
    }
    found
}

/// mountinfo writes blanks and backslashes as `\040` and the like.
fn unescape(field: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The folders that exist for a task, one per hierarchy.
pub fn folders(cgroups_path: &str) -> Result<Vec<PathBuf>, CgroupError> {
    let relative = checked(cgroups_path)?;
    Ok(hierarchies()?
        .into_iter()
        .map(|hierarchy| hierarchy.mount_point.join(relative))
        .filter(|folder| folder.is_dir())
        .collect())
}

/// The path below a hierarchy's root, if it is safe to use.
pub fn checked(cgroups_path: &str) -> Result<&Path, CgroupError> {
    let bad = || CgroupError::BadPath(cgroups_path.to_owned());
    let relative = cgroups_path.strip_prefix('/').ok_or_else(bad)?;
    let plain = |part: std::path::Component| matches!(part, std::path::Component::Normal(_));
    let relative = Path::new(relative);
    if relative.as_os_str().is_empty() || !relative.components().all(plain) {
        return Err(bad());
    }
    Ok(relative)
}

/// Completes the cgroup of a container that was created and has not started: what the container library leaves out.
///
/// - Devices. Version 1 has its controller, in every version of the unified hierarchy there is a program of our own. The
///   list is the same. Where neither takes it, this is an error, and the container must not start.
/// - Swap. As Docker has it, a task with a memory limit may swap as much again, no more.
/// - Processes. A task has no limit that nobody asked for, but all tasks of the node together leave it a tenth.
/// - The unified hierarchy of a hybrid machine, which the process joins.
pub fn confine(cgroups_path: &str, process: i32, memory_bytes: u64) -> Result<(), CgroupError> {
    confine_in(&hierarchies()?, checked(cgroups_path)?, process, memory_bytes)
}

fn confine_in(hierarchies: &[Hierarchy], relative: &Path, process: i32, memory_bytes: u64) -> Result<(), CgroupError> {
    let mut has_devices = false;
    let mut refused = None;
    for hierarchy in hierarchies {
        let folder = hierarchy.mount_point.join(relative);
        let has = |controller: &str| hierarchy.controllers.iter().any(|c| c == controller);
        if hierarchy.unified {
            fs::create_dir_all(&folder).map_err(file("create", &folder))?;
            match devices::attach(&folder) {
                Ok(()) => has_devices = true,
                Err(error) => refused = Some((folder.clone(), error)),
            }
            write(&folder.join("cgroup.procs"), process)?;
            limit_swap(&folder.join("memory.swap.max"), memory_bytes, memory_bytes)?;
            leave_processes(&folder)?;
        } else if has("devices") {
            // The library's list has one device more than Docker's: tun.
            write(&folder.join("devices.deny"), "c 10:200 rwm")?;
            has_devices = true;
        } else if has("pids") {
            leave_processes(&folder)?;
        } else if has("memory") {
            limit_swap(&folder.join("memory.memsw.limit_in_bytes"), memory_bytes, memory_bytes.saturating_mul(2))?;
        }
    }
    if has_devices {
        return Ok(());
    }
    let (path, source) =
        refused.unwrap_or_else(|| (Path::new("/sys/fs/cgroup").join(relative), io::Error::from(io::ErrorKind::NotFound)));
    Err(CgroupError::NoDeviceControl { path, source })
}

/// Limits the cgroup above the task's, that of all tasks of the node, where it has no limit yet.
fn leave_processes(folder: &Path) -> Result<(), CgroupError> {
    let Some(path) = folder.parent().map(|above| above.join("pids.max")) else { return Ok(()) };
    if fs::read_to_string(&path).is_ok_and(|limit| limit.trim() == "max") {
        let number = |name: &str| fs::read_to_string(name).ok()?.trim().parse::<u64>().ok();
        let most = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].into_iter().filter_map(number).min();
        if let Some(most) = most {
            write(&path, (most / 10 * 9).max(1))?;
        }
    }
    Ok(())
}

/// Without a memory limit there is none of swap either; a kernel without swap accounting has no such file.
fn limit_swap(path: &Path, memory_bytes: u64, limit: u64) -> Result<(), CgroupError> {
    if memory_bytes == 0 || !path.exists() {
        return Ok(());
    }
    write(path, limit.min(i64::MAX as u64))
}

fn write(path: &Path, value: impl ToString) -> Result<(), CgroupError> {
    fs::write(path, value.to_string()).map_err(file("write", path))
}

fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::File { verb, path, source }
}

/// How many processes of the task the kernel killed for lack of memory.
pub fn oom_kills(cgroups_path: &str) -> Result<u64, CgroupError> {
    let relative = checked(cgroups_path)?;
    let mut kills = 0;
    for hierarchy in hierarchies()? {
        let folder = hierarchy.mount_point.join(relative);
        let file = match hierarchy.unified {
            true => folder.join("memory.events"),
            false if hierarchy.controllers.iter().any(|c| c == "memory") => folder.join("memory.oom_control"),
            false => continue,
        };
        let Ok(text) = fs::read_to_string(file) else { continue };
        kills += text
            .lines()
            .filter_map(|line| line.strip_prefix("oom_kill "))
            .filter_map(|count| count.trim().parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(kills)
}

/// Kills every process of the task's cgroup and of those below it, and removes them in every hierarchy.
///
/// Blocks for at most `deadline`. No cgroup is no error.
pub fn kill_and_remove(cgroups_path: &str, deadline: Duration) -> Result<(), CgroupError> {
    let folders = folders(cgroups_path)?;
    let begin = Instant::now();
    for folder in &folders {
        kill(folder)?;
    }
    for folder in folders {
        // The kernel has no event for "no longer busy" on version 1, so this is the one place that asks again.
        while let Some(busy) = remove(&folder)? {
            let waited = begin.elapsed();
            if waited >= deadline {
                return Err(CgroupError::Busy { path: busy, waited });
            }
            kill(&folder)?;
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Removes a folder and those below it; says which one was busy.
fn remove(folder: &Path) -> Result<Option<PathBuf>, CgroupError> {
    for child in children(folder)? {
        if let Some(busy) = remove(&child)? {
            return Ok(Some(busy));
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => Ok(Some(folder.to_owned())),
        Err(source) => Err(CgroupError::File { verb: "remove", path: folder.to_owned(), source }),
    }
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let fail = |source| CgroupError::File { verb: "list", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(fail(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn kill(folder: &Path) -> Result<(), CgroupError> {
    for child in children(folder)? {
        kill(&child)?;
    }
    let path = folder.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Gone, or a threaded cgroup of version 2, whose processes are listed in its parent.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => return Ok(()),
        Err(source) => return Err(CgroupError::File { verb: "read", path, source }),
    };
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()) {
        // 0 stands for a process of a namespace we cannot see; it must not become "my own group".
        if pid > 0 && pid != std::process::id() as i32 {
            // SAFETY: plain system call on a number.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_names_both_versions_once() {
        let text = "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:2 - cgroup cgroup rw,cpu,cpuacct\n\
                    32 30 0:28 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n\
                    33 30 0:28 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
        let found = parse_mountinfo(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, ["rw", "cpu", "cpuacct"]);
        assert!(!found[0].unified && found[1].unified);
        assert_eq!(found[1].mount_point, Path::new("/sys/fs/cgroup/uni fied"));
    }

    #[test]
    fn a_machine_that_controls_no_devices_starts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, unified, controllers: &[&str]| {
            let mount_point = folder.path().join(name);
            fs::create_dir_all(mount_point.join("task")).unwrap();
            Hierarchy { mount_point, unified, controllers: controllers.iter().map(|c| c.to_string()).collect() }
        };
        let confine = |hierarchies: &[Hierarchy]| confine_in(hierarchies, Path::new("task"), 1, 0).map_err(|e| e.to_string());
        // A plain folder takes no program, so it stands for a kernel that has none.
        let (unified, memory, devices) =
            (at("unified", true, &[]), at("memory", false, &["memory"]), at("devices", false, &["devices"]));
        for refused in [vec![], vec![memory.clone()], vec![unified.clone(), memory.clone()]] {
            let error = confine(&refused).unwrap_err();
            assert!(error.starts_with("this node cannot control devices"), "{error}");
        }
        for enough in [vec![devices.clone()], vec![unified, memory, devices]] {
            assert_eq!(confine(&enough), Ok(()));
        }
        assert_eq!(fs::read_to_string(folder.path().join("devices/task/devices.deny")).unwrap(), "c 10:200 rwm");
    }

    #[test]
    fn swap_is_as_much_again_as_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.memsw.limit_in_bytes");
        // No such file is a kernel that does not count swap.
        limit_swap(&path, 100, 200).unwrap();
        assert!(!path.exists());
        for (memory, limit, expect) in [(0, 0, "-1"), (100, 200, "200"), (u64::MAX, u64::MAX, "9223372036854775807")] {
            fs::write(&path, "-1").unwrap();
            limit_swap(&path, memory, limit).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), expect);
        }
    }

    #[test]
    fn a_path_stays_inside() {
        for bad in ["", "/", "skep/a", "/skep/../..", "/..", "/skep/./../x", "//"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert_eq!(checked("/skep/node/task").unwrap(), Path::new("skep/node/task"));
    }
}
