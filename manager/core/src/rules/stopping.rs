//! How long a task that is not wanted any more is waited for.

use crate::store::Store;
use crate::timing;
use skep_model::TaskState;
use skep_model::node::NodeState;
use skep_model::task::Task;
use std::time::Duration;

/// Whether a task may still run on a node that can be reached.
pub(crate) fn is_stopping(store: &Store, task: &Task) -> bool {
    let node = task.plan.node.and_then(|node| store.node(node));
    let is_out_of_reach = node.is_none_or(|node| node.status.state == NodeState::Down);
    !task.status.state.is_final() && task.status.state >= TaskState::Assigned && !is_out_of_reach
}

/// The longest that anybody waits for a task to stop once it is not wanted any more:
/// it is withdrawn everywhere, drained, asked to stop and killed, each with its limit.
pub(crate) fn stop_max(store: &Store, task: &Task) -> Duration {
    let withdraw = store.cluster().map_or(Duration::ZERO, |cluster| cluster.spec.barrier_timeout);
    let container = &task.spec.container_spec;
    let limits = [container.drain_limit(), container.stop_grace(), timing::OLD_TASK_MARGIN];
    limits.into_iter().fold(withdraw, Duration::saturating_add).max(timing::OLD_TASK_TIMEOUT)
}
