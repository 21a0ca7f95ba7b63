//! Running code inside another network namespace.
//!
//! A socket stays in the namespace in which it was made, so this is needed to make one, and to read and
//! write settings below `/proc/sys/net`. The thread that enters is a throw-away: no thread of the runtime
//! ever changes its namespace.

use nix::sched::{CloneFlags, setns};
use std::io;
use std::os::fd::BorrowedFd;

/// Runs `work` on a thread of its own inside the namespace and hands its result back.
///
/// # Errors
/// When the namespace cannot be entered or the thread not be started.
pub fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Opens something in a namespace; `None` = in that of the calling thread.
///
/// # Errors
/// As [`inside`], and those of `open`.
pub fn open_in<T: Send>(namespace: Option<BorrowedFd<'_>>, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match namespace {
        Some(namespace) => inside(namespace, open)?,
        None => open(),
    }
}
