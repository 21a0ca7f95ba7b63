//! DNAT of a task's DNS queries: 127.0.0.11, port 53, to the ports that netd listens on.
//!
//! It is DNAT and not a redirect: a redirect goes to 127.0.0.1, where nobody listens, and port 53 itself stays
//! free for a process of the task.
//!
//! ICMP drop: while netd is away nobody listens, and the kernel would refuse a query with an ICMP error (port
//! unreachable), which resolvers take for an answer. That error is dropped: they ask again after their
//! timeout, and netd, which has the same ports after a restart, answers then.

use super::expression::{
    Base, Expr, Family, Register, Verdict, after_address, destination, destination_port, family_is, source, transport_is,
};
use super::object::{Chain, ChainKind, Hook, PRIORITY_DNAT, PRIORITY_FILTER, Rule, Table, Value};
use super::transaction::{Edit, Transaction};
use std::net::{IpAddr, Ipv4Addr};

/// The table's name.
pub const TABLE: &str = "skep_names";
/// The chain that drops the kernel's refusals.
const ICMP_DROP: &str = "icmp_drop";
/// The address that a task's resolver is told.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// RFC 792: the type of the ICMP errors that refuse a datagram.
const DESTINATION_UNREACHABLE: u8 = 3;

/// Writes the table anew for listeners on these ports of [`ADDRESS`].
pub fn replace(udp_port: u16, tcp_port: u16) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    transaction.push(Edit::AddChain(table.clone(), Chain::base("output", ChainKind::Nat, Hook::Output, PRIORITY_DNAT)));
    let address = Value::from(IpAddr::V4(ADDRESS)).into_bytes();
    for (protocol, port) in [(17, udp_port), (6, tcp_port)] {
        let port_register = after_address(Family::V4);
        let matches =
            vec![destination(Family::V4, Register::FIRST), Expr::Equal { register: Register::FIRST, value: address.clone() }];
        let rewrite = vec![
            destination_port(Register::FIRST),
            Expr::Equal { register: Register::FIRST, value: 53u16.to_be_bytes().to_vec() },
            Expr::Load { to: Register::FIRST, value: address.clone() },
            Expr::Load { to: port_register, value: port.to_be_bytes().to_vec() },
            Expr::Dnat { family: Family::V4, address: Some(Register::FIRST), port: Some(port_register) },
        ];
        let rule = Rule::new("output", [family_is(Family::V4), matches, transport_is(protocol), rewrite]);
        transaction.push(Edit::AddRule(table.clone(), rule));
    }
    let icmp_drop = Chain::base(ICMP_DROP, ChainKind::Filter, Hook::Output, PRIORITY_FILTER);
    transaction.push(Edit::AddChain(table.clone(), icmp_drop));
    let is_refusal = vec![
        source(Family::V4, Register::FIRST),
        Expr::Equal { register: Register::FIRST, value: address },
        Expr::Payload { to: Register::FIRST, base: Base::Transport, offset: 0, length: 1 },
        Expr::Equal { register: Register::FIRST, value: vec![DESTINATION_UNREACHABLE] },
        Expr::Verdict(Verdict::Drop),
    ];
    transaction.push(Edit::AddRule(table.clone(), Rule::new(ICMP_DROP, [family_is(Family::V4), transport_is(1), is_refusal])));
    transaction
}
