//! What has one owner: addresses, published ports, numbers and subnets of networks,
//! the numbers of nodes in the mesh. A store in which two own the same is wrong.

use skep_manager_core::store::Store;
use skep_model::endpoint::PublishMode;
use skep_model::task::Task;
use skep_model::{NetworkId, TaskState};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The error of tasks that the leader took from a node that may still run them.
const TAKEN_FROM_NODE: &str = "assigned node no longer meets constraints";

/// Looks at everything in a store that may have one owner only.
pub fn check(store: &Store) -> Result<(), String> {
    check_networks(store)?;
    check_ports(store)?;
    let mut owners: BTreeMap<(NetworkId, IpAddr), String> = BTreeMap::new();
    for (network, address, owner) in addresses(store) {
        if let Some(stored) = store.network(network) {
            let pool = stored.plan.pools.iter().find(|pool| pool.subnet.contains(&address));
            let is_within = pool.is_some_and(|pool| pool.range.is_none_or(|range| range.contains(&address)));
            if !is_within && !owner.starts_with("the gateway") {
                return Err(format!("{owner} has {address}, which is not one of network {network}"));
            }
        }
        if let Some(other) = owners.insert((network, address), owner.clone()) {
            return Err(format!("{owner} and {other} both have {address} on network {network}"));
        }
    }
    let mut numbers = BTreeMap::new();
    for node in store.nodes() {
        let Some(ingress) = &node.plan.ingress else { continue };
        if let Some(other) = numbers.insert(ingress.number, node.id) {
            return Err(format!("nodes {other} and {} both have the number {}", node.id, ingress.number));
        }
    }
    Ok(())
}

/// Every address with its owner.
fn addresses(store: &Store) -> Vec<(NetworkId, IpAddr, String)> {
    let mut all = Vec::new();
    for network in store.networks() {
        let gateways = network.plan.pools.iter().filter_map(|pool| pool.gateway);
        all.extend(gateways.map(|address| (network.id, address, format!("the gateway of {}", network.spec.annotations.name))));
        let parts =
            store.nodes().filter(|_| network.spec.ingress).filter_map(|node| Some((node.id, node.plan.ingress.as_ref()?)));
        // Those of a network that was replaced are about to be replaced as well.
        let is_here = |address: &IpAddr| {
            network.plan.pools.iter().any(|pool| pool.subnet.contains(address) && pool.gateway != Some(*address))
        };
        for (node, part) in parts {
            all.extend(
                part.addresses.iter().copied().filter(is_here).map(|address| (network.id, address, format!("node {node}"))),
            );
        }
    }
    for service in store.services() {
        for (network, own) in &service.plan.endpoint.virtual_addresses {
            all.extend(own.addresses.iter().map(|address| (*network, *address, format!("service {}", service.id))));
        }
    }
    for task in store.tasks().filter(|task| has_addresses(task)) {
        for own in &task.networks {
            all.extend(own.addresses.iter().map(|address| (own.network, *address, format!("task {}", task.id))));
        }
    }
    all
}

/// A task has its addresses until its node said that it ended.
fn has_addresses(task: &Task) -> bool {
    !task.status.state.is_final() || (task.status.state == TaskState::Rejected && task.status.error == TAKEN_FROM_NODE)
}

fn check_networks(store: &Store) -> Result<(), String> {
    let mut numbers = BTreeMap::new();
    let mut subnets = Vec::new();
    for network in store.networks() {
        let name = &network.spec.annotations.name;
        if let Some(other) = numbers.insert(network.plan.vni, name) {
            return Err(format!("networks {other} and {name} both have the number {}", network.plan.vni));
        }
        subnets.extend(network.plan.pools.iter().map(|pool| (pool.subnet, name)));
    }
    // In order of their first addresses, those that overlap include neighbours that do.
    subnets.sort_by_key(|(subnet, _)| (subnet.network(), subnet.broadcast()));
    for pair in subnets.windows(2) {
        let ((first, name), (second, other)) = (pair[0], pair[1]);
        if first.contains(&second) || second.contains(&first) {
            return Err(format!("networks {name} and {other} have {first} and {second}, which overlap"));
        }
    }
    if store.networks().filter(|network| network.spec.ingress).count() > 1 {
        return Err("there are two ingress networks".into());
    }
    Ok(())
}

fn check_ports(store: &Store) -> Result<(), String> {
    let ports = |mode: PublishMode| {
        let of = move |service: &std::sync::Arc<skep_model::service::Service>| {
            let ports: Vec<_> = service.plan.endpoint.ports.iter().filter(|port| port.publish_mode == mode).cloned().collect();
            ports.into_iter().map(|port| ((port.published_port, port.transport), service.id)).collect::<Vec<_>>()
        };
        store.services().flat_map(of).collect::<Vec<_>>()
    };
    let mut ingress = BTreeMap::new();
    for (port, service) in ports(PublishMode::Ingress) {
        if port.0 == 0 {
            return Err(format!("service {service} has a port that was not chosen"));
        }
        if let Some(other) = ingress.insert(port, service) {
            return Err(format!("services {other} and {service} both publish port {port:?}"));
        }
    }
    for (port, service) in ports(PublishMode::Host) {
        if let Some(other) = ingress.get(&port) {
            return Err(format!("services {other} and {service} publish port {port:?} in both modes"));
        }
    }
    Ok(())
}
