//! What a manager tells an agent to have, and what the agent reports.
//!
//! Assignments of one session form a chain: a complete set first, then
//! increments, each naming the version it applies to. A gap makes the agent
//! open a new session. Which secret and config *versions* a node holds is part
//! of the chain; their values are added by the shell that encodes the message.

use crate::node::NodeDescription;
use crate::overlay::OverlayChange;
use crate::task::{Task, TaskStatus};
use crate::{ConfigId, NodeId, SecretId, TaskId, Time};
use std::sync::Arc;

/// One message of the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignments {
    /// Everything (`true`) or what changed since `applies_to`.
    pub is_complete: bool,
    /// The version this applies to; 0 for a complete set.
    pub applies_to: u64,
    /// The version after it: `applies_to` + 1.
    pub results_in: u64,
    /// Secrets, configs and what is new of the overlay first, then tasks; removals last.
    pub changes: Vec<AssignmentChange>,
}

/// One change of what a node shall have.
#[derive(Clone, Debug, PartialEq)]
pub enum AssignmentChange {
    /// A secret version that a task of this node references.
    PutSecret(SecretId, u64),
    /// A config version that a task of this node references.
    PutConfig(ConfigId, u64),
    /// A new task, or a new desired state of one.
    PutTask(Arc<Task>),
    /// The task is gone; whatever is left of it is to be removed.
    RemoveTask(TaskId),
    /// No task of this node references it any more.
    RemoveSecret(SecretId, u64),
    /// No task of this node references it any more.
    RemoveConfig(ConfigId, u64),
    /// Something of the overlay networks changed for this node.
    Overlay(OverlayChange),
    /// The task, which is to stop, is withdrawn wherever it was to be found: its
    /// connections may be drained and the stop signal be sent.
    MayStop(TaskId),
}

/// What an agent observed of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// The task.
    pub task: TaskId,
    /// What was observed; `applied_at` is the leader's to fill.
    pub status: TaskStatus,
}

/// The first message of a session, from the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// The node, as its certificate says.
    pub node: NodeId,
    /// What it says of itself.
    pub description: NodeDescription,
    /// What it last observed of every task it has.
    pub statuses: Vec<StatusUpdate>,
    /// Its address as the manager sees it, without port.
    pub address: String,
    /// When its certificate ends.
    pub certificate_expires: Time,
    /// Why it can take no tasks yet; empty if it can.
    pub not_ready: String,
}

/// What every agent must know of the cluster; sent first and when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The leader's term; messages of older terms are refused.
    pub term: u64,
    /// Between two heartbeats.
    pub heartbeat_period: std::time::Duration,
    /// `(node, host:port)` of every manager.
    pub managers: Vec<(NodeId, String)>,
    /// The role that the node's next certificate will have; if its present one
    /// differs it renews at once.
    pub role: crate::node::Role,
    /// The root certificate, PEM.
    pub root_ca: String,
    /// Labels etc. that placeholders may name: the node's labels are not secret.
    pub node_name: String,
    /// The UDP port of overlay traffic, on every node.
    pub data_path_port: u16,
    /// How long managers wait for nodes to program a change of an endpoint; zero
    /// from one that does not say.
    pub barrier_timeout: std::time::Duration,
    /// No task opens a connection to an address of its own node.
    pub isolate_nodes: bool,
}
