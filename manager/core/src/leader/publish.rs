//! Says which tasks are to be found by name, virtual address and published port.
//!
//! A task is published when it was observed running, is wanted, and its node is
//! there; it is withdrawn in the same write that makes it unwanted, when it ended,
//! and when its node is down or gone. A node that the leader does not know of (it
//! is new, or the node's daemon stops) leaves its tasks as they are. All of this
//! is read off the states, each time: a node that comes back has its tasks
//! published again, if they are still wanted.

use super::draft::Draft;
use crate::dispatch::Passage;
use skep_model::endpoint::{EndpointState, Publication, PublishMode};
use skep_model::node::NodeState;
use skep_model::task::Task;
use skep_model::{NodeId, TaskState};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Brings the publication of every task of the draft up to date.
pub(crate) fn publish(draft: &mut Draft<'_>) {
    let now = draft.now;
    let tasks: Vec<Arc<Task>> = draft.tasks().cloned().collect();
    for task in tasks {
        let publication = next(draft, &task);
        if publication != task.plan.endpoint.publication {
            draft.change(task.id, |task| task.plan.value.endpoint = EndpointState { publication, since: now });
        }
    }
}

/// Whether a task that runs is found wherever it is to be: published, and that has
/// passed the barrier. One that is not to be found anywhere always is.
pub(crate) fn is_reachable(draft: &Draft<'_>, task: &Task) -> bool {
    let is_published = task.plan.endpoint.publication == Publication::Published;
    !is_to_be_found(task) || (is_published && draft.barrier.passage(task) != Passage::Waiting)
}

/// Notes in the deployment which nodes did not say in time that they have
/// programmed what became of its tasks.
pub(crate) fn name_stragglers(draft: &mut Draft<'_>) {
    let mut stragglers: BTreeSet<NodeId> = BTreeSet::new();
    for task in draft.tasks() {
        if let Passage::OpenedWithout(nodes) = draft.barrier.passage(task) {
            stragglers.extend(nodes);
        }
    }
    // A node that a new leader has not heard of yet is no straggler.
    let is_ready = |node: &NodeId| draft.store.node(*node).is_some_and(|node| node.status.state == NodeState::Ready);
    let stragglers: Vec<NodeId> = stragglers.into_iter().filter(is_ready).collect();
    if let Some(deployment) = draft.deployment_mut().filter(|deployment| deployment.stragglers != stragglers) {
        deployment.stragglers = stragglers;
    }
}

fn next(draft: &Draft<'_>, task: &Task) -> Publication {
    let was = task.plan.endpoint.publication;
    let node = task.plan.node.and_then(|node| draft.store.node(node)).map(|node| node.status.state);
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
fn is_to_be_found(task: &Task) -> bool {
    !task.networks.is_empty() || task.ports.iter().any(|port| port.publish_mode == PublishMode::Host)
}
