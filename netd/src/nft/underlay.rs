//! VXLAN only from members: what comes to the overlay's UDP port from any other address is dropped, wherever a
//! socket on that port would hear it.
//!
//! Between members it passes conntrack by. Every connection inside has ports of its own outside, which would
//! fill the node's table without anybody asking for the entries, and cost every packet two looks at it.

use super::expression::{
    Expr, Family, ROUTE_UNICAST, Register, Verdict, destination, destination_port, family_is, source, transport_is,
};
use super::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_RAW, Rule, Table};
use super::transaction::{Edit, Transaction};
use std::net::IpAddr;

/// The table's name.
pub const TABLE: &str = "skep_underlay";
const ARRIVE: &str = "arrive";
const LEAVE: &str = "leave";

/// Writes the table anew: UDP to `port` is taken from these addresses alone.
pub fn replace(port: u16, members: &[IpAddr]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    for (name, hook) in [(ARRIVE, Hook::Prerouting), (LEAVE, Hook::Output)] {
        transaction.push(Edit::AddChain(table.clone(), Chain::base(name, ChainKind::Filter, hook, PRIORITY_RAW)));
    }
    for family in [Family::V4, Family::V6] {
        let (set, kind) = if family == Family::V4 { ("members4", Kind::Ipv4) } else { ("members6", Kind::Ipv6) };
        let mut addresses: Vec<IpAddr> = members.iter().copied().filter(|member| Family::of(*member) == family).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let elements = addresses.into_iter().map(|address| Element::Member(address.into())).collect();
        transaction.push(Edit::AddMap(table.clone(), Map::named(set, vec![kind], Gives::Membership).with(elements)));
        for (chain, other_end) in [(ARRIVE, source(family, Register::FIRST)), (LEAVE, destination(family, Register::FIRST))] {
            let is_member = Expr::InSet { set: set.to_owned(), key: Register::FIRST, inverted: false };
            let pass = vec![other_end, is_member, Expr::Untracked, Expr::Verdict(Verdict::Accept)];
            let rule = Rule::new(chain, [is_vxlan(port), family_is(family), pass]);
            transaction.push(Edit::AddRule(table.clone(), rule));
        }
    }
    // Who only passes through may speak VXLAN to whom they like.
    let comes_here = vec![
        Expr::RouteKind { to: Register::FIRST },
        Expr::Differs { register: Register::FIRST, value: ROUTE_UNICAST.to_ne_bytes().to_vec() },
    ];
    let rule = Rule::new(ARRIVE, [is_vxlan(port), comes_here, vec![Expr::Verdict(Verdict::Drop)]]);
    transaction.push(Edit::AddRule(table, rule));
    transaction
}

fn is_vxlan(port: u16) -> Vec<Expr> {
    let mut steps = transport_is(17);
    steps.push(destination_port(Register::FIRST));
    steps.push(Expr::Equal { register: Register::FIRST, value: port.to_be_bytes().to_vec() });
    steps
}
