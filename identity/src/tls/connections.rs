//! Who may hold a connection, and how many.
//!
//! A peer that has shown no certificate is unauthenticated, whether it has not yet
//! finished its handshake or will never show one. Such peers have a number of places
//! per address and in all that is theirs, and members have all others: whatever comes
//! from outside, a member finds a place. Where places run out, the connection that is
//! of least use goes: the oldest handshake of the address that has most of them under
//! way, the oldest unauthenticated connection without a call.
//!
//! Who is at the other end is known only after the handshake, and an address is shared:
//! by a node and its tasks, by a site behind a NAT. So an address with all its places
//! taken is not refused another handshake; one of its own connections goes for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::HANDSHAKE_DEADLINE;
use crate::NodeIdentity;

/// Descriptors of the process that connections may take, in parts of 100.
const DESCRIPTORS_SHARE: u64 = 50;

/// The fewest connections that a listener takes on, however few descriptors there are.
const CONNECTIONS_MIN: usize = 64;
/// The most connections that it takes on.
const CONNECTIONS_MAX: usize = 16_384;

/// How much a listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Handshakes at the same time, of all addresses.
    pub handshakes_max: usize,
    /// How long one may take.
    pub handshake_deadline: Duration,
    /// Unauthenticated connections of one address, handshakes included. An IPv6
    /// address counts with its /64.
    pub per_address_max: usize,
    /// Unauthenticated connections of all addresses, after their handshakes.
    pub unauthenticated_max: usize,
    /// Connections of one node.
    pub per_node_max: usize,
    /// All connections, handshakes included.
    pub connections_max: usize,
    /// How long an unauthenticated connection may be without a call.
    pub idle_max: Duration,
    /// How long an unauthenticated connection may live.
    pub life_max: Duration,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self::within(skep_host::process::descriptor_limit())
    }
}

impl AcceptLimits {
    /// The limits of a process that may have this many descriptors. At least five of
    /// eight places are for members alone.
    fn within(descriptors: u64) -> Self {
        let share = descriptors.saturating_mul(DESCRIPTORS_SHARE) / 100;
        let connections_max = usize::try_from(share).unwrap_or(usize::MAX).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        Self {
            handshakes_max: 1024.min(connections_max / 4),
            handshake_deadline: HANDSHAKE_DEADLINE,
            per_address_max: 64,
            unauthenticated_max: 256.min(connections_max / 8),
            per_node_max: 64,
            connections_max,
            idle_max: Duration::from_secs(10),
            life_max: Duration::from_secs(60),
        }
    }
}

/// Who is at the other end; in every request's extensions.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The node in the peer's verified certificate; none if it showed none.
    pub node: Option<Arc<NodeIdentity>>,
    /// Where it connects from.
    pub remote: SocketAddr,
    calls: Arc<Mutex<Calls>>,
}

/// The calls of one connection.
#[derive(Debug)]
struct Calls {
    under_way: usize,
    last: Instant,
}

impl PeerInfo {
    pub(super) fn new(node: Option<Arc<NodeIdentity>>, remote: SocketAddr) -> Self {
        Self { node, remote, calls: Arc::new(Mutex::new(Calls { under_way: 0, last: Instant::now() })) }
    }

    /// Notes that a call began; it is over when the value is dropped.
    #[must_use]
    pub fn call(&self) -> Call {
        lock(&self.calls).under_way += 1;
        Call(self.calls.clone())
    }

    /// For how long the connection has had no call; `None` while it has one.
    pub(super) fn idle(&self) -> Option<Duration> {
        let calls = lock(&self.calls);
        (calls.under_way == 0).then(|| calls.last.elapsed())
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Call(Arc<Mutex<Calls>>);

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = lock(&self.0);
        calls.under_way -= 1;
        calls.last = Instant::now();
    }
}

/// The open connections of a server; clones share them.
#[derive(Clone, Default)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    handshakes: BTreeMap<u64, (IpAddr, CancellationToken)>,
    peers: BTreeMap<u64, (PeerInfo, CancellationToken)>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Of peers without a certificate of its address.
    #[error("its address has too many connections without a certificate, all with calls under way")]
    Address,
    /// Of its node.
    #[error("its node has too many connections")]
    Node,
    /// Of peers without a certificate.
    #[error("there are too many connections without a certificate, all with calls under way")]
    Unauthenticated,
    /// In all.
    #[error("there are too many connections")]
    All,
}

impl Connections {
    /// Closes every connection of a node, and says how many there were.
    pub fn close_node(&self, node_id: &str) -> usize {
        self.close_where(|peer| peer.node.as_ref().is_some_and(|node| node.node_id == node_id))
    }

    /// Closes every connection whose peer is meant, and says how many there were.
    pub fn close_where(&self, is_meant: impl Fn(&PeerInfo) -> bool) -> usize {
        let open = lock(&self.open);
        let meant = open.peers.values().filter(|(peer, _)| is_meant(peer));
        meant.map(|(_, close)| close.cancel()).count()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        lock(&self.open).peers.len()
    }

    /// A place for a handshake. The oldest handshake of the address with most of them
    /// makes room, or, in an address that is full, its oldest connection without a call.
    /// Where all of those have one, the handshake may still turn out to be a member's:
    /// [`Self::establish`] judges it.
    pub(super) fn begin(&self, remote: SocketAddr, limits: &AcceptLimits) -> Result<Place, Full> {
        let address = counted_address(remote.ip());
        let mut open = lock(&self.open);
        if open.unauthenticated_of(address) >= limits.per_address_max {
            open.end_one_of(address);
        }
        if open.handshakes.len() + open.peers.len() >= limits.connections_max {
            return Err(Full::All);
        }
        if open.handshakes.len() >= limits.handshakes_max.max(1) {
            open.end_a_handshake();
        }
        let (number, close) = (open.next, CancellationToken::new());
        open.next += 1;
        open.handshakes.insert(number, (address, close.clone()));
        Ok(Place { connections: self.clone(), number, close })
    }

    /// From a handshake to an open connection, in the same place.
    pub(super) fn establish(&self, place: &Place, peer: PeerInfo, limits: &AcceptLimits) -> Result<(), Full> {
        let mut open = lock(&self.open);
        match &peer.node {
            Some(node) if open.of_node(&node.node_id) >= limits.per_node_max => return Err(Full::Node),
            Some(_) => {}
            // Its own handshake is one of them.
            None if open.unauthenticated_of(counted_address(peer.remote.ip())) > limits.per_address_max => {
                return Err(Full::Address);
            }
            None if open.unauthenticated() >= limits.unauthenticated_max && !open.end_an_idle_one() => {
                return Err(Full::Unauthenticated);
            }
            None => {}
        }
        open.handshakes.remove(&place.number);
        open.peers.insert(place.number, (peer, place.close.clone()));
        Ok(())
    }
}

impl Open {
    fn unauthenticated(&self) -> usize {
        self.peers.values().filter(|(peer, close)| peer.node.is_none() && !close.is_cancelled()).count()
    }

    fn unauthenticated_of(&self, address: IpAddr) -> usize {
        self.handshakes.values().filter(|(other, _)| *other == address).count() + self.strangers_of(address).count()
    }

    /// The open unauthenticated connections of an address, oldest first.
    fn strangers_of(&self, address: IpAddr) -> impl Iterator<Item = (u64, &PeerInfo)> {
        let is_its = move |peer: &PeerInfo| peer.node.is_none() && counted_address(peer.remote.ip()) == address;
        let open = self.peers.iter().filter(|(_, (_, close))| !close.is_cancelled());
        open.map(|(number, (peer, _))| (*number, peer)).filter(move |(_, peer)| is_its(peer))
    }

    fn of_node(&self, node_id: &str) -> usize {
        let is_its = |peer: &PeerInfo| peer.node.as_ref().is_some_and(|node| node.node_id == node_id);
        self.peers.values().filter(|(peer, close)| is_its(peer) && !close.is_cancelled()).count()
    }

    fn end_a_handshake(&mut self) {
        let mut counts = BTreeMap::<IpAddr, usize>::new();
        self.handshakes.values().for_each(|(address, _)| *counts.entry(*address).or_default() += 1);
        let most = counts.values().max().copied().unwrap_or(0);
        let victim = self.handshakes.iter().find(|(_, (address, _))| counts.get(address) == Some(&most));
        if let Some(number) = victim.map(|(number, _)| *number)
            && let Some((_, close)) = self.handshakes.remove(&number)
        {
            close.cancel();
        }
    }

    /// Ends the oldest of an address that has no call: a handshake, or an open
    /// unauthenticated connection. There may be none.
    fn end_one_of(&mut self, address: IpAddr) {
        let handshake = self.handshakes.iter().find(|(_, (other, _))| *other == address).map(|(number, _)| *number);
        let idle = self.strangers_of(address).find(|(_, peer)| peer.idle().is_some()).map(|(number, _)| number);
        let Some(victim) = handshake.into_iter().chain(idle).min() else { return };
        let close = self.handshakes.remove(&victim).map(|(_, close)| close);
        // An open one keeps its place until it has ended.
        if let Some(close) = close.or_else(|| self.peers.get(&victim).map(|(_, close)| close.clone())) {
            close.cancel();
        }
    }

    fn end_an_idle_one(&mut self) -> bool {
        let is_idle = |(peer, close): &&(PeerInfo, CancellationToken)| {
            peer.node.is_none() && !close.is_cancelled() && peer.idle().is_some()
        };
        let victim = self.peers.values().find(is_idle);
        victim.map(|(_, close)| close.cancel()).is_some()
    }
}

/// A connection's place, from its first byte to its end.
pub(super) struct Place {
    connections: Connections,
    number: u64,
    /// Cancelled when the connection is to end.
    pub(super) close: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.connections.open);
        open.handshakes.remove(&self.number);
        open.peers.remove(&self.number);
    }
}

/// What one party is taken to have: an IPv4 address, or a whole /64 of IPv6.
fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AcceptLimits = AcceptLimits {
        handshakes_max: 4,
        handshake_deadline: Duration::from_secs(5),
        per_address_max: 3,
        unauthenticated_max: 2,
        per_node_max: 2,
        connections_max: 8,
        idle_max: Duration::from_secs(10),
        life_max: Duration::from_secs(60),
    };

    fn from(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect("an address"), 1)
    }

    fn begin(connections: &Connections, text: &str) -> Result<Place, Full> {
        connections.begin(from(text), &LIMITS)
    }

    fn member(id: &str, text: &str) -> PeerInfo {
        let node = NodeIdentity {
            node_id: id.into(),
            role: crate::Role::Worker,
            cluster_id: "c".into(),
            serial: String::new(),
            not_before: skep_model::Time::ZERO,
            not_after: skep_model::Time::ZERO,
        };
        PeerInfo::new(Some(Arc::new(node)), from(text))
    }

    fn ended(places: &[Place]) -> Vec<bool> {
        places.iter().map(|place| place.close.is_cancelled()).collect()
    }

    /// An address is shared: by a node with its tasks, by a site behind a NAT.
    #[test]
    fn a_member_from_a_full_address_gets_in_and_others_make_room() {
        let connections = Connections::default();
        let mut held: Vec<Place> =
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"].map(|text| begin(&connections, text).unwrap()).into();
        let open = |place: &Place| {
            let peer = PeerInfo::new(None, from("192.0.2.1"));
            connections.establish(place, peer.clone(), &LIMITS).map(|()| peer)
        };
        let busy = open(&held[0]).unwrap();
        let call = busy.call();
        open(&held[1]).unwrap();
        // The oldest without a call makes room, be it open or a handshake.
        held.push(begin(&connections, "192.0.2.1").unwrap());
        assert_eq!(ended(&held), [false, true, false, false]);
        held.push(begin(&connections, "192.0.2.1").unwrap());
        assert_eq!(ended(&held), [false, true, true, false, false]);
        let w1 = member("w1", "192.0.2.1");
        connections.establish(&held[4], w1, &LIMITS).unwrap();
        // A member is not counted any more, and nobody takes its place.
        held.push(begin(&connections, "192.0.2.1").unwrap());
        held.push(begin(&connections, "192.0.2.1").unwrap());
        assert_eq!(ended(&held), [false, true, true, true, false, false, false]);
        drop(call);
    }

    #[test]
    fn in_an_address_that_is_full_of_calls_a_member_alone_gets_in() {
        let limits = AcceptLimits { unauthenticated_max: 9, ..LIMITS };
        let connections = Connections::default();
        let peers: Vec<(Place, PeerInfo)> = (1..=3)
            .map(|last| {
                let place = connections.begin(from(&format!("2001:db8::{last}")), &limits).unwrap();
                let peer = PeerInfo::new(None, from(&format!("2001:db8::{last}")));
                connections.establish(&place, peer.clone(), &limits).unwrap();
                (place, peer)
            })
            .collect();
        let calls: Vec<Call> = peers.iter().map(|(_, peer)| peer.call()).collect();
        let next = connections.begin(from("2001:db8::4"), &limits).unwrap();
        let refused = connections.establish(&next, PeerInfo::new(None, from("2001:db8::4")), &limits);
        assert_eq!(refused.err(), Some(Full::Address), "a /64 is one party");
        connections.establish(&next, member("w1", "2001:db8::4"), &limits).unwrap();
        assert!(peers.iter().all(|(place, _)| !place.close.is_cancelled()), "a call is not cut off");
        let other = connections.begin(from("2001:db8:0:1::4"), &limits).unwrap();
        assert!(connections.establish(&other, PeerInfo::new(None, from("2001:db8:0:1::4")), &limits).is_ok());
        drop(calls);
    }

    #[test]
    fn members_have_places_of_their_own_however_few_descriptors_there_are() {
        for descriptors in [0, 256, 512, 1024, 2048, 4096, 1 << 20, u64::MAX] {
            let AcceptLimits { handshakes_max, unauthenticated_max, connections_max, .. } = AcceptLimits::within(descriptors);
            let others = handshakes_max + unauthenticated_max;
            assert!(0 < unauthenticated_max && 0 < handshakes_max && 2 * others < connections_max, "{descriptors}: {others}");
        }
        let plenty = AcceptLimits::within(1 << 20);
        assert_eq!((plenty.handshakes_max, plenty.unauthenticated_max, plenty.connections_max), (1024, 256, 16_384));
    }

    #[test]
    fn a_new_handshake_takes_the_place_of_the_oldest_of_whoever_has_most() {
        let connections = Connections::default();
        let few = begin(&connections, "192.0.2.1").unwrap();
        let many: Vec<Place> = [0; 3].map(|_| begin(&connections, "192.0.2.9").unwrap()).into();
        let next = begin(&connections, "192.0.2.2").unwrap();
        assert!(many[0].close.is_cancelled());
        assert!([&few, &many[1], &many[2], &next].iter().all(|place| !place.close.is_cancelled()));
    }

    #[test]
    fn an_idle_connection_without_a_certificate_makes_room_and_a_busy_one_does_not() {
        let connections = Connections::default();
        let open = |text: &str| {
            let place = begin(&connections, text).unwrap();
            let peer = PeerInfo::new(None, from(text));
            connections.establish(&place, peer.clone(), &LIMITS).map(|()| (place, peer))
        };
        let (first, busy) = open("192.0.2.1").unwrap();
        let call = busy.call();
        let (second, _) = open("192.0.2.2").unwrap();
        let (third, other) = open("192.0.2.3").unwrap();
        assert!(!first.close.is_cancelled() && second.close.is_cancelled() && !third.close.is_cancelled());
        let _other = other.call();
        assert_eq!(open("192.0.2.4").err(), Some(Full::Unauthenticated));
        drop(call);
        assert!(open("192.0.2.4").is_ok());
        assert!(first.close.is_cancelled());
    }

    #[test]
    fn members_are_bounded_by_node_and_in_all_and_by_no_stranger() {
        let connections = Connections::default();
        let open = |id: &str, text: &str| {
            let place = connections.begin(from(text), &LIMITS)?;
            connections.establish(&place, member(id, text), &LIMITS).map(|()| place)
        };
        let _strangers: Vec<Place> = [0; 3].map(|_| begin(&connections, "192.0.2.9").unwrap()).into();
        let mut held = vec![open("w1", "192.0.2.1").unwrap(), open("w1", "192.0.2.1").unwrap()];
        assert_eq!(open("w1", "192.0.2.1").err(), Some(Full::Node));
        held.extend(["w2", "w3", "w4"].map(|id| open(id, "192.0.2.1").unwrap()));
        assert_eq!(open("w5", "192.0.2.1").err(), Some(Full::All));
        assert_eq!(connections.close_node("w1"), 2);
        held.truncate(1);
        assert!(open("w5", "192.0.2.1").is_ok());
        assert_eq!(connections.count(), 1);
    }
}
