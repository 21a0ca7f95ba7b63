//! The networks that a service asks for: found by name or id, stored by id.

use super::admitted::exists;
use crate::rules::references::{needs_ingress, networks};
use crate::store::Store;
use crate::transaction::Precondition;
use skep_model::name::check_name;
use skep_model::network::{NetworkRequest, SERVICE_NETWORKS_MAX};
use skep_model::service::{NetworkMode, ServiceSpec};
use skep_model::{Kind, NetworkId, Refusal};
use std::collections::BTreeSet;

/// Networks that every node has by itself; no service can be on them by name.
const OF_THE_NODE: [&str; 4] = ["host", "none", "bridge", "docker_gwbridge"];

/// Turns the names of a spec's networks into ids, and checks that it may be on them.
pub(super) fn resolve(store: &Store, spec: &mut ServiceSpec) -> Result<(), Refusal> {
    let template = &mut spec.task_template;
    if template.network != NetworkMode::Bridge
        && let Some(first) = template.networks.first()
    {
        let reason = "a service with the node's own network, or none, is on no other";
        return Err(Refusal::invalid("network", &first.target, reason));
    }
    let count = template.networks.len();
    if count > SERVICE_NETWORKS_MAX {
        let reason = format!("a service is on at most {SERVICE_NETWORKS_MAX} networks");
        return Err(Refusal::invalid("number of networks", count.to_string(), reason));
    }
    let mut seen = BTreeSet::new();
    for request in &mut template.networks {
        let id = find(store, request)?;
        if !seen.insert(id) {
            return Err(Refusal::invalid("network", &request.target, "the service is attached to it twice"));
        }
        request.target = id.to_string();
        request.aliases.iter().try_for_each(|alias| check_name("network alias", alias))?;
    }
    if needs_ingress(&spec.endpoint_spec.ports) && store.ingress_network().is_none() {
        let text = "service needs ingress network, but no ingress network is present";
        return Err(Refusal::FailedPrecondition(text.into()));
    }
    Ok(())
}

fn find(store: &Store, request: &NetworkRequest) -> Result<NetworkId, Refusal> {
    let target = request.target.as_str();
    if OF_THE_NODE.contains(&target) {
        let text = format!(
            "network {target} cannot be used with services. Only networks scoped to the swarm can be used, such as those \
             created with the overlay driver."
        );
        return Err(Refusal::FailedPrecondition(text));
    }
    let network = store.resolve_network(target)?;
    if network.spec.ingress {
        let reason = "Service cannot be explicitly attached to the ingress network";
        return Err(Refusal::invalid("network", &network.spec.annotations.name, reason));
    }
    Ok(network.id)
}

/// What a spec relies on at apply: its networks, and the one its ports are reached over.
pub(super) fn preconditions(store: &Store, spec: &ServiceSpec) -> Vec<Precondition> {
    let ingress = store.ingress_network().filter(|_| needs_ingress(&spec.endpoint_spec.ports)).map(|network| network.id);
    networks(spec).chain(ingress).map(|id| exists(Kind::Network, id.0)).collect()
}
