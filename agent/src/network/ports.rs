//! Ports of the node that answer for one task: bound before the task is made, and for
//! as long as it has its namespace, so that no process of the node comes to listen on
//! one in vain.
//!
//! The scheduler keeps tasks with the same port apart; what it cannot know is what
//! else listens on the node. A port that was chosen is kept in the task's folder,
//! so that a restarted daemon finds the one that is programmed. The socket is bound
//! and does not listen: whatever is not led to the task is refused.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
use skep_model::endpoint::{PublishedPort, Transport};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// Ports that are chosen for a user who names none, as the kernel's own.
const CHOSEN: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// The file in the task's folder.
const FILE_NAME: &str = "host-ports";

/// A port and the socket that holds it.
#[derive(Debug)]
pub(super) struct Bound {
    port: PublishedPort,
    _socket: OwnedFd,
}

/// Settles and binds each port: the one named, if nothing else has it, or a free one.
/// What the task has bound already is taken from `own`.
///
/// # Errors
/// A sentence that names the port which something else has.
pub(super) fn settle<'a>(
    asked: impl Iterator<Item = &'a PublishedPort>,
    is_taken: impl Fn(&PublishedPort) -> bool,
    mut own: Vec<Bound>,
) -> Result<Vec<Bound>, String> {
    let mut settled = Vec::<Bound>::new();
    for port in asked {
        let at = |number| PublishedPort { published_port: number, ..port.clone() };
        let mut take = |port: PublishedPort| {
            if is_taken(&port) || settled.iter().any(|bound| bound.port == port) {
                return None;
            }
            let is_same =
                |bound: &Bound| (bound.port.transport, bound.port.published_port) == (port.transport, port.published_port);
            match own.iter().position(is_same) {
                Some(place) => Some(Bound { port, ..own.swap_remove(place) }),
                None => Bound::new(port).ok(),
            }
        };
        let name = port.transport.name();
        let chosen = match port.published_port {
            0 => CHOSEN.map(at).find_map(take).ok_or(format!("no {name} port of this node is free"))?,
            number => take(at(number)).ok_or(format!("port {number}/{name} is in use on this node"))?,
        };
        settled.push(chosen);
    }
    Ok(settled)
}

/// The ports alone.
pub(super) fn numbers(bound: &[Bound]) -> Vec<PublishedPort> {
    bound.iter().map(|bound| bound.port.clone()).collect()
}

impl Bound {
    /// Binds a port at all addresses of both families, or of v4 where there is no v6.
    ///
    /// # Errors
    /// When something else has it.
    pub(super) fn new(port: PublishedPort) -> io::Result<Self> {
        let any = |address: IpAddr| SocketAddr::new(address, port.published_port);
        let socket = match hold(any(Ipv6Addr::UNSPECIFIED.into()), port.transport) {
            Err(error) if is_without_family(&error) => hold(any(Ipv4Addr::UNSPECIFIED.into()), port.transport),
            bound => bound,
        };
        Ok(Self { port, _socket: socket? })
    }
}

fn is_without_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn hold(at: SocketAddr, transport: Transport) -> io::Result<OwnedFd> {
    match bound(at, transport, false) {
        // Connections that ended a moment ago are nobody who listens.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && transport == Transport::Tcp => {
            drop(TcpListener::bind(at)?);
            bound(at, transport, true)
        }
        bound => bound,
    }
}

fn bound(at: SocketAddr, transport: Transport, beside_ended: bool) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if at.is_ipv6() {
        setsockopt(&made, sockopt::Ipv6V6Only, &false)?;
    }
    if beside_ended {
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
    }
    if transport == Transport::Udp {
        // Nothing is read here: what comes before the rules do is not kept.
        setsockopt(&made, sockopt::RcvBuf, &0)?;
    }
    bind(made.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(made)
}

/// Keeps what was settled.
pub(super) fn save(folder: &Path, ports: &[PublishedPort]) -> io::Result<()> {
    let text = serde_json::to_vec(ports).map_err(io::Error::other)?;
    std::fs::write(folder.join(FILE_NAME), text)
}

/// What was settled; nothing if nothing was kept.
pub(super) fn load(folder: &Path) -> Vec<PublishedPort> {
    let text = std::fs::read(folder.join(FILE_NAME)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::endpoint::PublishMode;

    fn port(published_port: u16, transport: Transport) -> PublishedPort {
        PublishedPort { transport, target_port: 80, published_port, publish_mode: PublishMode::Host }
    }

    #[test]
    fn a_port_is_free_or_refused_by_its_number() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let busy = listener.local_addr().unwrap().port();
        let asked = [port(busy, Transport::Tcp)];
        let settle = |ports: &[PublishedPort], is_taken: bool| {
            super::settle(ports.iter(), |_| is_taken, Vec::new()).map(|bound| numbers(&bound))
        };
        assert_eq!(settle(&asked, false).unwrap_err(), format!("port {busy}/tcp is in use on this node"));
        // The same number of the other protocol is another port.
        let other = [port(busy, Transport::Udp)];
        assert_eq!(settle(&other, false).unwrap(), other);
        assert_eq!(settle(&other, true).unwrap_err(), format!("port {busy}/udp is in use on this node"));
        drop(listener);
        assert_eq!(settle(&asked, false).unwrap(), asked);
        assert!(settle(&[asked[0].clone(), asked[0].clone()], false).is_err());
    }

    #[test]
    fn a_port_is_held_until_it_is_given_up() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let held = settle([&port(0, transport)].into_iter(), |_| false, Vec::new()).unwrap();
            let number = numbers(&held)[0].published_port;
            let listen = |address: &str| match transport {
                Transport::Tcp => TcpListener::bind((address, number)).map(drop),
                Transport::Udp => std::net::UdpSocket::bind((address, number)).map(drop),
            };
            for address in ["0.0.0.0", "127.0.0.1", "::"] {
                assert_eq!(listen(address).unwrap_err().kind(), io::ErrorKind::AddrInUse, "{address}");
            }
            if transport == Transport::Tcp {
                let refused = std::net::TcpStream::connect(("127.0.0.1", number)).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "it does not listen");
            }
            // The task itself may be prepared again.
            let asked = port(number, transport);
            assert!(settle([&asked].into_iter(), |_| false, Vec::new()).is_err());
            let again = settle([&asked].into_iter(), |_| false, held).unwrap();
            assert_eq!(numbers(&again), [asked]);
            drop(again);
            listen("0.0.0.0").expect("it is given up");
        }
    }

    #[test]
    fn a_port_that_nobody_named_is_chosen_and_found_again() {
        let asked = [port(0, Transport::Tcp), port(0, Transport::Tcp)];
        let first = CHOSEN.clone().find(|number| Bound::new(port(*number, Transport::Tcp)).is_ok()).unwrap();
        let settled = numbers(&settle(asked.iter(), |port| port.published_port == first, Vec::new()).unwrap());
        let numbers: Vec<u16> = settled.iter().map(|port| port.published_port).collect();
        assert!(
            numbers.iter().all(|number| CHOSEN.contains(number) && *number != first) && numbers[0] != numbers[1],
            "{numbers:?}"
        );
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()), []);
        save(folder.path(), &settled).unwrap();
        assert_eq!(load(folder.path()), settled);
    }
}
