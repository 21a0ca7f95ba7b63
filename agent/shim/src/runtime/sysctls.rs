//! Kernel parameters of the task's own namespaces, set from outside between its creation and its start: the container library
//! would say of a parameter that is not there neither its name nor its value.
//!
//! The kernel shows a process the parameters of the namespaces that it is in, so a child of this process enters them and writes
//! there. It writes nothing that [`skep_shim::spec::check`] did not let pass: whatever has no namespace is the node's.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use super::inside::pipe;
use super::probe::pidfd_open;

/// The most bytes of what a refusal says.
const MESSAGE_MAX: usize = 4096;
/// The most bytes of a value that a refusal repeats.
const VALUE_MAX: usize = 128;

/// Sets all of them for a process that has not begun the task's program.
///
/// # Errors
/// A sentence with the parameter and its value.
pub fn set(process: i32, sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let begin = |error: io::Error| format!("cannot set the task's sysctls: {error}");
    let task = pidfd_open(process).map_err(begin)?;
    let (report, report_write) = pipe().map_err(begin)?;
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let message = write_all(task.as_raw_fd(), sysctls).err().unwrap_or_default();
        let message = &message.as_bytes()[..message.len().min(MESSAGE_MAX)];
        // SAFETY: the buffer is valid; the child must end here and unwind nothing of its parent.
        unsafe {
            libc::write(report_write.as_raw_fd(), message.as_ptr().cast(), message.len());
            libc::_exit(0)
        }
    }
    drop(report_write);
    if pid < 0 {
        return Err(begin(io::Error::last_os_error()));
    }
    let mut said = Vec::new();
    let read = File::from(report).read_to_end(&mut said);
    // SAFETY: our own child, which has ended or ends now; the status is not wanted.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    read.map_err(begin)?;
    if said.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

fn write_all(task: i32, sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    // SAFETY: a call on numbers, in a process with one thread.
    if unsafe { libc::setns(task, libc::CLONE_NEWNET | libc::CLONE_NEWIPC) } != 0 {
        return Err(format!("cannot set the task's sysctls: {}", io::Error::last_os_error()));
    }
    for (key, value) in sysctls {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let shown: String = value.chars().take(VALUE_MAX).collect();
        write(&path, value).map_err(|error| format!("cannot set sysctl {key}={shown}: {error}"))?;
    }
    Ok(())
}

/// One call of the kernel's, as it takes a value whole or not at all.
fn write(path: &str, value: &str) -> io::Result<()> {
    CString::new(value)?;
    let file = fs::OpenOptions::new().write(true).open(path)?;
    // SAFETY: the buffer is valid.
    match unsafe { libc::write(file.as_raw_fd(), value.as_ptr().cast(), value.len()) } {
        -1 => Err(io::Error::last_os_error()),
        n if n as usize == value.len() => Ok(()),
        _ => Err(io::Error::other("the kernel did not take all of it")),
    }
}
