//! Which nodes keep the tasks that they have, and which get new ones.

use super::constraints::are_met;
use super::wanted::Wanted;
use crate::store::Store;
use skep_model::NodeId;
use skep_model::node::{Availability, Node, NodeState};
use std::sync::Arc;

/// Whether tasks have to leave a node: it is gone, down, or being drained. A node
/// that is unknown or disconnected keeps its tasks.
pub(crate) fn must_leave(node: Option<&Arc<Node>>) -> bool {
    node.is_none_or(|node| node.status.state == NodeState::Down || node.spec.availability == Availability::Drain)
}

/// Whether a global service keeps a task that it has on this node.
pub(crate) fn is_eligible(wanted: &Wanted, node: &Arc<Node>) -> bool {
    !must_leave(Some(node)) && are_met(&wanted.constraints, node)
}

/// Whether a global service gets a new task on this node now.
pub(crate) fn takes_new(wanted: &Wanted, node: &Arc<Node>) -> bool {
    is_eligible(wanted, node) && node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

/// Whether a slot may get a new task now. That of a global service has its node from the
/// beginning; every other one's is the scheduler's to choose.
pub(crate) fn has_place(store: &Store, wanted: &Wanted, node: Option<NodeId>) -> bool {
    node.is_none_or(|node| store.node(node).is_some_and(|node| takes_new(wanted, node)))
}
