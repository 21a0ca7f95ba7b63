//! Paths of the task, resolved as the task would: no link, no `..` and no magic link leads out of its root.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// The root of a task's file system.
pub struct Root(File);

impl Root {
    /// Opens it.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Opens a file or folder for reading.
    pub fn read(&self, path: &str) -> io::Result<File> {
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map(File::from)
    }

    fn open_at(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.0, path, how)?)
    }

    /// Makes a folder and those above it, where missing, with mode 0755.
    pub fn make_folder(&self, path: &str) -> io::Result<()> {
        let mut walked = String::new();
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            let parent = if walked.is_empty() { "/".to_owned() } else { walked.clone() };
            walked = format!("{walked}/{part}");
            match self.open_at(&walked, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let parent = self.open_at(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            mkdirat(&parent, part, Mode::from_bits_truncate(0o755))?;
        }
        Ok(())
    }
}

/// A pipe whose ends close on exec: reading end, writing end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for the two descriptors the kernel writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new and owned by nobody else.
    unsafe { Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))) }
}
