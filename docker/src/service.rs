//! A service: its spec, how it is reached, and Swarm's view of its deployment.
//!
//! Ours: `SpecVersion` and `Deployment`.

mod container;
mod endpoint;
mod mount;
mod spec;
mod template;

pub use spec::ServiceSpec;

pub(crate) use endpoint::Port;
pub(crate) use template::{Amounts, Platform, TaskSpec};

use crate::deployment::{self, Deployment};
use crate::meta::Meta;
use crate::networks::Networks;
use crate::scalar::stamp;
use endpoint::Endpoint;
use serde::Serialize;
use skep_model::{Time, deployment as model};

/// What `service inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    #[serde(flatten)]
    meta: Meta,
    spec: ServiceSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_spec: Option<ServiceSpec>,
    endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_status: Option<UpdateStatusJson>,
    spec_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<Deployment>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateStatusJson {
    state: &'static str,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    message: String,
}

impl Service {
    /// A service, with its defaults written out; the networks say how long prefixes are.
    pub fn of(service: &skep_model::service::Service, networks: &Networks) -> Self {
        let record = &service.spec.value;
        let deployment = service.plan.deployment.as_ref();
        Self {
            meta: Meta::of(service.id, &service.meta),
            spec: ServiceSpec::of(&record.spec).with_defaults(),
            previous_spec: record.previous.as_deref().map(ServiceSpec::of),
            endpoint: Endpoint::of(service, networks),
            update_status: deployment.and_then(UpdateStatus::of).map(|status| UpdateStatusJson {
                state: status.state,
                started_at: stamp(status.started_at),
                completed_at: status.completed_at.map(stamp),
                message: status.message.to_owned(),
            }),
            spec_version: record.spec_version,
            deployment: deployment.map(Deployment::of),
        }
    }
}

/// Swarm's view of a deployment that is no first one.
#[derive(Debug)]
pub struct UpdateStatus<'a> {
    /// Swarm's word.
    pub state: &'static str,
    /// When it began.
    pub started_at: Time,
    /// When it was completed; none for one that is paused.
    pub completed_at: Option<Time>,
    /// What happened.
    pub message: &'a str,
}

impl<'a> UpdateStatus<'a> {
    /// Of a deployment; `None` for the first of a service.
    pub fn of(deployment: &'a model::Deployment) -> Option<Self> {
        let state = deployment::update_state(deployment)?;
        let message = match (deployment.cause.as_str(), state) {
            ("", "updating") => "update in progress",
            ("", "completed") => "update completed",
            ("", "rollback_started") => "rollback in progress",
            ("", "rollback_completed") => "rollback completed",
            (cause, _) => cause,
        };
        let completed_at = deployment.ended_at.filter(|_| state.ends_with("completed")).map(|at| deployment.wall(at));
        Some(Self { state, started_at: deployment.wall(deployment.started_at), completed_at, message })
    }
}
