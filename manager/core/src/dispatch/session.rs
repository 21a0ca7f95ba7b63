//! One agent's session: what it was told, and how far its network is.

use super::assignment::Sent;
use crate::publication::Barrier;
use crate::store::Store;
use skep_model::NodeId;
use skep_model::assignment::SessionInfo;
use skep_model::place::PlaceFaults;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: NodeId,
    /// What it was told of the cluster.
    pub(super) info: Option<SessionInfo>,
    /// What it was told to have.
    pub(super) sent: Sent,
    /// The link up to which its network holds what it was told, but for `faults`.
    pub(super) programmed: u64,
    /// The places of its network that do not work.
    pub(super) faults: PlaceFaults,
}

impl Session {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, info: None, sent: Sent::default(), programmed: 0, faults: PlaceFaults::default() }
    }

    /// Opens the gates that waited for what this node has programmed.
    pub(super) fn pass(&self, store: &Store, barrier: &mut Barrier) {
        let is_held = |task| store.task(task).is_some_and(|task| self.faults.holds(task));
        barrier.programmed(self.node, self.programmed, is_held);
    }
}
