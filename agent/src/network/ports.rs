//! Ports of the node that answer for one task: found free before the task is made.
//!
//! The scheduler keeps tasks with the same port apart; what it cannot know is what
//! else listens on the node. A port that was chosen is kept in the task's folder,
//! so that a restarted daemon finds the one that is programmed.

use skep_model::endpoint::{PublishedPort, Transport};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

/// Ports that are chosen for a user who names none, as the kernel's own.
const CHOSEN: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// The file in the task's folder.
const FILE_NAME: &str = "host-ports";

/// Settles each port: the one named, if nothing else has it, or a free one.
///
/// # Errors
/// A sentence that names the port which something else has.
pub(super) fn settle<'a>(
    asked: impl Iterator<Item = &'a PublishedPort>,
    is_taken: impl Fn(&PublishedPort) -> bool,
) -> Result<Vec<PublishedPort>, String> {
    let mut settled = Vec::<PublishedPort>::new();
    for port in asked {
        let at = |number| PublishedPort { published_port: number, ..port.clone() };
        let is_free = |port: &PublishedPort| !is_taken(port) && !settled.contains(port) && can_bind(port);
        let name = port.transport.name();
        let chosen = match port.published_port {
            0 => CHOSEN.map(at).find(|port| is_free(port)).ok_or(format!("no {name} port of this node is free"))?,
            number => Some(at(number)).filter(is_free).ok_or(format!("port {number}/{name} is in use on this node"))?,
        };
        settled.push(chosen);
    }
    Ok(settled)
}

fn can_bind(port: &PublishedPort) -> bool {
    let at = (Ipv4Addr::UNSPECIFIED, port.published_port);
    match port.transport {
        Transport::Tcp => TcpListener::bind(at).is_ok(),
        Transport::Udp => UdpSocket::bind(at).is_ok(),
    }
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
        assert_eq!(settle(asked.iter(), |_| false).unwrap_err(), format!("port {busy}/tcp is in use on this node"));
        // The same number of the other protocol is another port.
        let other = [port(busy, Transport::Udp)];
        assert_eq!(settle(other.iter(), |_| false).unwrap(), other);
        assert_eq!(settle(other.iter(), |_| true).unwrap_err(), format!("port {busy}/udp is in use on this node"));
        drop(listener);
        assert_eq!(settle(asked.iter(), |_| false).unwrap(), asked);
        assert!(settle([&asked[0], &asked[0]].into_iter(), |_| false).is_err());
    }

    #[test]
    fn a_port_that_nobody_named_is_chosen_and_found_again() {
        let asked = [port(0, Transport::Tcp), port(0, Transport::Tcp)];
        let first = CHOSEN.clone().find(|number| can_bind(&port(*number, Transport::Tcp))).unwrap();
        let settled = settle(asked.iter(), |port| port.published_port == first).unwrap();
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
