//! Replaces tasks that ended, or that have to leave their node.
//!
//! As in Swarm: the old task is no longer wanted, its replacement is made at once
//! with desired state ready, and starts when the delay is over *and* the old one
//! has stopped (or long enough to be killed has passed; not if its node is down).
//!
//! The delay is for crash loops: only a task that ended by itself is replaced after
//! it. One that was lost with its node, or that may not stay there, is replaced at
//! once, and that costs no attempt.
//!
//! Whether a slot gets a replacement follows from its newest task alone, each
//! time it is looked at: nothing has to be remembered.

use super::allocate::{Cause, Wanted, make};
use super::draft::Draft;
use super::failures;
use super::orchestrate::takes_new;
use super::slot::{Slot, SlotKey, ended_at, must_leave, slots};
use super::update::is_dirty;
use crate::mint::Mint;
use crate::timing;
use skep_model::node::{Availability, NodeState};
use skep_model::service::{RestartCondition, RestartPolicy};
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::sync::Arc;
use std::time::Duration;

/// Retires tasks that ended or must leave.
pub(crate) fn retire(draft: &mut Draft<'_>, wanted: &Wanted) {
    for (key, slot) in slots(draft) {
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
        if failures::count(draft, wanted, key, task) {
            draft.want(task.id, TaskState::Shutdown);
        }
    } else if task.plan.node.is_some_and(|node| must_leave(draft.store.node(node))) {
        failures::note_loss(draft, task);
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

/// Whether a task ended without being asked to, and not with its node.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.status.state, TaskState::Complete | TaskState::Failed | TaskState::Rejected) && !task.status.is_evicted
}

/// Whether a task did what it was for: it completed, and its policy calls for no other.
pub(crate) fn is_success(task: &Task) -> bool {
    let policy: &RestartPolicy = &task.spec.restart_policy;
    task.status.state == TaskState::Complete && policy.condition != RestartCondition::Any
}

/// Restarts of the same spec version that count, those that the agent made in
/// place included.
fn n_restarts(newest: &Task, slot: &Slot) -> u64 {
    let window = newest.spec.restart_policy.window;
    let from = if window.is_zero() { Time::ZERO } else { ended_at(newest) - window };
    let same = slot.tasks.iter().filter(|task| task.spec_version == newest.spec_version);
    same.map(|task| {
        let by_manager = u64::from(task.plan.is_restart && task.meta.made() >= from);
        // The last run of one that ended with its node was no restart of the policy's.
        let in_place = task.status.attempt.saturating_sub(u64::from(task.status.is_evicted));
        by_manager + if ended_at(task) >= from { in_place } else { 0 }
    })
    .sum()
}

fn replace_one(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, key: SlotKey, slot: &Slot, old: &Task) {
    let is_restart = ended_by_itself(old);
    let watch = failures::watch(draft, wanted, old);
    let has_proven = old.status.running_since.is_some_and(|since| draft.now.since(since) > watch);
    let is_retry = !is_dirty(draft, wanted, old) && (is_restart || old.plan.is_retry || has_proven);
    let cause = Cause {
        desired: TaskState::Ready,
        start_at: start_at(draft, old),
        replaces: slot.predecessor(),
        is_restart,
        is_retry,
        takes_over: false,
    };
    make(draft, mint, wanted, key, cause);
}

/// When the replacement of a task may start; `None` if there is no delay.
fn start_at(draft: &Draft<'_>, old: &Task) -> Option<Time> {
    let node = old.plan.node.and_then(|node| draft.store.node(node));
    let delay = old.spec.restart_policy.delay;
    if node.is_some_and(|node| node.spec.availability == Availability::Drain) {
        return None;
    }
    if ended_by_itself(old) {
        return Some(ended_at(old).max(old.plan.start_at.unwrap_or_default()) + delay);
    }
    let earliest = match old.status.state {
        // Its node lost it and is there: not again and again without a pause.
        TaskState::Failed => Some(old.meta.made() + delay),
        // A task that waited for the delay of its predecessor hands it on.
        _ => old.plan.start_at,
    };
    earliest.filter(|at| *at > draft.now)
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
pub(crate) fn old_stopped_at(draft: &Draft<'_>, task: &Task) -> Time {
    let old = task.plan.replaces.and_then(|old| draft.task(old)).filter(|old| is_stopping(draft, old));
    old.map_or(Time::ZERO, |old| old.plan.desired_since.max(task.meta.made()) + stop_max(draft, old))
}

/// Whether a task may still run on a node that can be reached.
pub(crate) fn is_stopping(draft: &Draft<'_>, task: &Task) -> bool {
    let node = task.plan.node.and_then(|node| draft.store.node(node));
    let is_out_of_reach = node.is_none_or(|node| node.status.state == NodeState::Down);
    !task.status.state.is_final() && task.status.state >= TaskState::Assigned && !is_out_of_reach
}

/// The longest that anybody waits for a task to stop once it is not wanted any more:
/// it is withdrawn everywhere, drained, asked to stop and killed, each with its limit.
pub(crate) fn stop_max(draft: &Draft<'_>, task: &Task) -> Duration {
    let withdraw = draft.store.cluster().map_or(Duration::ZERO, |cluster| cluster.spec.barrier_timeout);
    let container = &task.spec.container_spec;
    let limits = [container.drain_limit(), container.stop_grace(), timing::OLD_TASK_MARGIN];
    limits.into_iter().fold(withdraw, Duration::saturating_add).max(timing::OLD_TASK_TIMEOUT)
}
