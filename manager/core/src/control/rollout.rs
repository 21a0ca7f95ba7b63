//! A new version of a secret or config is a deployment of every service that
//! follows it, in the same transaction.

use super::admitted::unchanged;
use crate::rules::deployment;
use crate::store::Store;
use crate::timing;
use crate::transaction::{Precondition, SectionName, Write};
use skep_model::container::ContainerSpec;
use skep_model::deployment::DeploymentKind;
use skep_model::endpoint::PublishedPort;
use skep_model::service::{Service, ServiceDeployment, ServiceRecord, ServiceSpec};
use skep_model::{Kind, Refusal, Time};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A spec whose references that follow have the numbers of now.
pub(super) fn pinned(store: &Store, spec: &ServiceSpec) -> ServiceSpec {
    let mut spec = spec.clone();
    let container = &mut spec.task_template.container_spec;
    for reference in &mut container.secrets {
        if let (None, Some(secret)) = (reference.version, store.secret(reference.id)) {
            reference.version = Some(secret.spec.current);
        }
    }
    for reference in &mut container.configs {
        if let (None, Some(config)) = (reference.version, store.config(reference.id)) {
            reference.version = Some(config.spec.current);
        }
    }
    spec
}

/// Replaces a service's record and begins its deployment.
pub(super) fn writes(
    service: &Service,
    record: ServiceRecord,
    ports: Vec<PublishedPort>,
    kind: DeploymentKind,
    now: Time,
) -> [Write; 2] {
    let deployment = deployment::begin(record.spec_version, kind, now);
    let plan = ServiceDeployment { deployment, ports };
    [Write::ServiceSpec(service.id, Box::new(record)), Write::ServiceDeployment(service.id, plan)]
}

/// What a write of the service's record relies on.
pub(super) fn precondition(service: &Service) -> Precondition {
    unchanged(Kind::Service, service.id.0, SectionName::Spec, service.spec.version)
}

/// Rolls every one of `followers`: the same spec again, under the next number.
pub(super) fn roll(
    store: &Store,
    now: Time,
    what: &str,
    followers: &[Arc<Service>],
) -> Result<(Vec<Precondition>, Vec<Write>), Refusal> {
    let n_max = (timing::TRANSACTION_WRITES_MAX - 1) / 2;
    if followers.len() > n_max {
        let what = format!("the number of services that follow {what} ({})", followers.len());
        return Err(Refusal::TooLarge { what, limit: format!("{n_max} services; pin versions in some of them") });
    }
    let mut preconditions = Vec::new();
    let mut writes_all = Vec::new();
    for service in followers {
        let old = &service.spec.value;
        let previous = Some(Box::new(pinned(store, &old.spec)));
        let record = ServiceRecord { spec: old.spec.clone(), previous, spec_version: old.spec_version + 1 };
        preconditions.push(precondition(service));
        let ports = service.plan.endpoint.ports.clone();
        writes_all.extend(writes(service, record, ports, DeploymentKind::Update, now));
    }
    Ok((preconditions, writes_all))
}

/// The version numbers that services or live tasks refer to; `numbers` reads
/// them off one container spec.
pub(super) fn numbers_in_use(store: &Store, numbers: impl Fn(&ContainerSpec) -> Vec<u64>) -> BTreeSet<u64> {
    let mut in_use = BTreeSet::new();
    for service in store.services() {
        in_use.extend(numbers(&service.spec.spec.task_template.container_spec));
        if let Some(previous) = &service.spec.previous {
            in_use.extend(numbers(&previous.task_template.container_spec));
        }
    }
    for task in store.tasks().filter(|task| !task.status.state.is_final()) {
        in_use.extend(numbers(&task.spec.container_spec));
    }
    in_use
}

/// The names of services as Swarm lists them in a refusal.
pub(super) fn in_use_by(services: &[Arc<Service>]) -> String {
    let names: Vec<&str> = services.iter().map(|service| service.spec.spec.annotations.name.as_str()).collect();
    format!("the following service{}: {}", if names.len() > 1 { "s" } else { "" }, names.join(", "))
}
