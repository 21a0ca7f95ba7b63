//! VXLAN only from members: what comes to the overlay's UDP port from any other address is dropped.

use super::expression::{Expr, Family, Register, Verdict, destination_port, family_is, source, transport_is};
use super::object::{Chain, ChainKind, Element, Gives, Hook, Kind, Map, PRIORITY_FILTER, Rule, Table};
use super::transaction::{Change, Transaction};
use std::net::IpAddr;

/// The table's name.
pub const TABLE: &str = "skep_underlay";

/// Writes the table anew: UDP to `port` is taken from these addresses alone.
pub fn replace(port: u16, members: &[IpAddr]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    transaction.push(Change::AddChain(table.clone(), Chain::base("input", ChainKind::Filter, Hook::Input, PRIORITY_FILTER)));
    for family in [Family::V4, Family::V6] {
        let (set, kind) = if family == Family::V4 { ("members4", Kind::Ipv4) } else { ("members6", Kind::Ipv6) };
        let mut addresses: Vec<IpAddr> = members.iter().copied().filter(|member| Family::of(*member) == family).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let elements = addresses.into_iter().map(|address| Element::Member(address.into())).collect();
        transaction.push(Change::AddMap(table.clone(), Map::named(set, vec![kind], Gives::Membership).with(elements)));
        let rule = Rule::new(
            "input",
            [
                transport_is(17),
                vec![
                    destination_port(Register::FIRST),
                    Expr::Equal { register: Register::FIRST, value: port.to_be_bytes().to_vec() },
                ],
                family_is(family),
                vec![
                    source(family, Register::FIRST),
                    Expr::InSet { set: set.to_owned(), key: Register::FIRST, inverted: true },
                    Expr::Verdict(Verdict::Drop),
                ],
            ],
        );
        transaction.push(Change::AddRule(table.clone(), rule));
    }
    transaction
}
