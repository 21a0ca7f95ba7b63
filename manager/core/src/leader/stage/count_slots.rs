//! Counts the slots that a deployment changes, of which its failures are a ratio, as in
//! Swarm.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::slots::Slot;
use crate::rules::deployment::is_open;
use crate::rules::dirtiness::is_slot_dirty;
use crate::rules::wanted::Wanted;
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
    let n = draft.slots().values().filter(|slot| is_changed(slot)).count() as u64;
    if let Some(deployment) = draft.deployment_mut() {
        deployment.slots = deployment.slots.max(n);
    }
}
