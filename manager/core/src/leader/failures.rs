//! Counts what fails of a deployment, and acts when it is too much.
//!
//! A failure is the early end of the first task that a slot has of the spec: before
//! it ran for the time that each step is watched. Only a task's own end counts, not
//! that of its node, and not that of a task that was to end. As in Swarm the ratio
//! is one of the slots that the deployment changes.
//!
//! A failure is counted in the very transaction that retires the task, so it is
//! counted once, whoever is the leader.

use super::draft::Draft;
use super::slot::{Slot, SlotKey, slots};
use crate::rules::deployment::{self, exceeds, is_open};
use crate::rules::dirtiness::is_slot_dirty;
use crate::rules::ending::{Ending, failed_task};
use crate::rules::steps::{config, ended_early};
use crate::rules::wanted::Wanted;
use crate::rules::{estimate, ports, references};
use skep_model::TaskId;
use skep_model::deployment::{DeploymentKind, DeploymentState, LOST_NODES_MAX};
use skep_model::endpoint::PublishedPort;
use skep_model::node::NodeState;
use skep_model::service::{FailureAction, ServiceRecord};
use skep_model::task::Task;

/// Notes how many slots the deployment changes: those that it has yet to come to, and
/// those that have a task because of it.
pub(crate) fn count_slots(draft: &mut Draft<'_>, wanted: &Wanted) {
    if !draft.deployment().is_some_and(is_open) {
        return;
    }
    let spec_version = wanted.spec_version();
    let is_made_for_it = |task: &Task| task.spec_version == spec_version && !task.plan.is_retry;
    let is_changed =
        |slot: &Slot| is_slot_dirty(draft.store, wanted, &slot.tasks) || slot.tasks.iter().any(|task| is_made_for_it(task));
    let n = slots(draft).values().filter(|slot| is_changed(slot)).count() as u64;
    if let Some(deployment) = draft.deployment_mut() {
        deployment.slots = deployment.slots.max(n);
    }
}

/// Notes a task that ended while it was wanted, and counts it if its end is a failure
/// of the deployment. `false` if that is for the next turn, and so is its retirement.
pub(crate) fn count(draft: &mut Draft<'_>, wanted: &Wanted, key: SlotKey, task: &Task) -> bool {
    if Ending::of(task) == Some(Ending::Lost) {
        note_node(draft, task);
    }
    if !draft.deployment().is_some_and(is_open) || !ended_early(draft.store, wanted, draft.deployment(), task) {
        return true;
    }
    if !task.plan.is_retry {
        let bytes = 1_500 + estimate::spec(&wanted.template) + 16 * wanted.ports().len() + 512 * wanted.networks.len();
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

/// Carries out the failure action if more of the update's tasks failed than may.
pub(crate) fn act(draft: &mut Draft<'_>, wanted: &Wanted) {
    let config = config(wanted, draft.deployment());
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
        .filter(|previous| references::all_exist(draft.store, previous))
        .and_then(|previous| ports::settle(draft.store, Some(&wanted.service), &previous.endpoint_spec).ok());
    match (config.failure_action, ports) {
        (FailureAction::Continue, _) => {}
        (FailureAction::Rollback, Some(ports)) => roll_back(draft, wanted, ports, culprit),
        // A rollback is never rolled back.
        (FailureAction::Rollback | FailureAction::Pause, _) => {
            let cause = format!("{name} paused due to failure or early termination of task{}", named(culprit));
            draft.end_deployment(DeploymentState::Paused, cause);
        }
    }
}

fn roll_back(draft: &mut Draft<'_>, wanted: &Wanted, ports: Vec<PublishedPort>, culprit: Option<TaskId>) {
    let record = &wanted.service.spec.value;
    let Some(previous) = record.previous.clone() else { return };
    let spec_version = record.spec_version + 1;
    let mut deployment = deployment::begin(spec_version, DeploymentKind::AutomaticRollback, draft.now);
    deployment.cause = format!("update rolled back due to failure or early termination of task{}", named(culprit));
    deployment.failed_task = draft.deployment().and_then(|failed| failed.failed_task.clone());
    draft.replace_spec(ServiceRecord { spec: *previous, previous: None, spec_version }, ports, deployment);
}

fn named(task: Option<TaskId>) -> String {
    task.map(|task| format!(" {task}")).unwrap_or_default()
}
