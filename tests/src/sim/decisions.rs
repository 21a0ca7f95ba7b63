//! What must hold for the leader's decisions, as they are stored: where tasks are placed,
//! how many steps an update has under way, which failures a deployment counts, and when it
//! has converged. The history alone is looked at, so it does not matter which leader
//! decided, nor what it had in its memory.
//!
//! What is *not* guaranteed: that a decision rests on the newest report of an agent. A
//! leader decides by what it read, and what a task's status says may have grown since.

use super::services::{is_as_wanted, meets};
use super::tasks::described;
use skep_manager_core::store::{Change, Store, StoredObject};
use skep_manager_core::transaction::Transaction;
use skep_model::deployment::{Deployment, DeploymentState};
use skep_model::node::{Availability, NodeState};
use skep_model::service::{Service, ServiceMode};
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Clocks of managers drift by a fiftieth at most, and each leader goes on from the last.
const DRIFT_MAX: f64 = 1.03;
/// How far cluster time may be ahead besides: a transaction is made after all that its
/// service has, and a leader finds out what time it is by its log.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// What is remembered of decisions.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Cluster time at the first transaction, and true time then.
    began: Option<(Time, Time)>,
}

impl Decisions {
    /// A transaction was applied at this time.
    pub fn changed(&mut self, now: Time, store: &Store, transaction: &Transaction, changes: &[Change]) -> Result<(), String> {
        self.check_time(now, transaction.time)?;
        for change in changes {
            match (&change.old, &change.new) {
                (Some(StoredObject::Task(old)), Some(StoredObject::Task(new))) => check_placement(store, old, new)?,
                (Some(StoredObject::Service(old)), Some(StoredObject::Service(new))) => {
                    check_deployment(store, old, new, changes)?;
                }
                _ => {}
            }
        }
        check_steps(store, changes)
    }

    /// Cluster time decides which requests are remembered, and until when all waits last.
    fn check_time(&mut self, now: Time, cluster: Time) -> Result<(), String> {
        let (cluster_began, began) = *self.began.get_or_insert((cluster, now));
        let most = now.since(began).mul_f64(DRIFT_MAX) + AHEAD_MAX;
        let passed = cluster.since(cluster_began);
        if passed <= most {
            return Ok(());
        }
        Err(format!("cluster time has advanced by {passed:?} while {:?} passed", now.since(began)))
    }
}

/// A task is placed on a node that is ready and active, meets its constraints and has no
/// more tasks of its service than it may. What was read of the node still held.
fn check_placement(store: &Store, old: &Task, new: &Task) -> Result<(), String> {
    let is_placed = old.status.state < TaskState::Assigned && new.status.state == TaskState::Assigned;
    let Some(node) = new.plan.node.and_then(|node| store.node(node)).filter(|_| is_placed) else { return Ok(()) };
    let placement = &new.spec.placement;
    // Others may have been placed after it, and allowed more.
    let is_there = |task: &&Arc<Task>| {
        let is_same = task.service_id == new.service_id && task.spec.placement.max_replicas == placement.max_replicas;
        is_same && task.is_active() && task.status.state >= TaskState::Assigned
    };
    let there: Vec<&Arc<Task>> = store.tasks_of_node(node.id).filter(is_there).collect();
    let n = there.len() as u64;
    let why = if node.status.state != NodeState::Ready {
        format!("is {:?}", node.status.state)
    } else if node.spec.availability != Availability::Active {
        format!("takes no tasks: {:?}", node.spec.availability)
    } else if let Some(constraint) = placement.constraints.iter().find(|text| !meets(text, node)) {
        format!("does not meet {constraint}")
    } else if placement.max_replicas > 0 && n > placement.max_replicas {
        let there: Vec<String> = there.into_iter().map(|task| described(task)).collect();
        format!("has {n} tasks of the service, {} are allowed: {}", placement.max_replicas, there.join(", "))
    } else {
        return Ok(());
    };
    Err(format!("task {} is placed on node {}, which {why}", new.name(), node.id))
}

fn check_deployment(store: &Store, old: &Service, new: &Service, changes: &[Change]) -> Result<(), String> {
    let (Some(before), Some(after)) = (&old.plan.deployment, &new.plan.deployment) else { return Ok(()) };
    let is_same = (before.spec_version, before.kind, before.started_at) == (after.spec_version, after.kind, after.started_at);
    let is_good = |deployment: &Deployment| matches!(deployment.state, DeploymentState::Converged | DeploymentState::RolledBack);
    if is_same {
        check_failures(new, before, after, changes)?;
    }
    if is_same && is_good(after) && !is_good(before) { check_converged(store, new) } else { Ok(()) }
}

/// Failures never go back, and each is that of a task that this transaction retires and
/// that ended by itself, as the first of its slot.
fn check_failures(service: &Service, before: &Deployment, after: &Deployment, changes: &[Change]) -> Result<(), String> {
    let is_failure = |change: &&Change| {
        let Some(StoredObject::Task(old)) = &change.old else { return false };
        // One may be retired and removed at once.
        let new = if let Some(StoredObject::Task(new)) = &change.new { Some(new) } else { None };
        let status = &new.unwrap_or(old).status;
        let is_retired = old.service_id == service.id && old.is_wanted() && new.is_none_or(|new| !new.is_wanted());
        let is_own_end =
            matches!(status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected) && !status.is_evicted;
        is_retired && is_own_end && !old.plan.is_retry
    };
    let name = &service.spec.spec.annotations.name;
    let n = changes.iter().filter(is_failure).count() as u64;
    if after.failures < before.failures {
        return Err(format!("the deployment of {name} had {} failures and has {}", before.failures, after.failures));
    }
    if after.failures - before.failures > n {
        return Err(format!(
            "the deployment of {name} had {} failures and has {}, and {n} tasks were retired that failed",
            before.failures, after.failures
        ));
    }
    Ok(())
}

/// Every slot of a service that has converged had a task that ran, and is what is wanted.
fn check_converged(store: &Store, service: &Service) -> Result<(), String> {
    let ServiceMode::Replicated { replicas } = service.spec.spec.mode else { return Ok(()) };
    let has_run = |task: &&Arc<Task>| task.status.state >= TaskState::Running && task.status.running_since.is_some();
    let is_complete = |task: &&Arc<Task>| task.status.state == TaskState::Complete;
    let slots: BTreeSet<u64> = store
        .tasks_of_service(service.id)
        .filter(|task| has_run(task) || is_complete(task))
        .filter(|task| is_as_wanted(service, task))
        .map(|task| task.slot)
        .collect();
    if slots.len() as u64 >= replicas {
        return Ok(());
    }
    let name = &service.spec.spec.annotations.name;
    Err(format!("service {name} has converged, and of its {replicas} slots only {slots:?} ever ran what it asks for"))
}

/// An update stops no more running tasks at a time than it may: the slots whose task was
/// taken away for a new one that has not run yet are within its parallelism.
fn check_steps(store: &Store, changes: &[Change]) -> Result<(), String> {
    let made = changes.iter().filter_map(|change| match (&change.old, &change.new) {
        (None, Some(StoredObject::Task(task))) if is_open_step(task) => Some((task.service_id, task.spec_version)),
        _ => None,
    });
    let made: BTreeSet<_> = made.collect();
    for (id, spec_version) in made {
        let Some(service) = store.service(id).filter(|service| service.spec.spec_version == spec_version) else { continue };
        let is_rollback = service.plan.deployment.as_ref().is_some_and(|deployment| deployment.kind.is_rollback());
        let spec = &service.spec.spec;
        let parallelism = if is_rollback { spec.rollback_config } else { spec.update_config }.parallelism;
        let is_counted = |task: &&Arc<Task>| task.spec_version == spec_version && is_open_step(task);
        let steps: Vec<String> = store.tasks_of_service(id).filter(is_counted).map(|task| described(task)).collect();
        if parallelism > 0 && steps.len() as u64 > parallelism {
            let (name, steps) = (&spec.annotations.name, steps.join(", "));
            return Err(format!("the update of {name} may have {parallelism} steps under way, and has {steps}"));
        }
    }
    Ok(())
}

/// Whether a task is a step of an update that took a running task's place, and has not
/// come to anything yet.
fn is_open_step(task: &Task) -> bool {
    task.plan.takes_over && !task.plan.is_restart && task.is_active() && task.status.running_since.is_none()
}
