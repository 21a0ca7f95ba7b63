//! The ports that processes of the node listen on, as the kernel lists them.
//!
//! A TCP socket counts when it listens, a UDP socket when it is bound and takes
//! datagrams from anybody. The kernel works through a request before `send` returns and
//! fills the list as it is read, so reading never waits.

use crate::nft::wire;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use skep_model::endpoint::Transport;
use skep_netd_core::KeptPort;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes before the attributes of a listed socket (`struct inet_diag_msg`).
const ROW_LEN: usize = 72;
/// INET_DIAG_SKV6ONLY: whether a v6 socket takes v6 alone.
const V6_ONLY: u16 = 11;
/// States as bits: TCP_LISTEN, and TCP_CLOSE, which a UDP socket without a peer is in.
const LISTEN: u32 = 1 << 10;
const WITHOUT_PEER: u32 = 1 << 7;

/// Lists the ports of the namespace that the calling thread is in.
///
/// # Errors
/// When the kernel does not list its sockets.
pub fn listening() -> io::Result<BTreeSet<KeptPort>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    let mut found = BTreeSet::new();
    let mut sequence = 0;
    for (transport, protocol, states) in [(Transport::Tcp, 6, LISTEN), (Transport::Udp, 17, WITHOUT_PEER)] {
        for family in [AF_INET, AF_INET6] {
            sequence += 1;
            socket.send(&request(sequence, family, protocol, states), 0)?;
            while !read_part(&socket, sequence, |body| found.extend(parse(transport, body).into_iter().flatten()))? {}
        }
    }
    Ok(found)
}

/// Reads one datagram of a list; whether it was the last.
fn read_part(socket: &Socket, sequence: u32, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let mut buffer = Vec::with_capacity(64 << 10);
    socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
    for message in wire::messages(&buffer).filter(|message| message.sequence == sequence) {
        match message.kind {
            DONE => return Ok(true),
            ERROR => {
                let errno = -wire::u32_at(message.body, 0).unwrap_or_default().cast_signed();
                // A kernel without v6 has no such sockets.
                let is_unknown = errno == libc::ENOENT || errno == libc::EINVAL;
                return if is_unknown { Ok(true) } else { Err(io::Error::from_raw_os_error(errno)) };
            }
            SOCK_DIAG_BY_FAMILY => take(message.body),
            _ => {}
        }
    }
    Ok(false)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(sequence: u32, family: u8, protocol: u8, states: u32) -> Vec<u8> {
    const LEN: u32 = 72;
    const REQUEST_DUMP: u16 = 0x301;
    let mut bytes = Vec::with_capacity(LEN as usize);
    bytes.extend_from_slice(&LEN.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&[family, protocol, 0, 0]);
    bytes.extend_from_slice(&states.to_ne_bytes());
    bytes.resize(LEN as usize, 0);
    bytes
}

/// `struct inet_diag_msg` and its attributes; none = it is not bound, or not readable.
fn parse(transport: Transport, body: &[u8]) -> Option<Vec<KeptPort>> {
    let port = wire::be16(body.get(4..)?).filter(|port| *port != 0)?;
    let local = body.get(8..24)?;
    let at = |address| KeptPort { key: (transport, port), address };
    if body[0] == AF_INET {
        let local = Ipv4Addr::from(<[u8; 4]>::try_from(&local[..4]).ok()?);
        return Some(vec![at((!local.is_unspecified()).then_some(IpAddr::V4(local)))]);
    }
    let local = Ipv6Addr::from(<[u8; 16]>::try_from(local).ok()?);
    let v6_only = wire::find(body.get(ROW_LEN..)?, V6_ONLY).is_some_and(|value| value.first().is_some_and(|only| *only != 0));
    Some(match (local.is_unspecified(), v6_only) {
        (true, false) => vec![at(None)],
        // Nobody listens there by v4: only connections by v6 addresses of the node are the process's.
        (true, true) => vec![at(Some(IpAddr::V6(local)))],
        (false, _) => vec![at(Some(local.to_canonical()))],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::testing::Namespace;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn who_listens_is_listed_with_its_address() {
        let namespace = Namespace::new();
        assert_eq!(namespace.run(listening).expect("a list"), [].into());
        let (_sockets, expected) = namespace.run(|| {
            let any = TcpListener::bind("0.0.0.0:22").expect("it is free");
            let both = TcpListener::bind("[::]:23").expect("it is free");
            let own = UdpSocket::bind("127.0.0.53:53").expect("it is free");
            let v6 = UdpSocket::bind("[::1]:54").expect("it is free");
            let client = TcpStream::connect("127.0.0.1:22").expect("it listens");
            let peer = UdpSocket::bind("127.0.0.1:55").expect("it is free");
            peer.connect("127.0.0.53:53").expect("it has a peer");
            let at = |transport, port, address: Option<&str>| KeptPort {
                key: (transport, port),
                address: address.map(|address| address.parse().expect("an address")),
            };
            let expected = [
                at(Transport::Tcp, 22, None),
                at(Transport::Tcp, 23, None),
                at(Transport::Udp, 53, Some("127.0.0.53")),
                at(Transport::Udp, 54, Some("::1")),
            ];
            ((any, both, own, v6, client, peer), expected)
        });
        assert_eq!(namespace.run(listening).expect("a list"), expected.into());
    }
}
