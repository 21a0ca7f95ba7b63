//! The assignments as they were last received, across restarts of the daemon.
//!
//! A cache that can be rebuilt from a manager, so `sled` may hold it. Task specs
//! hold references to secrets, never values.

use prost::Message;
use skep_model::TaskId;
use skep_model::task::{Task, TaskStatus};
use skep_proto::v1;
use std::path::{Path, PathBuf};

/// Bytes of memory that the cache takes.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It could not be opened.
    #[error("could not open the cache of assignments at {path}")]
    Open {
        /// Its folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: sled::Error,
    },
}

/// The cache.
#[derive(Debug)]
pub struct Saved {
    tasks: sled::Db,
}

impl Saved {
    /// Opens the cache in `folder`. One that cannot be read is thrown away: a
    /// manager sends everything again.
    pub fn open(folder: &Path) -> Result<Self, SavedError> {
        let open = || sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).mode(sled::Mode::LowSpace).open();
        let tasks = open().or_else(|error| {
            tracing::warn!(%error, "the cache of assignments is damaged and begins anew");
            let _ = std::fs::remove_dir_all(folder);
            open().map_err(|source| SavedError::Open { path: folder.into(), source })
        })?;
        Ok(Self { tasks })
    }

    /// Remembers a task and its status.
    pub fn save(&self, task: &Task, status: &TaskStatus) {
        let mut task = task.clone();
        task.status.value = status.clone();
        let bytes = v1::Task::from(&task).encode_to_vec();
        if let Err(error) = self.tasks.insert(task.id.as_str(), bytes) {
            tracing::error!(task = %task.id, %error, "could not save an assignment");
        }
    }

    /// Forgets a task.
    pub fn forget(&self, task: TaskId) {
        if let Err(error) = self.tasks.remove(task.as_str()) {
            tracing::error!(%task, %error, "could not forget an assignment");
        }
    }

    /// Every saved task, its status inside; what does not parse is dropped.
    pub fn load(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (key, bytes) in self.tasks.iter().flatten() {
            let parsed = v1::Task::decode(&*bytes).ok().and_then(|message| Task::try_from(message).ok());
            match parsed {
                Some(task) => tasks.push(task),
                None => {
                    tracing::warn!(key = %String::from_utf8_lossy(&key), "dropped a saved assignment that does not parse");
                    let _ = self.tasks.remove(key);
                }
            }
        }
        tasks
    }

    /// Hands everything to the operating system.
    pub fn flush(&self) {
        if let Err(error) = self.tasks.flush() {
            tracing::error!(%error, "could not flush the cache of assignments");
        }
    }
}
