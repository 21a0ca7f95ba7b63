//! The network namespace of a task without a network: its own, with nothing but the loopback device.
//!
//! It is made once per shim, pinned by a mount in the shim's private mount namespace, and joined by path like any
//! other, so that every attempt finds the same one. The shim itself stays in the node's namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Makes the namespace and pins it at `path`, which must not exist yet.
pub fn pin_empty(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let own = File::open("/proc/self/ns/net")?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let pinned = raise_loopback().and_then(|()| {
        let none: Option<&str> = None;
        Ok(mount(Some("/proc/self/ns/net"), path, none, MsFlags::MS_BIND, none)?)
    });
    setns(&own, CloneFlags::CLONE_NEWNET)?;
    pinned
}

fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero request is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Shorter than its field, so it stays terminated.
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request outlives the call and is of the type that this ioctl reads.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
