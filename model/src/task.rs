//! Tasks: one run of a container on one node.
//!
//! A task is made by an orchestrator for one slot (replicated) or node (global),
//! moves forward only, and is replaced, never reused: with a session only the
//! manager restarts, by a new task. A slot may hold two tasks that are desired
//! running only during a start-first update.

use crate::endpoint::{EndpointState, PublishedPort};
use crate::network::Attachment;
use crate::service::TaskSpec;
use crate::{Meta, NodeId, Section, ServiceId, TaskId, TaskState, Time};

/// The most log lines a failed task reports.
pub const LOG_TAIL_LINES_MAX: usize = 10;
/// The longest error or message a task reports, in bytes.
pub const MESSAGE_MAX: usize = 2048;

/// The beginning of a text, no longer than [`MESSAGE_MAX`].
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// A task. Writers: the leader (`plan`), its node's agent (`status`; the leader
/// until it is assigned, and again once its node is gone).
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// The service it belongs to.
    pub service_id: ServiceId,
    /// The service's name when it was made.
    pub service_name: String,
    /// The service's labels when it was made, for the placeholders of its container.
    pub service_labels: std::collections::BTreeMap<String, String>,
    /// 1…replicas; 0 for a global service.
    pub slot: u64,
    /// What it runs; every secret and config reference has a version.
    pub spec: std::sync::Arc<TaskSpec>,
    /// The service's spec version it was made for.
    pub spec_version: u64,
    /// Its networks, in the order of its interfaces; never changes.
    pub networks: Vec<Attachment>,
    /// The published ports of its service when it was made, with every ingress
    /// port chosen; its node answers on those of mode `host`. Never changes.
    pub ports: Vec<PublishedPort>,
    /// What the leader wants of it.
    pub plan: Section<TaskPlan>,
    /// What is known of it.
    pub status: Section<TaskStatus>,
}

/// The section that the leader writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskPlan {
    /// Ready, Running, Shutdown or Remove; never goes back.
    pub desired: TaskState,
    /// Its node; preassigned for a global service, else chosen by the scheduler.
    pub node: Option<NodeId>,
    /// A replacement that waits for its restart delay starts at this cluster time.
    pub start_at: Option<Time>,
    /// The task it replaces, which must have stopped first.
    pub replaces: Option<TaskId>,
    /// Whether it was made by a restart (and not by a scale-up or an update).
    pub is_restart: bool,
    /// When `desired` last changed, in cluster time.
    pub desired_since: Time,
    /// Whether it is to be found by name, virtual address and published port.
    pub endpoint: EndpointState,
    /// Whether its spec has run in its slot before. The end of one that has not may
    /// be a failure of the deployment.
    pub is_retry: bool,
    /// Whether an update stopped a running task before it could make this one.
    pub takes_over: bool,
}

/// The section that the agent writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// The observed state; never goes back.
    pub state: TaskState,
    /// When it was observed, in wall time of the observer: for people.
    pub timestamp: Time,
    /// When the leader stored this state, in cluster time.
    pub applied_at: Time,
    /// What happened, in a word or two.
    pub message: String,
    /// What went wrong; empty if nothing did.
    pub error: String,
    /// How many times the agent restarted it in place while it had no session.
    pub attempt: u64,
    /// The container, once there is one.
    pub container: Option<ContainerStatus>,
    /// The last lines written by a task that failed, newest last.
    pub log_tail: Vec<String>,
    /// When it was first running (and healthy, where it has a health check): in cluster
    /// time where it is stored, in wall time of the agent where that reports it.
    pub running_since: Option<Time>,
    /// The ports at which its node answers for it alone, as the node settled them:
    /// those of mode `host`, with a number for each that nobody named.
    pub ports: Vec<PublishedPort>,
    /// Whether a health check has said good since it last started.
    pub is_healthy: bool,
    /// Whether its node ended it, not the task itself: the node was restarted or went,
    /// or may not have it any more. That costs no restart attempt and is no failure of
    /// what it runs.
    pub is_evicted: bool,
}

/// What is known of a task's container.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ContainerStatus {
    /// Its id on the node; the task's id.
    pub container_id: String,
    /// Its first process, in the node's PID namespace.
    pub pid: i32,
    /// Its exit code; 128 + n if signal n ended it.
    pub exit_code: i32,
}

impl TaskPlan {
    /// A task that is to come to a state, on any node and at once.
    pub fn new(desired: TaskState, since: Time) -> Self {
        Self {
            desired,
            node: None,
            start_at: None,
            replaces: None,
            is_restart: false,
            desired_since: since,
            endpoint: EndpointState::default(),
            is_retry: false,
            takes_over: false,
        }
    }
}

impl TaskStatus {
    /// A task that is in a state, and nothing else is known of it.
    pub fn new(state: TaskState, at: Time) -> Self {
        Self {
            state,
            timestamp: at,
            applied_at: at,
            message: String::new(),
            error: String::new(),
            attempt: 0,
            container: None,
            log_tail: Vec::new(),
            running_since: None,
            ports: Vec::new(),
            is_healthy: false,
            is_evicted: false,
        }
    }
}

impl TaskStatus {
    /// What a wall clock showed at a cluster time of this task.
    pub fn wall(&self, at: Time) -> Time {
        self.timestamp.when_other_showed(self.applied_at, at)
    }
}

impl Task {
    /// The name as Swarm prints it: `service.slot.task` or `service.node.task`.
    pub fn name(&self) -> String {
        match (self.slot, self.plan.node) {
            (0, Some(node)) => format!("{}.{node}.{}", self.service_name, self.id),
            _ => format!("{}.{}.{}", self.service_name, self.slot, self.id),
        }
    }

    /// Whether it is wanted to run, or to be ready to.
    pub fn is_wanted(&self) -> bool {
        self.plan.desired <= TaskState::Running
    }

    /// Whether it is wanted and has not ended.
    pub fn is_active(&self) -> bool {
        self.is_wanted() && !self.status.state.is_final()
    }
}
