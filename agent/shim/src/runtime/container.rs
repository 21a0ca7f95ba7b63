//! One attempt of a task: a container from its creation to the reaping of its first process.

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use skep_shim::limits::{self, Limit};
use skep_shim::log::{LineCutter, LogWriter, Stream, now_ns};
use skep_shim::process::ProcessId;
use skep_shim::protocol::TaskSpec;
use skep_shim::{capabilities, cgroup, spec as bundle};

use super::entry::{Credentials, Entry, MESSAGE_MAX};
use super::inside::{Root, pipe};
use super::inside_mounts::Mounts;
use super::poll::{self, ReadOutcome};
use super::probe::{Probe, Target, pidfd_open};
use super::rootfs::Layout;
use super::{seccomp, sysctls, user};

/// The longest the task's program may take to be executed, once everything is set up.
const EXEC_NS: u64 = 30_000_000_000;
/// What the container library says of every mount that it cannot make, without its name.
const ROOTFS_FAILED: &str = "failed to prepare rootfs";
/// The longest removal of a cgroup may take.
const CGROUP_REMOVAL: Duration = Duration::from_secs(10);

/// Why an attempt could not be started, for the user and for the exit record.
pub struct StartFailure {
    /// 126, 127 or 128.
    pub code: i32,
    /// A sentence.
    pub message: String,
}

impl StartFailure {
    fn new(message: impl Into<String>) -> Self {
        Self { code: 128, message: message.into() }
    }
}

/// One of the task's two outputs.
struct Output {
    end: OwnedFd,
    cutter: LineCutter,
    open: bool,
}

/// A container that runs, or ended and is not yet reaped.
pub struct Running {
    /// Its first process.
    pub process: ProcessId,
    pidfd: OwnedFd,
    outputs: [Output; 2],
    credentials: Rc<Credentials>,
    cgroups: Vec<PathBuf>,
    rlimits: Vec<Limit>,
}

/// How the first process ended.
pub struct Ended {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it for lack of memory; the exit may be a success all the same.
    pub oom_killed: bool,
}

/// Creates and starts. `created` is called between the two. On failure nothing of the attempt is left.
pub fn start(spec: &TaskSpec, layout: &Layout, created: impl FnOnce()) -> Result<Running, StartFailure> {
    let result = start_inner(spec, layout, created);
    if result.is_err() {
        // The failure itself is what the user must read; remains are removed again at the release.
        let _ = cgroup::kill_and_remove(&spec.cgroups_path, CGROUP_REMOVAL);
        // SAFETY: reaps children that are dead already; this process has no other children to miss.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    }
    result
}

fn start_inner(spec: &TaskSpec, layout: &Layout, created: impl FnOnce()) -> Result<Running, StartFailure> {
    let say = |error: &dyn std::fmt::Display| StartFailure::new(error.to_string());
    layout.mount_root(spec).map_err(|error| say(&error))?;
    let root = Root::open(&layout.rootfs()).map_err(|error| say(&error))?;
    let identity = user::resolve(&root, &spec.user, &spec.groups).map_err(|error| say(&error))?;
    if !spec.cwd.is_empty() {
        root.make_folder(&spec.cwd)
            .map_err(|error| StartFailure::new(format!("cannot create working directory {:?}: {error}", spec.cwd)))?;
    }
    let held = held_capabilities().map_err(|error| say(&error))?;
    let set = capabilities::resolve(&spec.cap_add, &spec.cap_drop, held).map_err(|error| say(&error))?;
    let credentials = Rc::new(Credentials {
        env: bundle::environment(spec, &identity.home),
        filter: seccomp::compile(set),
        capabilities: set,
        no_new_privileges: spec.no_new_privileges,
        identity,
    });
    write_bundle(spec, layout, set, held)?;
    let container = layout.container_state();
    let _ = fs::remove_dir_all(&container);
    fs::create_dir_all(&container).map_err(|error| say(&error))?;
    let (process, outputs, report, rlimits) = launch(spec, layout, &credentials, created)?;
    let pidfd = pidfd_open(process.pid).map_err(|error| say(&error))?;
    let running = Running {
        process,
        pidfd,
        outputs,
        credentials,
        cgroups: cgroup::folders(&spec.cgroups_path).map_err(|error| say(&error))?,
        rlimits,
    };
    match await_exec(report) {
        None => Ok(running),
        Some(failure) => {
            running.signal(libc::SIGKILL);
            // SAFETY: our own child, which is dead or dying of SIGKILL; the status is not wanted.
            unsafe { libc::waitpid(running.process.pid, std::ptr::null_mut(), 0) };
            Err(failure)
        }
    }
}

fn write_bundle(spec: &TaskSpec, layout: &Layout, set: u64, held: u64) -> Result<(), StartFailure> {
    let say = |error: &dyn std::fmt::Display| StartFailure::new(error.to_string());
    let etc = layout.write_etc(spec, &bundle::hostname(spec)).map_err(|error| say(&error))?;
    let text = |(source, target): (PathBuf, String), read_only| (source.to_string_lossy().into_owned(), target, read_only);
    let mut binds: Vec<_> = etc.into_iter().map(|bind| text(bind, false)).collect();
    binds.extend(layout.file_binds(spec).into_iter().map(|bind| text(bind, true)));
    let config = bundle::oci(spec, set, held, layout.network(spec).as_deref(), &binds).to_string();
    fs::write(layout.bundle().join("config.json"), config).map_err(|error| say(&error))
}

type Launched = (ProcessId, [Output; 2], OwnedFd, Vec<Limit>);

fn launch(
    spec: &TaskSpec,
    layout: &Layout,
    credentials: &Rc<Credentials>,
    created: impl FnOnce(),
) -> Result<Launched, StartFailure> {
    let say = |error: &dyn std::fmt::Display| StartFailure::new(error.to_string());
    let (report, report_write) = pipe().map_err(|error| say(&error))?;
    let (out, out_write) = pipe().map_err(|error| say(&error))?;
    let (err, err_write) = pipe().map_err(|error| say(&error))?;
    let identity = &credentials.identity;
    for end in [&out_write, &err_write] {
        // So that the task may open /dev/stdout, whoever it runs as.
        // SAFETY: a call on numbers.
        if unsafe { libc::fchown(end.as_raw_fd(), identity.uid, identity.gid) } != 0 {
            return Err(say(&std::io::Error::last_os_error()));
        }
    }
    for end in [&out, &err] {
        poll::set_nonblocking(end.as_raw_fd()).map_err(|error| say(&error))?;
    }
    let null = fs::File::open("/dev/null").map_err(|error| say(&error))?;
    let entry = Entry {
        credentials: credentials.clone(),
        args: Rc::new(spec.args.clone()),
        mounts: Rc::new(Mounts::of(spec)),
        report: report_write.as_raw_fd(),
    };
    let explain = |error: libcontainer::error::LibcontainerError| {
        let error = chain(&error);
        let mounts = if error.contains(ROOTFS_FAILED) { bundle::named_mounts(spec) } else { String::new() };
        StartFailure::new(format!("cannot create the container: {error}{mounts}"))
    };
    // Ids of libcontainer are its own affair; the attempt keeps them apart.
    let mut container = ContainerBuilder::new(format!("{}.{}", spec.task_id, spec.attempt), SyscallType::default())
        .with_root_path(layout.container_state())
        .map_err(explain)?
        .with_executor(entry)
        .with_stdin(null)
        .with_stdout(out_write)
        .with_stderr(err_write)
        .as_init(layout.bundle())
        .with_systemd(false)
        .with_detach(false)
        .build()
        .map_err(explain)?;
    let pid = container.pid().map(|pid| pid.as_raw()).ok_or_else(|| StartFailure::new("the container has no process"))?;
    let process = ProcessId::of(pid).map_err(|error| say(&error))?;
    let rlimits = confine(spec, pid).map_err(StartFailure::new)?;
    created();
    container.start().map_err(explain)?;
    drop(report_write);
    let output = |end, stream| Output { end, cutter: LineCutter::new(stream), open: true };
    Ok((process, [output(out, Stream::Stdout), output(err, Stream::Stderr)], report, rlimits))
}

/// Everything that holds the task in and is set from outside, between its creation and its start.
fn confine(spec: &TaskSpec, pid: i32) -> Result<Vec<Limit>, String> {
    let memory_bytes = u64::try_from(spec.resources.memory_bytes).unwrap_or(0);
    cgroup::confine(&spec.cgroups_path, pid, memory_bytes).map_err(|error| chain(&error))?;
    sysctls::set(pid, &spec.sysctls)?;
    limits::set_oom_score(pid, spec.oom_score_adj)?;
    limits::set(pid, spec)
}

/// An error and its causes in one line, none said twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

/// None once the program runs: exec closed the pipe. Otherwise the reason that was written to it.
fn await_exec(report: OwnedFd) -> Option<StartFailure> {
    let deadline = poll::boot_ns() + EXEC_NS;
    let mut text = Vec::new();
    let mut file = fs::File::from(report);
    loop {
        match poll::wait(&[(file.as_raw_fd(), false)], Some(deadline)) {
            Err(error) => return Some(StartFailure::new(format!("cannot wait for the program: {error}"))),
            Ok(ready) if ready.is_empty() && poll::boot_ns() >= deadline => {
                return Some(StartFailure::new("the program was not executed in 30 s"));
            }
            Ok(ready) if ready.is_empty() => continue,
            Ok(_) => {}
        }
        let mut buffer = [0; MESSAGE_MAX];
        match file.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => text.extend_from_slice(&buffer[..n]),
        }
    }
    if text.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let (code, message) = text.split_once(' ').unwrap_or(("128", &text));
    Some(StartFailure { code: code.parse().unwrap_or(128), message: message.to_owned() })
}

/// What this process may hand on: its own bounding set.
fn held_capabilities() -> std::io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| std::io::Error::other("/proc/self/status has no CapBnd"))
}

impl Running {
    /// Descriptors to wait for.
    pub fn watched(&self) -> Vec<i32> {
        let outputs = self.outputs.iter().filter(|output| output.open).map(|output| output.end.as_raw_fd());
        outputs.chain([self.pidfd.as_raw_fd()]).collect()
    }

    /// Sends a signal to the first process. A process that ended meanwhile is no error.
    pub fn signal(&self, signal: i32) {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a call on numbers; the null pointer means the default information.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), signal, none, 0) };
    }

    /// Moves what the task wrote into the log; bounded, so that a task that never stops cannot hold the loop.
    pub fn pump(&mut self, log: &mut LogWriter) {
        self.pump_rounds(log, 4);
    }

    fn pump_rounds(&mut self, log: &mut LogWriter, n_rounds: usize) {
        let mut buffer = vec![0; 64 << 10];
        for output in &mut self.outputs {
            for _ in 0..n_rounds {
                if !output.open {
                    break;
                }
                match poll::read(output.end.as_raw_fd(), &mut buffer) {
                    ReadOutcome::Bytes(n) => output.cutter.push(log, now_ns(), &buffer[..n]),
                    ReadOutcome::Later => break,
                    ReadOutcome::End => output.open = false,
                }
            }
        }
        // The writer counts what a full disk refused and says so in the log once there is room.
        let _ = log.flush();
    }

    /// Reaps the first process if it ended; then its last output is in the log, and its cgroup is gone.
    pub fn reap(&mut self, log: &mut LogWriter, cgroups_path: &str) -> Option<Ended> {
        let mut status = 0;
        // SAFETY: the kernel fills the number that is passed.
        let reaped = unsafe { libc::waitpid(self.process.pid, &mut status, libc::WNOHANG) };
        if reaped == 0 {
            return None;
        }
        // With the first process its whole pid namespace died: nobody writes any more, a pipe's worth is left.
        self.pump_rounds(log, 64);
        for output in &mut self.outputs {
            output.cutter.finish(log, now_ns());
        }
        let _ = log.flush();
        let oom_kills = cgroup::oom_kills(cgroups_path).unwrap_or(0);
        let signal = (reaped > 0 && libc::WIFSIGNALED(status)).then(|| libc::WTERMSIG(status));
        let code = match signal {
            Some(signal) => 128 + signal,
            None if reaped > 0 => libc::WEXITSTATUS(status),
            None => 255,
        };
        Some(Ended { code, signal, oom_killed: oom_kills > 0 })
    }

    /// Starts a health probe.
    pub fn probe(&self, spec: &TaskSpec, command: &[String], timeout_ns: u64) -> std::io::Result<Probe> {
        let target = Target {
            init: &self.pidfd,
            cgroups: &self.cgroups,
            credentials: &self.credentials,
            rlimits: &self.rlimits,
            oom_score_adj: spec.oom_score_adj,
            cwd: &spec.cwd,
        };
        Probe::start(&target, command, timeout_ns)
    }
}

/// Removes the cgroup of an attempt that ended.
pub fn remove_cgroup(spec: &TaskSpec) -> Result<(), cgroup::CgroupError> {
    cgroup::kill_and_remove(&spec.cgroups_path, CGROUP_REMOVAL)
}

/// Mode of the folder must let only root in: it will hold the socket.
pub fn guard_folder(path: &std::path::Path) -> std::io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}
