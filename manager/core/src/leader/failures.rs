//! Counts what fails of a deployment, and acts when it is too much.
//!
//! A failure is the early end of the first task that a slot has of the spec: before
//! it ran for the time that each step is watched. Only a task's own end counts, not
//! that of its node, and not that of a task that was to end. As in Swarm the ratio
//! is one of the slots that the deployment changes.
//!
//! A failure is counted in the very transaction that retires the task, so it is
//! counted once, whoever is the leader.

use super::allocate::Wanted;
use super::draft::{Draft, estimate_spec};
use super::restart::{ended_by_itself, is_success};
use super::slot::{Slot, SlotKey, slots};
use super::update::{config, is_dirty, is_slot_dirty, is_step};
use super::verdict;
use crate::control::{references_exist, settle_ports};
use crate::timing;
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState, FailedTask, LOST_NODES_MAX};
use skep_model::endpoint::PublishedPort;
use skep_model::node::NodeState;
use skep_model::service::{FailureAction, ServiceRecord};
use skep_model::task::Task;
use skep_model::{TaskId, TaskState};
use std::time::Duration;

/// How long a new task of the deployment has to live to count as good. A step of an
/// update is watched at least until the next one is due.
pub(crate) fn watch(draft: &Draft<'_>, wanted: &Wanted, task: &Task) -> Duration {
    let config = config(draft, wanted);
    if is_step(task) { config.monitor.max(config.delay) } else { config.monitor }
}

/// Notes how many slots the deployment changes: those that it has yet to come to, and
/// those that have a task because of it.
pub(crate) fn count_slots(draft: &mut Draft<'_>, wanted: &Wanted) {
    if !draft.deployment().is_some_and(is_open) {
        return;
    }
    let spec_version = wanted.spec_version();
    let is_made_for_it = |task: &Task| task.spec_version == spec_version && !task.plan.is_retry;
    let is_changed = |slot: &Slot| is_slot_dirty(draft, wanted, slot) || slot.tasks.iter().any(|task| is_made_for_it(task));
    let n = slots(draft).values().filter(|slot| is_changed(slot)).count() as u64;
    if let Some(deployment) = draft.deployment_mut() {
        deployment.slots = deployment.slots.max(n);
    }
}

/// Notes a task that ended while it was wanted, and counts it if its end is a failure
/// of the deployment. `false` if that is for the next turn, and so is its retirement.
pub(crate) fn count(draft: &mut Draft<'_>, wanted: &Wanted, key: SlotKey, task: &Task) -> bool {
    if task.status.is_evicted && task.status.state == TaskState::Failed {
        note_node(draft, task);
    }
    if !draft.deployment().is_some_and(is_open) || !ended_early(draft, wanted, task) {
        return true;
    }
    if !task.plan.is_retry {
        let bytes = 1_500 + estimate_spec(&wanted.template) + 16 * wanted.ports().len() + 512 * wanted.networks.len();
        if !draft.can_count(bytes) {
            return false;
        }
        draft.counted(key);
    }
    if let Some(deployment) = draft.deployment_mut() {
        deployment.failures += u64::from(!task.plan.is_retry);
        deployment.failed_task = Some(failed_task(task));
    }
    true
}

/// Whether a task of the wanted spec ended by itself before it had run long enough.
pub(crate) fn ended_early(draft: &Draft<'_>, wanted: &Wanted, task: &Task) -> bool {
    let watch = watch(draft, wanted, task);
    let is_early = task.status.running_since.is_none_or(|since| task.status.applied_at.since(since) <= watch);
    is_early && ended_by_itself(task) && !is_success(task) && !is_dirty(draft, wanted, task)
}

/// What is told of a task that failed.
pub(crate) fn failed_task(task: &Task) -> FailedTask {
    let error = match (task.status.error.as_str(), task.status.state) {
        ("", TaskState::Complete) => "it ended with exit code 0, and is to run".into(),
        ("", _) => task.status.message.clone(),
        (error, _) => error.to_owned(),
    };
    FailedTask { task: task.id, node: task.plan.node, error, log_tail: task.status.log_tail.clone() }
}

/// Notes that a task has to leave its node because that is down or gone.
pub(crate) fn note_loss(draft: &mut Draft<'_>, task: &Task) {
    let node = task.plan.node.and_then(|node| draft.store.node(node));
    if node.is_none_or(|node| node.status.state == NodeState::Down) {
        note_node(draft, task);
    }
}

fn note_node(draft: &mut Draft<'_>, task: &Task) {
    let Some(node) = task.plan.node else { return };
    let Some(deployment) = draft.deployment_mut().filter(|deployment| !deployment.state.is_final()) else { return };
    if !deployment.lost_nodes.contains(&node) && deployment.lost_nodes.len() < LOST_NODES_MAX {
        deployment.lost_nodes.push(node);
    }
}

/// Whether failures still count: an update that was late goes on, and is watched.
fn is_open(deployment: &Deployment) -> bool {
    use DeploymentState::{Converged, Paused, RolledBack};
    !matches!(deployment.state, Converged | Paused | RolledBack)
}

/// Carries out the failure action if more of the update's tasks failed than may.
pub(crate) fn act(draft: &mut Draft<'_>, wanted: &Wanted) {
    let config = config(draft, wanted);
    let Some(deployment) = draft.deployment() else { return };
    let is_update = deployment.kind != DeploymentKind::Create && is_open(deployment);
    if !is_update || !exceeds(deployment.failures, deployment, config.max_failure_ratio) {
        return;
    }
    let culprit = deployment.failed_task.as_ref().map(|failed| failed.task);
    let name = if deployment.kind.is_rollback() { "rollback" } else { "update" };
    let previous = wanted.service.spec.previous.as_ref().filter(|_| !deployment.kind.is_rollback());
    // What the previous spec refers to may have been removed since, and its ports be another's.
    let ports = previous
        .filter(|previous| references_exist(draft.store, previous))
        .and_then(|previous| settle_ports(draft.store, Some(&wanted.service), &previous.endpoint_spec).ok());
    match (config.failure_action, ports) {
        (FailureAction::Continue, _) => {}
        (FailureAction::Rollback, Some(ports)) => roll_back(draft, wanted, ports, culprit),
        // A rollback is never rolled back.
        (FailureAction::Rollback | FailureAction::Pause, _) => {
            let cause = format!("{name} paused due to failure or early termination of task{}", named(culprit));
            verdict::end(draft, DeploymentState::Paused, cause);
        }
    }
}

fn exceeds(failures: u64, deployment: &Deployment, ratio: f32) -> bool {
    failures as f64 / deployment.slots.max(1) as f64 > f64::from(ratio)
}

fn roll_back(draft: &mut Draft<'_>, wanted: &Wanted, ports: Vec<PublishedPort>, culprit: Option<TaskId>) {
    let record = &wanted.service.spec.value;
    let Some(previous) = record.previous.clone() else { return };
    let spec_version = record.spec_version + 1;
    let mut deployment = verdict::begin(spec_version, DeploymentKind::AutomaticRollback, draft.now);
    deployment.cause = format!("update rolled back due to failure or early termination of task{}", named(culprit));
    deployment.failed_task = draft.deployment().and_then(|failed| failed.failed_task.clone());
    draft.replace_spec(ServiceRecord { spec: *previous, previous: None, spec_version }, ports, deployment);
}

fn named(task: Option<TaskId>) -> String {
    task.map(|task| format!(" {task}")).unwrap_or_default()
}

/// Why a created service does not come up, if too many of its slots have had enough
/// early ends; they go on being restarted. Whoever named a deadline, or asked to
/// continue, waits for it.
pub(crate) fn does_not_come_up<'a>(
    draft: &Draft<'_>,
    wanted: &Wanted,
    slots: impl Iterator<Item = &'a Slot>,
) -> Option<(FailedTask, String)> {
    let (spec, deployment) = (&wanted.service.spec.spec, draft.deployment()?);
    let is_patient = spec.deadline.is_some() || spec.update_config.failure_action == FailureAction::Continue;
    if deployment.kind != DeploymentKind::Create || is_patient || deployment.failures == 0 {
        return None;
    }
    let (mut n_failing, mut last) = (0, None);
    for slot in slots {
        let ends = || slot.tasks.iter().filter(|task| ended_early(draft, wanted, task));
        if ends().count() >= timing::CREATE_FAILURES_MAX {
            n_failing += 1;
            last = ends().next_back().or(last);
        }
    }
    let failed = last.filter(|_| exceeds(n_failing, deployment, spec.update_config.max_failure_ratio))?;
    let told = failed_task(failed);
    let n_before = timing::CREATE_FAILURES_MAX - 1;
    let cause = format!(
        "task {} ended early, as {n_before} before it in its slot, and is restarted again: {}",
        failed.name(),
        told.error
    );
    Some((told, cause))
}
