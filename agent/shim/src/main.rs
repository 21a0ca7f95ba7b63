//! `skep-shim STATE`: runs one task's container for an agent, and outlives it.
//!
//! Its standard input is one end of a socket pair; everything else, secrets included, comes through that. It is not a
//! command for people.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
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
    let result = detach().and_then(|stream| runtime::shim::Shim::new(state, stream)?.run());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves the starter's session and mask, forbids core dumps and takes the socket away from standard input, so that no child
/// can inherit it.
fn detach() -> io::Result<UnixStream> {
    // SAFETY: calls on numbers, in a process with one thread; the duplicated descriptor is owned by nobody else.
    let stream = unsafe {
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
        match libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: both are open descriptors.
    if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    std::env::set_current_dir("/")?;
    Ok(UnixStream::from(stream))
}
