//! An echo: does an address answer, and how much at once? Every kernel answers, so
//! that nothing needs to listen there.

use crate::netlink::namespace::inside;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send, socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// Times that an echo is sent before it counts as lost.
const ATTEMPTS: u16 = 3;
/// Bytes of the header of an echo.
const ECHO_HEADER: usize = 8;
/// The size of an echo of which only the answer matters, in bytes of its packet.
pub const SMALL: u32 = 64;
/// Bytes of the largest packet.
const PACKET_MAX: usize = 64 * 1024;
/// Packets are not to be cut on their way; what is too large for the first link is
/// refused (`IP_PMTUDISC_DO`).
static NEVER_CUT: libc::c_int = 2;

/// One conversation with an address. Another one has another id, which is another
/// connection to the kernel: behind a virtual address the next backend answers.
#[derive(Debug)]
pub struct Echo {
    socket: AsyncFd<OwnedFd>,
    is_v4: bool,
    id: u16,
}

impl Echo {
    /// Opens a socket in a namespace; without one in this process's own.
    ///
    /// # Errors
    /// If it cannot be made, or nothing leads to the address.
    pub fn open(namespace: Option<BorrowedFd<'_>>, target: IpAddr, id: u16) -> io::Result<Self> {
        let made = match namespace {
            Some(namespace) => inside(namespace, || raw_socket(target)).and_then(|made| made)?,
            None => raw_socket(target)?,
        };
        // SAFETY: the descriptor is the socket's for as long as the socket is
        // registered; nothing takes or replaces it.
        let socket = unsafe { AsyncFd::register(made) }.map_err(io::Error::from)?;
        Ok(Self { socket, is_v4: target.is_ipv4(), id })
    }

    /// Asks with packets of so many bytes, and again when nothing comes. Returns how
    /// long the one that was answered took.
    ///
    /// # Errors
    /// If the kernel refuses, or nobody answers until `until`.
    pub async fn ask(&self, size: u32, until: Instant) -> io::Result<Duration> {
        let begun = Instant::now();
        let share = until.saturating_duration_since(begun) / u32::from(ATTEMPTS);
        for attempt in 1..=ATTEMPTS {
            let sent = Instant::now();
            self.send(size, attempt).await?;
            if let Ok(heard) = timeout_at(begun + share * u32::from(attempt), self.heard(attempt)).await {
                return heard.map(|()| sent.elapsed());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn send(&self, size: u32, sequence: u16) -> io::Result<()> {
        let message = message(self.is_v4, self.id, sequence, size);
        let send = |made: &OwnedFd| send(made.as_raw_fd(), &message, MsgFlags::empty()).map_err(io::Error::from);
        self.socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// Waits for the answer; a raw socket hears much else.
    async fn heard(&self, sequence: u16) -> io::Result<()> {
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            let receive = |made: &OwnedFd| recv(made.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(io::Error::from);
            let length = self.socket.async_io(Interest::READABLE, receive).await?;
            if is_answer(self.is_v4, &buffer[..length], self.id, sequence) {
                return Ok(());
            }
        }
    }
}

fn raw_socket(target: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let made = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    never_cut(&made, target)?;
    connect(made.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(target, 0)))?;
    Ok(made)
}

/// Has packets refused rather than cut; nix has no name for this option.
fn never_cut(socket: &OwnedFd, target: IpAddr) -> io::Result<()> {
    let (level, option) = match target {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let length = libc::socklen_t::try_from(size_of_val(&NEVER_CUT)).expect("a number is short");
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads
    // `length` bytes of a constant that has as many.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const NEVER_CUT).cast(), length) };
    nix::errno::Errno::result(result).map(drop).map_err(io::Error::from)
}

/// An echo request whose packet has `size` bytes (RFC 792, RFC 4443).
fn message(is_v4: bool, id: u16, sequence: u16, size: u32) -> Vec<u8> {
    let (kind, ip_header) = if is_v4 { (8, 20) } else { (128, 40) };
    let length = usize::try_from(size).unwrap_or(usize::MAX).clamp(ip_header + ECHO_HEADER, PACKET_MAX) - ip_header;
    let mut message = vec![0; length];
    message[0] = kind;
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    if is_v4 {
        // The kernel does this for IPv6 itself.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("a sum that was folded twice has 16 bits")
}

fn is_answer(is_v4: bool, packet: &[u8], id: u16, sequence: u16) -> bool {
    let (kind, start) = if is_v4 { (0, packet.first().map_or(0, |first| usize::from(first & 15) * 4)) } else { (129, 0) };
    let Some(header) = packet.get(start..start + ECHO_HEADER) else { return false };
    header[0] == kind && header[4..6] == id.to_be_bytes() && header[6..8] == sequence.to_be_bytes()
}
