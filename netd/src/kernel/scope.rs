//! The sockets in one namespace. A netlink socket belongs to the namespace in which
//! it was made, so they are made by a thread in it and used from anywhere.

use crate::netlink::namespace::{inside, open_in};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use rtnetlink::Handle;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, protocols::NETLINK_ROUTE};
use skep_netd_core::{Name, Namespace};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::runtime::Handle as Runtime;
use tokio::task::JoinHandle;

/// Room for events that were not taken yet, in bytes.
const EVENTS_BUFFER: usize = 4 << 20;
/// What is heard of.
const GROUPS: [u32; 8] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];

/// Why the sockets could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot open sockets in {namespace}")]
pub struct ScopeError {
    /// Where.
    pub namespace: Namespace,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Where a link says that its other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its index there.
    pub index: u32,
    /// The number of its namespace.
    pub namespace: i32,
}

/// A namespace that is open.
pub struct Scope {
    /// For requests.
    pub handle: Handle,
    /// For events.
    pub events: Socket,
    /// The namespace; none = the one we are in.
    pub fd: Option<OwnedFd>,
    /// Our links by their indexes.
    pub names: BTreeMap<u32, Name>,
    /// Where our pairs lead, by what their ends here say.
    pub ends: BTreeMap<Name, End>,
    connection: JoinHandle<()>,
}

impl Scope {
    /// Opens it.
    ///
    /// # Errors
    /// If a socket cannot be made there.
    pub fn open(namespace: Namespace, fd: Option<OwnedFd>) -> Result<Self, ScopeError> {
        let runtime = Runtime::current();
        let sockets = open_in(fd.as_ref().map(AsFd::as_fd), || sockets(&runtime));
        let (handle, events, connection) = sockets.map_err(|source| ScopeError { namespace, source })?;
        Ok(Self { handle, events, fd, names: BTreeMap::new(), ends: BTreeMap::new(), connection })
    }

    /// The index of one of our links.
    pub fn index(&self, name: Name) -> Option<u32> {
        self.names.iter().find(|(_, found)| **found == name).map(|(index, _)| *index)
    }

    /// Notes a link; an older one of this name is gone.
    pub fn note(&mut self, index: u32, name: Name) {
        if self.names.get(&index) != Some(&name) {
            self.names.retain(|_, found| *found != name);
            self.names.insert(index, name);
        }
    }

    /// Runs something that must be in the namespace.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.fd {
            None => Ok(run()),
            Some(fd) => inside(fd.as_fd(), run),
        }
    }

    /// The namespace itself.
    pub fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // Its socket would keep the namespace alive.
        self.connection.abort();
    }
}

fn sockets(runtime: &Runtime) -> io::Result<(Handle, Socket, JoinHandle<()>)> {
    let _context = runtime.enter();
    let (mut connection, handle, _) = rtnetlink::new_connection()?;
    connection.socket_mut().socket_mut().set_ext_ack(true)?;
    // The end of a dump may be all that says that it was interrupted.
    connection.set_forward_done(true);
    let mut events = Socket::new(NETLINK_ROUTE)?;
    events.set_non_blocking(true)?;
    setsockopt(&events, RcvBufForce, &EVENTS_BUFFER)?;
    events.bind(&SocketAddr::new(0, GROUPS.iter().map(|group| 1 << (group - 1)).sum()))?;
    Ok((handle, events, runtime.spawn(connection)))
}
