//! Deployments: every spec version of a service ends with a verdict.
//!
//! A deployment is decided by the leader and lives in the service's plan, so a
//! wait for it may be resumed on any manager. It progresses while tasks advance,
//! and is over once it is in a final state.

use crate::{NodeId, TaskId, Time};

/// How the cause of a deployment begins whose service nothing is decided about,
/// because deciding failed.
pub const SET_ASIDE: &str = "the service is set aside";

/// Where the deployment of one spec version stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The spec version it brings about.
    pub spec_version: u64,
    /// What caused it.
    pub kind: DeploymentKind,
    /// Where it stands.
    pub state: DeploymentState,
    /// Why, in a sentence; empty while all is well.
    pub cause: String,
    /// The task that decided a failure, and what it said.
    pub failed_task: Option<FailedTask>,
    /// When it began, in cluster time.
    pub started_at: Time,
    /// The same in wall time, for people; zero in what was stored before there was
    /// cluster time. See [`Deployment::wall`].
    pub started_wall: Time,
    /// When a task last advanced because of it, in cluster time.
    pub progressed_at: Time,
    /// When it ended, in cluster time; `None` while it goes on.
    pub ended_at: Option<Time>,
    /// Its slots whose first task ended within the monitor period.
    pub failures: u64,
    /// When the slots that are being monitored, or the delay between batches, are over,
    /// in cluster time.
    pub next_step_at: Option<Time>,
    /// Tasks wanted, and of those: running and healthy with this spec. Both go on being
    /// counted when the deployment is over.
    pub wanted: u64,
    /// See `wanted`.
    pub running: u64,
    /// Nodes that did not say in time that they have programmed its endpoints.
    pub stragglers: Vec<NodeId>,
    /// Of the wanted tasks: ended well, and are not to run again.
    pub completed: u64,
    /// Slots that it replaces or adds; failures are a share of these.
    pub slots: u64,
    /// Nodes that were lost, or restarted, while it went on: at most [`LOST_NODES_MAX`].
    pub lost_nodes: Vec<NodeId>,
}

/// The most nodes that a deployment names as lost.
pub const LOST_NODES_MAX: usize = 64;

impl Deployment {
    /// What a wall clock showed at a cluster time of this deployment.
    pub fn wall(&self, at: Time) -> Time {
        if self.started_wall == Time::ZERO { at } else { self.started_wall.when_other_showed(self.started_at, at) }
    }
}

/// What caused a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentKind {
    /// The service was created.
    Create,
    /// Its spec, or a secret or config it follows, changed.
    Update,
    /// A user asked for the previous spec.
    Rollback,
    /// An update failed and its failure action is `rollback`.
    AutomaticRollback,
}

/// The states of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeploymentState {
    /// Under way.
    Progressing,
    /// Every wanted task runs, is healthy and has outlived its monitor period.
    Converged,
    /// It cannot get on: tasks fail and are not replaced any more.
    Failed,
    /// A failure stopped it; it waits for the user.
    Paused,
    /// This rollback has converged.
    RolledBack,
    /// No task advanced for the length of the deadline.
    DeadlineExceeded,
}

/// The task whose failure decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedTask {
    /// The task.
    pub task: TaskId,
    /// Its node, where it had one.
    pub node: Option<NodeId>,
    /// Its error.
    pub error: String,
    /// The last lines it wrote, newest last.
    pub log_tail: Vec<String>,
}

impl Deployment {
    /// Whether it had converged, and fewer tasks run now than it takes.
    pub fn is_degraded(&self) -> bool {
        let is_good = matches!(self.state, DeploymentState::Converged | DeploymentState::RolledBack);
        is_good && self.running.saturating_add(self.completed) < self.wanted
    }
}

impl DeploymentState {
    /// Whether the deployment is over.
    pub fn is_final(self) -> bool {
        self != Self::Progressing
    }
}

impl DeploymentKind {
    /// Whether it returns to a previous spec.
    pub fn is_rollback(self) -> bool {
        matches!(self, Self::Rollback | Self::AutomaticRollback)
    }
}
