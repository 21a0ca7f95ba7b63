//! The folders of tasks on disk, and what a restarted daemon sees in one.

use super::attend;
use super::records::Asked;
use crate::image::Digest;
use skep_agent_core::Found;
use skep_model::TaskId;
use skep_shim::file;
use skep_shim::state::{self, ExitRecord, ShimState, StateError, cleanup_orphan};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

    /// The task as it was last recorded.
    pub(super) fn record(&self) -> PathBuf {
        self.0.join("task")
    }

    fn lease(&self) -> PathBuf {
        self.0.join("lease")
    }

    /// Makes the folder itself, durably.
    pub(super) fn make_own(&self) -> io::Result<()> {
        match std::fs::create_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => std::fs::File::open(self.0.parent().unwrap_or(Path::new("/")))?.sync_all(),
        }
    }

    /// Notes the image that the container is made of: its layers stay as long as the
    /// note does, whatever its name comes to mean.
    pub(super) fn take_lease(&self, image: &Digest) -> io::Result<()> {
        file::write_whole(&self.lease(), image.to_string().as_bytes())
    }

    /// The image that the container is made of.
    pub(super) fn leased(&self) -> Option<Digest> {
        let bytes = file::read_limited(&self.lease(), 256).ok()??;
        Digest::parse(&String::from_utf8(bytes).ok()?)
    }

    /// Whether nothing is left but notes and the log.
    pub(super) fn is_released(&self) -> bool {
        ![self.state(), self.upper(), self.work(), self.lease()].iter().any(|path| path.exists())
    }

    /// What is left of the container; `None` as long as there is a shim, which alone can
    /// say. `asked` is what is on record of the task. Blocks.
    pub(super) fn left(&self, asked: Option<Asked>) -> Result<Option<Found>, StateError> {
        let state = self.state();
        if state::is_held(&state)? {
            return Ok(None);
        }
        let exit = match ExitRecord::read(&state) {
            Ok(exit) => exit,
            Err(error @ StateError::Malformed { .. }) => {
                tracing::warn!(%error, "the exit of a container is not known");
                None
            }
            Err(error) => return Err(error),
        };
        let ended = |exit: ExitRecord| match exit.error {
            Some(error) => Found::StartFailed { attempt: attend::from_shim(exit.attempt), error },
            None => Found::Exited { exit: attend::exit(&exit, &self.log()), shim_lives: false },
        };
        // The newest attempt that a shim of this boot was asked for; 0 for none.
        let of_shim = match ShimState::read(&state) {
            Ok(shim) => shim.filter(|shim| shim.shim.is_of_this_boot().unwrap_or(false)).map_or(0, |shim| shim.attempt),
            // Somebody was there: the container may have run.
            Err(StateError::Malformed { .. }) => u32::MAX,
            Err(error) => return Err(error),
        };
        if of_shim > 0 && asked.is_none_or(|asked| attend::to_shim(asked.attempt) <= of_shim) {
            return Ok(Some(exit.filter(|exit| exit.attempt == of_shim).map_or(Found::Killed, ended)));
        }
        if asked.is_some_and(|asked| asked.is_of_this_boot) {
            return Ok(Some(Found::Fresh));
        }
        Ok(Some(exit.map_or(Found::Nothing, ended)))
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
        let began = Instant::now();
        loop {
            if let Some(shim) = ShimState::read(&state).unwrap_or(None)
                && shim.shim_is_alive().map_err(fail)?
            {
                kill(shim.shim.pid);
                await_end(shim.shim.pid);
            }
            match cleanup_orphan(&state, cgroup, KILL_MAX) {
                // A shim that leaves by itself as nothing was asked of it, or a release of the same task that is not
                // done. The lock has no event to wait for.
                Err(StateError::StillRuns { .. }) if began.elapsed() < KILL_MAX => std::thread::sleep(Duration::from_millis(5)),
                result => return result.map_err(fail),
            }
        }
    }

    /// Removes the writable layer and the shim's state; the log stays, and a note or
    /// two beside it.
    pub fn remove_layers(&self, task: TaskId) -> Result<(), FolderError> {
        let folder = self.of(task);
        [folder.state(), folder.upper(), folder.work()].into_iter().try_for_each(remove)?;
        let path = folder.lease();
        file::remove_if_there(&path).map_err(|source| FolderError::Remove { path, source })
    }

    /// Removes everything of a task.
    pub fn remove(&self, task: TaskId) -> Result<(), FolderError> {
        remove(self.of(task).0)
    }

    /// Ends every container that has a folder here and removes it all, whatever is on
    /// record: nothing is known of this node any more. Blocks.
    ///
    /// # Errors
    /// If a container cannot be ended; its folder and those after it stay.
    pub fn clear(&self, cgroup_parent: &str) -> Result<(), FolderError> {
        let list = |source| FolderError::Remove { path: self.tasks.clone(), source };
        for task in self.list().map_err(list)? {
            self.destroy_container(task, &cgroup_of(cgroup_parent, task))?;
            self.remove(task)?;
        }
        Ok(())
    }

    /// A task whose shim lives.
    pub fn lives(&self) -> io::Result<Option<TaskId>> {
        for task in self.list()? {
            if state::is_held(&self.of(task).state()).map_err(io::Error::other)? {
                return Ok(Some(task));
            }
        }
        Ok(None)
    }
}

/// The cgroup of a task, absolute from the root of each hierarchy.
pub(super) fn cgroup_of(parent: &str, task: TaskId) -> String {
    format!("{}/{task}", parent.trim_end_matches('/'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_of_one_task_wait_for_each_other() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::open(data.path()).unwrap();
        let task = TaskId::from_random([1; 16]);
        folders.make(task).unwrap();
        let held = state::lock(&folders.of(task).state()).unwrap().unwrap();
        let cgroup = format!("/skep-agent-test/{}", std::process::id());
        let removing = std::thread::spawn({
            let folders = folders.clone();
            move || folders.destroy_container(task, &cgroup).and_then(|()| folders.remove(task))
        });
        // Whoever has the lock for a moment holds the other end up, and does not make it fail.
        std::thread::yield_now();
        assert!(folders.of(task).state().exists());
        drop(held);
        removing.join().unwrap().unwrap();
        assert!(!folders.of(task).path().exists());
    }
}
