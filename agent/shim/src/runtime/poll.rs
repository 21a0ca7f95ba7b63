//! The one place where the shim waits: descriptors, a deadline, and the clock that deadlines are in.

use std::io;
use std::os::fd::RawFd;

/// Nanoseconds of a clock that never goes back and stands still while the machine sleeps.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure that is passed; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Waits until one of the descriptors has something (or can be written to, where the flag says so), or the deadline
/// passes. Returns the ready ones.
pub fn wait(watched: &[(RawFd, bool)], deadline_ns: Option<u64>) -> io::Result<Vec<RawFd>> {
    let mut list: Vec<libc::pollfd> = watched
        .iter()
        .map(|(fd, writing)| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN | if *writing { libc::POLLOUT } else { 0 },
            revents: 0,
        })
        .collect();
    let timeout = deadline_ns.map(|deadline| {
        let left = deadline.saturating_sub(monotonic_ns());
        libc::timespec {
            tv_sec: (left / 1_000_000_000).min(86_400) as libc::time_t,
            tv_nsec: (left % 1_000_000_000) as libc::c_long,
        }
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the list and the timeout outlive the call.
    let n_ready = unsafe { libc::ppoll(list.as_mut_ptr(), list.len() as libc::nfds_t, timeout, std::ptr::null()) };
    if n_ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok(Vec::new());
        }
        return Err(error);
    }
    Ok(list.iter().filter(|entry| entry.revents != 0).map(|entry| entry.fd).collect())
}

/// What a read on a descriptor that does not block gave.
pub enum ReadOutcome {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Later,
    /// Nothing ever again.
    End,
}

/// Reads once.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> ReadOutcome {
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    match n {
        1.. => ReadOutcome::Bytes(n as usize),
        0 => ReadOutcome::End,
        _ => match io::Error::last_os_error().kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => ReadOutcome::Later,
            _ => ReadOutcome::End,
        },
    }
}

/// Makes reads and writes return at once.
pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: calls on a number; flags are read before they are written.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
