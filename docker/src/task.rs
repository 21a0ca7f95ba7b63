//! A task, with its place on its networks.
//!
//! Ours: `Attempt`, `RunningSince`, `LogTail` and `Faults` of the status, `Aliases` of an
//! attachment, and `Name`, `SpecVersion` and `Endpoint`.

use crate::attachment::Attachment;
use crate::meta::Meta;
use crate::networks::Networks;
use crate::scalar::{is_zero, stamp};
use crate::service::{Port, TaskSpec};
use serde::Serialize;
use skep_model::Time;
use skep_model::endpoint::Publication;
use skep_model::task as model;
use std::collections::BTreeMap;

/// What `task inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    #[serde(flatten)]
    meta: Meta,
    labels: BTreeMap<String, String>,
    spec: TaskSpec,
    #[serde(rename = "ServiceID")]
    service_id: String,
    #[serde(skip_serializing_if = "is_zero")]
    slot: u64,
    #[serde(rename = "NodeID", skip_serializing_if = "is_zero")]
    node_id: String,
    status: Status,
    desired_state: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    networks_attachments: Vec<Attachment>,
    name: String,
    spec_version: u64,
    endpoint: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    timestamp: String,
    state: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    message: String,
    #[serde(skip_serializing_if = "is_zero")]
    err: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_status: Option<ContainerStatus>,
    port_status: PortStatus,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    running_since: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    log_tail: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    faults: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ContainerStatus {
    #[serde(rename = "ContainerID")]
    container_id: String,
    #[serde(rename = "PID")]
    pid: i32,
    #[serde(rename = "ExitCode")]
    exit_code: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PortStatus {
    #[serde(skip_serializing_if = "is_zero")]
    ports: Vec<Port>,
}

/// Whether a task is to be found, and since when.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    publication: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl Task {
    /// A task; `faults` are sentences of what of its network does not work, as nodes say.
    pub fn of(task: &model::Task, networks: &Networks, faults: Vec<String>) -> Self {
        let status = &task.status;
        let container = |container: &model::ContainerStatus| ContainerStatus {
            container_id: container.container_id.clone(),
            pid: container.pid,
            exit_code: container.exit_code,
        };
        let since = task.plan.endpoint.since;
        Self {
            meta: Meta::of(task.id, &task.meta),
            labels: BTreeMap::new(),
            spec: TaskSpec::of_task(&task.spec),
            service_id: task.service_id.to_string(),
            slot: task.slot,
            node_id: task.plan.node.map(|node| node.to_string()).unwrap_or_default(),
            status: Status {
                timestamp: stamp(status.timestamp),
                state: status.state.name(),
                message: status.message.clone(),
                err: status.error.clone(),
                container_status: status.container.as_ref().map(container),
                port_status: PortStatus { ports: status.ports.iter().map(Port::of).collect() },
                attempt: status.attempt,
                running_since: status.running_since.map(|at| stamp(status.wall(at))),
                log_tail: status.log_tail.clone(),
                faults,
            },
            desired_state: task.plan.desired.name(),
            networks_attachments: task.networks.iter().map(|it| Attachment::of(it, networks)).collect(),
            name: task.name(),
            spec_version: task.spec_version,
            endpoint: Endpoint {
                publication: publication(task),
                since: (since != Time::ZERO).then(|| stamp(status.wall(since))),
            },
        }
    }
}

/// The word for whether a task is to be found.
pub fn publication(task: &model::Task) -> &'static str {
    match task.plan.endpoint.publication {
        Publication::Unpublished => "unpublished",
        Publication::Published => "published",
        Publication::Withdrawn => "withdrawn",
    }
}
