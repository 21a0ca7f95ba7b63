//! The state folder of one shim: what an agent finds after its own restart, and how it cleans up after a dead shim.
//!
//! | file | meaning |
//! |---|---|
//! | `shim.json` | [`ShimState`]: who the shim and its container are; there from the first start until the release |
//! | `exit.json` | [`ExitRecord`] of the last attempt that ended; durable before anyone is told |
//! | `shim.sock` | the shim's socket, 0600 |
//! | `mnt/` | mount point of the shim's private tmpfs; empty to everyone else |
//!
//! None of them ever holds a secret.

use std::fs;
use std::io;
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
const STATE: &str = "shim.json";
const EXIT: &str = "exit.json";
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
    /// Which of its attempts.
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
    /// The record of a state folder; none when nothing ended there yet.
    pub fn read(state: &Path) -> Result<Option<Self>, StateError> {
        read(&state.join(EXIT))
    }

    /// Makes the record durable.
    pub fn write(&self, state: &Path) -> Result<(), StateError> {
        write(&state.join(EXIT), self)
    }
}

/// Who a shim is and what it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The task.
    pub task_id: String,
    /// The attempt that was started last.
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
    /// The state of a folder; none when no shim got as far as a start there, or it was released.
    pub fn read(state: &Path) -> Result<Option<Self>, StateError> {
        read(&state.join(STATE))
    }

    /// Makes the state durable.
    pub fn write(&self, state: &Path) -> Result<(), StateError> {
        write(&state.join(STATE), self)
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

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(value).map_err(|source| StateError::Malformed { path: path.to_owned(), source })?;
    file::write_durably(path, &bytes).map_err(|source| StateError::File { verb: "write", path: path.to_owned(), source })
}

/// Removes the files the shim put into its state folder; the folder itself is the agent's.
pub fn remove_files(state: &Path) -> Result<(), StateError> {
    for name in [SOCKET, STATE, EXIT] {
        let path = state.join(name);
        file::remove_if_there(&path).map_err(|source| StateError::File { verb: "remove", path, source })?;
    }
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
pub fn cleanup_orphan(state: &Path, cgroups_path: &str, deadline: Duration) -> Result<(), StateError> {
    if let Some(shim) = ShimState::read(state).unwrap_or(None)
        && shim.shim_is_alive()?
    {
        return Err(StateError::StillRuns { pid: shim.shim.pid, path: state.to_owned() });
    }
    cgroup::kill_and_remove(cgroups_path, deadline)?;
    remove_files(state)
}
