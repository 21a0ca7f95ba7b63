//! Says which tasks are to be found by name, virtual address and published port.
//!
//! A task is published when it was observed running, is wanted, and its node is
//! there; it is withdrawn in the same write that makes it unwanted, when it ended,
//! and when its node is down or gone. A node that the leader does not know of (it
//! is new, or the node's daemon stops) leaves its tasks as they are. All of this
//! is read off the states, each time: a node that comes back has its tasks
//! published again, if they are still wanted.

use crate::store::Store;
use skep_model::TaskState;
use skep_model::endpoint::{Publication, PublishMode};
use skep_model::node::NodeState;
use skep_model::task::Task;

/// What a task's publication is to be now.
pub(crate) fn next(store: &Store, task: &Task) -> Publication {
    let was = task.plan.endpoint.publication;
    let node = task.plan.node.and_then(|node| store.node(node)).map(|node| node.status.state);
    let is_up = task.is_wanted() && task.status.state == TaskState::Running;
    match (was, node) {
        (Publication::Published, None | Some(NodeState::Down)) => Publication::Withdrawn,
        (Publication::Published, Some(_)) if !is_up => Publication::Withdrawn,
        (Publication::Unpublished | Publication::Withdrawn, Some(NodeState::Ready)) if is_up && is_to_be_found(task) => {
            Publication::Published
        }
        _ => was,
    }
}

/// Whether a task is to be found over any network or by a port of its node.
pub(crate) fn is_to_be_found(task: &Task) -> bool {
    !task.networks.is_empty() || task.ports.iter().any(|port| port.publish_mode == PublishMode::Host)
}
