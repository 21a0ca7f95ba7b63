//! Gives addresses to tasks that were made when there were none.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::make::attachments;
use crate::rules::reservation::lacks_addresses;
use crate::rules::wanted::networks;
use skep_model::TaskState;
use skep_model::task::Task;
use std::sync::Arc;

/// Gives addresses to tasks that wait for them.
pub(crate) fn attach(draft: &mut Draft<'_>) {
    let is_waiting = |task: &&Arc<Task>| task.is_active() && task.status.state < TaskState::Assigned && lacks_addresses(task);
    let mut waiting: Vec<Arc<Task>> = draft.tasks().filter(is_waiting).cloned().collect();
    waiting.sort_by_key(|task| (task.meta.made(), task.slot, task.id));
    for task in waiting {
        let networks = networks(draft.store, &task.spec, &task.ports);
        match attachments(draft, &networks) {
            Ok(attachments) => draft.change(task.id, |task| {
                task.networks = attachments;
                task.status.value.error.clear();
            }),
            Err(why) if task.status.error != why => draft.change(task.id, |task| task.status.value.error = why),
            Err(_) => {}
        }
    }
}
