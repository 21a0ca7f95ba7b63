//! Where a change of what the node was told may be seen.

use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use std::collections::BTreeSet;

/// What changed. It says where to look, never what to do: a place that is named
/// needlessly costs a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyKeys {
    /// The node itself, or its gateway.
    pub node: bool,
    /// The node's published ports, or the tasks behind them.
    pub ports: bool,
    /// Nodes that came, changed or went.
    pub peers: BTreeSet<NodeId>,
    /// Networks that came, changed or went.
    pub networks: BTreeSet<NetworkId>,
    /// Services that came, changed or went on a network, or one of whose endpoints
    /// there did.
    pub services: BTreeSet<(NetworkId, ServiceId)>,
    /// Tasks of this node that came, changed or went.
    pub tasks: BTreeSet<TaskId>,
}

impl DirtyKeys {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what changed elsewhere.
    pub fn extend(&mut self, other: Self) {
        self.node |= other.node;
        self.ports |= other.ports;
        self.peers.extend(other.peers);
        self.networks.extend(other.networks);
        self.services.extend(other.services);
        self.tasks.extend(other.tasks);
    }
}
