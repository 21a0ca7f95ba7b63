//! The node's side of the routing mesh: published ports answer on every node.
//!
//! The node only rewrites the destination, never the source, to a *wire port* of
//! its own (see [`super::mesh`]). A port without a backend is refused by a filter,
//! before conntrack remembers anything of it: a stream of datagrams that began too
//! early then goes to the first backend that comes.
//!
//! Whoever may route through this node could otherwise reach every port of every
//! task on the ingress network: only connections to published ports pass.

use super::expression::{
    Expr, Family, Meta, ROUTE_LOCAL, Register, STATUS_DNAT, Tracked, Verdict, destination, destination_port, family_is,
    in_subnet, interface_name, source, tracked_as, transport_is,
};
use super::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_DNAT, PRIORITY_FILTER, PRIORITY_SNAT};
use super::object::{Rule, Table, Value};
use super::services::{in_turn, order};
use super::transaction::{Change, Transaction};
use skep_model::endpoint::Transport;
use skep_netd_core::{IngressPort, Name, PortKey};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table's name.
pub const TABLE: &str = "skep_ingress";
/// Ports whose packets find nobody.
const VACANT: &str = "vacant";

/// Writes the table anew; `seed` (the node id) orders the backends, `bridge` is
/// that of the ingress network.
pub fn replace(seed: &str, bridge: Name, ports: &BTreeMap<PortKey, IngressPort>) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    let vacant = Map::named(VACANT, vec![Kind::Protocol, Kind::Port], Gives::Membership);
    transaction.push(Change::AddMap(table.clone(), vacant));
    for (key, port) in ports {
        transaction.push(Change::AddChain(table.clone(), Chain::plain(chain(*key))));
        transaction.append(backends(seed, *key, port));
    }
    let verdicts = Map::named("ports", vec![Kind::Protocol, Kind::Port], Gives::Verdicts);
    let elements = ports.keys().map(|key| Element::Decision(port_key(*key), Verdict::Goto(chain(*key))));
    transaction.push(Change::AddMap(table.clone(), verdicts.with(elements.collect())));
    let pick = Expr::Lookup { map: "ports".to_owned(), key: Register::FIRST, to: None };
    add_entrances(&mut transaction, &table, &[vec![pick]]);
    add_refusal(&mut transaction, &table);
    add_guard(&mut transaction, &table, bridge);
    transaction.push(Change::AddChain(table.clone(), postrouting()));
    transaction.push(Change::AddRule(table.clone(), masquerade_loopback()));
    transaction
}

/// Replaces the backends of one port that is in the table: established connections
/// stay with theirs.
pub fn replace_backends(seed: &str, key: PortKey, port: &IngressPort) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.push(Change::FlushChain(Table::new(TABLE), chain(key)));
    transaction.append(backends(seed, key, port));
    transaction
}

/// Fills a port's chain: each family's backends in turn.
fn backends(seed: &str, key: PortKey, port: &IngressPort) -> Transaction {
    let (table, name) = (Table::new(TABLE), chain(key));
    let mut transaction = Transaction::new();
    transaction.append(vacate(key, port.backends.is_empty()));
    for family in [Family::V4, Family::V6] {
        let backends = order(seed, &name, family, &port.backends);
        let targets: Vec<Value> =
            backends.into_iter().map(|address| Value::from(address).then(Value::port(port.wire_port))).collect();
        if targets.is_empty() {
            continue;
        }
        let kind = if family == Family::V4 { Kind::Ipv4 } else { Kind::Ipv6 };
        let mut steps = in_turn(targets, vec![kind, Kind::Port]);
        steps.push(Expr::Dnat { family, address: Some(Register::FIRST), port: Some(family.after_address()) });
        transaction.push(Change::AddRule(table.clone(), Rule::new(&name, [family_is(family), steps])));
    }
    transaction
}

/// Puts a port among the vacant ones or takes it out, wherever it was before.
fn vacate(key: PortKey, is_vacant: bool) -> Transaction {
    let members = vec![Element::Member(port_key(key))];
    let mut transaction = Transaction::new();
    transaction.push(Change::AddElements(Table::new(TABLE), VACANT.to_owned(), members.clone()));
    if !is_vacant {
        // Only what is there can be taken out: it is there now.
        transaction.push(Change::DeleteElements(Table::new(TABLE), VACANT.to_owned(), members));
    }
    transaction
}

/// The chains through which packets for the node itself come, with these rules:
/// protocol and port are in the first register and the second. `::1` is left alone
/// and so refused: v6 knows no way for a loopback address out of the node.
pub(crate) fn add_entrances(transaction: &mut Transaction, table: &Table, rules: &[Vec<Expr>]) {
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        transaction.push(Change::AddChain(table.clone(), Chain::base(name, ChainKind::Nat, hook, PRIORITY_DNAT)));
        transaction.push(Change::AddRule(table.clone(), Rule::new(name, [to_loopback_v6()])));
        for rule in rules {
            let rule = Rule::new(name, [to_this_node(), protocol_and_port(), rule.clone()]);
            transaction.push(Change::AddRule(table.clone(), rule));
        }
    }
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
        transaction.push(Change::AddChain(table.clone(), Chain::base(name, ChainKind::Filter, hook, PRIORITY_FILTER)));
        for [which, reject] in [[transport_is(6), vec![Expr::RejectReset]], [vec![], vec![Expr::RejectUnreachable]]] {
            // Every packet of the node comes by: the look at its route is for those that it may concern.
            let rule = Rule::new(name, [protocol_and_port(), vec![is_vacant.clone()], to_this_node(), which, reject]);
            transaction.push(Change::AddRule(table.clone(), rule));
        }
    }
}

/// Onto the ingress network by way of this node, and off it, go connections to
/// published ports and their answers. What a bridge passes on inside is not routed
/// and is left alone, even where the kernel shows it to these rules.
fn add_guard(transaction: &mut Transaction, table: &Table, bridge: Name) {
    transaction.push(Change::AddChain(table.clone(), Chain::base("guard", ChainKind::Filter, Hook::Forward, PRIORITY_FILTER)));
    for (is, differs) in [(Meta::OutputName, Meta::InputName), (Meta::InputName, Meta::OutputName)] {
        let name = interface_name(bridge.as_str());
        let steps = vec![
            Expr::Meta { to: Register::FIRST, key: is },
            Expr::Equal { register: Register::FIRST, value: name.clone() },
            Expr::Meta { to: Register::FIRST, key: differs },
            Expr::Differs { register: Register::FIRST, value: name },
            Expr::Tracked { to: Register::FIRST, key: Tracked::Direction },
            Expr::Equal { register: Register::FIRST, value: vec![0] },
            Expr::Tracked { to: Register::FIRST, key: Tracked::Status },
            Expr::Mask { register: Register::FIRST, mask: STATUS_DNAT.to_ne_bytes().to_vec() },
            Expr::Equal { register: Register::FIRST, value: vec![0; 4] },
            Expr::Verdict(Verdict::Drop),
        ];
        transaction.push(Change::AddRule(table.clone(), Rule::new("guard", [steps])));
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

fn chain((transport, port): PortKey) -> String {
    format!("{}_{port}", transport.name())
}
