//! One health probe: a process in the task's namespaces and cgroup, with the task's rights, watched by descriptor.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use skep_shim::limits::{self, Limit};
use skep_shim::protocol::HEALTH_OUTPUT_MAX;

use super::entry::{self, Credentials};
use super::health::Outcome;
use super::inside::pipe;
use super::poll::{self, ReadOutcome};

/// A probe that runs.
pub struct Probe {
    pid: i32,
    pidfd: OwnedFd,
    output_end: OwnedFd,
    output: Vec<u8>,
    output_open: bool,
    timed_out: bool,
    /// When it began.
    pub began_ns: u64,
    /// When it is killed.
    pub deadline_ns: u64,
}

/// What a probe needs to know of its container.
pub struct Target<'a> {
    /// The container's first process.
    pub init: &'a OwnedFd,
    /// Folders of its cgroup.
    pub cgroups: &'a [PathBuf],
    /// What to become.
    pub credentials: &'a Credentials,
    /// (resource, soft, hard).
    pub rlimits: &'a [Limit],
    /// For the kernel's out-of-memory killer.
    pub oom_score_adj: Option<i32>,
    /// Working directory.
    pub cwd: &'a str,
}

impl Probe {
    /// Starts one. On an error nothing runs.
    pub fn start(target: &Target, command: &[String], timeout_ns: u64) -> io::Result<Self> {
        let (output_end, input_end) = pipe()?;
        poll::set_nonblocking(output_end.as_raw_fd())?;
        let own_pids = std::fs::File::open("/proc/self/ns/pid")?;
        // A pid namespace is entered by children only; ours is put back at once, whatever happened.
        enter(target.init.as_raw_fd(), libc::CLONE_NEWPID)?;
        // SAFETY: this process has one thread, so the child may do whatever the parent may.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child(target, command, input_end.as_raw_fd());
        }
        let forked = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) };
        enter(own_pids.as_raw_fd(), libc::CLONE_NEWPID)?;
        let pid = forked?;
        let began_ns = poll::boot_ns();
        let pidfd = pidfd_open(pid).inspect_err(|_| {
            // Unwatched it must not run.
            // SAFETY: our own child, not reaped yet.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        })?;
        Ok(Self {
            pid,
            pidfd,
            output_end,
            output: Vec::new(),
            output_open: true,
            timed_out: false,
            began_ns,
            deadline_ns: began_ns.saturating_add(timeout_ns),
        })
    }

    /// Descriptors to wait for.
    pub fn watched(&self) -> Vec<RawFd> {
        let mut watched = vec![self.pidfd.as_raw_fd()];
        watched.extend(self.output_open.then(|| self.output_end.as_raw_fd()));
        watched
    }

    /// Looks at it: the outcome once it ended. Kills it when its time is up; the outcome follows as an event.
    pub fn turn(&mut self, timeout_text: &str) -> Option<Outcome> {
        self.drain();
        if !self.timed_out && poll::boot_ns() >= self.deadline_ns {
            self.timed_out = true;
            self.deadline_ns = u64::MAX;
            self.kill();
        }
        let mut status = 0;
        // SAFETY: the kernel fills the number that is passed.
        let reaped = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        if reaped == 0 {
            return None;
        }
        self.drain();
        if self.timed_out {
            return Some(Outcome { code: None, output: format!("Health check exceeded timeout ({timeout_text})") });
        }
        let code = match () {
            () if reaped < 0 => None,
            () if libc::WIFEXITED(status) => Some(libc::WEXITSTATUS(status)),
            () => Some(128 + libc::WTERMSIG(status)),
        };
        Some(Outcome { code, output: String::from_utf8_lossy(&self.output).into_owned() })
    }

    /// Kills its whole process group. It leads a session of its own, so the group is its own as well.
    pub fn kill(&self) {
        // SAFETY: the process is our child and not reaped, so neither number can mean another.
        unsafe {
            libc::kill(-self.pid, libc::SIGKILL);
            libc::kill(self.pid, libc::SIGKILL);
        }
    }

    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        // Bounded, so that a probe that never stops writing cannot hold the loop.
        for _ in 0..64 {
            match poll::read(self.output_end.as_raw_fd(), &mut buffer) {
                ReadOutcome::Bytes(n) => {
                    let room = HEALTH_OUTPUT_MAX - self.output.len();
                    self.output.extend_from_slice(&buffer[..n.min(room)]);
                }
                ReadOutcome::Later => return,
                ReadOutcome::End => {
                    self.output_open = false;
                    return;
                }
            }
        }
    }
}

fn child(target: &Target, command: &[String], output: RawFd) -> ! {
    let failure = match enter_container(target, output) {
        Ok(()) => entry::run(target.credentials, command),
        Err((step, error)) => entry::ExecFailure { code: 128, message: format!("cannot {step}: {error}") },
    };
    let mut message = failure.message.into_bytes();
    message.truncate(HEALTH_OUTPUT_MAX);
    // SAFETY: the buffer is valid; the child must end here and unwind nothing of its parent.
    unsafe {
        libc::write(output, message.as_ptr().cast(), message.len());
        libc::_exit(failure.code)
    }
}

fn enter_container(target: &Target, output: RawFd) -> Result<(), (&'static str, io::Error)> {
    // SAFETY: calls on numbers.
    unsafe {
        libc::setsid();
        libc::dup2(output, 1);
        libc::dup2(output, 2);
    }
    for folder in target.cgroups {
        std::fs::write(folder.join("cgroup.procs"), "0").map_err(|error| ("join the task's cgroup", error))?;
    }
    limits::set_oom_score(std::process::id() as i32, target.oom_score_adj)
        .map_err(|error| ("set its oom score", io::Error::other(error)))?;
    for (resource, soft, hard) in target.rlimits {
        let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: the kernel reads the structure that is passed.
        if unsafe { libc::setrlimit(*resource, &limit) } != 0 {
            return Err(("set a limit", io::Error::last_os_error()));
        }
    }
    let spaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    enter(target.init.as_raw_fd(), spaces).map_err(|error| ("enter the task's namespaces", error))?;
    let null = CString::new("/dev/null").map_err(|_| ("open /dev/null", io::Error::other("zero byte")))?;
    // SAFETY: the path is terminated; descriptors are numbers.
    unsafe {
        let null = libc::open(null.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if null >= 0 {
            libc::dup2(null, 0);
        }
    }
    let cwd = if target.cwd.is_empty() { "/" } else { target.cwd };
    std::env::set_current_dir(cwd).map_err(|error| ("enter the working directory", error))?;
    // SAFETY: marks descriptors to be closed by exec; none is closed here.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

fn enter(fd: RawFd, spaces: i32) -> io::Result<()> {
    // SAFETY: a call on numbers, in a process with one thread.
    if unsafe { libc::setns(fd, spaces) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A descriptor of a process, readable once it ended.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a call on numbers; the new descriptor, closed on exec by its nature, is owned by nobody else.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid, 0) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd as RawFd)),
        }
    }
}
