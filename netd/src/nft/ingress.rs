//! The node's side of the routing mesh: DNAT from published ports, on every node.
//!
//! The node only rewrites the destination, never the source, to a *wire port* of
//! its own (see [`super::mesh`]). A port without a backend is rejected by a filter,
//! before conntrack has an entry of it: a stream of datagrams that began too
//! early then goes to the first backend that comes.
//!
//! A port that a process of the node listens on stays the process's: for what comes
//! from elsewhere the kernel is asked for its socket, packet by packet; for the
//! node's own connections, whose packets have a socket already, `listening` holds the
//! ports that were seen listened on.
//!
//! One service costs a chain, two rules, and elements in maps of the table: two for
//! each of its ports, one for each backend.

use super::expression::{
    Expr, Family, Meta, ROUTE_LOCAL, Register, STATE_KNOWN, STATUS_DNAT, Tracked, Verdict, destination, destination_port,
    family_is, in_subnet, interface_name, source, tracked_as, transport_is,
};
use super::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_DNAT, PRIORITY_FILTER, PRIORITY_SNAT};
use super::object::{Rule, Table, Value};
use super::services::{order, share};
use super::transaction::{Edit, Transaction};
use skep_model::ServiceId;
use skep_model::endpoint::Transport;
use skep_netd_core::{IngressService, ListeningPort, PortKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table's name.
pub const TABLE: &str = "skep_ingress";
/// From published ports to the chains of their services.
const PORTS: &str = "ports";
/// Maps that share the services' wire ports and backends (see [`super::services`]).
const SHARES: u64 = 16;
/// Ports whose packets find nobody.
const VACANT: &str = "vacant";
/// Ports that processes of the node listen on, at any address.
const LISTENING: &str = "listening";

/// The services that the table holds, each with ports of its own.
pub type Services = BTreeMap<ServiceId, IngressService>;

/// Writes the table anew; `seed` (the node id) orders the backends.
pub fn replace(seed: &str, services: &Services, listening: &BTreeSet<ListeningPort>) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    let key = || vec![Kind::Protocol, Kind::Port];
    let mut maps = vec![
        Map::named(PORTS, key(), Gives::Verdicts),
        Map::named(VACANT, key(), Gives::Membership),
        Map::named(LISTENING, key(), Gives::Membership),
    ];
    for (family, kind) in [(Family::V4, Kind::Ipv4), (Family::V6, Kind::Ipv6)] {
        maps.push(Map::named(listening_name(family), vec![Kind::Protocol, Kind::Port, kind], Gives::Membership));
    }
    for number in 0..SHARES {
        maps.push(Map::named(wires_name(number), key(), Gives::Values(vec![Kind::Port])));
        for (family, kind) in [(Family::V4, Kind::Ipv4), (Family::V6, Kind::Ipv6)] {
            let numbered = vec![Kind::Protocol, Kind::Port, Kind::Mark];
            maps.push(Map::named(backends_name(family, number), numbered, Gives::Values(vec![kind])));
        }
    }
    for map in maps {
        transaction.push(Edit::AddMap(table.clone(), map));
    }
    transaction.append(difference(seed, &Services::new(), services));
    transaction.append(listening_difference(&BTreeSet::new(), listening));
    let pick = Expr::Lookup { map: PORTS.to_owned(), key: Register::FIRST, to: None };
    add_entrances(&mut transaction, &table, &[vec![pick]], true);
    add_refusal(&mut transaction, &table);
    transaction.push(Edit::AddChain(table.clone(), postrouting()));
    transaction.push(Edit::AddRule(table.clone(), masquerade_loopback()));
    transaction
}

/// Brings services from what they were to what they should be; others in the table
/// are not looked at. Established connections stay with their backends.
pub fn difference(seed: &str, held: &Services, wanted: &Services) -> Transaction {
    let table = Table::new(TABLE);
    // Who goes makes room first: a port may have passed to another.
    let (mut gone, mut came) = (Transaction::new(), Transaction::new());
    let (mut old_elements, mut new_elements) = (Elements::default(), Elements::default());
    let changed = |id: &ServiceId| held.get(id) != wanted.get(id);
    let ids: BTreeSet<ServiceId> = held.keys().chain(wanted.keys()).copied().filter(changed).collect();
    for id in ids {
        let (old, new) = (held.get(&id), wanted.get(&id));
        let chain = chain(id);
        if let Some(old) = old {
            old_elements.add(seed, id, old);
            gone.push(Edit::FlushChain(table.clone(), chain.clone()));
        }
        match (old, new) {
            (None, Some(_)) => drop(came.push(Edit::AddChain(table.clone(), Chain::plain(&chain)))),
            (Some(_), None) => drop(gone.push(Edit::DeleteChain(table.clone(), chain))),
            _ => {}
        }
        if let Some(new) = new {
            new_elements.add(seed, id, new);
            came.append(pick(seed, id, new));
        }
    }
    let (gone_elements, came_elements) = (old_elements.without(&new_elements), new_elements.without(&old_elements));
    let mut transaction = gone_elements.change(Edit::DeleteElements);
    transaction.append(gone);
    transaction.append(came);
    transaction.append(came_elements.change(Edit::AddElements));
    transaction
}

/// Brings the ports that the node's processes have from what they were to what they are.
pub fn listening_difference(held: &BTreeSet<ListeningPort>, wanted: &BTreeSet<ListeningPort>) -> Transaction {
    let mut transaction = Transaction::new();
    let mut change = |ports: Vec<&ListeningPort>, how: fn(Table, String, Vec<Element>) -> Edit| {
        let mut maps = BTreeMap::<&'static str, Vec<Element>>::new();
        for ListeningPort { key, address } in ports {
            let value = address.map_or_else(|| port_key(*key), |address| port_key(*key).then(address.into()));
            let map = address.map_or(LISTENING, |address| listening_name(Family::of(address)));
            maps.entry(map).or_default().push(Element::Member(value));
        }
        for (map, elements) in maps {
            transaction.push(how(Table::new(TABLE), map.to_owned(), elements));
        }
    };
    change(held.difference(wanted).collect(), Edit::DeleteElements);
    change(wanted.difference(held).collect(), Edit::AddElements);
    transaction
}

/// What services have in the maps of the table, by map and key.
#[derive(Default)]
struct Elements(BTreeMap<(String, Value), Option<Given>>);

/// What a key gives.
#[derive(Clone, PartialEq, Eq)]
enum Given {
    Value(Value),
    Chain(String),
}

impl Elements {
    fn add(&mut self, seed: &str, id: ServiceId, service: &IngressService) {
        let chain = chain(id);
        let number = share(&chain, SHARES);
        for (key, wire_port) in &service.ports {
            let key = port_key(*key);
            self.0.insert((PORTS.to_owned(), key.clone()), Some(Given::Chain(chain.clone())));
            self.0.insert((wires_name(number), key.clone()), Some(Given::Value(Value::port(*wire_port))));
            if service.backends.is_empty() {
                self.0.insert((VACANT.to_owned(), key), None);
            }
        }
        let Some(own) = service.ports.keys().next() else { return };
        for family in [Family::V4, Family::V6] {
            for (turn, backend) in (0u32..).zip(order(seed, &chain, family, &service.backends)) {
                let key = port_key(*own).then(Value::number(turn));
                self.0.insert((backends_name(family, number), key), Some(Given::Value(backend.into())));
            }
        }
    }

    /// Those that the other does not hold just so.
    fn without(&self, other: &Self) -> Self {
        let is_new = |(at, given): &(&(String, Value), &Option<Given>)| other.0.get(at) != Some(given);
        Self(self.0.iter().filter(is_new).map(|(at, given)| (at.clone(), given.clone())).collect())
    }

    fn change(self, how: impl Fn(Table, String, Vec<Element>) -> Edit) -> Transaction {
        let mut maps = BTreeMap::<String, Vec<Element>>::new();
        for ((map, key), given) in self.0 {
            maps.entry(map).or_default().push(match given {
                None => Element::Member(key),
                Some(Given::Value(value)) => Element::Entry(key, value),
                Some(Given::Chain(chain)) => Element::Decision(key, Verdict::Goto(chain)),
            });
        }
        let mut transaction = Transaction::new();
        for (map, elements) in maps {
            transaction.push(how(Table::new(TABLE), map, elements));
        }
        transaction
    }
}

/// Fills a service's chain: each family's backends in turn, at the wire port of the
/// port that was asked. Protocol and port are in the first two registers.
fn pick(seed: &str, id: ServiceId, service: &IngressService) -> Transaction {
    let mut transaction = Transaction::new();
    let Some((transport, port)) = service.ports.keys().next().copied() else { return transaction };
    let chain = chain(id);
    let share = share(&chain, SHARES);
    for family in [Family::V4, Family::V6] {
        let modulus = u32::try_from(order(seed, &chain, family, &service.backends).len()).expect("backends are few");
        if modulus == 0 {
            continue;
        }
        let wire_port = Register::word(8);
        let steps = vec![
            Expr::Meta { to: Register::FIRST, key: Meta::Transport },
            destination_port(Register::word(1)),
            Expr::Lookup { map: wires_name(share), key: Register::FIRST, to: Some(wire_port) },
            Expr::Load { to: Register::FIRST, value: vec![number(transport)] },
            Expr::Load { to: Register::word(1), value: port.to_be_bytes().to_vec() },
            Expr::Turn { to: Register::word(2), modulus },
            Expr::Lookup { map: backends_name(family, share), key: Register::FIRST, to: Some(Register::FIRST) },
            Expr::Dnat { family, address: Some(Register::FIRST), port: Some(wire_port) },
        ];
        transaction.push(Edit::AddRule(Table::new(TABLE), Rule::new(&chain, [family_is(family), steps])));
    }
    transaction
}

/// From the published ports of a share of the services to wire ports.
fn wires_name(share: u64) -> String {
    format!("wires_{share}")
}

fn backends_name(family: Family, share: u64) -> String {
    format!("{}_{share}", if family == Family::V4 { "backends4" } else { "backends6" })
}

fn listening_name(family: Family) -> &'static str {
    if family == Family::V4 { "listening4" } else { "listening6" }
}

/// The chains through which packets for the node itself come, with these rules:
/// protocol and port are in the first register and the second. `::1` is left alone
/// and so refused: v6 knows no way for a loopback address out of the node. What a
/// process of the node listens on is left alone if `yields`.
pub(crate) fn add_entrances(transaction: &mut Transaction, table: &Table, rules: &[Vec<Expr>], yields: bool) {
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        transaction.push(Edit::AddChain(table.clone(), Chain::base(name, ChainKind::Nat, hook, PRIORITY_DNAT)));
        transaction.push(Edit::AddRule(table.clone(), Rule::new(name, [to_loopback_v6()])));
        let exempt = match hook {
            _ if !yields => Vec::new(),
            Hook::Prerouting => vec![[to_this_node(), is_heard()].concat()],
            _ => is_listening().into(),
        };
        for exempt in exempt {
            transaction.push(Edit::AddRule(table.clone(), Rule::new(name, [exempt, vec![Expr::Verdict(Verdict::Accept)]])));
        }
        for rule in rules {
            let rule = Rule::new(name, [to_this_node(), protocol_and_port(), rule.clone()]);
            transaction.push(Edit::AddRule(table.clone(), rule));
        }
    }
}

/// Holds for packets that a socket of the node waits for.
fn is_heard() -> Vec<Expr> {
    vec![Expr::SocketFound { to: Register::FIRST }]
}

/// Holds for packets to ports that processes of the node were seen to listen on.
fn is_listening() -> [Vec<Expr>; 3] {
    let in_set = |set: &str| vec![Expr::InSet { set: set.to_owned(), key: Register::FIRST, inverted: false }];
    let at = |family| {
        let address = vec![destination(family, Register::word(2))];
        [family_is(family), to_this_node(), protocol_and_port(), address, in_set(listening_name(family))].concat()
    };
    [[to_this_node(), protocol_and_port(), in_set(LISTENING)].concat(), at(Family::V4), at(Family::V6)]
}

fn to_loopback_v6() -> Vec<Expr> {
    let mut steps = family_is(Family::V6);
    steps.push(destination(Family::V6, Register::FIRST));
    let loopback = Value::from(IpAddr::V6(Ipv6Addr::LOCALHOST)).into_bytes();
    steps.push(Expr::Equal { register: Register::FIRST, value: loopback });
    steps.push(Expr::Verdict(Verdict::Accept));
    steps
}

fn to_this_node() -> Vec<Expr> {
    vec![
        Expr::RouteKind { to: Register::FIRST },
        Expr::Equal { register: Register::FIRST, value: ROUTE_LOCAL.to_ne_bytes().to_vec() },
    ]
}

fn protocol_and_port() -> Vec<Expr> {
    vec![Expr::Meta { to: Register::FIRST, key: Meta::Transport }, destination_port(Register::word(1))]
}

fn add_refusal(transaction: &mut Transaction, table: &Table) {
    let is_vacant = Expr::InSet { set: VACANT.to_owned(), key: Register::FIRST, inverted: false };
    for (name, hook) in [("refuse", Hook::Input), ("refuse_own", Hook::Output)] {
        transaction.push(Edit::AddChain(table.clone(), Chain::base(name, ChainKind::Filter, hook, PRIORITY_FILTER)));
        // Every packet of the node comes by: the look at its route is for those that it may concern.
        let concerned = || [protocol_and_port(), vec![is_vacant.clone()], to_this_node()].concat();
        // A connection that a process has accepted half has no socket that could be found.
        let known = tracked_as(Tracked::State, STATE_KNOWN);
        let heard = if hook == Hook::Input { vec![is_heard()] } else { is_listening().into() };
        let exempt = std::iter::once(known).chain(heard);
        for exempt in exempt {
            let rule = Rule::new(name, [concerned(), exempt, vec![Expr::Verdict(Verdict::Accept)]]);
            transaction.push(Edit::AddRule(table.clone(), rule));
        }
        for [which, reject] in [[transport_is(6), vec![Expr::RejectReset]], [vec![], vec![Expr::RejectUnreachable]]] {
            transaction.push(Edit::AddRule(table.clone(), Rule::new(name, [concerned(), which, reject])));
        }
    }
}

pub(crate) fn postrouting() -> Chain {
    Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT)
}

/// Holds for connections whose destination was rewritten.
pub(crate) fn is_rewritten() -> Vec<Expr> {
    tracked_as(Tracked::Status, STATUS_DNAT)
}

/// A connection of the node to itself by a loopback address must not leave with
/// that address. (For v6 the kernel would not take the answers.)
pub(crate) fn masquerade_loopback() -> Rule {
    let leaves = vec![
        Expr::Meta { to: Register::FIRST, key: Meta::OutputName },
        Expr::Differs { register: Register::FIRST, value: interface_name("lo") },
        source(Family::V4, Register::FIRST),
    ];
    let loopback = in_subnet(Register::FIRST, IpAddr::V4(Ipv4Addr::LOCALHOST), 8);
    Rule::new("postrouting", [family_is(Family::V4), is_rewritten(), leaves, loopback, vec![Expr::Masquerade]])
}

/// A protocol and a port, as a key.
pub(crate) fn port_key((transport, port): PortKey) -> Value {
    Value::protocol(number(transport)).then(Value::port(port))
}

/// The protocol's number.
pub(crate) fn number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

fn chain(service: ServiceId) -> String {
    format!("service_{service}")
}
