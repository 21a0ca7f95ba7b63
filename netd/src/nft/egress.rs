//! The way out of a node for tasks behind the gateway bridge: masquerading.
//!
//! A network that is not a gateway's is not listed here and so gets no way out.

use super::expression::{Expr, Family, Meta, Register, family_is, in_subnet, interface_name, source};
use super::object::{Chain, ChainKind, Hook, PRIORITY_SNAT, Rule, Table};
use super::transaction::{Change, Transaction};
use std::net::IpAddr;

/// The table's name.
pub const TABLE: &str = "skep_egress";

/// A subnet of tasks that may go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The bridge they are behind; what stays on it keeps its source address.
    pub bridge: String,
    /// An address of the subnet.
    pub network: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
}

/// Writes the table anew for these subnets.
pub fn replace(subnets: &[Egress]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    transaction
        .push(Change::AddChain(table.clone(), Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT)));
    for Egress { bridge, network, prefix } in subnets {
        let family = Family::of(*network);
        let rule = Rule::new(
            "postrouting",
            [
                family_is(family),
                vec![source(family, Register::FIRST)],
                in_subnet(Register::FIRST, *network, *prefix),
                vec![
                    Expr::Meta { to: Register::FIRST, key: Meta::OutputName },
                    Expr::Differs { register: Register::FIRST, value: interface_name(bridge) },
                    Expr::Masquerade,
                ],
            ],
        );
        transaction.push(Change::AddRule(table.clone(), rule));
    }
    transaction
}
