//! Egress of tasks behind the gateway bridge: masquerading (SNAT).
//!
//! A network that is not a gateway's is not listed here and so gets no way out.

use super::expression::{Expr, Family, Meta, Register, family_is, in_subnet, interface_name, source};
use super::object::{Chain, ChainKind, Hook, PRIORITY_SNAT, Rule, Table};
use super::transaction::{Edit, Transaction};
use skep_netd_core::EgressSubnet;

/// The table's name.
pub const TABLE: &str = "skep_egress";

/// Writes the table anew for these subnets.
pub fn replace(subnets: &[EgressSubnet]) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    transaction.push(Edit::AddChain(table.clone(), Chain::base("postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SNAT)));
    for EgressSubnet { bridge, subnet } in subnets {
        let family = Family::of(subnet.addr());
        let rule = Rule::new(
            "postrouting",
            [
                family_is(family),
                vec![source(family, Register::FIRST)],
                in_subnet(Register::FIRST, subnet.addr(), subnet.prefix_len()),
                vec![
                    Expr::Meta { to: Register::FIRST, key: Meta::OutputName },
                    Expr::Differs { register: Register::FIRST, value: interface_name(bridge.as_str()) },
                    Expr::Masquerade,
                ],
            ],
        );
        transaction.push(Edit::AddRule(table.clone(), rule));
    }
    transaction
}
