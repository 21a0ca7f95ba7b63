//! What a spec refers to: secrets and configs by id and version, networks by id.

use crate::store::Store;
use skep_model::NetworkId;
use skep_model::endpoint::{PublishMode, PublishedPort};
use skep_model::service::ServiceSpec;

/// Whether everything that a spec refers to is still there.
pub(crate) fn all_exist(store: &Store, spec: &ServiceSpec) -> bool {
    files_exist(store, spec) && networks_exist(store, spec)
}

/// Whether every secret and config version that a spec refers to is still there.
fn files_exist(store: &Store, spec: &ServiceSpec) -> bool {
    let container = &spec.task_template.container_spec;
    let has_secret = |id, wanted: Option<u64>| {
        let secret = store.secret(id);
        secret.is_some_and(|secret| wanted.is_none_or(|n| secret.spec.versions.iter().any(|version| version.n == n)))
    };
    let has_config = |id, wanted: Option<u64>| {
        let config = store.config(id);
        config.is_some_and(|config| wanted.is_none_or(|n| config.spec.versions.iter().any(|version| version.n == n)))
    };
    container.secrets.iter().all(|reference| has_secret(reference.id, reference.version))
        && container.configs.iter().all(|reference| has_config(reference.id, reference.version))
}

/// Whether the networks that a spec asked for once are still there.
fn networks_exist(store: &Store, spec: &ServiceSpec) -> bool {
    networks(spec).all(|id| store.network(id).is_some())
        && (!needs_ingress(&spec.endpoint_spec.ports) || store.ingress_network().is_some())
}

/// The networks that a spec asks for, by id as admission has written them.
pub(crate) fn networks(spec: &ServiceSpec) -> impl Iterator<Item = NetworkId> {
    spec.task_template.networks.iter().filter_map(|request| request.target.parse().ok().map(NetworkId))
}

/// Whether any of these ports is reached over the ingress network.
pub(crate) fn needs_ingress(ports: &[PublishedPort]) -> bool {
    ports.iter().any(|port| port.publish_mode == PublishMode::Ingress)
}
