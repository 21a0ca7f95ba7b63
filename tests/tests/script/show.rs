//! What a scenario prints of its cluster.

use crate::cluster::Cluster;
use skep_manager_core::publication::Passage;
use skep_model::network::{Network, Pool};
use skep_model::task::Task;
use skep_model::{NetworkId, NodeId, Refusal};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub fn tasks(cluster: &Cluster, is_all: bool) -> String {
    let mut tasks: Vec<&Arc<Task>> = cluster.store.tasks().filter(|task| is_all || !task.status.state.is_final()).collect();
    tasks.sort_by_key(|task| (task.service_name.clone(), cluster.place(task), task.meta.made(), task.meta.version));
    let line = |task: &&Arc<Task>| {
        let name = format!("{}.{}", task.service_name, cluster.place(task));
        let node = task.plan.node.map_or("-".into(), |node| cluster.node_name(node));
        let error = if task.status.error.is_empty() { String::new() } else { format!("  {:?}", task.status.error) };
        let line = format!(
            "{name:<8} {node:<4} desired {:<9} {:<9} v{} {}{error}",
            task.plan.desired, task.status.state, task.spec_version, task.spec.container_spec.image
        );
        line.trim_end().to_owned() + "\n"
    };
    if tasks.is_empty() { "no tasks\n".into() } else { tasks.iter().map(line).collect() }
}

pub fn networks(cluster: &Cluster) -> String {
    let mut networks: Vec<_> = cluster.store.networks().collect();
    networks.sort_by_key(|network| network.plan.vni);
    let pool = |pool: &Pool| pool.subnet.to_string();
    let line = |network: &&Arc<Network>| {
        let pools = network.plan.pools.iter().map(pool).collect::<Vec<_>>().join(" ");
        format!("{:<8} vni {} {pools}\n", network.spec.annotations.name, network.plan.vni)
    };
    networks.iter().map(line).collect()
}

/// Virtual addresses and ports of services, addresses of tasks, nodes' parts in the mesh.
pub fn addresses(cluster: &Cluster) -> String {
    let network = |id: &NetworkId| cluster.store.network(*id).map_or("-".into(), |network| network.spec.annotations.name.clone());
    let text = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for node in cluster.store.nodes() {
        let part = node.plan.ingress.as_ref().map(|ingress| format!("number {} {}", ingress.number, text(&ingress.addresses)));
        lines.push(format!("node {}: {}", node.description.hostname, part.unwrap_or("-".into())));
    }
    for service in cluster.store.services() {
        let endpoint = &service.plan.endpoint;
        let mut words: Vec<String> =
            endpoint.virtual_addresses.iter().map(|(id, own)| format!("{} {}", network(id), text(&own.addresses))).collect();
        words.sort();
        words.extend(endpoint.ports.iter().map(|port| format!("{}:{}", port.published_port, port.target_port)));
        lines.push(format!("service {}: {}", service.spec.spec.annotations.name, words.join(", ")));
    }
    for task in cluster.store.tasks().filter(|task| !task.status.state.is_final()) {
        let words: Vec<String> =
            task.networks.iter().map(|own| format!("{} {}", network(&own.network), text(&own.addresses))).collect();
        lines.push(format!("task {}.{}: {}", task.service_name, cluster.place(task), words.join(", ")));
    }
    lines.sort();
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What the log says since it was last looked at.
pub fn warnings(cluster: &mut Cluster) -> String {
    let mut text: String = cluster.warnings.drain(..).map(|line| line + "\n").collect();
    for node in cluster.store.nodes() {
        text = text.replace(node.id.as_str(), &format!("<{}>", node.description.hostname));
    }
    text
}

pub fn nodes(cluster: &Cluster) -> String {
    let mut nodes: Vec<_> = cluster.store.nodes().collect();
    nodes.sort_by_key(|node| node.description.hostname.clone());
    let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    nodes
        .iter()
        .map(|node| {
            let (state, availability) = (name(&node.status.state), name(&node.spec.availability));
            let line = format!("{:<4} {state:<12} {availability:<7} {}", node.description.hostname, node.status.message);
            line.trim_end().to_owned() + "\n"
        })
        .collect()
}

pub fn publication(cluster: &Cluster) -> String {
    let mut tasks: Vec<&Arc<Task>> = cluster.store.tasks().filter(|task| !task.status.state.is_final()).collect();
    tasks.sort_by_key(|task| (task.service_name.clone(), cluster.place(task), task.meta.made(), task.meta.version));
    let line = |task: &&Arc<Task>| {
        let publication = format!("{:?}", task.plan.endpoint.publication).to_lowercase();
        let passage = match cluster.dispatcher.barrier().passage(task) {
            Passage::Waiting => "waiting".into(),
            Passage::Open => "passed".into(),
            Passage::OpenedWithout(nodes) => format!("passed without {}", names(cluster, &nodes)),
        };
        let (name, state) = (format!("{}.{}", task.service_name, cluster.place(task)), task.status.state);
        let node = task.plan.node.map_or("-".into(), |node| cluster.node_name(node));
        format!("{name:<8} {node:<4} desired {:<9} {state:<9} {publication:<11} {passage}\n", task.plan.desired)
    };
    if tasks.is_empty() { "no tasks\n".into() } else { tasks.iter().map(line).collect() }
}

fn names(cluster: &Cluster, nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| cluster.node_name(*node)).collect::<Vec<_>>().join(", ")
}

pub fn spread(cluster: &Cluster) -> String {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for task in cluster.store.tasks().filter(|task| task.is_active()) {
        let node = task.plan.node.map_or("-".into(), |node| cluster.node_name(node));
        *counts.entry((task.service_name.clone(), node)).or_default() += 1;
    }
    counts.iter().map(|((service, node), count)| format!("{service} on {node}: {count}\n")).collect()
}

pub fn deployment(cluster: &Cluster, name: &str) -> Result<String, Refusal> {
    let service = cluster.store.resolve_service(name)?;
    let Some(deployment) = &service.plan.deployment else { return Ok("no deployment\n".into()) };
    // Ids are as random as the seed: names are what a reader can follow.
    let mut cause = deployment.cause.clone();
    for task in cluster.store.tasks() {
        cause = cause.replace(task.id.as_str(), &format!("<{}.{}>", task.service_name, cluster.place(task)));
    }
    if let Some(failed) = &deployment.failed_task {
        cause = cause.replace(failed.task.as_str(), "<one that is forgotten>");
    }
    let cause = if cause.is_empty() { String::new() } else { format!("\n  {cause}") };
    let failed = deployment.failed_task.as_ref().map(|failed| format!("\n  last: {} {:?}", failed.error, failed.log_tail));
    let stragglers = match names(cluster, &deployment.stragglers) {
        names if names.is_empty() => names,
        names => format!("\n  without {names}"),
    };
    let completed = match deployment.completed {
        0 => String::new(),
        n => format!(", {n} completed"),
    };
    let lost = match names(cluster, &deployment.lost_nodes) {
        names if names.is_empty() => names,
        names => format!("\n  lost {names}"),
    };
    let degraded = if deployment.is_degraded() { " (degraded)" } else { "" };
    Ok(format!(
        "{:?} v{} {:?}{degraded}: {} of {} running{completed}, {} failures{cause}{stragglers}{lost}{}\n",
        deployment.kind,
        deployment.spec_version,
        deployment.state,
        deployment.running,
        deployment.wanted,
        deployment.failures,
        failed.unwrap_or_default()
    ))
}
