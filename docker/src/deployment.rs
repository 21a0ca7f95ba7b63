//! Deployments, which Docker does not have: `Deployment` of a service, and Swarm's word for
//! where it stands.

use crate::scalar::stamp;
use serde::Serialize;
use skep_model::deployment::{self as model, DeploymentKind, DeploymentState};

/// The deployment of a service's newest spec.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Deployment {
    spec_version: u64,
    kind: &'static str,
    state: &'static str,
    cause: String,
    wanted: u64,
    running: u64,
    completed: u64,
    failures: u64,
    stragglers: Vec<String>,
    lost_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_task: Option<FailedTask>,
    started_at: String,
    progressed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct FailedTask {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "NodeID")]
    node_id: Option<String>,
    err: String,
    log_tail: Vec<String>,
}

impl Deployment {
    /// A deployment.
    pub fn of(deployment: &model::Deployment) -> Self {
        let kind = match deployment.kind {
            DeploymentKind::Create => "create",
            DeploymentKind::Update => "update",
            DeploymentKind::Rollback => "rollback",
            DeploymentKind::AutomaticRollback => "automatic rollback",
        };
        let failed = |failed: &model::FailedTask| FailedTask {
            id: failed.task.to_string(),
            node_id: failed.node.map(|node| node.to_string()),
            err: failed.error.clone(),
            log_tail: failed.log_tail.clone(),
        };
        Self {
            spec_version: deployment.spec_version,
            kind,
            state: deployment_state(deployment),
            cause: deployment.cause.clone(),
            wanted: deployment.wanted,
            running: deployment.running,
            completed: deployment.completed,
            failures: deployment.failures,
            stragglers: deployment.stragglers.iter().map(ToString::to_string).collect(),
            lost_nodes: deployment.lost_nodes.iter().map(ToString::to_string).collect(),
            failed_task: deployment.failed_task.as_ref().map(failed),
            started_at: stamp(deployment.wall(deployment.started_at)),
            progressed_at: stamp(deployment.wall(deployment.progressed_at)),
            ended_at: deployment.ended_at.map(|at| stamp(deployment.wall(at))),
        }
    }
}

/// The word for a deployment's state.
pub fn deployment_state(deployment: &model::Deployment) -> &'static str {
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

/// Swarm's word for the state of an update; none for a first deployment.
pub fn update_state(deployment: &model::Deployment) -> Option<&'static str> {
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
