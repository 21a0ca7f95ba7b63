//! The last steps of a process before the task's own program: filter, groups, ids, capabilities, exec.
//!
//! The same steps serve the container's first process and every health probe. They run in a freshly forked child that
//! is already in the task's namespaces, as root with the task's capabilities plus [`skep_shim::capabilities::FOR_ENTRY`].
//!
//! The order matters: the filter goes in first, since without no-new-privileges it needs CAP_SYS_ADMIN; the bounding
//! set is cut before the ids change, since that loses CAP_SETPCAP; ambient capabilities come last.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use skep_shim::limits::UMASK;
use skep_shim::sensitive::Sensitive;
use skep_shim::spec::PATH_DEFAULT;
use zeroize::Zeroizing;

use super::inside_mounts::Mounts;
use super::seccomp::Instruction;
use super::user::Identity;

/// The most bytes of a message about a failed exec.
pub const MESSAGE_MAX: usize = 4096;

/// What a process of the task is, the same for its first one and for probes.
pub struct Credentials {
    /// Ids.
    pub identity: Identity,
    /// The task's capabilities, the bounding set of all its processes.
    pub capabilities: u64,
    /// Forbid gaining privileges.
    pub no_new_privileges: bool,
    /// The filter.
    pub filter: Vec<Instruction>,
    /// Complete, `KEY=VALUE`.
    pub env: Vec<Sensitive>,
}

/// Exit code and sentence for a program that could not be run, as Docker has them.
pub struct ExecFailure {
    /// 126: found but not runnable; 127: not found; 128: anything before that.
    pub code: i32,
    /// For the user.
    pub message: String,
}

/// Turns this process into the task's program. Returns only on failure.
pub fn run(credentials: &Credentials, args: &[String]) -> ExecFailure {
    if let Err((step, error)) = become_task(credentials) {
        return ExecFailure { code: 128, message: format!("cannot {step}: {error}") };
    }
    exec(credentials, args)
}

fn become_task(credentials: &Credentials) -> Result<(), (&'static str, io::Error)> {
    let step = |name: &'static str, result: libc::c_long| match result {
        -1 => Err((name, io::Error::last_os_error())),
        _ => Ok(()),
    };
    restore_signals();
    // SAFETY: a call on a number.
    unsafe { libc::umask(UMASK) };
    let identity = &credentials.identity;
    let program = libc::sock_fprog { len: credentials.filter.len() as u16, filter: credentials.filter.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call; the kernel copies it.
    step("load the system call filter", unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &program) })?;
    for number in (0..64).filter(|number| credentials.capabilities & 1 << number == 0) {
        // Beyond the kernel's last capability this says EINVAL, and there is nothing to drop.
        // SAFETY: a call with numbers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if result != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            return Err(("drop capabilities", io::Error::last_os_error()));
        }
    }
    // SAFETY: the kernel reads as many groups as the slice has.
    step("set the groups", unsafe { libc::setgroups(identity.groups.len(), identity.groups.as_ptr()) }.into())?;
    // SAFETY: calls with numbers only.
    step("set the group", unsafe { libc::setresgid(identity.gid, identity.gid, identity.gid) }.into())?;
    // SAFETY: as above.
    step("set the user", unsafe { libc::setresuid(identity.uid, identity.uid, identity.uid) }.into())?;
    // Root keeps the set; any other user starts with none and keeps it in the bounding set only, as in Docker.
    let effective = if identity.uid == 0 { credentials.capabilities } else { 0 };
    step("set capabilities", set_capabilities(effective))?;
    // SAFETY: a call with numbers only.
    step("clear ambient capabilities", unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).into()
    })?;
    if credentials.no_new_privileges {
        // SAFETY: a call with numbers only.
        step("set no-new-privileges", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into() })?;
    }
    Ok(())
}

/// Ignored signals and the mask survive exec; the Rust runtime ignores SIGPIPE, which no task expects.
fn restore_signals() {
    // SAFETY: default handlers are always valid, and this process has one thread.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn set_capabilities(set: u64) -> libc::c_long {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Half {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |bits: u32| Half { effective: bits, permitted: bits, inheritable: 0 };
    let halves = [half(set as u32), half((set >> 32) as u32)];
    // SAFETY: version 3 of the call reads the header and two halves, which is what is passed.
    unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) }
}

fn exec(credentials: &Credentials, args: &[String]) -> ExecFailure {
    let program = args.first().map_or("", String::as_str);
    let failure = |code, reason: &str| ExecFailure { code, message: format!("exec: \"{program}\": {reason}") };
    let Ok(arguments) = args.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<Vec<_>, _>>() else {
        return failure(128, "an argument contains a zero byte");
    };
    let env = credentials.env.iter().filter(|entry| !entry.expose().contains(&0)).map(|entry| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(entry.len() + 1));
        bytes.extend_from_slice(entry.expose());
        bytes.push(0);
        bytes
    });
    let env: Vec<Zeroizing<Vec<u8>>> = env.collect();
    let pointers = |strings: Vec<*const libc::c_char>| strings.into_iter().chain([std::ptr::null()]).collect();
    let argv: Vec<_> = pointers(arguments.iter().map(|arg| arg.as_ptr()).collect());
    let envp: Vec<_> = pointers(env.iter().map(|entry| entry.as_ptr().cast()).collect());
    let mut denied = false;
    for candidate in candidates(program, &credentials.env) {
        let Ok(path) = CString::new(candidate) else { continue };
        // SAFETY: path, argv and envp are terminated and outlive the call.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => denied = true,
            Some(libc::ENOEXEC) => return failure(126, "exec format error"),
            _ => return failure(126, &io::Error::last_os_error().to_string()),
        }
    }
    match (denied, program.contains('/')) {
        (true, _) => failure(126, "permission denied"),
        (false, true) => failure(127, "no such file or directory"),
        (false, false) => failure(127, "executable file not found in $PATH"),
    }
}

fn candidates(program: &str, env: &[Sensitive]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let path = env.iter().rev().find_map(|entry| entry.expose().strip_prefix(b"PATH="));
    let path = path.map_or(PATH_DEFAULT.into(), String::from_utf8_lossy);
    path.split(':')
        .map(|folder| if folder.is_empty() { "." } else { folder })
        .map(|folder| format!("{folder}/{program}"))
        .collect()
}

/// The hook that libcontainer calls as its own last step.
#[derive(Clone)]
pub struct Entry {
    /// What to become.
    pub credentials: Rc<Credentials>,
    /// The program and its arguments.
    pub args: Rc<Vec<String>>,
    /// What is left to do on the task's mounts.
    pub mounts: Rc<Mounts>,
    /// Closes on exec; gets `CODE MESSAGE` when there is no exec.
    pub report: RawFd,
}

impl Executor for Entry {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let failure = match self.mounts.settle() {
            Ok(()) => run(&self.credentials, &self.args),
            Err(message) => ExecFailure { code: 128, message },
        };
        let mut report = format!("{} {}", failure.code, failure.message).into_bytes();
        report.truncate(MESSAGE_MAX);
        // SAFETY: the buffer is valid, and after the report nothing is left to do or to unwind in this child.
        unsafe {
            libc::write(self.report, report.as_ptr().cast(), report.len());
            libc::_exit(failure.code)
        }
    }

    /// Whether the program can be run is for the kernel to say, as the task's user, at exec.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// The environment goes to execve directly and never into this process's own.
    fn setup_envs(&self, _envs: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
