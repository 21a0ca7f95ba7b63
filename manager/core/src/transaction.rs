//! Transactions: the only way in which stored state changes.
//!
//! A transaction is preconditions and writes, applied atomically or refused,
//! identically on every replica. Times, ids and random choices are inside it,
//! made by the proposer. Its wire form is `skep.v1.Transaction`.

use skep_model::cluster::{ClusterPlan, ClusterSpec};
use skep_model::config::ConfigSpec;
use skep_model::network::{NetworkPlan, NetworkSpec};
use skep_model::node::{NodeDescription, NodePlan, NodeSpec, NodeStatus};
use skep_model::request::Outcome;
use skep_model::secret::SecretSpec;
use skep_model::service::{ServiceDeployment, ServicePlan, ServiceRecord};
use skep_model::task::{TaskPlan, TaskStatus};
use skep_model::{ConfigId, NetworkId, NodeId, Object, ObjectRef, RequestId, SecretId, ServiceId, TaskId, Time};

/// A set of writes that takes effect as a whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// When it was proposed, in cluster time; becomes `made_at` of what it makes.
    pub time: Time,
    /// The same in wall time of the proposer, for people; becomes `created_at` and
    /// `updated_at`. Zero until it is stamped: see [`Transaction::stamp`].
    pub wall: Time,
    /// The client's id for the request that caused it, if one did.
    pub request: Option<RequestId>,
    /// What that request is answered (its version is filled in at apply).
    pub outcome: Option<Outcome>,
    /// What must hold for it to take effect.
    pub preconditions: Vec<Precondition>,
    /// What it changes, in order.
    pub writes: Vec<Write>,
}

/// The sections of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionName {
    /// Written for users.
    Spec,
    /// Written for the agent (nodes only).
    Description,
    /// Written for the agent (tasks) or by the dispatcher (nodes).
    Status,
    /// Written by the leader.
    Plan,
}

/// What must hold when a transaction is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The section has this version: nobody wrote it since it was read.
    Unchanged(ObjectRef, SectionName, u64),
    /// The object exists.
    Exists(ObjectRef),
    /// No object with this id exists.
    Absent(ObjectRef),
}

/// One change. Writing a section of an object that does not exist refuses the
/// whole transaction, as does creating one whose id or name is taken.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant writes the section that it names")]
pub enum Write {
    /// Adds an object. Its meta and section versions are set at apply.
    Create(Object),
    /// Removes an object.
    Remove(ObjectRef),
    ClusterSpec(ClusterSpec),
    ClusterPlan(Box<ClusterPlan>),
    NodeSpec(NodeId, NodeSpec),
    NodeDescription(NodeId, NodeDescription),
    NodeStatus(NodeId, NodeStatus),
    NodePlan(NodeId, NodePlan),
    NetworkSpec(NetworkId, NetworkSpec),
    NetworkPlan(NetworkId, NetworkPlan),
    SecretSpec(SecretId, SecretSpec),
    ConfigSpec(ConfigId, ConfigSpec),
    ServiceSpec(ServiceId, Box<ServiceRecord>),
    ServicePlan(ServiceId, ServicePlan),
    /// A part of the plan; what the leader allocated stays, so that a new spec and
    /// the leader never refuse each other.
    ServiceDeployment(ServiceId, ServiceDeployment),
    TaskPlan(TaskId, TaskPlan),
    TaskStatus(TaskId, TaskStatus),
}

impl Transaction {
    /// A transaction without preconditions or writes.
    pub fn new(time: Time) -> Self {
        Self { time, wall: Time::ZERO, request: None, outcome: None, preconditions: Vec::new(), writes: Vec::new() }
    }

    /// Notes what the proposer's wall clock shows, wherever people will read it: the
    /// parts of the core that draft transactions know cluster time alone.
    pub fn stamp(&mut self, wall: Time) {
        self.wall = wall;
        for write in &mut self.writes {
            match write {
                Write::TaskStatus(_, status) => note(&mut status.timestamp, wall),
                Write::NodeStatus(_, status) => note(&mut status.since_wall, wall),
                Write::ServicePlan(_, plan) => plan.deployment.iter_mut().for_each(|it| note(&mut it.started_wall, wall)),
                Write::ServiceDeployment(_, part) => note(&mut part.deployment.started_wall, wall),
                Write::Create(Object::Task(task)) => note(&mut task.status.value.timestamp, wall),
                Write::Create(Object::Node(node)) => note(&mut node.status.value.since_wall, wall),
                Write::Create(Object::Service(service)) => {
                    service.plan.value.deployment.iter_mut().for_each(|it| note(&mut it.started_wall, wall));
                }
                _ => {}
            }
        }
    }
}

fn note(stamp: &mut Time, wall: Time) {
    if *stamp == Time::ZERO {
        *stamp = wall;
    }
}
