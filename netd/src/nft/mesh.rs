//! The task's side of the routing mesh: DNAT from wire ports, and policy routing of replies by connection mark. The
//! task sees the client's address.
//!
//! Every ingress node rewrites to a *wire port* of its own, or two connections of
//! one client and one source port through two nodes would be the same tuple to the
//! task's conntrack. The lower bits of a wire port say which of the service's
//! ports it means, so that the map back is the same for all nodes. Answers find
//! their ingress node by the connection mark that the first packet's sender (its
//! hardware address) set: policy routes on that mark are made elsewhere, as are
//! the sysctls `tcp_fwmark_accept` and `fwmark_reflect`.
//!
//! The kernel chooses the source address of a datagram that answers from any
//! address before it is marked, by the way out of the node. So datagrams get DNAT to
//! the task's address on that way: the answer is then recognised as one. A process
//! that takes them on the ingress address alone does not hear them. Those that an
//! ingress node sends itself, from its address on the ingress network, are answered
//! over that network and get DNAT to the address on it.
//!
//! The second of two equal client tuples reaches the task with another source port
//! (conntrack picks one).

use super::expression::{
    Base, Expr, Family, Meta, Register, STATE_NEW, Tracked, destination_port, family_is, outside_subnet, source, tracked_as,
    transport_is,
};
use super::ingress::port_key;
use super::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_DNAT, PRIORITY_MANGLE, Rule, Table, Value};
use super::transaction::{Edit, Transaction};
use ipnet::IpNet;
use skep_netd_core::{IngressNode, WirePort};
use std::net::IpAddr;

/// The table's name.
pub const TABLE: &str = "skep_mesh";

/// Writes the table anew; `mask` has the bits of a wire port that say which of `ports`
/// it means, `outward` are the task's addresses on the way out of the node, `near` the
/// subnets of the ingress network.
pub fn replace(nodes: &[IngressNode], ports: &[WirePort], mask: u16, outward: &[IpAddr], near: &[IpNet]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    let senders = nodes.iter().map(|node| Element::Entry(Value::hardware(node.hardware.0), Value::number(node.mark)));
    let marks = Map::named("nodes", vec![Kind::Hardware], Gives::Values(vec![Kind::Mark]));
    transaction.push(Edit::AddMap(table.clone(), marks.with(senders.collect())));
    let wired = ports.iter().map(|port| Element::Entry(port_key((port.transport, port.index)), Value::port(port.target_port)));
    let targets = Map::named("ports", vec![Kind::Protocol, Kind::Port], Gives::Values(vec![Kind::Port]));
    transaction.push(Edit::AddMap(table.clone(), targets.with(wired.collect())));
    add_marking(&mut transaction, &table);
    add_mapping_back(&mut transaction, &table, mask, outward, near);
    transaction
}

fn add_marking(transaction: &mut Transaction, table: &Table) {
    const ARPHRD_ETHER: u16 = 1;
    let arrive = Chain::base("arrive", ChainKind::Filter, Hook::Prerouting, PRIORITY_MANGLE);
    transaction.push(Edit::AddChain(table.clone(), arrive));
    let by_sender = vec![
        Expr::Meta { to: Register::FIRST, key: Meta::InputKind },
        Expr::Equal { register: Register::FIRST, value: ARPHRD_ETHER.to_ne_bytes().to_vec() },
        Expr::Payload { to: Register::FIRST, base: Base::Link, offset: 6, length: 6 },
        Expr::Lookup { map: "nodes".to_owned(), key: Register::FIRST, to: Some(Register::FIRST) },
        Expr::SetTrackedMark { from: Register::FIRST },
    ];
    transaction.push(Edit::AddRule(table.clone(), Rule::new("arrive", [tracked_as(Tracked::State, STATE_NEW), by_sender])));
    let only_requests = vec![
        Expr::Tracked { to: Register::FIRST, key: Tracked::Direction },
        Expr::Equal { register: Register::FIRST, value: vec![0] },
    ];
    transaction.push(Edit::AddRule(table.clone(), Rule::new("arrive", [only_requests, copy_mark()])));
    let reply = Chain::base("reply", ChainKind::Route, Hook::Output, PRIORITY_MANGLE);
    transaction.push(Edit::AddChain(table.clone(), reply));
    transaction.push(Edit::AddRule(table.clone(), Rule::new("reply", [copy_mark()])));
}

fn add_mapping_back(transaction: &mut Transaction, table: &Table, mask: u16, outward: &[IpAddr], near: &[IpNet]) {
    let back = Chain::base("back", ChainKind::Nat, Hook::Prerouting, PRIORITY_DNAT);
    transaction.push(Edit::AddChain(table.clone(), back));
    for address in outward {
        let family = Family::of(*address);
        // The port is in the first register.
        let spare = Register::word(4);
        let dnat = vec![
            Expr::Load { to: spare, value: Value::from(*address).into_bytes() },
            Expr::Dnat { family, address: Some(spare), port: Some(Register::FIRST) },
        ];
        let is_far = near.iter().filter(|subnet| Family::of(subnet.addr()) == family).flat_map(|subnet| {
            let load = source(family, Register::FIRST);
            std::iter::once(load).chain(outside_subnet(Register::FIRST, subnet.addr(), subnet.prefix_len()))
        });
        let steps = [family_is(family), is_far.collect(), is_marked(), transport_is(17), target_port(mask), dnat];
        transaction.push(Edit::AddRule(table.clone(), Rule::new("back", steps)));
    }
    for family in [Family::V4, Family::V6] {
        let dnat = vec![Expr::Dnat { family, address: None, port: Some(Register::FIRST) }];
        let steps = [family_is(family), is_marked(), target_port(mask), dnat];
        transaction.push(Edit::AddRule(table.clone(), Rule::new("back", steps)));
    }
}

/// Holds for what came by an ingress node. A peer of the overlay that really uses a
/// wire port has no mark and is left alone.
fn is_marked() -> Vec<Expr> {
    vec![
        Expr::Tracked { to: Register::FIRST, key: Tracked::Mark },
        Expr::Differs { register: Register::FIRST, value: vec![0; 4] },
    ]
}

/// The port that the wire port means, into the first register.
fn target_port(mask: u16) -> Vec<Expr> {
    vec![
        Expr::Meta { to: Register::FIRST, key: Meta::Transport },
        destination_port(Register::word(1)),
        Expr::Mask { register: Register::word(1), mask: mask.to_be_bytes().to_vec() },
        Expr::Lookup { map: "ports".to_owned(), key: Register::FIRST, to: Some(Register::FIRST) },
    ]
}

fn copy_mark() -> Vec<Expr> {
    let mut steps = is_marked();
    steps.push(Expr::SetMark { from: Register::FIRST });
    steps
}
