//! A model of the kernel, strict about order, and objects to plan for.

use crate::*;
use ipnet::IpNet;
use proptest::prelude::*;
use skep_model::{Id, NetworkId, TaskId};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A kernel in which an operation out of order panics.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub rows: Mirror,
}

impl Model {
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::Remove(place) => drop(self.rows.forget(place)),
            Op::Make(place, value) => self.make(place, value),
        }
    }

    fn has(&self, namespace: Namespace, key: Key) -> bool {
        self.rows.get(&Place { key, namespace }).is_some()
    }

    fn make(&mut self, place: Place, value: Value) {
        let Place { key, namespace } = place;
        assert!(
            key == Key::Namespace || namespace == Namespace::Node || self.has(namespace, Key::Namespace),
            "no namespace for {place}"
        );
        match (key, value) {
            (Key::Link(_), Value::Link(Link::Veth { peer: Some((other, name)) })) => {
                let peer = Place { key: Key::Link(name), namespace: other };
                assert!(self.rows.get(&place).is_none() && self.rows.get(&peer).is_none(), "an end of {place} is taken");
                let Key::Link(outer) = key else { unreachable!() };
                self.rows.set(peer, Value::Link(Link::Veth { peer: Some((namespace, outer)) }));
            }
            (Key::Link(_), _) => assert!(self.rows.get(&place).is_none(), "{place} exists"),
            (Key::Port(_), Value::Port(Port { bridge: Some(bridge), .. })) => {
                assert!(self.has(namespace, Key::Link(bridge)), "no bridge for {place}")
            }
            (Key::Fdb(link, _, FdbTable::Bridge), _) => assert!(self.has(namespace, Key::Port(link)), "no port for {place}"),
            _ => {}
        }
        if let Some(link) = key.link().filter(|link| *link != Name::LOOPBACK && !matches!(key, Key::Link(_))) {
            assert!(self.has(namespace, Key::Link(link)), "no link for {place}");
            assert!(!key.needs_up() || self.has(namespace, Key::Up(link)), "{link} is down for {place}");
        }
        self.rows.set(place, value);
    }

    /// What netd sees; after a restart it does not know the ends of pairs.
    pub fn seen(&self, knows_pairs: bool) -> Mirror {
        let mut mirror = Mirror::new();
        for place in self.rows.places() {
            let value = match self.rows.get(&place) {
                Some(Value::Link(Link::Veth { .. })) if !knows_pairs => Value::Link(Link::Veth { peer: None }),
                Some(value) => *value,
                None => continue,
            };
            mirror.set(place, value);
        }
        mirror
    }
}

pub fn task(number: u8) -> TaskId {
    TaskId::from_random([number; 16])
}

pub fn network_id(number: u8) -> NetworkId {
    NetworkId::from_random([number; 16])
}

pub fn node(address: &str) -> Object {
    Object::Node(Node { address: address.parse().unwrap(), port: 4789, mtu: 1500 })
}

pub fn network(number: u8) -> Object {
    let subnets = vec![format!("10.{number}.0.0/20").parse().unwrap(), format!("fd{number:02}::/64").parse().unwrap()];
    Object::Network(network_id(number), Network { vni: 4096 + u32::from(number), subnets, mtu: None })
}

fn addresses(network: u8, host: u8) -> Vec<IpAddr> {
    vec![IpAddr::from([10, network, 0, host]), format!("fd{network:02}::{host:x}").parse().unwrap()]
}

pub fn local(network: u8, owner: u8, host: u8) -> Object {
    let id = EndpointId { network: network_id(network), owner: task(owner).0 };
    Object::Endpoint(id, Endpoint { addresses: addresses(network, host), site: Site::Here { interface: network } })
}

pub fn remote(network: u8, owner: u8, host: u8, at: &str) -> Object {
    let id = EndpointId { network: network_id(network), owner: Id::from_random([owner; 16]) };
    Object::Endpoint(id, Endpoint { addresses: addresses(network, host), site: Site::There(at.parse().unwrap()) })
}

/// A change of the desired state.
#[derive(Clone, Debug)]
pub enum Change {
    Put(Object),
    Remove(ObjectKey),
}

pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![4 => object().prop_map(Change::Put), 2 => object().prop_map(|object| Change::Remove(object.key()))]
}

fn object() -> impl Strategy<Value = Object> {
    let at = prop_oneof![Just("192.0.2.2"), Just("192.0.2.3")];
    prop_oneof![
        1 => prop_oneof![Just("192.0.2.1"), Just("192.0.2.9")].prop_map(node),
        2 => (0..3_u8).prop_map(|number| Object::Task(task(number))),
        2 => (0..2_u8).prop_map(network),
        // Few owners and hosts, so that addresses change hands.
        5 => (0..2_u8, 0..3_u8, 1..4_u8).prop_map(|(net, owner, host)| local(net, owner, host)),
        4 => (0..2_u8, 3..6_u8, 1..6_u8, at).prop_map(|(net, owner, host, at)| remote(net, owner, host, at)),
    ]
}

/// Something that others do to the kernel: at one of its rows, chosen by number.
#[derive(Clone, Debug)]
pub enum Drift {
    Lose(usize),
    Corrupt(usize),
    Stranger(u8),
}

pub fn drift() -> impl Strategy<Value = Drift> {
    prop_oneof![
        any::<usize>().prop_map(Drift::Lose),
        any::<usize>().prop_map(Drift::Corrupt),
        any::<u8>().prop_map(Drift::Stranger),
    ]
}

impl Model {
    /// Carries drift out; answers with the places that it touched.
    pub fn disturb(&mut self, drift: &Drift) -> BTreeSet<Place> {
        let places: Vec<Place> = self.rows.places().collect();
        if places.is_empty() {
            return BTreeSet::new();
        }
        match drift {
            Drift::Lose(number) => self.rows.forget(places[number % places.len()]),
            Drift::Corrupt(number) => {
                let place = places[number % places.len()];
                match corrupted(self.rows.get(&place)) {
                    Some(value) => self.rows.set(place, value),
                    None => BTreeSet::new(),
                }
            }
            Drift::Stranger(number) => {
                let links: Vec<Place> = places.into_iter().filter(|place| matches!(place.key, Key::Link(_))).collect();
                let Some(link) = links.get(usize::from(*number) % links.len().max(1)) else { return BTreeSet::new() };
                let Key::Link(name) = link.key else { unreachable!() };
                let net: IpNet = format!("198.51.100.{number}/24").parse().unwrap();
                self.rows.set(Place { key: Key::Address(name, net), namespace: link.namespace }, Value::Present)
            }
        }
    }
}

fn corrupted(value: Option<&Value>) -> Option<Value> {
    Some(match value? {
        Value::Present | Value::Setting(_) => return None,
        Value::Link(_) => Value::Link(Link::Foreign),
        Value::Mtu(bytes) => Value::Mtu(bytes - 1),
        Value::Mac(_) => Value::Mac(Mac([6; 6])),
        Value::Port(_) => Value::Port(Port { bridge: None, learning: true, flood: true }),
        Value::Route(_) => Value::Route(Some(IpAddr::from([198, 51, 100, 1]))),
        Value::Fdb(_) => Value::Fdb(FdbTarget::Node(IpAddr::from([198, 51, 100, 1]))),
    })
}
