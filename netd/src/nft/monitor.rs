//! Who changes a namespace's rules: the kernel tells of every transaction.
//!
//! Each transaction ends in one generation event that carries the netlink port of its author. Ours are those
//! of the namespace's own [`super::Socket`]; any other is drift until the table's fingerprint says otherwise.

use super::socket::Error;
use super::transaction::SUBSYSTEM;
use super::wire;
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The group that nf_tables tells its changes to.
const GROUP: u32 = 7;

/// Room for events that were not taken yet, in bytes: those of the longest of our
/// own transactions must fit.
const BUFFER_BYTES: usize = 16 << 20;

/// One committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The generation it made.
    pub generation: u32,
    /// The netlink port of its author: compare with [`super::Socket::port`].
    pub port: u32,
    /// The process that made it, as the kernel names it.
    pub process: String,
    /// The tables it touched since the last event.
    pub tables: BTreeSet<String>,
}

/// What a monitor saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction was committed.
    Committed(Committed),
    /// Events were lost (the buffer was full): compare everything.
    Lost,
}

/// A socket that hears of every transaction in its namespace.
pub struct Monitor {
    socket: RawSocket,
    tables: BTreeSet<String>,
    ready: VecDeque<Event>,
}

impl Monitor {
    /// Listens in another namespace.
    ///
    /// # Errors
    /// When the socket cannot be made or not join the group.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        let socket = super::namespace::within(namespace, open).and_then(|opened| opened).map_err(Error::Open)?;
        Ok(Self { socket, tables: BTreeSet::new(), ready: VecDeque::new() })
    }

    /// Listens in the namespace of this thread.
    ///
    /// # Errors
    /// As [`Monitor::open_in`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: open().map_err(Error::Open)?, tables: BTreeSet::new(), ready: VecDeque::new() })
    }

    /// The next event, if there is one. The kernel tells of a transaction before
    /// its author hears that it was taken.
    ///
    /// # Errors
    /// When the socket fails for another reason than a full buffer.
    pub fn hear(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let mut buffer = Vec::with_capacity(64 << 10);
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => self.take(&buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.tables.clear();
                    return Ok(Some(Event::Lost));
                }
                Err(source) => return Err(Error::Transfer { operation: "receive events", source }),
            }
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        const NEW_GENERATION: u16 = SUBSYSTEM | 15;
        for message in wire::messages(datagram) {
            if message.kind == NEW_GENERATION {
                let field = |kind| message.attributes().find(|(found, _)| *found == kind).map(|(_, value)| value);
                self.ready.push_back(Event::Committed(Committed {
                    generation: field(1).and_then(wire::be32).unwrap_or_default(),
                    port: message.port,
                    process: field(3).map(wire::text).unwrap_or_default(),
                    tables: std::mem::take(&mut self.tables),
                }));
            } else if message.kind & 0xff00 == SUBSYSTEM {
                // The table's name is the first attribute of every object.
                self.tables.extend(message.attributes().find(|(kind, _)| *kind == 1).map(|(_, value)| wire::text(value)));
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket keeps its one descriptor open for as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

fn open() -> io::Result<RawSocket> {
    let mut socket = RawSocket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}
