//! Writes into the plans of tasks whether they are to be found, by the rule of
//! [`crate::publication::publishing`], and into the deployment who is late to know it.

use crate::leader::turn::draft::Draft;
use crate::publication::Passage;
use crate::publication::publishing;
use skep_model::NodeId;
use skep_model::endpoint::EndpointState;
use skep_model::node::NodeState;
use skep_model::task::Task;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Brings the publication of every task of the draft up to date.
pub(crate) fn publish(draft: &mut Draft<'_>) {
    let now = draft.now;
    let tasks: Vec<Arc<Task>> = draft.tasks().cloned().collect();
    for task in tasks {
        let publication = publishing::next(draft.store, &task);
        if publication != task.plan.endpoint.publication {
            draft.change(task.id, |task| task.plan.value.endpoint = EndpointState { publication, since: now });
        }
    }
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
