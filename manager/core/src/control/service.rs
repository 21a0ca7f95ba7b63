//! Services: create, update, scale, roll back, remove.

use super::admitted::{Admitted, check_expected, done, removal, transaction, unchanged};
use super::{attachment, files, rollout, spec};
use crate::mint::Mint;
use crate::rules::{deployment, ports};
use crate::store::Store;
use crate::transaction::{Precondition, SectionName, Write};
use skep_model::deployment::{DeploymentKind, DeploymentState};
use skep_model::endpoint::ServiceEndpoint;
use skep_model::service::{Service, ServiceMode, ServicePlan, ServiceRecord, ServiceSpec};
use skep_model::{Kind, Meta, Object, Refusal, Section, ServiceId, Time};

pub(super) fn create(store: &Store, now: Time, mint: &mut Mint, mut wanted: ServiceSpec) -> Result<Admitted, Refusal> {
    attachment::resolve(store, &mut wanted)?;
    spec::check(store, &wanted)?;
    let name = &wanted.annotations.name;
    let is_taken =
        |service: &Service| service.plan.removed_at.is_none() && service.spec.spec.annotations.name.eq_ignore_ascii_case(name);
    if store.services().any(|service| is_taken(service)) {
        return Err(Refusal::NameConflict { kind: Kind::Service, name: name.clone() });
    }
    let endpoint = ServiceEndpoint { ports: ports::settle(store, None, &wanted.endpoint_spec)?, ..ServiceEndpoint::default() };
    let id = ServiceId::from_random(mint.id());
    let preconditions = preconditions(store, &wanted);
    let deployment = Some(deployment::begin(1, DeploymentKind::Create, now));
    let service = Service {
        id,
        meta: Meta::default(),
        spec: Section::new(ServiceRecord { spec: wanted, previous: None, spec_version: 1 }),
        plan: Section::new(ServicePlan { deployment, removed_at: None, endpoint }),
    };
    Ok(transaction(now, id.0, 1, preconditions, vec![Write::Create(Object::Service(Box::new(service)))]))
}

pub(super) fn update(
    store: &Store,
    now: Time,
    reference: &str,
    expect: Option<u64>,
    mut wanted: ServiceSpec,
) -> Result<Admitted, Refusal> {
    let stored = store.resolve_service(reference)?;
    check_expected(expect, stored.spec.version)?;
    let old = &stored.spec.spec;
    if wanted.annotations.name != old.annotations.name {
        return Err(Refusal::invalid("service name", &wanted.annotations.name, "renaming services is not supported"));
    }
    if std::mem::discriminant(&wanted.mode) != std::mem::discriminant(&old.mode) {
        return Err(Refusal::FailedPrecondition("service mode change is not allowed".into()));
    }
    attachment::resolve(store, &mut wanted)?;
    spec::check(store, &wanted)?;
    replace(store, now, stored, wanted)
}

pub(super) fn scale(store: &Store, now: Time, reference: &str, replicas: u64) -> Result<Admitted, Refusal> {
    let stored = store.resolve_service(reference)?;
    let mut wanted = stored.spec.spec.clone();
    match &mut wanted.mode {
        ServiceMode::Replicated { replicas: old } => *old = replicas,
        ServiceMode::Global {} => {
            let text = "scale can only be used with replicated or replicated-job mode";
            return Err(Refusal::FailedPrecondition(text.into()));
        }
    }
    wanted.mode.check()?;
    replace(store, now, stored, wanted)
}

pub(super) fn rollback(store: &Store, now: Time, reference: &str, expect: Option<u64>) -> Result<Admitted, Refusal> {
    let stored = store.resolve_service(reference)?;
    check_expected(expect, stored.spec.version)?;
    let old = &stored.spec.value;
    let Some(previous) = &old.previous else {
        let name = &old.spec.annotations.name;
        return Err(Refusal::FailedPrecondition(format!("service {name} does not have a previous spec")));
    };
    // What it refers to may have been removed since.
    let mut wanted = (**previous).clone();
    attachment::resolve(store, &mut wanted)?;
    files::check(store, &wanted.task_template.container_spec)?;
    let ports = ports::settle(store, Some(stored), &wanted.endpoint_spec)?;
    let spec_version = old.spec_version + 1;
    let now_previous = Some(Box::new(rollout::pinned(store, &old.spec)));
    let mut preconditions = preconditions(store, &wanted);
    preconditions.push(rollout::precondition(stored));
    let record = ServiceRecord { spec: wanted, previous: now_previous, spec_version };
    let writes = rollout::writes(stored, record, ports, DeploymentKind::Rollback, now);
    Ok(transaction(now, stored.id.0, spec_version, preconditions, writes.into()))
}

/// The object goes at once, so that its name is free again, as in Swarm; its
/// tasks are told to stop and live on until they have.
pub(super) fn remove(store: &Store, now: Time, reference: &str) -> Result<Admitted, Refusal> {
    let stored = store.resolve_service(reference)?;
    let precondition = unchanged(Kind::Service, stored.id.0, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![removal(Kind::Service, stored.id.0)]))
}

/// Replaces the spec. Only what may need other tasks, or starts a paused update
/// again, counts as a new version of it and begins a deployment.
fn replace(store: &Store, now: Time, stored: &Service, wanted: ServiceSpec) -> Result<Admitted, Refusal> {
    let old = &stored.spec.value;
    let is_paused = stored.plan.deployment.as_ref().is_some_and(|deployment| deployment.state == DeploymentState::Paused);
    if wanted == old.spec && !is_paused {
        return Ok(done(store, stored.id.0, old.spec_version));
    }
    let is_deployment = wanted.task_template != old.spec.task_template
        || wanted.mode != old.spec.mode
        || wanted.endpoint_spec != old.spec.endpoint_spec
        || is_paused;
    let spec_version = old.spec_version + u64::from(is_deployment);
    let ports = ports::settle(store, Some(stored), &wanted.endpoint_spec)?;
    let mut preconditions = preconditions(store, &wanted);
    preconditions.push(rollout::precondition(stored));
    let previous = match wanted == old.spec {
        true => old.previous.clone(),
        false => Some(Box::new(rollout::pinned(store, &old.spec))),
    };
    let record = ServiceRecord { spec: wanted, previous, spec_version };
    let writes = match is_deployment {
        true => rollout::writes(stored, record, ports, DeploymentKind::Update, now).into(),
        false => vec![Write::ServiceSpec(stored.id, Box::new(record))],
    };
    Ok(transaction(now, stored.id.0, spec_version, preconditions, writes))
}

/// What a spec relies on at apply: everything that it refers to.
fn preconditions(store: &Store, spec: &ServiceSpec) -> Vec<Precondition> {
    let mut preconditions = files::preconditions(store, &spec.task_template.container_spec);
    preconditions.extend(attachment::preconditions(store, spec));
    preconditions
}
