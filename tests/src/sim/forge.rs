//! Wrong decisions of a leader (planted bugs), from outside of the core.
//!
//! The core cannot be made to decide wrongly. What it *has* decided is an entry of its
//! log, and the log is on disks: at a moment when nothing is under way, the managers'
//! daemons die, an entry is added where the leader would have put its next one, and they
//! start again. Whoever is elected commits it, as what a leader proposed just before it
//! died.

use super::plant::Plant;
use super::services::is_as_wanted;
use super::{Happening, Simulation};
use raft::eraftpb::Entry;
use skep_manager_core::store::{Store, codec};
use skep_manager_core::transaction::{Transaction, Write};
use skep_model::deployment::DeploymentState;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::service::{Service, ServiceMode};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::version::FORMAT_MAX;
use skep_model::{Meta, Object, RequestId, Section, TaskId, TaskState, Time};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether there is something to decide wrongly.
const PACE: Duration = Duration::from_millis(300);
/// Longer than any request is remembered.
const LEAP: Duration = Duration::from_secs(660);

impl Simulation {
    /// Adds a wrong decision to the log, if there is one to be made and all is quiet.
    pub(super) fn forge(&mut self) -> Result<(), String> {
        self.after(PACE, Happening::Forge);
        let (Some(plant), true) = (self.options.plant, self.is_chaos()) else { return Ok(()) };
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(manager) = &self.machines[leader].manager else { return Ok(()) };
        let (status, time) = (manager.status(), manager.cluster_time());
        let truth = self.checkers.truth();
        if status.applied != status.last || truth.version != status.applied {
            return Ok(());
        }
        let at_rest: Vec<usize> = (0..self.machines.len()).filter(|number| self.is_at_rest(*number, status.last)).collect();
        let n_voters = at_rest.iter().filter(|number| status.voters.contains(&self.machines[**number].raft_id())).count();
        if n_voters * 2 <= status.voters.len() || !at_rest.contains(&leader) {
            return Ok(());
        }
        let new_id = self.dice.other.id();
        let Some(mut transaction) = decision(plant, self.checkers.truth(), self.checkers.refused(), time, new_id) else {
            return Ok(());
        };
        transaction.stamp(self.now);
        self.note(format!("machine {leader} decides wrongly: {transaction:?}"));
        let (index, data) = (status.last + 1, codec::encode(&transaction, FORMAT_MAX));
        let entry = Entry { index, term: status.term, data: data.into(), ..Entry::default() };
        for number in &at_rest {
            self.crash_daemon(*number);
            self.machines[*number].disk.forge(entry.clone());
        }
        at_rest.into_iter().try_for_each(|number| self.restart(number))
    }

    /// Whether a manager runs, has that entry as its last, and nothing on its way to its disk.
    fn is_at_rest(&self, number: usize, last: u64) -> bool {
        let machine = &self.machines[number];
        let is_level = machine.manager.as_ref().is_some_and(|manager| manager.status().last == last);
        let is_there = machine.is_up && !machine.is_paused && !machine.is_lost;
        is_level && is_there && machine.disk.pending.is_empty() && machine.disk.last() == last
    }
}

/// The wrong decision of a planted bug, if the store has what it takes. `refused` is the
/// last transaction whose preconditions did not hold.
fn decision(plant: Plant, store: &Store, refused: Option<&Transaction>, time: Time, id: [u8; 16]) -> Option<Transaction> {
    let mut transaction = Transaction::new(time);
    transaction.writes = match plant {
        Plant::ConvergeEarly => converge_early(store, time)?,
        Plant::IgnoreParallelism => ignore_parallelism(store, time, id)?,
        Plant::CountTwice => count(store, |failures| Some(failures + 1))?,
        Plant::LoseCount => count(store, |failures| failures.checked_sub(1))?,
        Plant::PlaceOnDrained => place(store, time, |node, _| node.spec.availability == Availability::Drain)?,
        Plant::PlaceAgainstConstraints => place(store, time, |node, task| {
            let constraints = &task.spec.placement.constraints;
            node.spec.availability == Availability::Active && constraints.iter().any(|text| !super::services::meets(text, node))
        })?,
        Plant::StopHealthy => stop_healthy(store, time)?,
        Plant::AllDown => all_down(store, time)?,
        Plant::ForgetOutcomes => {
            transaction.time = time + LEAP;
            transaction.request = Some(RequestId(id));
            Vec::new()
        }
        Plant::DropPreconditions => refused?.writes.clone(),
        _ => return None,
    };
    Some(transaction)
}

/// A deployment has converged although a slot never ran.
fn converge_early(store: &Store, time: Time) -> Option<Vec<Write>> {
    let service = store.services().find(|service| {
        let is_open = service.plan.deployment.as_ref().is_some_and(|it| it.state == DeploymentState::Progressing);
        let ServiceMode::Replicated { replicas } = service.spec.spec.mode else { return false };
        let runs = |task: &&Arc<Task>| task.status.state == TaskState::Running && is_as_wanted(service, task);
        is_open
            && service.plan.removed_at.is_none()
            && (store.tasks_of_service(service.id).filter(runs).count() as u64) < replicas
    })?;
    let mut plan = service.plan.value.clone();
    let deployment = plan.deployment.as_mut()?;
    (deployment.state, deployment.ended_at) = (DeploymentState::Converged, Some(time));
    Some(vec![Write::ServicePlan(service.id, plan)])
}

/// All running tasks of an update are replaced at once, more than it may.
fn ignore_parallelism(store: &Store, time: Time, id: [u8; 16]) -> Option<Vec<Write>> {
    let outdated = |service: &Service| -> Vec<Arc<Task>> {
        let is_outdated = |task: &&Arc<Task>| {
            task.is_active() && task.status.state == TaskState::Running && !is_as_wanted(service, task) && task.slot > 0
        };
        store.tasks_of_service(service.id).filter(is_outdated).cloned().collect()
    };
    let (service, tasks) = store.services().filter(|service| service.plan.removed_at.is_none()).find_map(|service| {
        let is_open = service.plan.deployment.as_ref().is_some_and(|it| it.state == DeploymentState::Progressing);
        let parallelism = service.spec.spec.update_config.parallelism.max(service.spec.spec.rollback_config.parallelism);
        let tasks = outdated(service);
        (is_open && parallelism > 0 && tasks.len() as u64 > parallelism).then_some((service, tasks))
    })?;
    let replace = |(n, old): (usize, Arc<Task>)| {
        let mut bytes = id;
        bytes[0] = bytes[0].wrapping_add(u8::try_from(n).unwrap_or(0));
        let mut spec = service.spec.spec.task_template.clone();
        spec.container_spec.secrets.clone_from(&old.spec.container_spec.secrets);
        let plan = TaskPlan { replaces: Some(old.id), takes_over: true, ..TaskPlan::new(TaskState::Ready, time) };
        let new = Task {
            id: TaskId::from_random(bytes),
            meta: Meta { made_at: time, ..Meta::default() },
            spec: Arc::new(spec),
            spec_version: service.spec.spec_version,
            networks: Vec::new(),
            plan: Section::new(plan),
            status: Section::new(TaskStatus::new(TaskState::Pending, time)),
            ..Task::clone(&old)
        };
        let stopped = TaskPlan { desired: TaskState::Shutdown, desired_since: time, ..old.plan.value.clone() };
        [Write::TaskPlan(old.id, stopped), Write::Create(Object::Task(Box::new(new)))]
    };
    Some(tasks.into_iter().enumerate().flat_map(replace).collect())
}

/// The failures of a deployment are others than there were.
fn count(store: &Store, other: impl Fn(u64) -> Option<u64>) -> Option<Vec<Write>> {
    let counted = store.services().find_map(|service| {
        let mut plan = service.plan.value.clone();
        let deployment = plan.deployment.as_mut().filter(|it| it.state == DeploymentState::Progressing)?;
        deployment.failures = other(deployment.failures)?;
        Some(Write::ServicePlan(service.id, plan))
    })?;
    Some(vec![counted])
}

/// A task that waits for a node is placed on one that it may not have.
fn place(store: &Store, time: Time, is_wrong: impl Fn(&Node, &Task) -> bool) -> Option<Vec<Write>> {
    let is_waiting = |task: &&Arc<Task>| task.is_active() && task.status.state == TaskState::Pending;
    let (task, node) = store.tasks().filter(is_waiting).find_map(|task| {
        let node = store.nodes().find(|node| node.status.state == NodeState::Ready && is_wrong(node, task))?;
        task.plan.node.is_none_or(|own| own == node.id).then_some((task, node))
    })?;
    let plan = TaskPlan { node: Some(node.id), ..task.plan.value.clone() };
    let status = TaskStatus { state: TaskState::Assigned, applied_at: time, ..task.status.value.clone() };
    Some(vec![Write::TaskPlan(task.id, plan), Write::TaskStatus(task.id, status)])
}

/// A task that runs where it may, as its service wants it, is stopped.
fn stop_healthy(store: &Store, time: Time) -> Option<Vec<Write>> {
    let task = store.tasks().find(|task| {
        let is_as_wanted = store.service(task.service_id).is_some_and(|service| is_as_wanted(service, task));
        let node = task.plan.node.and_then(|node| store.node(node));
        let is_fine =
            node.is_some_and(|node| node.status.state == NodeState::Ready && node.spec.availability == Availability::Active);
        task.is_active() && task.status.state == TaskState::Running && is_as_wanted && is_fine
    })?;
    let plan = TaskPlan { desired: TaskState::Shutdown, desired_since: time, ..task.plan.value.clone() };
    Some(vec![Write::TaskPlan(task.id, plan)])
}

/// Every node counts as down at once.
fn all_down(store: &Store, time: Time) -> Option<Vec<Write>> {
    let ready = store.nodes().filter(|node| node.status.state == NodeState::Ready);
    let writes: Vec<Write> = ready
        .map(|node| {
            let mut status = node.status.value.clone();
            (status.state, status.since, status.message) = (NodeState::Down, time, "heartbeat failure".into());
            Write::NodeStatus(node.id, status)
        })
        .collect();
    (writes.len() > 1).then_some(writes)
}
