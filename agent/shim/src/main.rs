//! `skep-shim STATE`: runs one task's container for an agent, and outlives it.
//!
//! Its standard input is one end of a socket pair; everything else, secrets included, comes through that. Its standard
//! output is the lock of its state folder, which it holds for all of its life. It is not a command for people.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod runtime;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(state), None) = (args.next().map(PathBuf::from), args.next()) else {
        eprintln!("usage: skep-shim STATE (started by skepd, with a socket as its standard input)");
        return ExitCode::from(2);
    };
    if !state.is_absolute() {
        eprintln!("skep-shim: the state folder must be an absolute path");
        return ExitCode::from(2);
    }
    // The task's environment stays here as long as the task does. Where memory may not be locked, skepd has said so.
    let _ = skep_shim::process::lock_memory();
    let result = detach().and_then(|(stream, lock)| {
        let _lock = hold(lock, &state)?;
        runtime::shim::Shim::new(state, stream)?.run()
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The lock of the state folder: the one that was handed over, or one that is taken now.
fn hold(inherited: File, state: &Path) -> io::Result<File> {
    if skep_shim::state::is_lock(&inherited, state) {
        return Ok(inherited);
    }
    let lock = skep_shim::state::lock(state).map_err(io::Error::other)?;
    lock.ok_or_else(|| io::Error::other("another shim has the state folder"))
}

/// Leaves the starter's session and mask, forbids core dumps and takes socket and lock away from standard input and output, so
/// that no child can inherit them.
fn detach() -> io::Result<(UnixStream, File)> {
    // SAFETY: calls on numbers, in a process with one thread; the duplicated descriptor is owned by nobody else.
    let (stream, lock) = unsafe {
        libc::setsid();
        // What is made for the task, the folders of its secrets too, is for its own user to enter, whatever the daemon's mask.
        libc::umask(0o022);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        let mut core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // The hard limit stays: a task may ask for cores of its own.
        if libc::getrlimit(libc::RLIMIT_CORE, &mut core) == 0 {
            core.rlim_cur = 0;
            libc::setrlimit(libc::RLIMIT_CORE, &core);
        }
        let take = |fd| match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        };
        (take(0)?, take(1)?)
    };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in [0, 1] {
        // SAFETY: both are open descriptors.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    std::env::set_current_dir("/")?;
    Ok((UnixStream::from(stream), File::from(lock)))
}
