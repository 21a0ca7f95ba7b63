//! From what a table should hold to the transaction that makes it so: the whole
//! table, or, from what it holds now, only what differs.

use super::object::Table;
use super::services::Service;
use super::{Transaction, egress, firewall, host_ports, ingress, mesh, names, services, underlay};
use skep_netd_core::{Content, ServiceKey, TableName, VirtualService};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Writes a table anew; `seed` orders backends and is the namespace's own.
pub fn whole(seed: &str, content: &Content) -> Transaction {
    match content {
        Content::Services(found) => {
            let found: Vec<Service> = found.iter().map(|(key, service)| in_words(*key, service)).collect();
            services::replace_all(seed, &found)
        }
        Content::Names { udp_port, tcp_port } => names::replace(*udp_port, *tcp_port),
        Content::Mesh { nodes, ports, mask, outward, near } => mesh::replace(nodes, ports, *mask, outward, near),
        Content::Ingress { services, listening } => ingress::replace(seed, services, listening),
        Content::HostPorts { subnets, ports } => host_ports::replace(subnets, ports),
        Content::Egress(subnets) => egress::replace(subnets),
        Content::Underlay { port, members } => underlay::replace(*port, members),
        Content::Guard(guard) => firewall::guard::replace(guard),
        Content::Senders(found) => firewall::senders::replace(found),
    }
}

/// Removes a table, whether it is there or not.
pub fn nothing(table: TableName) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.remove_table(&named(table));
    transaction
}

/// A table by its name in the kernel.
pub fn named(table: TableName) -> Table {
    if table.is_of_bridges() { Table::bridge(table.as_str()) } else { Table::new(table.as_str()) }
}

/// Brings a table that holds `held` to hold `wanted`.
pub fn difference(seed: &str, held: &Content, wanted: &Content) -> Transaction {
    match (held, wanted) {
        _ if held == wanted => Transaction::new(),
        (Content::Services(held), Content::Services(wanted)) => services_difference(seed, held, wanted),
        (Content::Ingress { services: held, listening: had }, Content::Ingress { services, listening }) => {
            let mut transaction = ingress::difference(seed, held, services);
            transaction.append(ingress::listening_difference(had, listening));
            transaction
        }
        (Content::Senders(held), Content::Senders(wanted)) => firewall::senders::difference(held, wanted),
        _ => whole(seed, wanted),
    }
}

/// Brings services from what they were to what they should be; others in the table
/// are not looked at.
pub fn services_difference(
    seed: &str,
    held: &BTreeMap<ServiceKey, Arc<VirtualService>>,
    wanted: &BTreeMap<ServiceKey, Arc<VirtualService>>,
) -> Transaction {
    let keys: BTreeSet<ServiceKey> = held.keys().chain(wanted.keys()).copied().collect();
    let (mut gone, mut came, mut replaced) = (Vec::new(), Vec::new(), Transaction::new());
    for key in keys {
        match (held.get(&key), wanted.get(&key)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) if old.addresses == new.addresses => {
                replaced.append(services::replace_backends(seed, &in_words(key, old), &in_words(key, new)));
            }
            (old, new) => {
                gone.extend(old.map(|old| in_words(key, old)));
                came.extend(new.map(|new| in_words(key, new)));
            }
        }
    }
    // Who goes makes room first: an address may have passed to another.
    let mut transaction = services::remove_all(seed, &gone);
    transaction.append(replaced);
    transaction.append(services::add_all(seed, &came));
    transaction
}

fn in_words((network, service): ServiceKey, found: &VirtualService) -> Service {
    Service { key: format!("{network}_{service}"), addresses: found.addresses.clone(), backends: found.backends.clone() }
}
