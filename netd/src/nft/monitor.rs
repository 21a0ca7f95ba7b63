//! Who changes a namespace's rules: the kernel tells of every transaction.
//!
//! Each transaction ends in one generation event that carries the netlink port of its author. Ours are those
//! of the namespace's own [`super::Socket`]; any other is drift until the table's fingerprint says otherwise.

use super::socket::Error;
use super::transaction::SUBSYSTEM;
use super::wire;
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_NETFILTER};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// The group that nf_tables tells its changes to.
const GROUP: u32 = 7;

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
    socket: AsyncFd<RawSocket>,
    tables: BTreeSet<String>,
    ready: std::collections::VecDeque<Event>,
}

impl Monitor {
    /// Listens in another namespace; to be called inside the runtime that will read.
    ///
    /// # Errors
    /// When the socket cannot be made or not join the group.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        let socket = super::namespace::within(namespace, open).and_then(|opened| opened).map_err(Error::Open)?;
        // SAFETY: a netlink socket keeps its one descriptor for as long as it lives, and nothing replaces it.
        let registered = unsafe { AsyncFd::register(socket) };
        let socket = registered.map_err(|error| Error::Open(error.into()))?;
        Ok(Self { socket, tables: BTreeSet::new(), ready: std::collections::VecDeque::new() })
    }

    /// The next event. It waits for as long as nothing happens; dropping the future loses nothing.
    ///
    /// # Errors
    /// When the socket fails for another reason than a full buffer.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let mut guard = self.socket.readable().await.map_err(transfer)?;
            let received = guard.try_io(|socket| {
                let mut buffer = Vec::with_capacity(64 << 10);
                socket.get_ref().recv(&mut buffer, libc::MSG_DONTWAIT).map(|_| buffer)
            });
            match received {
                Err(_would_block) => {}
                Ok(Ok(datagram)) => self.take(&datagram),
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.tables.clear();
                    return Ok(Event::Lost);
                }
                Ok(Err(error)) => return Err(transfer(error)),
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

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn open() -> io::Result<RawSocket> {
    let mut socket = RawSocket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.add_membership(GROUP)?;
    Ok(socket)
}

fn transfer(source: io::Error) -> Error {
    Error::Transfer { operation: "receive events", source }
}
