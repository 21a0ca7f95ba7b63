//! The filters for input and forward of all our bridges, and what is dropped before
//! conntrack (raw).
//!
//! `arrive` comes before conntrack: what must never come from a task is gone before
//! anything else looks at it. `input` and `forward` decide by what conntrack knows. A
//! connection that the node rewrote was opened to a published port, and is what may
//! be passed on to a task.
//!
//! Where bridge-nf-call-iptables is on, frames between ports of one bridge come by here
//! as well: they are accepted.

use crate::nft::expression::{
    Base, Expr, Family, Meta, Register, STATE_KNOWN, STATUS_DNAT, Tracked, Verdict, destination, destination_port, family_is,
    in_subnet, source, tracked_as, transport_is,
};
use crate::nft::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_GUARD, PRIORITY_RAW, Rule, Table, Value};
use crate::nft::transaction::{Edit, Transaction};
use skep_netd_core::{Guard, Name};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table's name.
pub const TABLE: &str = "skep_guard";
/// How the names of all our links of the node begin ([`skep_netd_core::is_of_node`]).
const OURS: &str = "sk";
const BRIDGES: &str = "bridges";
const OVERLAYS: &str = "overlays";
const WITHIN: &str = "within";
/// By these the node takes no connection.
const CLOSED: &str = "closed";

/// Writes the table anew.
pub fn replace(guard: &Guard) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    let members = |names: &mut dyn Iterator<Item = &Name>| -> Vec<Element> {
        names.map(|name| Element::Member(Value::interface(name.as_str()))).collect()
    };
    let all = members(&mut guard.overlays.iter().chain(&guard.gateway));
    let overlays = members(&mut guard.overlays.iter());
    let closed = members(&mut guard.overlays.iter().chain(guard.gateway.as_ref().filter(|_| guard.is_isolated)));
    let pair = |name: &Name| Element::Member(Value::interface(name.as_str()).then(Value::interface(name.as_str())));
    let within: Vec<Element> = guard.overlays.iter().map(pair).collect();
    let sets = [
        (BRIDGES, vec![Kind::Interface], all),
        (OVERLAYS, vec![Kind::Interface], overlays),
        (CLOSED, vec![Kind::Interface], closed),
        (WITHIN, vec![Kind::Interface, Kind::Interface], within),
    ];
    for (name, kinds, elements) in sets {
        transaction.push(Edit::AddMap(table.clone(), Map::named(name, kinds, Gives::Membership).with(elements)));
    }
    for (name, hook, priority) in [
        ("arrive", Hook::Prerouting, PRIORITY_RAW),
        ("input", Hook::Input, PRIORITY_GUARD),
        ("forward", Hook::Forward, PRIORITY_GUARD),
    ] {
        transaction.push(Edit::AddChain(table.clone(), Chain::base(name, ChainKind::Filter, hook, priority)));
    }
    let rules = [arrive(guard.data_path_port), input(), forward()];
    for rule in rules.into_iter().flatten() {
        transaction.push(Edit::AddRule(table.clone(), rule));
    }
    transaction
}

/// What must never come from a task, whoever it is for.
fn arrive(data_path_port: u16) -> Vec<Rule> {
    let rule = |groups: Vec<Vec<Expr>>| Rule::new("arrive", groups);
    let mut rules =
        vec![rule(vec![of_others(Meta::InputName), accept()]), rule(vec![is(Meta::InputName, BRIDGES, true), accept()])];
    // A mapped address is a v4 one to whoever listens on both families.
    let never: [(IpAddr, u8); 3] =
        [(Ipv4Addr::LOCALHOST.into(), 8), (Ipv6Addr::LOCALHOST.into(), 128), (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), 96)];
    for (address, prefix) in never {
        let family = Family::of(address);
        for end in [source(family, Register::FIRST), destination(family, Register::FIRST)] {
            let is_never = in_subnet(Register::FIRST, address, prefix);
            rules.push(rule(vec![family_is(family), vec![end], is_never, drop_it()]));
        }
    }
    let to_data_path = vec![
        destination_port(Register::FIRST),
        Expr::Equal { register: Register::FIRST, value: data_path_port.to_be_bytes().to_vec() },
    ];
    rules.push(rule(vec![transport_is(17), to_data_path, drop_it()]));
    rules
}

/// By an overlay the node takes no connection, and where nodes are isolated, none by the
/// gateway bridge. Who asks for its hardware address, or
/// whether it is there, is answered.
fn input() -> Vec<Rule> {
    let rule = |groups: Vec<Vec<Expr>>| Rule::new("input", groups);
    vec![
        rule(vec![of_others(Meta::InputName), accept()]),
        rule(vec![is(Meta::InputName, CLOSED, true), accept()]),
        rule(vec![tracked_as(Tracked::State, STATE_KNOWN), accept()]),
        rule(vec![icmp_type(1, ECHO_REQUEST_V4), accept()]),
        rule(vec![icmp_type(58, ECHO_REQUEST_V6), accept()]),
        rule(vec![icmp_type(58, NEIGHBOUR_SOLICITATION), accept()]),
        rule(vec![icmp_type(58, NEIGHBOUR_ADVERTISEMENT), accept()]),
        rule(vec![drop_it()]),
    ]
}

/// Onto a bridge go connections to published ports, off an overlay their answers. Off
/// the gateway bridge, tasks go where they like but to other bridges.
fn forward() -> Vec<Rule> {
    let rule = |groups: Vec<Vec<Expr>>| Rule::new("forward", groups);
    let both = vec![
        Expr::Meta { to: Register::FIRST, key: Meta::InputName },
        Expr::Meta { to: Register::word(4), key: Meta::OutputName },
        Expr::InSet { set: WITHIN.to_owned(), key: Register::FIRST, inverted: false },
    ];
    vec![
        rule(vec![tracked_as(Tracked::State, STATE_KNOWN), accept()]),
        rule(vec![tracked_as(Tracked::Status, STATUS_DNAT), accept()]),
        rule(vec![both, accept()]),
        rule(vec![is(Meta::OutputName, BRIDGES, false), drop_it()]),
        rule(vec![is(Meta::InputName, OVERLAYS, false), drop_it()]),
    ]
}

/// RFC 792.
const ECHO_REQUEST_V4: u8 = 8;
/// RFC 4443.
const ECHO_REQUEST_V6: u8 = 128;
/// RFC 4861.
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// RFC 4861.
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

fn icmp_type(protocol: u8, kind: u8) -> Vec<Expr> {
    let mut steps = transport_is(protocol);
    steps.push(Expr::Payload { to: Register::FIRST, base: Base::Transport, offset: 0, length: 1 });
    steps.push(Expr::Equal { register: Register::FIRST, value: vec![kind] });
    steps
}

/// Holds for packets by a link that is surely none of ours.
fn of_others(key: Meta) -> Vec<Expr> {
    vec![Expr::Meta { to: Register::FIRST, key }, Expr::Differs { register: Register::FIRST, value: OURS.as_bytes().to_vec() }]
}

/// Holds when a link is in a set, or inverted, is not.
fn is(key: Meta, set: &str, inverted: bool) -> Vec<Expr> {
    vec![Expr::Meta { to: Register::FIRST, key }, Expr::InSet { set: set.to_owned(), key: Register::FIRST, inverted }]
}

fn accept() -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Accept)]
}

fn drop_it() -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Drop)]
}
