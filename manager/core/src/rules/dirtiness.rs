//! Which tasks are not what their service asks for, and have to make way for others.

use super::constraints::are_met;
use super::wanted::Wanted;
use crate::store::Store;
use skep_model::task::Task;
use std::sync::Arc;

/// Whether a task is not what the service's spec asks for.
pub(crate) fn is_dirty(store: &Store, wanted: &Wanted, task: &Task) -> bool {
    let (have, want) = (&*task.spec, &*wanted.template);
    if task.spec_version == wanted.spec_version()
        && have.container_spec.secrets == want.container_spec.secrets
        && have.container_spec.configs == want.container_spec.configs
    {
        return false;
    }
    let is_same = have.container_spec.is_equivalent(&want.container_spec)
        && have.resources == want.resources
        && have.restart_policy == want.restart_policy
        && have.network == want.network
        && have.networks == want.networks
        && task.ports == wanted.ports()
        && have.force_update == want.force_update
        && have.start_offline == want.start_offline;
    if !is_same {
        return true;
    }
    if have.placement == want.placement {
        return false;
    }
    let node = task.plan.node.and_then(|node| store.node(node));
    !node.is_some_and(|node| are_met(&wanted.constraints, node))
}

/// Whether a slot, of which these are all tasks, oldest first, has none that is as the spec
/// wants it, nor had one that ended and is not to be restarted.
pub(crate) fn is_slot_dirty(store: &Store, wanted: &Wanted, tasks: &[Arc<Task>]) -> bool {
    let active = || tasks.iter().filter(|task| task.is_active());
    if active().next().is_none() {
        return tasks.last().is_some_and(|newest| is_dirty(store, wanted, newest));
    }
    if active().any(|task| !is_dirty(store, wanted, task)) {
        return false;
    }
    // Start-first: the new task ended, and policy does not give it another try.
    !tasks.iter().any(|task| task.spec_version == wanted.spec_version() && !is_dirty(store, wanted, task))
}
