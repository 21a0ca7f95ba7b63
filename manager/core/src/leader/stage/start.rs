//! Starts replacements that have nothing more to wait for: their delay is over, and what
//! they replace has stopped or is not waited for any longer.

use crate::leader::turn::draft::Draft;
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::sync::Arc;

/// Starts replacements that have nothing more to wait for.
pub(crate) fn start(draft: &mut Draft<'_>) {
    let waiting: Vec<Arc<Task>> = draft.tasks().filter(|task| task.plan.desired == TaskState::Ready).cloned().collect();
    for task in waiting {
        let ready_at = task.plan.start_at.unwrap_or(Time::ZERO).max(draft.old_stopped_at(&task));
        if ready_at <= draft.now {
            draft.want(task.id, TaskState::Running);
        } else {
            draft.wake_at(ready_at);
        }
    }
}
