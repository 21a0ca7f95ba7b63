//! The folders of tasks on disk.

use skep_model::TaskId;
use skep_shim::state::{ShimState, StateError, cleanup_orphan};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long killing what is left of a container may take.
const KILL_MAX: Duration = Duration::from_secs(10);

/// Where the tasks' folders are.
#[derive(Clone, Debug)]
pub struct Folders {
    tasks: PathBuf,
}

/// The folders of one task.
#[derive(Clone, Debug)]
pub struct TaskFolder(PathBuf);

/// What of a task could not be freed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The container.
    #[error("could not remove what is left of the container of task {task}")]
    Container {
        /// The task.
        task: TaskId,
        /// Why not.
        #[source]
        source: StateError,
    },
    /// A folder.
    #[error("could not remove {path}")]
    Remove {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl TaskFolder {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The shim's.
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// The writable layer.
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Overlayfs' own.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The log.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Folders {
    /// Task folders under `data`.
    pub fn open(data: &Path) -> io::Result<Self> {
        let tasks = data.join("tasks");
        std::fs::create_dir_all(&tasks)?;
        Ok(Self { tasks })
    }

    /// The folders of a task, whether they exist or not.
    pub fn of(&self, task: TaskId) -> TaskFolder {
        TaskFolder(self.tasks.join(task.as_str()))
    }

    /// Makes the folders of a task.
    pub fn make(&self, task: TaskId) -> io::Result<TaskFolder> {
        let folder = self.of(task);
        for path in [folder.state(), folder.upper(), folder.work(), folder.log()] {
            std::fs::create_dir_all(path)?;
        }
        Ok(folder)
    }

    /// The tasks that have folders.
    pub fn list(&self) -> io::Result<Vec<TaskId>> {
        let mut tasks = Vec::new();
        for entry in std::fs::read_dir(&self.tasks)? {
            if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                tasks.push(id);
            }
        }
        tasks.sort();
        Ok(tasks)
    }

    /// Kills shim and container, if they still are, and removes cgroup and state. Blocks.
    pub fn destroy_container(&self, task: TaskId, cgroup: &str) -> Result<(), FolderError> {
        let state = self.of(task).state();
        let fail = |source| FolderError::Container { task, source };
        if let Some(shim) = ShimState::read(&state).unwrap_or(None)
            && shim.shim_is_alive().map_err(fail)?
        {
            kill(shim.shim.pid);
        }
        match cleanup_orphan(&state, cgroup, KILL_MAX) {
            // Killed a moment ago and not yet gone: once more, now that it was waited for.
            Err(StateError::StillRuns { pid, .. }) => {
                await_end(pid);
                cleanup_orphan(&state, cgroup, KILL_MAX).map_err(fail)
            }
            result => result.map_err(fail),
        }
    }

    /// Removes the writable layer and the shim's state; the log stays, and a note or
    /// two beside it.
    pub fn remove_layers(&self, task: TaskId) -> Result<(), FolderError> {
        let folder = self.of(task);
        [folder.state(), folder.upper(), folder.work()].into_iter().try_for_each(remove)
    }

    /// Removes everything of a task.
    pub fn remove(&self, task: TaskId) -> Result<(), FolderError> {
        remove(self.of(task).0)
    }
}

fn remove(path: PathBuf) -> Result<(), FolderError> {
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FolderError::Remove { path, source }),
        _ => Ok(()),
    }
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    if let Err(error) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
        tracing::debug!(%pid, %error, "the shim was gone before it could be killed");
    }
}

/// Waits until a killed process is gone, by its pidfd; at most [`KILL_MAX`].
fn await_end(pid: i32) {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(fd) = i32::try_from(fd) else { return };
    if fd < 0 {
        return;
    }
    // SAFETY: the descriptor was just made and is owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    use std::os::fd::AsFd;
    let mut polled = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    let timeout = nix::poll::PollTimeout::try_from(KILL_MAX).unwrap_or(nix::poll::PollTimeout::MAX);
    let _ = nix::poll::poll(&mut polled, timeout);
}
