//! Lists of a namespace's sockets (`sock_diag`, `inet_diag`).

use super::answer::Answer;
use super::socket::{Received, receive};
use super::uapi::{DUMP, INET_DIAG_INFO, INET_DIAG_SKV6ONLY, NLMSG_DONE, REQUEST, SOCK_DIAG_BY_FAMILY};
use super::wire::{self, MessageWriter};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address families that sockets are listed of.
pub(crate) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

/// TCP states as bits, each by its number in `tcp_states.h`.
pub(crate) mod states {
    pub(crate) const ESTABLISHED: u32 = 1 << 1;
    pub(crate) const FIN_WAIT1: u32 = 1 << 4;
    pub(crate) const FIN_WAIT2: u32 = 1 << 5;
    /// Also a UDP socket without a peer.
    pub(crate) const CLOSE: u32 = 1 << 7;
    pub(crate) const CLOSE_WAIT: u32 = 1 << 8;
    pub(crate) const LAST_ACK: u32 = 1 << 9;
    pub(crate) const LISTEN: u32 = 1 << 10;
    pub(crate) const CLOSING: u32 = 1 << 11;
}

/// Opens a socket for lists (no groups) or for events.
///
/// # Errors
/// When the kernel has no `sock_diag`.
pub(crate) fn open(groups: u32) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    if groups == 0 {
        socket.connect(&SocketAddr::new(0, 0))?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Which sockets are listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    /// AF_INET or AF_INET6.
    pub(crate) family: u8,
    /// The number of the transport protocol.
    pub(crate) protocol: u8,
    /// Bits of [`states`].
    pub(crate) states: u32,
    /// Whether each comes with its `tcp_info`.
    pub(crate) with_info: bool,
}

/// Asks for lists, one after the other.
pub(crate) struct Lists {
    socket: Socket,
    sequence: u32,
}

impl Lists {
    /// In the namespace of the calling thread.
    ///
    /// # Errors
    /// As [`open`].
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: open(0)?, sequence: 0 })
    }

    /// Lists sockets.
    ///
    /// # Errors
    /// When the kernel refuses, with its errno, or does not answer.
    pub(crate) fn list(&mut self, filter: Filter, mut take: impl FnMut(Row<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&filter.request(self.sequence), 0)?;
        loop {
            let datagram = match receive(&self.socket)? {
                Received::Datagram(datagram) => datagram,
                Received::Nothing => return Err(io::ErrorKind::WouldBlock.into()),
                Received::Overrun => return Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            };
            for message in wire::messages(&datagram).filter(|message| message.sequence == self.sequence) {
                if let Some(Answer { errno: Some(errno), .. }) = Answer::parse(&message) {
                    return Err(errno.into());
                }
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    SOCK_DIAG_BY_FAMILY => Row::parse(message.body).into_iter().for_each(&mut take),
                    _ => {}
                }
            }
        }
    }
}

impl Filter {
    /// `struct inet_diag_req_v2` of a dump: everything else is zero, so any socket fits.
    fn request(self, sequence: u32) -> Vec<u8> {
        const BODY_LEN: usize = 56;
        let extensions = if self.with_info { 1 << (INET_DIAG_INFO - 1) } else { 0 };
        let mut body = vec![self.family, self.protocol, extensions, 0];
        body.extend_from_slice(&self.states.to_ne_bytes());
        body.resize(BODY_LEN, 0);
        MessageWriter::new(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, sequence, &body).finish()
    }
}

/// One socket, as it is listed and as it is told of when it ends.
pub(crate) struct Row<'a> {
    /// The kernel's name for it, never used twice.
    pub(crate) cookie: u64,
    /// Its own address.
    pub(crate) local: IpAddr,
    /// Its own port; 0 = it is not bound.
    pub(crate) port: u16,
    /// Whether a v6 socket takes v6 alone (IPV6_V6ONLY).
    pub(crate) is_v6_only: bool,
    /// `struct tcp_info`, if it was asked for.
    pub(crate) info: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// Reads `struct inet_diag_msg` and its attributes.
    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        const FIXED_LEN: usize = 72;
        let local = body.get(8..24)?;
        let local = match body[0] {
            AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&local[..4]).ok()?)),
            AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(local).ok()?)),
            _ => return None,
        };
        let cookie = u64::from_ne_bytes(body.get(44..52)?.try_into().ok()?);
        let attributes = body.get(FIXED_LEN..)?;
        let is_v6_only =
            wire::find(attributes, INET_DIAG_SKV6ONLY).and_then(|value| value.first()).is_some_and(|only| *only != 0);
        Some(Self { cookie, local, port: wire::be16(body.get(4..)?)?, is_v6_only, info: wire::find(attributes, INET_DIAG_INFO) })
    }
}
