//! What must hold for tasks, after every change of the store and every start of
//! a container.
//!
//! What is *not* guaranteed: that a slot has one container. A node that cannot be
//! reached keeps what it runs while its tasks are replaced elsewhere, as Swarm
//! has it. What is guaranteed is in the store ([`Slots`]) and on each node (one
//! container for each task and attempt, and none of another node's tasks).

use super::coverage::Coverage;
use crate::slots::Slots;
use skep_manager_core::store::{Change, Store, StoredObject};
use skep_model::node::{Availability, NodeState};
use skep_model::resources::Resources;
use skep_model::task::Task;
use skep_model::task_state::Owner;
use skep_model::{NodeId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A leader decides by what nodes were this long ago at most.
const LOOKED_MAX: Duration = Duration::from_secs(2);

/// What is known of tasks beyond the store.
#[derive(Debug, Default)]
pub struct Tasks {
    /// What agents said: nobody else may say that a task got that far.
    reported: BTreeSet<(TaskId, TaskState)>,
    started: BTreeSet<(TaskId, u64)>,
    /// When each node was last changed, in cluster time.
    nodes: BTreeMap<NodeId, Time>,
    slots: Slots,
}

impl Tasks {
    /// An agent says this of a task.
    pub fn report(&mut self, task: TaskId, state: TaskState) {
        self.reported.insert((task, state));
    }

    /// A container starts on a node.
    pub fn started(&mut self, node: NodeId, task: &Task, attempt: u64) -> Result<(), String> {
        if task.plan.node != Some(node) {
            return Err(format!("node {node} starts task {}, which is assigned to {:?}", task.id, task.plan.node));
        }
        if !self.started.insert((task.id, attempt)) {
            return Err(format!("attempt {attempt} of task {} was started twice", task.id));
        }
        Ok(())
    }

    /// Records of these tasks were lost, and then the power: they may be started anew.
    pub fn forgotten(&mut self, tasks: &[TaskId]) {
        self.started.retain(|(task, _)| !tasks.contains(task));
    }

    /// The store was changed by a transaction of this cluster time.
    pub fn changed(&mut self, time: Time, store: &Store, changes: &[Change], coverage: &mut Coverage) -> Result<(), String> {
        for change in changes {
            if let Some(StoredObject::Node(node)) = &change.new {
                self.nodes.insert(node.id, time);
            }
            if let Some(StoredObject::Task(new)) = &change.new {
                let old = if let Some(StoredObject::Task(old)) = &change.old { Some(old) } else { None };
                self.stepped(old.map(|task| &**task), new, coverage)?;
                check_reservations(store, new)?;
                if let Some(old) = old {
                    self.check_untouched(store, old, new)?;
                }
            }
        }
        self.slots.changed(store, changes)
    }

    fn stepped(&self, old: Option<&Task>, new: &Task, coverage: &mut Coverage) -> Result<(), String> {
        let id = new.id;
        if new.spec.container_spec.secrets.iter().any(|reference| reference.version.is_none()) {
            return Err(format!("task {id} references a secret without a version"));
        }
        let Some(old) = old else { return Ok(()) };
        if new.plan.desired < old.plan.desired {
            return Err(format!("the desired state of task {id} goes back from {} to {}", old.plan.desired, new.plan.desired));
        }
        if old.plan.node.is_some() && old.plan.node != new.plan.node {
            return Err(format!("task {id} moves from {:?} to {:?}", old.plan.node, new.plan.node));
        }
        let (from, to) = (old.status.state, new.status.state);
        if from == to {
            return Ok(());
        }
        let by_leader = from.may_become(to, Owner::Leader);
        let by_agent = from.may_become(to, Owner::Agent) && self.reported.contains(&(id, to));
        if !by_leader && !by_agent {
            return Err(format!("task {id} steps from {from} to {to}, which is illegal or was never reported"));
        }
        coverage.count(format!("task: {from} to {to}"));
        coverage.count(format!("task: {to}"));
        Ok(())
    }

    /// A task that runs on a node where it may be is not stopped while it is the only one of
    /// its slot, is as its service wants it and its node has not changed lately.
    fn check_untouched(&self, store: &Store, old: &Task, new: &Task) -> Result<(), String> {
        let is_stopped = old.is_active() && new.plan.desired == TaskState::Shutdown && !new.status.state.is_final();
        let (Some(service), Some(node)) = (store.service(new.service_id), new.plan.node.and_then(|node| store.node(node))) else {
            return Ok(());
        };
        let is_healthy = node.status.state == NodeState::Ready && node.spec.availability == Availability::Active;
        // The leader may have decided by what the node was when it looked.
        let changed_at = self.nodes.get(&node.id).copied().unwrap_or_default();
        let is_settled = changed_at + LOOKED_MAX <= new.plan.desired_since;
        let is_old_spec = old.spec_version == service.spec.spec_version
            && old.spec.container_spec.secrets.iter().all(|it| {
                it.version.is_some() && store.secret(it.id).is_none_or(|secret| it.version == Some(secret.spec.current))
            });
        let is_other = |other: &&std::sync::Arc<Task>| other.id != new.id && other.slot == new.slot && other.is_active();
        let is_alone = new.slot == 0 || !store.tasks_of_service(service.id).any(|other| is_other(&other));
        if is_stopped && is_healthy && is_settled && is_old_spec && is_alone {
            return Err(format!("task {} is stopped, and it runs as wanted on a healthy node", described(new)));
        }
        Ok(())
    }
}

fn check_reservations(store: &Store, task: &Task) -> Result<(), String> {
    let Some(node) = task.plan.node.and_then(|node| store.node(node)) else { return Ok(()) };
    let holds = |task: &&std::sync::Arc<Task>| (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    let mut sum = Resources::default();
    for part in store.tasks_of_node(node.id).filter(holds).map(|task| task.spec.resources.reservations) {
        sum.nano_cpus += part.nano_cpus;
        sum.memory_bytes += part.memory_bytes;
    }
    let has = node.description.resources;
    if sum.nano_cpus > has.nano_cpus || sum.memory_bytes > has.memory_bytes {
        let tasks: Vec<String> = store.tasks_of_node(node.id).filter(holds).map(|task| described(task)).collect();
        return Err(format!("node {} has {has:?}, its tasks reserve {sum:?}: {}", node.id, tasks.join(", ")));
    }
    Ok(())
}

/// A task in a line: its name, where it stands, and when each owner last wrote it.
pub(super) fn described(task: &Task) -> String {
    let (plan, status) = (&task.plan, &task.status);
    format!(
        "{} {}@{} wanted {}@{} since {:?}",
        task.name(),
        status.state,
        status.version,
        plan.desired,
        plan.version,
        plan.desired_since
    )
}
