//! The network namespaces of tasks: made, pinned under a path, found again by it,
//! and removed.
//!
//! A namespace lives as long as something holds it: a process in it, an open
//! descriptor, or its pin. The folder of pins is a mount of its own whose events
//! reach the private mount tables of containers, so that a removed pin is gone
//! there too. A thread that entered a namespace ends afterwards; none of the
//! runtime's threads ever leaves the one it started in.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};
use skep_model::TaskId;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The file system of namespaces.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// Why a namespace could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct NamespaceError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> NamespaceError {
    move |source| NamespaceError { operation, path: path.to_owned(), source: source.into() }
}

/// The folder of pins.
#[derive(Debug)]
pub struct Namespaces {
    folder: PathBuf,
}

impl Namespaces {
    /// Takes the folder, and makes it if need be.
    ///
    /// # Errors
    /// If it cannot be made a mount of its own.
    pub fn open(folder: &Path) -> Result<Self, NamespaceError> {
        std::fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        let none = None::<&Path>;
        let share = || mount(none, folder, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
        if share().is_err() {
            mount(Some(folder), folder, none, MsFlags::MS_BIND, none).map_err(failed("mount", folder))?;
            share().map_err(failed("share the mounts below", folder))?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where the namespace of `task` is pinned.
    pub fn path(&self, task: TaskId) -> PathBuf {
        self.folder.join(task.as_str())
    }

    /// Makes and pins a namespace; one that is pinned stays as it is.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn make(&self, task: TaskId) -> Result<(), NamespaceError> {
        let path = self.path(task);
        if is_pinned(&path) {
            return Ok(());
        }
        File::create(&path).map_err(failed("make the file", &path))?;
        let pin = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let none = None::<&Path>;
            mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)
        };
        let made = std::thread::scope(|scope| scope.spawn(pin).join().expect("pinning does not panic"));
        made.map_err(|errno| {
            // Best effort: an empty file does no harm, the error is told anyway.
            let _ = std::fs::remove_file(&path);
            failed("pin a namespace at", &path)(errno)
        })
    }

    /// Opens a pinned namespace.
    ///
    /// # Errors
    /// If none is pinned there.
    pub fn get(&self, task: TaskId) -> Result<OwnedFd, NamespaceError> {
        let path = self.path(task);
        if !is_pinned(&path) {
            return Err(failed("open the namespace", &path)(io::Error::from(io::ErrorKind::NotFound)));
        }
        File::open(&path).map(OwnedFd::from).map_err(failed("open the namespace", &path))
    }

    /// Removes a pin; one that is gone is no error.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn remove(&self, task: TaskId) -> Result<(), NamespaceError> {
        let path = self.path(task);
        while is_pinned(&path) {
            umount2(&path, MntFlags::MNT_DETACH).map_err(failed("unmount", &path))?;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// The tasks whose namespaces are pinned.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<TaskId>, NamespaceError> {
        let mut tasks = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed("read", &self.folder))? {
            let entry = entry.map_err(failed("read", &self.folder))?;
            let task: Option<TaskId> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            tasks.extend(task.filter(|_| is_pinned(&entry.path())));
        }
        tasks.sort();
        Ok(tasks)
    }
}

fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}
