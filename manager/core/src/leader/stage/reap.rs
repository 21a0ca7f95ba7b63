//! Removes tasks that nobody needs any more.
//!
//! A task that is to be removed goes when it has ended, or at once if it never
//! had a node. Of the others each slot keeps a history: as in Swarm at most the
//! cluster's limit of tasks, the live one included, or one more than its restart
//! attempts, which are counted from it.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::slots::Slot;
use skep_model::task::Task;
use skep_model::{TaskId, TaskState, Time};
use std::sync::Arc;

/// Removes what is to be removed, and history beyond its limit.
pub(crate) fn reap(draft: &mut Draft<'_>) {
    let retired: Vec<Arc<Task>> = draft.tasks().filter(|task| !task.is_wanted()).cloned().collect();
    for task in retired {
        let never_had_a_node = task.status.state < TaskState::Assigned;
        if task.plan.desired == TaskState::Remove && (task.status.state.is_final() || never_had_a_node) {
            draft.remove(task.id);
        } else if never_had_a_node {
            close(draft, task.id);
        }
    }
    if draft.service.is_some() {
        for slot in draft.slots().values() {
            forget(draft, slot);
        }
    }
}

/// A task without a node that is no longer wanted has nothing to stop.
fn close(draft: &mut Draft<'_>, id: TaskId) {
    let now = draft.now;
    draft.change(id, |task| {
        let status = &mut task.status.value;
        status.state = TaskState::Shutdown;
        status.message = "shutdown".into();
        (status.timestamp, status.applied_at) = (Time::ZERO, now);
    });
}

fn forget(draft: &mut Draft<'_>, slot: &Slot) {
    let limit = draft.store.cluster().map_or(5, |cluster| cluster.spec.task_history_limit);
    let max_attempts = slot.newest().map_or(0, |newest| newest.spec.restart_policy.max_attempts);
    let Ok(mut limit) = usize::try_from(limit) else { return };
    if max_attempts > 0 {
        limit = usize::try_from(max_attempts.saturating_add(1)).unwrap_or(usize::MAX);
    }
    // A slot's last task says whether the slot is to be restarted: it stays.
    let n_kept_anyway = usize::from(slot.active().next().is_none());
    let mut n_tasks = slot.tasks.len();
    let history = &slot.tasks[..slot.tasks.len() - n_kept_anyway];
    for task in history.iter().filter(|task| !task.is_wanted() && task.status.state.is_final()) {
        if n_tasks <= limit {
            return;
        }
        draft.remove(task.id);
        n_tasks -= 1;
    }
}
