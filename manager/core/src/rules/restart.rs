//! The restart policy: whether a slot whose task ended gets another.

use super::ending::{ended_at, ended_by_itself};
use skep_model::service::RestartCondition;
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::sync::Arc;

/// Whether a slot without an active task gets one by the restart policy; `tasks` are all
/// that the slot has.
pub(crate) fn should_restart(newest: &Task, tasks: &[Arc<Task>]) -> bool {
    let policy = &newest.spec.restart_policy;
    match policy.condition {
        RestartCondition::None => return false,
        RestartCondition::OnFailure if newest.status.state == TaskState::Complete => return false,
        RestartCondition::OnFailure | RestartCondition::Any => {}
    }
    // Leaving a node is no failure, so it costs no attempt.
    policy.max_attempts == 0 || !ended_by_itself(newest) || n_restarts(newest, tasks) < policy.max_attempts
}

/// Restarts of the same spec version that count, those that the agent made in
/// place included.
fn n_restarts(newest: &Task, tasks: &[Arc<Task>]) -> u64 {
    let window = newest.spec.restart_policy.window;
    let from = if window.is_zero() { Time::ZERO } else { ended_at(newest) - window };
    let same = tasks.iter().filter(|task| task.spec_version == newest.spec_version);
    same.map(|task| {
        let by_manager = u64::from(task.plan.is_restart && task.meta.made() >= from);
        // The last run of one that ended with its node was no restart of the policy's.
        let in_place = task.status.attempt.saturating_sub(u64::from(task.status.is_evicted));
        by_manager + if ended_at(task) >= from { in_place } else { 0 }
    })
    .sum()
}
