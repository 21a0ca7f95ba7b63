//! The routing mesh: published ports answer on every node, and the task sees the client's address.
//!
//! The ingress node only rewrites the destination, never the source. Every ingress node rewrites to a *wire
//! port* of its own, or two connections of one client and one source port through two nodes would be the same
//! tuple to the task's conntrack; the task maps it back to the port that it listens on. Replies find their
//! ingress node by the connection mark that the first packet's sender (its hardware address) set: policy
//! routes on that mark are made elsewhere, as are the sysctls `tcp_fwmark_accept` and `fwmark_reflect`.
//!
//! The second of two equal client tuples reaches the task with another source port (conntrack picks one).

use super::expression::{
    Base, Expr, Family, Meta, ROUTE_LOCAL, Register, STATE_NEW, STATUS_DNAT, Tracked, Verdict, destination_port, family_is,
    in_subnet, source,
};
use super::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_DNAT, PRIORITY_MANGLE, PRIORITY_SNAT};
use super::object::{Rule, Table, Value};
use super::services::{in_turn, order};
use super::transaction::{Change, Transaction};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table of a node.
pub const INGRESS_TABLE: &str = "skep_ingress";
/// The table of a task.
pub const TASK_TABLE: &str = "skep_mesh";

/// A transport protocol that ports are published for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The protocol's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A port that this node answers on for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its protocol.
    pub transport: Transport,
    /// The port that clients use.
    pub port: u16,
    /// The port that this node's packets have on the overlay.
    pub wire_port: u16,
    /// The ingress addresses of the published tasks, both families mixed.
    pub backends: Vec<IpAddr>,
}

/// Writes a node's table anew; `seed` (the node id) orders the backends.
pub fn replace_ingress(seed: &str, ports: &[Published]) -> Transaction {
    let table = Table::new(INGRESS_TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    for port in ports {
        add_port(&mut transaction, &table, seed, port);
    }
    let verdicts = Map::named("ports", vec![Kind::Protocol, Kind::Port], Gives::Verdicts);
    let elements = ports.iter().map(|port| Element::Decision(key(port.transport, port.port), Verdict::Goto(chain(port))));
    transaction.push(Change::AddMap(table.clone(), verdicts.with(elements.collect())));
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        transaction.push(Change::AddChain(table.clone(), Chain::base(name, ChainKind::Nat, hook, PRIORITY_DNAT)));
        let steps = vec![
            Expr::RouteKind { to: Register::FIRST },
            Expr::Equal { register: Register::FIRST, value: ROUTE_LOCAL.to_ne_bytes().to_vec() },
            Expr::Meta { to: Register::FIRST, key: Meta::Transport },
            destination_port(Register::word(1)),
            Expr::Lookup { map: "ports".to_owned(), key: Register::FIRST, to: None },
        ];
        transaction.push(Change::AddRule(table.clone(), Rule::new(name, [steps])));
    }
    masquerade_loopback(&mut transaction, &table);
    transaction
}

/// A port's chain: each family's backends in turn. Without one the packet stays on the node,
/// where nobody listens on a published port and the kernel refuses.
fn add_port(transaction: &mut Transaction, table: &Table, seed: &str, port: &Published) {
    let name = chain(port);
    transaction.push(Change::AddChain(table.clone(), Chain::plain(&name)));
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
}

/// A connection of the node to itself by a loopback address must not leave with that address.
fn masquerade_loopback(transaction: &mut Transaction, table: &Table) {
    transaction
        .push(Change::AddChain(table.clone(), Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT)));
    let loopbacks = [(IpAddr::V4(Ipv4Addr::LOCALHOST), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
    for (address, prefix) in loopbacks {
        let family = Family::of(address);
        let rewritten = vec![
            Expr::Tracked { to: Register::FIRST, key: Tracked::Status },
            Expr::Mask { register: Register::FIRST, mask: STATUS_DNAT.to_ne_bytes().to_vec() },
            Expr::Differs { register: Register::FIRST, value: vec![0; 4] },
            Expr::Meta { to: Register::FIRST, key: Meta::OutputName },
            Expr::Differs { register: Register::FIRST, value: super::expression::interface_name("lo") },
            source(family, Register::FIRST),
        ];
        let rule = Rule::new(
            "postrouting",
            [family_is(family), rewritten, in_subnet(Register::FIRST, address, prefix), vec![Expr::Masquerade]],
        );
        transaction.push(Change::AddRule(table.clone(), rule));
    }
}

/// An ingress node as a task sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IngressNode {
    /// The hardware address of its ingress gateway on the overlay.
    pub hardware: [u8; 6],
    /// The connection mark by which replies are routed to it; never 0.
    pub mark: u32,
}

/// A wire port of any ingress node and the port of the task that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WirePort {
    /// Its protocol.
    pub transport: Transport,
    /// The port on the overlay.
    pub wire_port: u16,
    /// The port that the task listens on.
    pub target_port: u16,
}

/// Writes a task's table anew.
pub fn replace_task(nodes: &[IngressNode], ports: &[WirePort]) -> Transaction {
    let table = Table::new(TASK_TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    let senders = nodes.iter().map(|node| Element::Entry(Value::hardware(node.hardware), Value::number(node.mark)));
    let marks = Map::named("nodes", vec![Kind::Hardware], Gives::Values(vec![Kind::Mark]));
    transaction.push(Change::AddMap(table.clone(), marks.with(senders.collect())));
    let wired = ports.iter().map(|port| Element::Entry(key(port.transport, port.wire_port), Value::port(port.target_port)));
    let targets = Map::named("ports", vec![Kind::Protocol, Kind::Port], Gives::Values(vec![Kind::Port]));
    transaction.push(Change::AddMap(table.clone(), targets.with(wired.collect())));
    add_marking(&mut transaction, &table);
    add_mapping_back(&mut transaction, &table);
    transaction
}

fn add_marking(transaction: &mut Transaction, table: &Table) {
    const ARPHRD_ETHER: u16 = 1;
    let arrive = Chain::base("arrive", ChainKind::Filter, Hook::Prerouting, PRIORITY_MANGLE);
    transaction.push(Change::AddChain(table.clone(), arrive));
    let by_sender = vec![
        Expr::Tracked { to: Register::FIRST, key: Tracked::State },
        Expr::Mask { register: Register::FIRST, mask: STATE_NEW.to_ne_bytes().to_vec() },
        Expr::Differs { register: Register::FIRST, value: vec![0; 4] },
        Expr::Meta { to: Register::FIRST, key: Meta::InputKind },
        Expr::Equal { register: Register::FIRST, value: ARPHRD_ETHER.to_ne_bytes().to_vec() },
        Expr::Payload { to: Register::FIRST, base: Base::Link, offset: 6, length: 6 },
        Expr::Lookup { map: "nodes".to_owned(), key: Register::FIRST, to: Some(Register::FIRST) },
        Expr::SetTrackedMark { from: Register::FIRST },
    ];
    transaction.push(Change::AddRule(table.clone(), Rule::new("arrive", [by_sender])));
    let only_requests = vec![
        Expr::Tracked { to: Register::FIRST, key: Tracked::Direction },
        Expr::Equal { register: Register::FIRST, value: vec![0] },
    ];
    transaction.push(Change::AddRule(table.clone(), Rule::new("arrive", [only_requests, copy_mark()])));
    let reply = Chain::base("reply", ChainKind::Route, Hook::Output, PRIORITY_MANGLE);
    transaction.push(Change::AddChain(table.clone(), reply));
    transaction.push(Change::AddRule(table.clone(), Rule::new("reply", [copy_mark()])));
}

fn add_mapping_back(transaction: &mut Transaction, table: &Table) {
    let back = Chain::base("back", ChainKind::Nat, Hook::Prerouting, PRIORITY_DNAT);
    transaction.push(Change::AddChain(table.clone(), back));
    for family in [Family::V4, Family::V6] {
        // A peer of the overlay that really uses a wire port has no mark and is left alone.
        let steps = vec![
            Expr::Tracked { to: Register::FIRST, key: Tracked::Mark },
            Expr::Differs { register: Register::FIRST, value: vec![0; 4] },
            Expr::Meta { to: Register::FIRST, key: Meta::Transport },
            destination_port(Register::word(1)),
            Expr::Lookup { map: "ports".to_owned(), key: Register::FIRST, to: Some(Register::FIRST) },
            Expr::Dnat { family, address: None, port: Some(Register::FIRST) },
        ];
        transaction.push(Change::AddRule(table.clone(), Rule::new("back", [family_is(family), steps])));
    }
}

fn copy_mark() -> Vec<Expr> {
    vec![
        Expr::Tracked { to: Register::FIRST, key: Tracked::Mark },
        Expr::Differs { register: Register::FIRST, value: vec![0; 4] },
        Expr::SetMark { from: Register::FIRST },
    ]
}

fn key(transport: Transport, port: u16) -> Value {
    Value::protocol(transport.number()).then(Value::port(port))
}

fn chain(port: &Published) -> String {
    let transport = if port.transport == Transport::Tcp { "tcp" } else { "udp" };
    format!("{transport}_{}", port.port)
}
