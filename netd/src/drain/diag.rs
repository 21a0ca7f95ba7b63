//! The open connections of a namespace, and the kernel's word when one ends
//! (`sock_diag`).
//!
//! Lists and ends have a socket each: an end must not come between the parts of a
//! list.

use crate::netlink::namespace::inside;
use crate::netlink::sock_diag::{FAMILIES, Filter, Lists, Row, open, states};
use crate::netlink::socket::{Received, receive};
use crate::netlink::uapi::{SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY};
use crate::netlink::wire;
use netlink_sys::Socket;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// The kernel's name for one socket, never used twice.
pub type Cookie = u64;

/// TCP sockets of either family that ended.
const GROUPS: u32 = 1 << (SKNLGRP_INET_TCP_DESTROY - 1) | 1 << (SKNLGRP_INET6_TCP_DESTROY - 1);
/// Established, and all states in which the last bytes may still be on their way.
const OPEN: u32 =
    states::ESTABLISHED | states::FIN_WAIT1 | states::FIN_WAIT2 | states::CLOSE_WAIT | states::LAST_ACK | states::CLOSING;

/// An open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its name.
    pub cookie: Cookie,
    /// Bytes received, and sent and acknowledged, together.
    pub moved: u64,
    /// The time since it last sent or received any.
    pub quiet_for: Duration,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// These ended.
    Connections(Vec<Cookie>),
    /// Some word was lost: look for yourself.
    Unknown,
}

/// Both sockets, in one namespace.
pub struct Diag {
    lists: Lists,
    ends: AsyncFd<Socket>,
}

impl Diag {
    pub fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let (lists, ends) = inside(namespace, || Ok::<_, io::Error>((Lists::open()?, open(GROUPS)?)))??;
        // SAFETY: a netlink socket keeps its one descriptor for as long as it lives, and nothing replaces it.
        let ends = unsafe { AsyncFd::register(ends) }.map_err(|error| error.into_parts().1)?;
        Ok(Self { lists, ends })
    }

    /// The ports that are listened on, other than on loopback addresses alone.
    pub fn listening(&mut self) -> io::Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        self.list(states::LISTEN, |row| ports.extend((!is_loopback(row.local)).then_some(row.port)))?;
        Ok(ports)
    }

    /// The open connections to one of the ports from elsewhere.
    pub fn connections(&mut self, ports: &BTreeSet<u16>) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        self.list(OPEN, |row| {
            if ports.contains(&row.port) && !is_loopback(row.local) {
                connections.extend(connection(&row));
            }
        })?;
        Ok(connections)
    }

    fn list(&mut self, states: u32, mut take: impl FnMut(Row<'_>)) -> io::Result<()> {
        const TCP: u8 = libc::IPPROTO_TCP as u8;
        for family in FAMILIES {
            self.lists.list(Filter { family, protocol: TCP, states, with_info: true }, &mut take)?;
        }
        Ok(())
    }

    /// Throws away what was heard; the next list knows it.
    pub fn forget_ended(&self) {
        // A socket that fails says so to whoever waits for it.
        while receive(self.ends.get_ref()).is_ok_and(|received| received != Received::Nothing) {}
    }

    /// Waits for the next ends. Dropping the future loses nothing.
    pub async fn ended(&self) -> io::Result<Ended> {
        loop {
            let mut guard = self.ends.readable().await?;
            let received = guard.try_io(|socket| match receive(socket.get_ref())? {
                Received::Nothing => Err(io::ErrorKind::WouldBlock.into()),
                received => Ok(received),
            });
            match received {
                Err(_would_block) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Received::Datagram(datagram))) => {
                    let rows = wire::messages(&datagram).filter_map(|message| Row::parse(message.body));
                    return Ok(Ended::Connections(rows.map(|row| row.cookie).collect()));
                }
                Ok(Ok(_)) => return Ok(Ended::Unknown),
            }
        }
    }
}

/// A connection from the task to itself by a loopback address is nobody else's.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Reads `struct tcp_info`: times in milliseconds, then the counters.
fn connection(row: &Row<'_>) -> Option<Connection> {
    let info = row.info?;
    let (sent_ago, received_ago) = (wire::u32_at(info, 44)?, wire::u32_at(info, 52)?);
    let counter = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let moved = counter(120)?.wrapping_add(counter(128)?);
    let quiet_for = Duration::from_millis(u64::from(sent_ago.min(received_ago)));
    Some(Connection { cookie: row.cookie, moved, quiet_for })
}
