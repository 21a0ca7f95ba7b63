//! The folders of tasks, and what a restarted daemon sees in one.
//!
//! | where | what | how long |
//! |---|---|---|
//! | `DATA/tasks/ID/task` | the task on record | until the task is removed; synced |
//! | `DATA/tasks/ID/exit.json` | how the last attempt ended | until the release; synced |
//! | `DATA/tasks/ID/{upper,work}` | the writable layer | until the release |
//! | `DATA/tasks/ID/log` | the log | until the task is removed |
//! | `RUN/shims/ID/{lock,shim.json,shim.sock,mnt}` | the shim's | until the release; of one boot |
//! | `RUN/shims/ID/lease` | the image that the container is made of | until the release; of one boot |
//!
//! RUN is memory on every node that boots as nodes do, so what means nothing after a
//! power cut costs no disk. A shim that an earlier version started keeps all of its own in
//! `DATA/tasks/ID/state`, which is looked for first.

use super::attend;
use super::records::Asked;
use crate::image::Digest;
use skep_agent_core::Found;
use skep_model::TaskId;
use skep_shim::file;
use skep_shim::state::{self, ExitRecord, ShimState, StateError, cleanup_orphan};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killing what is left of a container may take.
const KILL_MAX: Duration = Duration::from_secs(10);

/// Where the tasks' folders are.
#[derive(Clone, Debug)]
pub struct Folders {
    data: PathBuf,
    run: PathBuf,
}

/// The folders of one task.
#[derive(Clone, Debug)]
pub struct TaskFolder {
    data: PathBuf,
    run: PathBuf,
}

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
    /// The folder of what is kept.
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// The shim's, of one boot.
    pub fn state(&self) -> PathBuf {
        self.former_state().unwrap_or_else(|| self.run.clone())
    }

    /// Where the shim puts down how an attempt ended.
    pub fn exits(&self) -> PathBuf {
        self.former_state().unwrap_or_else(|| self.data.clone())
    }

    /// The state folder of a shim that an earlier version started.
    fn former_state(&self) -> Option<PathBuf> {
        Some(self.data.join("state")).filter(|state| state.exists())
    }

    /// The writable layer.
    pub fn upper(&self) -> PathBuf {
        self.data.join("upper")
    }

    /// Overlayfs' own.
    pub fn work(&self) -> PathBuf {
        self.data.join("work")
    }

    /// The log.
    pub fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// The task as it was last recorded.
    pub(super) fn record(&self) -> PathBuf {
        self.data.join("task")
    }

    fn lease(&self) -> PathBuf {
        self.run.join("lease")
    }

    /// Makes the folder of what is kept, durably.
    pub(super) fn make_own(&self) -> io::Result<()> {
        match std::fs::create_dir(&self.data) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => std::fs::File::open(self.data.parent().unwrap_or(Path::new("/")))?.sync_all(),
        }
    }

    /// Notes the image that the container is made of: its layers stay as long as the
    /// note does, whatever its name comes to mean.
    pub(super) fn take_lease(&self, image: &Digest) -> io::Result<()> {
        file::write_whole(&self.lease(), image.to_string().as_bytes())
    }

    /// The image that the container is made of.
    pub(super) fn leased(&self) -> Option<Digest> {
        let read = |path: &Path| file::read_limited(path, 256).ok().flatten();
        // An earlier version kept it beside the record.
        let bytes = read(&self.lease()).or_else(|| read(&self.data.join("lease")))?;
        Digest::parse(&String::from_utf8(bytes).ok()?)
    }

    /// Whether nothing is left but the record and the log.
    pub(super) fn is_released(&self) -> bool {
        let shim = [self.run.clone(), self.data.join("state"), self.data.join("lease")];
        ![self.upper(), self.work()].iter().chain(&shim).any(|path| path.exists()) && !state::has_exit(&self.data)
    }

    /// Removes everything but the record and the log, what the disk keeps last.
    fn release(&self) -> Result<(), FolderError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Remove { path, source }
        };
        [self.run.clone(), self.data.join("state"), self.upper(), self.work()].into_iter().try_for_each(remove)?;
        let former = self.data.join("lease");
        file::remove_if_there(&former).map_err(failed(&former))?;
        state::remove_exit(&self.data).map_err(|error| match error {
            StateError::File { path, source, .. } => FolderError::Remove { path, source },
            other => failed(&self.data)(io::Error::other(other)),
        })
    }

    /// What is left of the container; `None` as long as there is a shim, which alone can
    /// say. `asked` is what is on record of the task. Blocks.
    pub(super) fn left(&self, asked: Option<Asked>) -> Result<Option<Found>, StateError> {
        let state = self.state();
        if state::is_held(&state)? {
            return Ok(None);
        }
        let exit = match ExitRecord::read(&self.exits()) {
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
    /// Task folders under `data`, for what is kept, and `run`, for what is of one boot.
    pub fn open(data: &Path, run: &Path) -> io::Result<Self> {
        let (data, run) = (data.join("tasks"), run.join("shims"));
        std::fs::create_dir_all(&data)?;
        // Whoever may enter RUN for a socket of the daemon has no business in here.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
        Ok(Self { data, run })
    }

    /// The folders of a task, whether they exist or not.
    pub fn of(&self, task: TaskId) -> TaskFolder {
        TaskFolder { data: self.data.join(task.as_str()), run: self.run.join(task.as_str()) }
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
        for entry in std::fs::read_dir(&self.data)? {
            if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                tasks.push(id);
            }
        }
        tasks.sort();
        Ok(tasks)
    }

    /// Kills shim and container, if they still are, and removes cgroup and state. Blocks.
    pub fn destroy_container(&self, task: TaskId, cgroup: &str) -> Result<(), FolderError> {
        let (state, exits) = (self.of(task).state(), self.of(task).exits());
        let fail = |source| FolderError::Container { task, source };
        let began = Instant::now();
        loop {
            if let Some(shim) = ShimState::read(&state).unwrap_or(None)
                && shim.shim_is_alive().map_err(fail)?
            {
                kill(shim.shim.pid);
                await_end(shim.shim.pid);
            }
            match cleanup_orphan(&state, &exits, cgroup, KILL_MAX) {
                // A shim that leaves by itself as nothing was asked of it, or a release of the same task that is not
                // done. The lock has no event to wait for.
                Err(StateError::StillRuns { .. }) if began.elapsed() < KILL_MAX => std::thread::sleep(Duration::from_millis(5)),
                result => return result.map_err(fail),
            }
        }
    }

    /// Removes the writable layer and what the shim left; the record and the log stay.
    pub fn remove_layers(&self, task: TaskId) -> Result<(), FolderError> {
        self.of(task).release()
    }

    /// Removes everything of a task; what tells a later daemon of it goes last.
    pub fn remove(&self, task: TaskId) -> Result<(), FolderError> {
        let TaskFolder { data, run } = self.of(task);
        remove(run)?;
        remove(data)
    }

    /// Ends every container that has a folder here and removes it all, whatever is on
    /// record: nothing is known of this node any more. Blocks.
    ///
    /// # Errors
    /// If a container cannot be ended; its folder and those after it stay.
    pub fn clear(&self, cgroup_parent: &str) -> Result<(), FolderError> {
        let list = |source| FolderError::Remove { path: self.data.clone(), source };
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
        let folders = Folders::open(data.path(), data.path()).unwrap();
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

    #[test]
    fn what_an_earlier_version_left_is_found_and_removed() {
        let (data, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = Folders::open(data.path(), run.path()).unwrap();
        let task = TaskId::from_random([1; 16]);
        let folder = folders.of(task);
        let state = folder.path().join("state");
        std::fs::create_dir_all(&state).unwrap();
        let image = Digest::of(b"an image");
        std::fs::write(folder.path().join("lease"), image.to_string()).unwrap();
        assert_eq!((folder.state(), folder.exits()), (state.clone(), state.clone()));
        assert_eq!(folder.leased(), Some(image));
        let held = state::lock(&state).unwrap().unwrap();
        assert_eq!(folders.lives().unwrap(), Some(task));
        assert!(folder.left(None).unwrap().is_none());
        drop(held);
        assert!(folders.lives().unwrap().is_none());
        assert!(!folder.is_released());
        folders.remove_layers(task).unwrap();
        assert!(folder.is_released());
        // What comes after it is where it belongs.
        folders.make(task).unwrap();
        assert_eq!((folder.state(), folder.exits()), (run.path().join("shims").join(task.as_str()), folder.path().to_owned()));
    }
}
