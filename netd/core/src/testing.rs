//! A model of the kernel, strict about order, and objects to plan for.

use crate::*;
use ipnet::IpNet;
use proptest::prelude::*;
use skep_model::endpoint::NodeIngress;
use skep_model::network::{Attachment, Pool};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, Peer};
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
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
        if let Key::Via(link, _, net) = key {
            let Value::Hop(hop) = value else { panic!("no hop for {place}") };
            let is_near = |near: &Place| matches!(near.key, Key::Route(_, net) if net.contains(&hop));
            assert!(self.rows.under_link(namespace, link).any(|near| is_near(&near)), "no route to the hop of {place}");
            assert_eq!(hop.is_ipv4(), net.addr().is_ipv4(), "{place}");
        }
        if let Some(link) = key.link().filter(|link| *link != Name::LOOPBACK && !matches!(key, Key::Link(_))) {
            assert!(self.has(namespace, Key::Link(link)), "no link for {place}");
            assert!(!key.needs_up() || self.has(namespace, Key::Up(link)), "{link} is down for {place}");
        }
        self.rows.set(place, value);
    }
}

pub fn task(number: u8) -> TaskId {
    TaskId::from_random([number; 16])
}

pub fn network_id(number: u8) -> NetworkId {
    NetworkId::from_random([number; 16])
}

/// The network with this number is the one that published ports are reached over.
pub const INGRESS: u8 = 1;

pub fn node_id(number: u8) -> NodeId {
    NodeId::from_random([number; 16])
}

pub fn node(address: &str) -> Object {
    Object::Node(Node { id: node_id(1), address: address.parse().unwrap(), port: 4789, is_isolated: false })
}

/// A node with an ingress gateway of its number, or one without.
pub fn peer(number: u8, address: &str, has_gateway: bool) -> Object {
    let ingress = NodeIngress { number: number.into(), addresses: addresses(INGRESS, 100 + number) };
    Object::Peer(Peer { node: node_id(number), address: address.parse().unwrap(), ingress: has_gateway.then_some(ingress) })
}

pub fn network(number: u8) -> Object {
    let subnets = [format!("10.{number}.0.0/20"), format!("fd{number:02}::/64")];
    let pools = subnets.map(|subnet| Pool { subnet: subnet.parse().unwrap(), range: None, gateway: None }).to_vec();
    let vni = 4096 + u32::from(number);
    let (name, ingress) = (format!("net{number}"), number == INGRESS);
    Object::Network(NodeNetwork { id: network_id(number), name, vni, pools, mtu: None, internal: false, ingress })
}

fn addresses(network: u8, host: u8) -> Vec<IpAddr> {
    vec![IpAddr::from([10, network, 0, host]), format!("fd{network:02}::{host:x}").parse().unwrap()]
}

/// A task of this node with a place on each of these networks.
pub fn local(number: u8, on: &[(u8, u8)], has_gateway: bool) -> Object {
    let attachment = |(network, host): &(u8, u8)| Attachment {
        network: network_id(*network),
        addresses: addresses(*network, *host),
        aliases: Vec::new(),
        any_source: false,
    };
    Object::Task(LocalTask {
        id: task(number),
        service: ServiceId::from_random([number; 16]),
        attachments: on.iter().map(attachment).collect(),
        has_gateway,
        host_ports: Vec::new(),
        hostname: String::new(),
        dns: Default::default(),
    })
}

/// A task on the node with this number.
pub fn remote(network: u8, owner: u8, host: u8, at: u8) -> Object {
    Object::Endpoint(Endpoint {
        id: EndpointId { network: network_id(network), task: task(owner) },
        service: ServiceId::from_random([owner; 16]),
        node: node_id(at),
        addresses: addresses(network, host),
        names: Vec::new(),
        is_published: true,
    })
}

/// The desired state of a node with a gateway and an underlay of this size.
pub fn desired(mtu: u32) -> DesiredRows {
    let mut desired = DesiredRows::new();
    desired.set_gateway(Gateway::choose(&[], true));
    desired.set_underlay_mtu(Some(mtu));
    desired
}

/// A change of the desired state.
#[derive(Clone, Debug)]
pub enum Wish {
    Put(Object),
    Remove(ObjectKey),
    RemoveNamespace(TaskId),
    Mtu(u32),
}

impl Wish {
    pub fn tell(self, desired: &mut DesiredRows) -> BTreeSet<Place> {
        match self {
            Self::Put(object) => desired.put(object).expect("the objects are right").places,
            Self::Remove(key) => desired.remove(key).places,
            Self::RemoveNamespace(task) => desired.remove_namespace(task).places,
            Self::Mtu(mtu) => desired.set_underlay_mtu(Some(mtu)).places,
        }
    }
}

pub fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        8 => object().prop_map(Wish::Put),
        4 => object().prop_map(|object| Wish::Remove(object.key())),
        1 => (0..3_u8).prop_map(|number| Wish::RemoveNamespace(task(number))),
        1 => prop_oneof![Just(1450), Just(1500), Just(9000)].prop_map(Wish::Mtu),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    // Few owners and hosts, so that addresses change hands.
    let host = || 1..4_u8;
    let places = prop_oneof![
        host().prop_map(|host| vec![(0, host)]),
        host().prop_map(|host| vec![(1, host)]),
        (host(), host()).prop_map(|(one, other)| vec![(0, one), (1, other)]),
        (host(), host()).prop_map(|(one, other)| vec![(1, one), (0, other)]),
        Just(Vec::new()),
    ];
    let at = || prop_oneof![Just("192.0.2.2"), Just("192.0.2.3")];
    prop_oneof![
        1 => prop_oneof![Just("192.0.2.1"), Just("192.0.2.9")].prop_map(node),
        2 => (1..4_u8, at(), any::<bool>()).prop_map(|(number, at, has_gateway)| peer(number, at, has_gateway)),
        2 => (0..2_u8).prop_map(network),
        5 => (0..3_u8, places, any::<bool>()).prop_map(|(number, on, has_gateway)| local(number, &on, has_gateway)),
        4 => (0..2_u8, 3..6_u8, 1..6_u8, 1..4_u8).prop_map(|(net, owner, host, at)| remote(net, owner, host, at)),
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
        Value::Present => return None,
        Value::Setting(value) => Value::Setting(value ^ 1),
        Value::Link(_) => Value::Link(Link::Foreign),
        Value::Mtu(bytes) => Value::Mtu(bytes - 1),
        Value::Mac(_) => Value::Mac(Mac([6; 6])),
        Value::Port(_) => Value::Port(Port { bridge: None, learning: true, flood: true, isolated: false }),
        Value::Hop(_) => Value::Hop(IpAddr::from([198, 51, 100, 1])),
        Value::Table(_) => Value::Table(9),
        Value::Fdb(_) => Value::Fdb(FdbTarget::Node(IpAddr::from([198, 51, 100, 1]))),
    })
}
