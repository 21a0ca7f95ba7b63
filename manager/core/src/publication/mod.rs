//! Who is to be found where, and which nodes know it.
//!
//! What a task's plan says of it ([`publishing`]) is what nodes are told ([`overlay`],
//! [`names`]), each the difference to what its session was told before ([`view`]); and a
//! change counts once the nodes on its networks have programmed it ([`barrier`]). Whoever
//! asks whether a task is found asks [`Barrier::reached`].

pub(crate) mod barrier;
pub(crate) mod names;
pub(crate) mod overlay;
pub(crate) mod publishing;
pub(crate) mod view;

pub use barrier::{Barrier, Passage};

use crate::store::{Change, Store};
use overlay::{DirtyKeys, Overlay, is_on_networks};
use skep_model::endpoint::Publication;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::task::Task;
use skep_model::{NodeId, TaskId, Time};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What is to be found on the overlay networks, and where each change of that stands.
#[derive(Debug)]
pub(crate) struct Publications {
    pub(crate) overlay: Overlay,
    pub(crate) barrier: Barrier,
}

impl Publications {
    /// What a store implies, with nothing programmed anywhere, and the nodes that are to be
    /// told: what the leader before was told is not known, so everything is waited for again.
    pub(crate) fn new(store: &Store, now: Time) -> (Self, BTreeSet<NodeId>) {
        let mut publications = Self { overlay: Overlay::new(store), barrier: Barrier::default() };
        let nodes = store.tasks().flat_map(|task| publications.follow_task(store, task.id, Some(task), now)).collect();
        (publications, nodes)
    }

    /// Puts a gate before a new change of a task's publication. The nodes that are to be told.
    pub(crate) fn follow_task(&mut self, store: &Store, id: TaskId, task: Option<&Arc<Task>>, now: Time) -> BTreeSet<NodeId> {
        let is_known = |task: &&Arc<Task>| task.plan.endpoint.publication != Publication::Unpublished && is_on_networks(task);
        let Some(task) = task.filter(is_known) else {
            self.barrier.end(id);
            return BTreeSet::new();
        };
        let state = task.plan.endpoint;
        if self.barrier.state(id) == Some(state) {
            return BTreeSet::new();
        }
        let timeout = store.cluster().map_or(Duration::ZERO, |cluster| cluster.spec.barrier_timeout);
        let nodes = self.waited_for(store, task);
        self.barrier.begin(id, state, nodes.clone(), state.since.max(now) + timeout);
        nodes
    }

    /// The nodes that must know of a change of a task's publication.
    fn waited_for(&self, store: &Store, task: &Task) -> BTreeSet<NodeId> {
        let mut nodes = BTreeSet::new();
        for network in task.networks.iter().map(|attachment| attachment.network) {
            if self.overlay.mesh() == Some(network) {
                nodes.extend(store.nodes().map(|node| node.id));
            } else {
                nodes.extend(self.overlay.nodes_on(network).filter(|node| self.overlay.takes_part(*node, network)));
            }
        }
        nodes.retain(|node| store.node(*node).is_some_and(|node| self.is_waited_for(node)));
        nodes
    }

    /// A node that is down, gone, or drained and empty is not waited for. One that
    /// a new leader has not heard of yet is.
    fn is_waited_for(&self, node: &Node) -> bool {
        let is_there = matches!(node.status.state, NodeState::Ready | NodeState::Unknown);
        is_there && (node.spec.availability != Availability::Drain || self.overlay.has_tasks(node.id))
    }

    /// Lets nodes that left networks, or the cluster, leave the gates as well, and
    /// has those that joined a network or came back waited for. `is_behind` says whether a
    /// node has yet to program what it was told last.
    pub(crate) fn follow_nodes(
        &mut self,
        store: &Store,
        changes: &[Change],
        dirty_keys: &DirtyKeys,
        is_behind: impl Fn(NodeId) -> bool,
    ) {
        let mut nodes: BTreeSet<NodeId> = dirty_keys.moved.iter().map(|(node, _)| *node).collect();
        let mut returned = BTreeSet::new();
        for change in changes {
            let (old, new) = change.nodes();
            nodes.extend(old.or(new).map(|node| node.id));
            let is_back = old.is_some_and(|old| !self.is_waited_for(old)) && new.is_some_and(|new| self.is_waited_for(new));
            returned.extend(new.filter(|_| is_back).map(|node| node.id));
        }
        if dirty_keys.is_mesh_moved {
            nodes.extend(store.nodes().map(|node| node.id));
        }
        for node in nodes {
            let is_waited_for = store.node(node).is_some_and(|node| self.is_waited_for(node));
            self.barrier.leave(node, |task| is_waited_for && takes_part(&self.overlay, store, node, task));
        }
        let mut moved = dirty_keys.moved.clone();
        if let Some(mesh) = self.overlay.mesh().filter(|_| dirty_keys.is_mesh_moved) {
            moved.extend(store.nodes().map(|node| (node.id, mesh)));
        }
        for (node, network) in &moved {
            let is_waited_for = store.node(*node).is_some_and(|node| self.is_waited_for(node));
            if !is_waited_for || !self.overlay.takes_part(*node, *network) {
                continue;
            }
            // One that left may not have programmed that yet.
            let is_behind = is_behind(*node);
            for task in self.overlay.endpoints_on(*network).map(|endpoint| endpoint.id.task) {
                if is_behind { self.barrier.come_back(*node, task) } else { self.barrier.join(*node, task) }
            }
        }
        for node in returned {
            for task in self.barrier.waiting() {
                if takes_part(&self.overlay, store, node, task) {
                    self.barrier.come_back(node, task);
                }
            }
        }
    }
}

/// Whether a node is on any network of a task.
fn takes_part(overlay: &Overlay, store: &Store, node: NodeId, task: TaskId) -> bool {
    let networks = store.task(task).map(|task| &task.networks).into_iter().flatten();
    networks.into_iter().any(|attachment| overlay.takes_part(node, attachment.network))
}
