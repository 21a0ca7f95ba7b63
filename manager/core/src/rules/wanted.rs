//! What tasks of a service shall be, with everything resolved that a spec leaves open.
//!
//! A service's reference to a secret or config without a version follows the current
//! one; a task's reference always has a number.

use super::constraints;
use super::references::needs_ingress;
use crate::store::Store;
use skep_model::NetworkId;
use skep_model::constraint::Constraint;
use skep_model::endpoint::PublishedPort;
use skep_model::network::Attachment;
use skep_model::service::{Service, TaskSpec};
use std::sync::Arc;

/// What tasks of a service shall be, with everything resolved.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) service: Arc<Service>,
    /// The template with the version numbers of now.
    pub(crate) template: Arc<TaskSpec>,
    pub(crate) constraints: Vec<Constraint>,
    /// Its networks, in the order of interfaces; without addresses, which each task has
    /// of its own.
    pub(crate) networks: Vec<Attachment>,
}

impl Wanted {
    /// What the spec of a service asks for, by what the store has now.
    pub(crate) fn of(service: &Arc<Service>, store: &Store) -> Self {
        let mut template = service.spec.spec.task_template.clone();
        for secret in &mut template.container_spec.secrets {
            let current = store.secret(secret.id).map_or(0, |stored| stored.spec.current);
            secret.version.get_or_insert(current);
        }
        for config in &mut template.container_spec.configs {
            let current = store.config(config.id).map_or(0, |stored| stored.spec.current);
            config.version.get_or_insert(current);
        }
        let constraints = constraints::parse(&template.placement.constraints);
        let networks = networks(store, &template, &service.plan.endpoint.ports);
        Self { service: service.clone(), template: Arc::new(template), constraints, networks }
    }

    /// The ports that its tasks publish.
    pub(crate) fn ports(&self) -> &[PublishedPort] {
        &self.service.plan.endpoint.ports
    }

    /// The number of the spec version.
    pub(crate) fn spec_version(&self) -> u64 {
        self.service.spec.spec_version
    }
}

/// The networks of a task: those of its spec in their order, and last the one
/// over which published ports are reached, if it publishes any through it.
pub(crate) fn networks(store: &Store, spec: &TaskSpec, ports: &[PublishedPort]) -> Vec<Attachment> {
    let on = |network, aliases, any_source| Attachment { network, addresses: Vec::new(), aliases, any_source };
    let asked = spec
        .networks
        .iter()
        .filter_map(|request| Some(on(NetworkId(request.target.parse().ok()?), request.aliases.clone(), request.any_source)));
    let ingress = store.ingress_network().filter(|_| needs_ingress(ports)).map(|network| on(network.id, Vec::new(), false));
    asked.chain(ingress).collect()
}
