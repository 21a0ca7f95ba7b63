//! The state folder of one shim: what an agent finds after its own restart, and how it cleans up after a dead shim.
//!
//! | file | meaning |
//! |---|---|
//! | `lock` | held (flock) by the shim for all of its life, from before it is executed: one shim a folder |
//! | `shim.json` | [`ShimState`]: who the shim and its container are; there before the first request until the release |
//! | `shim.sock` | the shim's socket, 0600 |
//! | `mnt/` | mount point of the shim's private tmpfs; empty to everyone else |
//!
//! These mean something on one boot only: no disk is waited for, and the folder may be in memory. What is said of an end
//! outlives the boot. Its folder is another one, which the task's spec names, or the same:
//!
//! | file | meaning |
//! |---|---|
//! | `exit.json` | [`ExitRecord`] of the last attempt that ended; durable before anyone is told, unless the disk refuses |
//! | `exit.room` | the room that the next record takes, so that a full disk cannot refuse it |
//!
//! None of them ever holds a secret.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, CgroupError};
use crate::file;
use crate::process::ProcessId;

/// Name of the socket in the state folder.
pub const SOCKET: &str = "shim.sock";
/// Name of the mount point in the state folder.
pub const MOUNT_POINT: &str = "mnt";
const LOCK: &str = "lock";
const STATE: &str = "shim.json";
const EXIT: &str = "exit.json";
const ROOM: &str = "exit.room";
/// Bytes of room for an exit record.
const ROOM_BYTES: u32 = 16 << 10;
/// Characters of an error that a record keeps; with every one escaped it still fits its room.
const ERROR_MAX: usize = 2048;
const FILE_MAX: u64 = 1 << 20;

/// Why state could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
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
    /// A file is not what it should be.
    #[error("{path} is not a shim's state")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The cgroup could not be emptied or removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The shim is alive; only its own `Release` may clean up.
    #[error("shim {pid} of {path} still runs")]
    StillRuns {
        /// Its number.
        pid: i32,
        /// Its state folder.
        path: PathBuf,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The task.
    pub task_id: String,
    /// Which of its attempts; a record of an earlier one than was asked for says nothing of the newest.
    pub attempt: u32,
    /// Exit code; 128 + signal for one that was killed, 126, 127 or 128 for one that could not start, as Docker has it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// When, in nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// Why it could not be started; none when it ran.
    pub error: Option<String>,
}

impl ExitRecord {
    /// The record in a folder; none when nothing ended there yet.
    pub fn read(folder: &Path) -> Result<Option<Self>, StateError> {
        read(&folder.join(EXIT))
    }

    /// Takes the room for a record, before an attempt begins.
    pub fn reserve(folder: &Path) -> Result<(), StateError> {
        let path = folder.join(ROOM);
        file::reserve(&path, ROOM_BYTES).map_err(|source| StateError::File { verb: "reserve", path, source })
    }

    /// Makes the record durable, in the room that was taken for it if there is one.
    pub fn write(&self, folder: &Path) -> Result<(), StateError> {
        let path = folder.join(EXIT);
        let cut = |error: &String| error.chars().take(ERROR_MAX).collect();
        let record = Self { error: self.error.as_ref().map(cut), ..self.clone() };
        let bytes = encode(&path, &record)?;
        let room = folder.join(ROOM);
        let written = if room.exists() { file::write_reserved(&room, &path, &bytes) } else { file::write_durably(&path, &bytes) };
        written.map_err(|source| StateError::File { verb: "write", path, source })
    }

    /// Removes the record: another attempt begins.
    pub fn remove(folder: &Path) -> Result<(), StateError> {
        let path = folder.join(EXIT);
        file::remove_if_there(&path).map_err(|source| StateError::File { verb: "remove", path, source })
    }
}

/// Who a shim is and what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The task.
    pub task_id: String,
    /// The attempt that was asked for last; 0 as long as none was.
    pub attempt: u32,
    /// The shim.
    pub shim: ProcessId,
    /// The container's first process; none while it is being created or after its end.
    pub container: Option<ProcessId>,
    /// When the container started, in nanoseconds since the Unix epoch.
    pub started_at_ns: Option<u64>,
    /// The task's cgroup in every hierarchy.
    pub cgroups_path: String,
    /// The task's log files.
    pub log_dir: PathBuf,
}

impl ShimState {
    /// The state of a folder; none when no shim was started there, or it was released.
    pub fn read(state: &Path) -> Result<Option<Self>, StateError> {
        read(&state.join(STATE))
    }

    /// Writes the state down. It is of this boot, so a power cut may take it.
    pub fn write(&self, state: &Path) -> Result<(), StateError> {
        let path = state.join(STATE);
        let bytes = encode(&path, self)?;
        file::write_whole(&path, &bytes).map_err(|source| StateError::File { verb: "write", path, source })
    }

    /// Whether the shim itself still runs.
    pub fn shim_is_alive(&self) -> Result<bool, StateError> {
        self.shim.is_alive().map_err(|source| StateError::File {
            verb: "look up",
            path: PathBuf::from(format!("/proc/{}", self.shim.pid)),
            source,
        })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes =
        file::read_limited(path, FILE_MAX).map_err(|source| StateError::File { verb: "read", path: path.to_owned(), source })?;
    let Some(bytes) = bytes else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| StateError::Malformed { path: path.to_owned(), source })
}

fn encode<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(value).map_err(|source| StateError::Malformed { path: path.to_owned(), source })
}

/// Takes the lock of a state folder; `None` if a shim, or whoever starts or cleans up after one, has it. It is held by
/// the open file: a child that inherits the file holds it as well.
pub fn lock(state: &Path) -> Result<Option<fs::File>, StateError> {
    let path = state.join(LOCK);
    let fail = |source| StateError::File { verb: "lock", path: path.clone(), source };
    let file = fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Gives a lock up at once. To close the file is not enough: another thread's child that is not executed yet has it, too.
fn release(lock: fs::File) -> io::Result<()> {
    lock.unlock()
}

/// Whether a file is the lock of a state folder, as its shim inherits it.
pub fn is_lock(file: &fs::File, state: &Path) -> bool {
    let same = |one: fs::Metadata, other: fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file.metadata().is_ok_and(|one| fs::metadata(state.join(LOCK)).is_ok_and(|other| same(one, other)))
}

/// Whether a shim lives in a state folder: somebody holds the lock, or the process that is written down there still
/// runs.
pub fn is_held(state: &Path) -> Result<bool, StateError> {
    if state.join(LOCK).exists() {
        match lock(state)? {
            None => return Ok(true),
            Some(lock) => release(lock).map_err(|source| StateError::File { verb: "unlock", path: state.join(LOCK), source })?,
        }
    }
    match ShimState::read(state) {
        Ok(Some(shim)) => shim.shim_is_alive(),
        Ok(None) | Err(StateError::Malformed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether something is said of an end in a folder, or room is taken for that.
pub fn has_exit(folder: &Path) -> bool {
    [EXIT, ROOM].iter().any(|name| folder.join(name).exists())
}

/// Removes what is said of an end, and the room for it.
pub fn remove_exit(folder: &Path) -> Result<(), StateError> {
    [EXIT, ROOM].iter().try_for_each(|name| remove_file(folder.join(name)))
}

fn remove_file(path: PathBuf) -> Result<(), StateError> {
    file::remove_if_there(&path).map_err(|source| StateError::File { verb: "remove", path, source })
}

/// Removes the files the shim put into its state folder and that of its exits; the folders themselves are the agent's.
pub fn remove_files(state: &Path, exits: &Path) -> Result<(), StateError> {
    remove_exit(exits)?;
    [SOCKET, STATE, LOCK].iter().try_for_each(|name| remove_file(state.join(name)))?;
    let path = state.join(MOUNT_POINT);
    match fs::remove_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::File { verb: "remove", path, source }),
        _ => Ok(()),
    }
}

/// After the death of a shim: kills what is left in the task's cgroup, removes the cgroup in every hierarchy and the
/// shim's files. Mounts and secrets went with the last process. Refused while the shim runs.
///
/// Blocks for at most `deadline`.
pub fn cleanup_orphan(state: &Path, exits: &Path, cgroups_path: &str, deadline: Duration) -> Result<(), StateError> {
    let still_runs = || {
        let pid = ShimState::read(state).unwrap_or(None).map_or(0, |shim| shim.shim.pid);
        StateError::StillRuns { pid, path: state.to_owned() }
    };
    if is_held(state)? {
        return Err(still_runs());
    }
    // Nobody starts another shim meanwhile; without a folder nobody can.
    let _lock = match state.exists() {
        true => Some(lock(state)?.ok_or_else(still_runs)?),
        false => None,
    };
    cgroup::kill_and_remove(cgroups_path, deadline)?;
    remove_files(state, exits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(error: Option<String>) -> ExitRecord {
        ExitRecord { task_id: "t".into(), attempt: 2, code: 137, signal: Some(9), oom_killed: false, at_ns: 7, error }
    }

    #[test]
    fn a_lock_is_held_until_its_last_file_closes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()).unwrap());
        let held = lock(folder.path()).unwrap().unwrap();
        assert!(is_lock(&held, folder.path()) && is_held(folder.path()).unwrap());
        let inherited = held.try_clone().unwrap();
        drop(held);
        assert!(lock(folder.path()).unwrap().is_none(), "a child that inherited it holds it");
        drop(inherited);
        let held = lock(folder.path()).unwrap().unwrap();
        let of_a_child = held.try_clone().unwrap();
        release(held).unwrap();
        assert!(lock(folder.path()).unwrap().is_some(), "what was only looked at is free, whoever was forked meanwhile");
        drop(of_a_child);
        assert!(!is_lock(&fs::File::open("/dev/null").unwrap(), folder.path()));
    }

    #[test]
    fn a_record_fits_its_room_whatever_its_error() {
        let folder = tempfile::tempdir().unwrap();
        ExitRecord::reserve(folder.path()).unwrap();
        let room = fs::metadata(folder.path().join(ROOM)).unwrap();
        assert!(room.blocks() * 512 >= u64::from(ROOM_BYTES), "its blocks are taken");
        record(Some("\u{1}".repeat(100_000))).write(folder.path()).unwrap();
        assert!(!folder.path().join(ROOM).exists());
        let length = fs::metadata(folder.path().join(EXIT)).unwrap().len();
        assert!(length < u64::from(ROOM_BYTES), "{length} bytes");
        let read = ExitRecord::read(folder.path()).unwrap().unwrap();
        assert_eq!((read.attempt, read.code), (2, 137));
        // Without room it is written all the same.
        record(None).write(folder.path()).unwrap();
        assert_eq!(ExitRecord::read(folder.path()).unwrap(), Some(record(None)));
    }
}
