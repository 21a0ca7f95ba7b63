//! The ports that processes of the node listen on, as the kernel lists them.
//!
//! A TCP socket counts when it listens, a UDP socket when it is bound and takes
//! datagrams from anybody.

use crate::netlink::sock_diag::{FAMILIES, Filter, Lists, Row, states};
use skep_model::endpoint::Transport;
use skep_netd_core::ListeningPort;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// Lists the ports of the namespace that the calling thread is in.
///
/// # Errors
/// When the kernel does not list its sockets.
pub fn listening() -> io::Result<BTreeSet<ListeningPort>> {
    let mut lists = Lists::open()?;
    let mut found = BTreeSet::new();
    let kinds = [
        (Transport::Tcp, libc::IPPROTO_TCP as u8, states::LISTEN),
        // A UDP socket without a peer.
        (Transport::Udp, libc::IPPROTO_UDP as u8, states::CLOSE),
    ];
    for (transport, protocol, states) in kinds {
        for family in FAMILIES {
            let filter = Filter { family, protocol, states, with_info: false };
            match lists.list(filter, |row| found.extend(port(transport, &row))) {
                // A kernel without v6 has no such sockets.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
                listed => listed?,
            }
        }
    }
    Ok(found)
}

/// The port of a socket; `None` = it is not bound.
fn port(transport: Transport, row: &Row<'_>) -> Option<ListeningPort> {
    let address = match row.local {
        IpAddr::V4(local) => (!local.is_unspecified()).then_some(IpAddr::V4(local)),
        IpAddr::V6(local) if local.is_unspecified() && !row.is_v6_only => None,
        // Nobody listens there by v4: only connections by v6 addresses of the node are the process's.
        IpAddr::V6(local) if local.is_unspecified() => Some(IpAddr::V6(local)),
        IpAddr::V6(local) => Some(local.to_canonical()),
    };
    (row.port != 0).then_some(ListeningPort { key: (transport, row.port), address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Namespace;
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
            let at = |transport, port, address: Option<&str>| ListeningPort {
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
