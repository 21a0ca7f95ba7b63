//! Published ports in mode `host`: DNAT from this node's addresses to tasks of its own,
//! behind the gateway bridge.
//!
//! The task sees the client's address, but for two clients whose answers would not
//! come back this way and are masqueraded: the node itself by a loopback address, and
//! a task behind the same bridge (hairpin). bridge-nf-call-iptables is off
//! (`Sysctl::BridgeNfCallIptables`): such a task's packets would be rewritten while
//! still on the bridge, whose ports are isolated from each other.

use super::expression::{Expr, Family, Meta, Register, after_address, family_is, in_subnet, interface_name, nfproto, source};
use super::ingress::{add_entrances, is_rewritten, masquerade_loopback, port_key, postrouting};
use super::object::{Element, Gives, Kind, Map, Rule, Table, Value};
use super::transaction::{Edit, Transaction};
use skep_netd_core::{EgressSubnet, HostPort, PortKey};
use std::collections::BTreeMap;

/// The table's name.
pub const TABLE: &str = "skep_host_ports";

/// Writes the table anew; the tasks are in these subnets.
pub fn replace(subnets: &[EgressSubnet], ports: &BTreeMap<PortKey, HostPort>) -> Transaction {
    let table = Table::new(TABLE);
    let mut transaction = Transaction::new();
    transaction.replace_table(&table);
    let mut rules = Vec::new();
    for (family, name, kind) in [(Family::V4, "v4", Kind::Ipv4), (Family::V6, "v6", Kind::Ipv6)] {
        let of_family = |port: &HostPort| port.addresses.iter().copied().find(|address| Family::of(*address) == family);
        let elements = ports.iter().filter_map(|(key, port)| {
            let target = Value::from(of_family(port)?).then(Value::port(port.target_port));
            Some(Element::Entry(port_key(*key), target))
        });
        let map = Map::named(name, vec![Kind::Protocol, Kind::Port], Gives::Values(vec![kind, Kind::Port]));
        transaction.push(Edit::AddMap(table.clone(), map.with(elements.collect())));
        let dnat = Expr::Dnat { family, address: Some(Register::FIRST), port: Some(after_address(family)) };
        let pick = Expr::Lookup { map: name.to_owned(), key: Register::FIRST, to: Some(Register::FIRST) };
        // Protocol and port are in the first two.
        let spare = Register::word(2);
        let is_family = Expr::Equal { register: spare, value: vec![nfproto(family)] };
        rules.push(vec![Expr::Meta { to: spare, key: Meta::Family }, is_family, pick, dnat]);
    }
    add_entrances(&mut transaction, &table, &rules, false);
    transaction.push(Edit::AddChain(table.clone(), postrouting()));
    transaction.push(Edit::AddRule(table.clone(), masquerade_loopback()));
    for subnet in subnets {
        transaction.push(Edit::AddRule(table.clone(), masquerade_neighbour(subnet)));
    }
    transaction
}

/// A task that calls another behind the same bridge, or itself, by the node's
/// port: the answer would be delivered on the bridge with a strange source.
fn masquerade_neighbour(EgressSubnet { bridge, subnet }: &EgressSubnet) -> Rule {
    let family = Family::of(subnet.addr());
    let stays = vec![
        Expr::Meta { to: Register::FIRST, key: Meta::OutputName },
        Expr::Equal { register: Register::FIRST, value: interface_name(bridge.as_str()) },
        source(family, Register::FIRST),
    ];
    let from = in_subnet(Register::FIRST, subnet.addr(), subnet.prefix_len());
    Rule::new("postrouting", [family_is(family), is_rewritten(), stays, from, vec![Expr::Masquerade]])
}
