//! Takes the tasks of a service that was removed away.

use crate::leader::turn::draft::Draft;
use skep_model::{TaskId, TaskState};

/// The service was removed: so are its tasks.
pub(crate) fn dissolve(draft: &mut Draft<'_>) {
    let all: Vec<TaskId> = draft.tasks().map(|task| task.id).collect();
    for task in all {
        draft.want(task, TaskState::Remove);
    }
}
