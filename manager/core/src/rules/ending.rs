//! How a task ended: by itself, by its node, or by us.
//!
//! Read off its state and the mark of an eviction, never off what its message says.

use skep_model::deployment::FailedTask;
use skep_model::service::RestartCondition;
use skep_model::task::Task;
use skep_model::{TaskState, Time};

/// How a task ended. Only the first two are its own doing: they cost a restart attempt,
/// and an early one is a failure of its deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with exit code 0.
    Completed,
    /// By itself, with an error, or it could not be started.
    Failed,
    /// Its node lost it, and is there.
    Lost,
    /// It may not stay on its node, where it may still run.
    Expelled,
    /// It was told to stop.
    Stopped,
    /// Its node is gone for good.
    Orphaned,
}

impl Ending {
    /// How a task ended; `None` if it has not.
    pub(crate) fn of(task: &Task) -> Option<Self> {
        Some(match (task.status.state, task.status.is_evicted) {
            (TaskState::Complete, false) => Self::Completed,
            (TaskState::Failed | TaskState::Rejected, false) => Self::Failed,
            (TaskState::Failed, true) => Self::Lost,
            (TaskState::Rejected, true) => Self::Expelled,
            (TaskState::Orphaned, _) => Self::Orphaned,
            (state, _) if state.is_final() => Self::Stopped,
            _ => return None,
        })
    }
}

/// Whether a task ended without being asked to, and not with its node.
pub(crate) fn ended_by_itself(task: &Task) -> bool {
    matches!(Ending::of(task), Some(Ending::Completed | Ending::Failed))
}

/// Whether a task did what it was for: it completed, and its policy calls for no other.
pub(crate) fn is_success(task: &Task) -> bool {
    Ending::of(task) == Some(Ending::Completed) && task.spec.restart_policy.condition != RestartCondition::Any
}

/// Whether a task says something against the node that it was on.
pub(crate) fn speaks_against_node(task: &Task) -> bool {
    matches!(Ending::of(task), Some(Ending::Failed | Ending::Lost | Ending::Expelled))
}

/// When a task that ended did so, by the leader's clock.
pub(crate) fn ended_at(task: &Task) -> Time {
    task.status.applied_at
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
