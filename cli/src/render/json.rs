//! Objects as docker's JSON has them: what `inspect` prints and templates read.

use super::ago::stamp;
use super::trust::TrustRoot;
use crate::command::network::known::Networks;
use crate::command::node::ls::reachability;
use crate::failure::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};
use skep_model::cluster::ClusterSpec;
use skep_model::config::Config;
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState};
use skep_model::endpoint::Publication;
use skep_model::network::{Attachment, Network, Pool};
use skep_model::node::{Node, Underlay};
use skep_model::place::PlaceFault;
use skep_model::secret::Secret;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{Meta, Time};
use std::collections::BTreeMap;

/// The settings of a cluster.
pub fn cluster_spec(spec: &ClusterSpec) -> Value {
    json!({
        "Name": spec.annotations.name,
        "Labels": spec.annotations.labels,
        "Orchestration": { "TaskHistoryRetentionLimit": spec.task_history_limit },
        "Raft": { "SnapshotInterval": spec.snapshot_interval, "KeepOldSnapshots": spec.max_snapshots },
        "Dispatcher": { "HeartbeatPeriod": nanos(spec.heartbeat_period) },
        "Network": {
            "DefaultAddrPool": spec.address_pools,
            "SubnetSize": spec.subnet_size,
            "DataPathPort": spec.data_path_port,
            "BarrierTimeout": nanos(spec.barrier_timeout),
            "IsolateNodes": spec.isolate_nodes,
        },
        "CAConfig": { "NodeCertExpiry": nanos(spec.node_cert_expiry) },
        "EncryptionConfig": { "AutoLockManagers": spec.autolock },
    })
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A model type with docker's names.
fn plain(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::refused(format!("cannot print the object: {error}")))
}

fn object(id: &str, meta: &Meta, fields: Value) -> Value {
    let mut object = Map::from_iter([
        ("ID".to_owned(), json!(id)),
        ("Version".to_owned(), json!({ "Index": meta.version })),
        ("CreatedAt".to_owned(), json!(stamp(meta.created_at))),
        ("UpdatedAt".to_owned(), json!(stamp(meta.updated_at))),
    ]);
    if let Value::Object(fields) = fields {
        object.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Value::Object(object)
}

/// A network, as docker's inspection has it; who is on it is added by the command.
pub fn network(network: &Network) -> Value {
    let (spec, plan) = (&network.spec, &network.plan);
    // Before the leader has settled them, those that were asked for.
    let pools = if plan.pools.is_empty() { &spec.pools } else { &plan.pools };
    let pool = |pool: &Pool| {
        let mut config = Map::from_iter([("Subnet".to_owned(), json!(pool.subnet))]);
        config.extend(pool.range.map(|range| ("IPRange".to_owned(), json!(range))));
        config.extend(pool.gateway.map(|gateway| ("Gateway".to_owned(), json!(gateway))));
        Value::Object(config)
    };
    let mut options = spec.options.clone();
    if plan.vni != 0 {
        options.insert("com.docker.network.driver.overlay.vxlanid_list".into(), plan.vni.to_string());
    }
    json!({
        "Name": spec.annotations.name,
        "Id": network.id,
        "Created": stamp(network.meta.created_at),
        "Scope": "swarm",
        "Driver": spec.driver,
        "EnableIPv4": true,
        "EnableIPv6": spec.ipv6,
        "IPAM": { "Driver": "default", "Options": null, "Config": pools.iter().map(pool).collect::<Vec<_>>() },
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Options": options,
        "Labels": spec.annotations.labels,
    })
}

/// How a service is reached: what was asked for, and what was settled.
fn endpoint(service: &Service, networks: &Networks) -> Result<Value, Failure> {
    let settled = &service.plan.endpoint;
    let mut addresses = Vec::new();
    for (network, owned) in &settled.virtual_addresses {
        for address in &owned.addresses {
            addresses.push(json!({ "NetworkID": network, "Addr": networks.with_prefix(*network, *address) }));
        }
    }
    Ok(json!({
        "Spec": plain(&service.spec.spec.endpoint_spec)?,
        "Ports": plain(&settled.ports)?,
        "VirtualIPs": addresses,
    }))
}

/// A service; `UpdateStatus` is Swarm's view of `Deployment`.
pub fn service(service: &Service, networks: &Networks) -> Result<Value, Failure> {
    let record = &service.spec.value;
    Ok(object(
        service.id.as_str(),
        &service.meta,
        json!({
            "Spec": plain(&record.spec)?,
            "PreviousSpec": record.previous.as_deref().map(plain).transpose()?,
            "SpecVersion": record.spec_version,
            "Endpoint": endpoint(service, networks)?,
            "UpdateStatus": service.plan.deployment.as_ref().and_then(UpdateStatus::of).map(|status| status.json()),
            "Deployment": service.plan.deployment.as_ref().map(deployment),
        }),
    ))
}

/// Swarm's word for the state of an update; none for a first deployment.
pub fn update_state(deployment: &Deployment) -> Option<&'static str> {
    Some(match (deployment.kind, deployment.state) {
        (DeploymentKind::Create, _) => return None,
        (DeploymentKind::Update, DeploymentState::Progressing) => "updating",
        (DeploymentKind::Update, DeploymentState::Converged | DeploymentState::RolledBack) => "completed",
        (DeploymentKind::Update, _) => "paused",
        (_, DeploymentState::Progressing) => "rollback_started",
        (_, DeploymentState::Converged | DeploymentState::RolledBack) => "rollback_completed",
        (_, _) => "rollback_paused",
    })
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
    pub fn of(deployment: &'a Deployment) -> Option<Self> {
        let state = update_state(deployment)?;
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

    fn json(&self) -> Value {
        let mut status = json!({ "State": self.state, "StartedAt": stamp(self.started_at), "Message": self.message });
        if let Some(completed) = self.completed_at {
            status["CompletedAt"] = json!(stamp(completed));
        }
        status
    }
}

/// The word for a deployment's state.
pub fn deployment_state(deployment: &Deployment) -> &'static str {
    match deployment.state {
        _ if deployment.is_degraded() => "degraded",
        DeploymentState::Progressing => "progressing",
        DeploymentState::Converged => "converged",
        DeploymentState::Failed => "failed",
        DeploymentState::Paused => "paused",
        DeploymentState::RolledBack => "rolled back",
        DeploymentState::DeadlineExceeded => "deadline exceeded",
    }
}

fn deployment(deployment: &Deployment) -> Value {
    let kind = match deployment.kind {
        DeploymentKind::Create => "create",
        DeploymentKind::Update => "update",
        DeploymentKind::Rollback => "rollback",
        DeploymentKind::AutomaticRollback => "automatic rollback",
    };
    let failed = deployment
        .failed_task
        .as_ref()
        .map(|failed| json!({ "ID": failed.task, "NodeID": failed.node, "Err": failed.error, "LogTail": failed.log_tail }));
    json!({
        "SpecVersion": deployment.spec_version,
        "Kind": kind,
        "State": deployment_state(deployment),
        "Cause": deployment.cause,
        "Wanted": deployment.wanted,
        "Running": deployment.running,
        "Completed": deployment.completed,
        "Failures": deployment.failures,
        "Stragglers": deployment.stragglers,
        "LostNodes": deployment.lost_nodes,
        "FailedTask": failed,
        "StartedAt": stamp(deployment.wall(deployment.started_at)),
        "ProgressedAt": stamp(deployment.wall(deployment.progressed_at)),
        "EndedAt": deployment.ended_at.map(|at| stamp(deployment.wall(at))),
    })
}

/// The kinds of networks that a node can put a task on, by docker's names.
pub const NETWORK_DRIVERS: [&str; 4] = ["bridge", "host", "null", "overlay"];

/// A node; the leader's id comes with the reply, the root of trust with the cluster.
pub fn node(node: &Node, leader: &str, trust: Option<&TrustRoot>) -> Result<Value, Failure> {
    let description = &node.description;
    let manager = node.plan.manager.as_ref().map(|manager| {
        json!({
            "Leader": node.id.as_str() == leader,
            "Reachability": reachability(node).to_lowercase(),
            "Addr": manager.address,
        })
    });
    let plugins = NETWORK_DRIVERS.map(|name| json!({ "Type": "Network", "Name": name }));
    let trust = trust.map(|trust| {
        json!({
            "TrustRoot": trust.certificate,
            "CertIssuerSubject": trust.subject,
            "CertIssuerPublicKey": trust.public_key,
        })
    });
    Ok(object(
        node.id.as_str(),
        &node.meta,
        json!({
            "Spec": plain(&node.spec.value)?,
            "Description": {
                "Hostname": description.hostname,
                "Platform": plain(&description.platform)?,
                "Resources": plain(&description.resources)?,
                "Engine": {
                    "EngineVersion": description.engine_version,
                    "Labels": description.engine_labels,
                    "Plugins": plugins,
                },
                "TLSInfo": trust,
                "Underlay": description.underlay.as_ref().map(underlay),
            },
            "Status": {
                "State": plain(&node.status.state)?,
                "Message": node.status.message,
                "Addr": node.status.address,
                "Since": time_or_null(node.status.wall()),
                "Faults": node.status.faults.faults.iter().map(fault).collect::<Vec<_>>(),
                "MoreFaults": node.status.faults.n_more,
            },
            "Role": plain(&node.plan.role)?,
            "CertificateExpires": time_or_null(node.plan.certificate_expires),
            "ManagerStatus": manager,
            "Ingress": node.plan.ingress.as_ref().map(|it| json!({ "Number": it.number, "Addresses": it.addresses })),
        }),
    ))
}

/// A place of a node's network that does not work.
fn fault(fault: &PlaceFault) -> Value {
    json!({ "Place": fault.place.to_string(), "Reason": fault.reason, "Blocks": fault.blocks })
}

/// Where other nodes reach a node, and what no network of the cluster may overlap.
fn underlay(underlay: &Underlay) -> Value {
    json!({ "Address": underlay.address, "Occupied": underlay.occupied })
}

fn time_or_null(time: Time) -> Value {
    if time == Time::ZERO { Value::Null } else { json!(stamp(time)) }
}

fn endpoint_since(task: &Task) -> Value {
    let since = task.plan.endpoint.since;
    if since == Time::ZERO { Value::Null } else { json!(stamp(task.status.wall(since))) }
}

/// The word for whether a task is to be found.
pub fn publication(task: &Task) -> &'static str {
    match task.plan.endpoint.publication {
        Publication::Unpublished => "unpublished",
        Publication::Published => "published",
        Publication::Withdrawn => "withdrawn",
    }
}

/// A task's place on its networks, in the order of its interfaces.
fn attachments(task: &Task, networks: &Networks) -> Vec<Value> {
    let attachment = |attachment: &Attachment| {
        let id = attachment.network;
        let addresses: Vec<String> = attachment.addresses.iter().map(|address| networks.with_prefix(id, *address)).collect();
        let spec =
            networks.get(id).map(|network| json!({ "Name": network.spec.annotations.name, "Ingress": network.spec.ingress }));
        json!({ "Network": { "ID": id, "Spec": spec }, "Addresses": addresses, "Aliases": attachment.aliases })
    };
    task.networks.iter().map(attachment).collect()
}

/// A task.
pub fn task(task: &Task, networks: &Networks) -> Result<Value, Failure> {
    let status = &task.status;
    let container = status
        .container
        .as_ref()
        .map(|container| json!({ "ContainerID": container.container_id, "PID": container.pid, "ExitCode": container.exit_code }));
    Ok(object(
        task.id.as_str(),
        &task.meta,
        json!({
            "Name": task.name(),
            "Labels": {},
            "Spec": plain(&*task.spec)?,
            "SpecVersion": task.spec_version,
            "ServiceID": task.service_id,
            "Slot": task.slot,
            "NodeID": task.plan.node,
            "Status": {
                "Timestamp": stamp(status.timestamp),
                "State": status.state.name(),
                "Message": status.message,
                "Err": status.error,
                "Attempt": status.attempt,
                "RunningSince": status.running_since.map(|at| stamp(status.wall(at))),
                "LogTail": status.log_tail,
                "ContainerStatus": container,
                "PortStatus": { "Ports": plain(&status.ports)? },
            },
            "DesiredState": task.plan.desired.name(),
            "NetworksAttachments": attachments(task, networks),
            "Endpoint": { "Publication": publication(task), "Since": endpoint_since(task) },
        }),
    ))
}

/// A secret, without its value.
pub fn secret(secret: &Secret) -> Value {
    let spec = &secret.spec;
    let version = |n: u64, fingerprint: &str, created: Time| json!({ "Number": n, "Fingerprint": fingerprint, "CreatedAt": stamp(created) });
    let versions: Vec<Value> = spec.versions.iter().map(|it| version(it.n, &it.fingerprint, it.created_at)).collect();
    object(
        secret.id.as_str(),
        &secret.meta,
        json!({
            "Spec": { "Name": spec.annotations.name, "Labels": spec.annotations.labels },
            "Current": spec.current,
            "Versions": versions,
        }),
    )
}

/// A config with its values in base64.
pub fn config(config: &Config, values: &BTreeMap<u64, Vec<u8>>) -> Value {
    let spec = &config.spec;
    let data = |n: u64| values.get(&n).map(|value| STANDARD.encode(value));
    let versions: Vec<Value> = spec
        .versions
        .iter()
        .map(|it| json!({ "Number": it.n, "Fingerprint": it.fingerprint, "CreatedAt": stamp(it.created_at), "Data": data(it.n) }))
        .collect();
    object(
        config.id.as_str(),
        &config.meta,
        json!({
            "Spec": { "Name": spec.annotations.name, "Labels": spec.annotations.labels, "Data": data(spec.current) },
            "Current": spec.current,
            "Versions": versions,
        }),
    )
}
