//! The kernel's lists of sockets, and its word when one ends (`sock_diag`).
//!
//! The kernel works through a request before `send` returns and fills the list as
//! it is read, so reading a list never waits. Lists and ends have a socket each:
//! an end must not come between the parts of a list.

use crate::nft::namespace::within;
use crate::nft::wire;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// The kernel's name for one socket, never used twice.
pub type Cookie = u64;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// TCP sockets of either family that ended: groups 1 and 3.
const GROUPS: u32 = 1 | 1 << 2;
/// Bytes before the attributes of a listed socket.
const ROW_LEN: usize = 72;
/// The attribute that holds `struct tcp_info`.
const INFO: u16 = 2;
/// States as bits: listening.
const LISTEN: u32 = 1 << 10;
/// Established, and all in which the last bytes may still be on their way.
const OPEN: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

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
    lists: Socket,
    ends: AsyncFd<Socket>,
    sequence: u32,
}

impl Diag {
    pub fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let (lists, ends) = within(namespace, || Ok::<_, io::Error>((open(0)?, open(GROUPS)?)))??;
        // SAFETY: a netlink socket keeps its one descriptor for as long as it lives, and nothing replaces it.
        let ends = unsafe { AsyncFd::register(ends) }.map_err(|error| error.into_parts().1)?;
        Ok(Self { lists, ends, sequence: 0 })
    }

    /// The ports that are listened on, other than on loopback addresses alone.
    pub fn listening(&mut self) -> io::Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        self.list(LISTEN, |row| ports.extend((!is_loopback(row.local)).then_some(row.port)))?;
        Ok(ports)
    }

    /// The open connections to one of the ports from elsewhere.
    pub fn connections(&mut self, ports: &BTreeSet<u16>) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        self.list(OPEN, |row| {
            if ports.contains(&row.port) && !is_loopback(row.local) {
                connections.extend(row.connection());
            }
        })?;
        Ok(connections)
    }

    fn list(&mut self, states: u32, mut take: impl FnMut(Row<'_>)) -> io::Result<()> {
        for family in [AF_INET, AF_INET6] {
            self.sequence = self.sequence.wrapping_add(1);
            self.lists.send(&request(self.sequence, family, states), 0)?;
            while !self.read_part(&mut take)? {}
        }
        Ok(())
    }

    /// Reads one datagram of a list; whether it was the last.
    fn read_part(&self, take: &mut impl FnMut(Row<'_>)) -> io::Result<bool> {
        const ERROR: u16 = 2;
        const DONE: u16 = 3;
        let mut buffer = Vec::with_capacity(64 << 10);
        self.lists.recv(&mut buffer, libc::MSG_DONTWAIT)?;
        for message in wire::messages(&buffer).filter(|message| message.sequence == self.sequence) {
            match message.kind {
                DONE => return Ok(true),
                ERROR => {
                    let errno = wire::u32_at(message.body, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                SOCK_DIAG_BY_FAMILY => Row::parse(message.body).into_iter().for_each(&mut *take),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Throws away what was heard; the next list knows it.
    pub fn forget_ended(&self) {
        let mut buffer = Vec::with_capacity(64 << 10);
        let is_there = |received: io::Result<usize>| match received {
            Ok(_) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOBUFS),
        };
        while is_there(self.ends.get_ref().recv(&mut buffer, libc::MSG_DONTWAIT).map(|_| 0)) {
            buffer.clear();
        }
    }

    /// Waits for the next ends. Dropping the future loses nothing.
    pub async fn ended(&self) -> io::Result<Ended> {
        loop {
            let mut guard = self.ends.readable().await?;
            let received = guard.try_io(|socket| {
                let mut buffer = Vec::with_capacity(64 << 10);
                socket.get_ref().recv(&mut buffer, libc::MSG_DONTWAIT).map(|_| buffer)
            });
            match received {
                Err(_would_block) => {}
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Ended::Unknown),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(datagram)) => {
                    let rows = wire::messages(&datagram).filter_map(|message| Row::parse(message.body));
                    return Ok(Ended::Connections(rows.map(|row| row.cookie).collect()));
                }
            }
        }
    }
}

fn open(groups: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    if groups == 0 {
        socket.connect(&SocketAddr::new(0, 0))?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// A connection from the task to itself by a loopback address is nobody else's.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: all TCP sockets of a family in
/// these states, with their `tcp_info`.
fn request(sequence: u32, family: u8, states: u32) -> Vec<u8> {
    const LEN: u32 = 72;
    const REQUEST_DUMP: u16 = 0x301;
    const TCP: u8 = 6;
    let mut bytes = Vec::with_capacity(LEN as usize);
    bytes.extend_from_slice(&LEN.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&[family, TCP, 1 << (INFO - 1), 0]);
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.resize(LEN as usize, 0);
    bytes
}

/// One socket, as it is listed and as it is told of when it ends.
struct Row<'a> {
    cookie: Cookie,
    local: IpAddr,
    port: u16,
    info: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// `struct inet_diag_msg` and its attributes.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let local = body.get(8..24)?;
        let local = match body[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&local[..4]).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(local).ok()?)),
            _ => return None,
        };
        let cookie = u64::from_ne_bytes(body.get(44..52)?.try_into().ok()?);
        let info = wire::find(body.get(ROW_LEN..)?, INFO);
        Some(Self { cookie, local, port: wire::be16(body.get(4..)?)?, info })
    }

    /// `struct tcp_info`: times in milliseconds, then the counters.
    fn connection(&self) -> Option<Connection> {
        let info = self.info?;
        let (sent_ago, received_ago) = (wire::u32_at(info, 44)?, wire::u32_at(info, 52)?);
        let counter = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
        let moved = counter(120)?.wrapping_add(counter(128)?);
        let quiet_for = Duration::from_millis(u64::from(sent_ago.min(received_ago)));
        Some(Connection { cookie: self.cookie, moved, quiet_for })
    }
}
