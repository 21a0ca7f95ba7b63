//! The one place where the shim waits: descriptors, a deadline, and the clock that deadlines are in.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How long is waited between two looks at the clock where there is no timer of the kernel's.
const LOOK_NS: u64 = 500_000_000;

/// Nanoseconds of a clock that never goes back, cannot be set, and counts the machine's sleep.
pub fn boot_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure that is passed; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
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
    // `poll` itself would not count the machine's sleep.
    let timer = deadline_ns.and_then(timer);
    let timer_fd = timer.as_ref().map(AsRawFd::as_raw_fd);
    list.extend(timer_fd.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
    let timeout = deadline_ns.filter(|_| timer.is_none()).map(|deadline| {
        let left = deadline.saturating_sub(boot_ns()).min(LOOK_NS);
        libc::timespec { tv_sec: (left / 1_000_000_000) as libc::time_t, tv_nsec: (left % 1_000_000_000) as libc::c_long }
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
    Ok(list.iter().filter(|entry| entry.revents != 0 && Some(entry.fd) != timer_fd).map(|entry| entry.fd).collect())
}

/// Readable from a boot time on; `None` if the system has no descriptor left.
fn timer(deadline_ns: u64) -> Option<OwnedFd> {
    // SAFETY: no memory is passed; a descriptor that is returned is new and nobody else's.
    let timer = unsafe {
        match libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) {
            -1 => return None,
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    // A time of zero would disarm it; it is past in any case.
    let at = deadline_ns.max(1);
    let value = libc::timespec { tv_sec: (at / 1_000_000_000) as libc::time_t, tv_nsec: (at % 1_000_000_000) as libc::c_long };
    let setting = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    // SAFETY: the setting outlives the call, and the kernel takes null for the old one.
    let set = unsafe { libc::timerfd_settime(timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &setting, std::ptr::null_mut()) };
    (set == 0).then_some(timer)
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
