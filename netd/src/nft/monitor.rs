//! Who changes a namespace's rules: the kernel tells of every transaction.
//!
//! Each transaction ends in one generation event that carries the netlink port of its author. Ours are those
//! of the namespace's own [`super::Socket`]; any other is drift until the table's fingerprint says otherwise.

use super::socket::Error;
use crate::netlink::namespace::open_in;
use crate::netlink::socket::{Received, receive};
use crate::netlink::uapi::{NFT_MSG_NEWGEN, NFTA_GEN_ID, NFTA_GEN_PROC_NAME, NFTA_TABLE_NAME, NFTABLES};
use crate::netlink::wire;
use netlink_sys::{Socket as RawSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

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
        let socket = open_in(Some(namespace), open).map_err(Error::Open)?;
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
            match receive(&self.socket).map_err(|source| Error::Transfer { operation: "receive events", source })? {
                Received::Datagram(datagram) => self.take(&datagram),
                Received::Nothing => return Ok(None),
                Received::Overrun => {
                    self.tables.clear();
                    return Ok(Some(Event::Lost));
                }
            }
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        for message in wire::messages(datagram) {
            if message.kind == NFT_MSG_NEWGEN {
                let field = |kind| message.attributes().find(|(found, _)| *found == kind).map(|(_, value)| value);
                self.ready.push_back(Event::Committed(Committed {
                    generation: field(NFTA_GEN_ID).and_then(wire::be32).unwrap_or_default(),
                    port: message.port,
                    process: field(NFTA_GEN_PROC_NAME).map(wire::text).unwrap_or_default(),
                    tables: std::mem::take(&mut self.tables),
                }));
            } else if message.kind & 0xff00 == NFTABLES {
                // Chains, rules and sets name their table by the same number as a table itself.
                let table = message.attributes().find(|(kind, _)| *kind == NFTA_TABLE_NAME);
                self.tables.extend(table.map(|(_, value)| wire::text(value)));
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
    socket.add_membership(libc::NFNLGRP_NFTABLES as u32)?;
    Ok(socket)
}
