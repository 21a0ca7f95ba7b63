//! From what a table should hold to the transaction that makes it so: the whole
//! table, or, from what it holds now, only what differs.

use super::object::Table;
use super::services::Service;
use super::{Transaction, egress, host_ports, ingress, mesh, names, services, underlay};
use skep_netd_core::{Content, IngressPort, PortKey, ServiceKey, TableName, VirtualService};
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
        Content::Mesh { nodes, ports, outward, near } => mesh::replace(nodes, ports, outward, near),
        Content::Ingress { bridge, ports } => ingress::replace(seed, *bridge, ports),
        Content::HostPorts { subnets, ports } => host_ports::replace(subnets, ports),
        Content::Egress(subnets) => egress::replace(subnets),
        Content::Underlay { port, members } => underlay::replace(*port, members),
    }
}

/// Removes a table, whether it is there or not.
pub fn nothing(table: TableName) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.remove_table(&Table::new(table.as_str()));
    transaction
}

/// Brings a table that holds `held` to hold `wanted`.
pub fn difference(seed: &str, held: &Content, wanted: &Content) -> Transaction {
    match (held, wanted) {
        _ if held == wanted => Transaction::new(),
        (Content::Services(held), Content::Services(wanted)) => services_difference(seed, held, wanted),
        (Content::Ingress { bridge: old, ports: held }, Content::Ingress { bridge, ports }) if old == bridge => {
            ports_difference(seed, held, ports).unwrap_or_else(|| whole(seed, wanted))
        }
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
    // Who goes makes room first: an address may have passed to another.
    let (mut first, mut then) = (Transaction::new(), Transaction::new());
    for key in keys {
        match (held.get(&key), wanted.get(&key)) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) if old.addresses == new.addresses => {
                then.append(services::replace_backends(seed, &in_words(key, new)));
            }
            (old, new) => {
                if let Some(old) = old {
                    first.append(services::remove(&in_words(key, old)));
                }
                if let Some(new) = new {
                    then.append(services::add(seed, &in_words(key, new)));
                }
            }
        }
    }
    first.append(then);
    first
}

/// The same for ports; `None` = they are not the same ports.
pub fn ports_difference(
    seed: &str,
    held: &BTreeMap<PortKey, IngressPort>,
    wanted: &BTreeMap<PortKey, IngressPort>,
) -> Option<Transaction> {
    let is_same = |old: &IngressPort, new: &IngressPort| old.wire_port == new.wire_port;
    let are_same =
        held.len() == wanted.len() && wanted.iter().all(|(key, new)| held.get(key).is_some_and(|old| is_same(old, new)));
    let mut transaction = Transaction::new();
    for (key, new) in wanted.iter().filter(|(key, new)| held.get(key) != Some(new)) {
        transaction.append(ingress::replace_backends(seed, *key, new));
    }
    are_same.then_some(transaction)
}

fn in_words((network, service): ServiceKey, found: &VirtualService) -> Service {
    Service { key: format!("{network}_{service}"), addresses: found.addresses.clone(), backends: found.backends.clone() }
}
