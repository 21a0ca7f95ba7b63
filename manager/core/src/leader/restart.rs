//! Replaces tasks that ended, or that have to leave their node.
//!
//! As in Swarm: the old task is no longer wanted, its replacement is made at once
//! with desired state ready, and starts when the delay is over *and* the old one
//! has stopped (for at most a minute; not if its node is down). The delay is left
//! out when the node is being drained.
//!
//! Whether a slot gets a replacement follows from its newest task alone, each
//! time it is looked at: nothing has to be remembered.

use super::allocate::{Cause, Wanted, make};
use super::draft::Draft;
use super::orchestrate::takes_new;
use super::slot::{Slot, SlotKey, ended_at, must_leave, slots};
use super::update::is_dirty;
use super::verdict;
use crate::mint::Mint;
use crate::timing;
use skep_model::node::{Availability, NodeState};
use skep_model::service::RestartCondition;
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::sync::Arc;

/// Retires tasks that ended or must leave.
pub(crate) fn retire(draft: &mut Draft<'_>, wanted: &Wanted) {
    for slot in slots(draft).values() {
        for task in slot.tasks.iter().filter(|task| task.is_wanted()) {
            retire_one(draft, wanted, slot, task);
        }
    }
}

fn retire_one(draft: &mut Draft<'_>, wanted: &Wanted, slot: &Slot, task: &Task) {
    if task.status.state.is_final() {
        // One that failed while it was still waiting for its delay (no such
        // image) is dealt with when the delay is over: no faster loop.
        if let Some(at) = task.plan.start_at.filter(|at| *at > draft.now) {
            draft.wake_at(at);
            return;
        }
        verdict::count_failure(draft, wanted, slot, task);
        draft.want(task.id, TaskState::Shutdown);
    } else if task.plan.node.is_some_and(|node| must_leave(draft.store.node(node))) {
        draft.want(task.id, TaskState::Shutdown);
    }
}

/// Makes the replacements of tasks that were retired.
pub(crate) fn replace(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    for (key, slot) in slots(draft) {
        let Some(newest) = slot.newest().cloned() else { continue };
        if newest.is_wanted() {
            continue;
        }
        // With an older task still active (start-first) only a failed new one is replaced;
        // one of an update before is the update's to replace, in its order.
        let is_new = newest.spec_version == wanted.spec_version() && !is_dirty(draft, wanted, &newest);
        let is_needed = slot.active().next().is_none() || is_new;
        let has_place = key.node.is_none_or(|node| draft.store.node(node).is_some_and(|node| takes_new(wanted, node)));
        if is_needed && has_place && should_restart(&newest, &slot) {
            replace_one(draft, mint, wanted, key, &slot, &newest);
        }
    }
}

/// Whether a slot without an active task gets one by the restart policy.
pub(crate) fn should_restart(newest: &Task, slot: &Slot) -> bool {
    let policy = &newest.spec.restart_policy;
    match policy.condition {
        RestartCondition::None => return false,
        RestartCondition::OnFailure if newest.status.state == TaskState::Complete => return false,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    // Leaving a node is no failure, so it costs no attempt.
    policy.max_attempts == 0 || !ended_by_itself(newest) || n_restarts(newest, slot) < policy.max_attempts
}

/// Whether a task ended without being asked to.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected)
}

/// Restarts of the same spec version that count, those that the agent made in
/// place included.
fn n_restarts(newest: &Task, slot: &Slot) -> u64 {
    let window = newest.spec.restart_policy.window;
    let from = if window.is_zero() { Time::ZERO } else { ended_at(newest) - window };
    let same = slot.tasks.iter().filter(|task| task.spec_version == newest.spec_version);
    same.map(|task| {
        let by_manager = u64::from(task.plan.is_restart && task.meta.created_at >= from);
        let in_place = if ended_at(task) >= from { task.status.attempt } else { 0 };
        by_manager + in_place
    })
    .sum()
}

fn replace_one(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, key: SlotKey, slot: &Slot, old: &Task) {
    let node = old.plan.node.and_then(|node| draft.store.node(node));
    let is_drained = node.is_some_and(|node| node.spec.availability == Availability::Drain);
    let from = if old.status.state.is_final() { ended_at(old).max(old.plan.start_at.unwrap_or_default()) } else { draft.now };
    // One that was asked to stop and has, on a node that was drained and is back, left no reason to wait.
    let was_asked = old.status.state == TaskState::Shutdown;
    let start_at = (!is_drained && !was_asked).then(|| from + old.spec.restart_policy.delay);
    let cause = Cause { desired: TaskState::Ready, start_at, replaces: slot.predecessor(), is_restart: ended_by_itself(old) };
    make(draft, mint, wanted, key, cause);
}

/// Starts replacements that have nothing more to wait for.
pub(crate) fn start(draft: &mut Draft<'_>) {
    let waiting: Vec<Arc<Task>> = draft.tasks().filter(|task| task.plan.desired == TaskState::Ready).cloned().collect();
    for task in waiting {
        let ready_at = task.plan.start_at.unwrap_or(Time::ZERO).max(old_stopped_at(draft, &task));
        if ready_at <= draft.now {
            draft.want(task.id, TaskState::Running);
        } else {
            draft.wake_at(ready_at);
        }
    }
}

/// When the task that a replacement waits for has stopped, or is not waited for any longer.
fn old_stopped_at(draft: &Draft<'_>, task: &Task) -> Time {
    let Some(old) = task.plan.replaces.and_then(|old| draft.task(old)) else { return Time::ZERO };
    let node = old.plan.node.and_then(|node| draft.store.node(node));
    let is_out_of_reach = node.is_none_or(|node| node.status.state == NodeState::Down);
    if old.status.state.is_final() || old.status.state < TaskState::Assigned || is_out_of_reach {
        return Time::ZERO;
    }
    // Whoever asked for a long drain meant the replacement to wait for it as well.
    let drain = old.spec.container_spec.stop_drain.unwrap_or_default();
    old.plan.desired_since.max(task.meta.created_at) + timing::OLD_TASK_TIMEOUT + drain
}
