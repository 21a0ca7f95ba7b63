//! Retires tasks that ended or must leave their node, and counts those whose end is a
//! failure of the deployment.
//!
//! A failure is the early end of the first task that a slot has of the spec: before
//! it ran for the time that each step is watched. Only a task's own end counts, not
//! that of its node, and not that of a task that was to end.
//!
//! A failure is counted in the very transaction that retires the task, so it is
//! counted once, whoever is the leader.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::slots::SlotKey;
use crate::rules::deployment::is_open;
use crate::rules::eligibility::must_leave;
use crate::rules::ending::{Ending, failed_task};
use crate::rules::estimate;
use crate::rules::steps::ended_early;
use crate::rules::wanted::Wanted;
use skep_model::TaskState;
use skep_model::task::Task;

/// Retires tasks that ended or must leave.
pub(crate) fn retire(draft: &mut Draft<'_>, wanted: &Wanted) {
    for (key, slot) in draft.slots() {
        for task in slot.tasks.iter().filter(|task| task.is_wanted()) {
            retire_one(draft, wanted, key, task);
        }
    }
}

fn retire_one(draft: &mut Draft<'_>, wanted: &Wanted, key: SlotKey, task: &Task) {
    if task.status.state.is_final() {
        // One that failed while it was still waiting for its delay (no such
        // image) is dealt with when the delay is over: no faster loop.
        if let Some(at) = task.plan.start_at.filter(|at| *at > draft.now) {
            draft.wake_at(at);
            return;
        }
        if count(draft, wanted, key, task) {
            draft.want(task.id, TaskState::Shutdown);
        }
    } else if task.plan.node.is_some_and(|node| must_leave(draft.store.node(node))) {
        draft.note_loss(task);
        draft.want(task.id, TaskState::Shutdown);
    }
}

/// Notes a task that ended while it was wanted, and counts it if its end is a failure
/// of the deployment. `false` if that is for the next turn, and so is its retirement.
fn count(draft: &mut Draft<'_>, wanted: &Wanted, key: SlotKey, task: &Task) -> bool {
    if Ending::of(task) == Some(Ending::Lost) {
        draft.note_lost_node(task);
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
