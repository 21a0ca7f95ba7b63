//! Where on a node something does not work, and why: a fault belongs to one place,
//! and whatever has nothing to do with that place goes on.
//!
//! A node says one number, up to which it has looked at everything that it was told,
//! and beside it a bounded list of places that failed ([`PlaceFaults`]). The list is
//! complete each time: what is not in it works again. It goes from the network daemon
//! over the agent's session to the leader, which keeps a task's change of publication
//! waiting only for places that it needs ([`PlaceFaults::holds`]), and stores the list
//! in the node's status, where `node inspect`, `service ps` and `network verify` find it.
//!
//! To report another kind of fault, give it a [`Place`] and a sentence: in netd by
//! `Faults::replace` (`netd/src/engine/faults.rs`). The sentence stays the same while
//! the fault stays (no counters, no times), since each new one is a write to the store.

use crate::endpoint::Transport;
use crate::task::Task;
use crate::{NetworkId, ServiceId, TaskId};
use std::collections::BTreeMap;
use std::fmt;

/// Places that a node names at most; the rest is a number.
pub const PLACE_FAULTS_MAX: usize = 64;
/// The longest reason, in bytes; a longer one is cut.
pub const PLACE_REASON_MAX: usize = 512;

/// A part of a node, by whom it belongs to. Wider places sort first, so that a
/// bounded list keeps what concerns most tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The node as such: what it lacks. Nothing waits for it.
    Node,
    /// A network, for every task of this node on it.
    Network(NetworkId),
    /// A service, as the node's tasks and ports lead to it.
    Service(ServiceId),
    /// A published port that this node does not answer on. Nothing waits for it.
    Port(Transport, u16),
    /// One task of this node.
    Task(TaskId),
}

impl Place {
    /// Whether a task of the node with this place feels the fault.
    pub fn concerns(&self, task: &Task) -> bool {
        match self {
            Self::Node => false,
            Self::Network(network) => task.networks.iter().any(|attachment| attachment.network == *network),
            Self::Service(service) => task.service_id == *service,
            Self::Port(transport, number) => {
                let mut ports = task.ports.iter().chain(&task.status.ports);
                ports.any(|port| (port.transport, port.published_port) == (*transport, *number))
            }
            Self::Task(id) => task.id == *id,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Network(id) => write!(f, "network {id}"),
            Self::Service(id) => write!(f, "service {id}"),
            Self::Port(transport, number) => write!(f, "port {number}/{}", transport.name()),
            Self::Task(id) => write!(f, "task {id}"),
        }
    }
}

/// A place that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceFault {
    /// Which.
    pub place: Place,
    /// Why, as a sentence for the user.
    pub reason: String,
    /// Whether changes that need the place wait for it, within the barrier's timeout.
    /// Not for what stays as it is and leaves the rest of the place working, as IPv6
    /// that somebody switched off.
    pub blocks: bool,
}

impl PlaceFault {
    /// A place that does not work for now.
    pub fn blocking(place: Place, reason: impl Into<String>) -> Self {
        Self { place, reason: reason.into(), blocks: true }
    }

    /// A place that lacks something, and nothing is to wait for that.
    pub fn lasting(place: Place, reason: impl Into<String>) -> Self {
        Self { place, reason: reason.into(), blocks: false }
    }
}

/// All places of a node that failed, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceFaults {
    /// The first [`PLACE_FAULTS_MAX`] in the order of places.
    pub faults: Vec<PlaceFault>,
    /// How many more there are.
    pub n_more: u64,
}

impl PlaceFaults {
    /// One fault for each place, cut to the limits: the first one that blocks, or else
    /// the first. A node may lack several things.
    pub fn new(all: impl IntoIterator<Item = PlaceFault>) -> Self {
        let mut by_place: BTreeMap<(Place, String), PlaceFault> = BTreeMap::new();
        for fault in all {
            let which = if fault.place == Place::Node { fault.reason.clone() } else { String::new() };
            let known = by_place.entry((fault.place, which)).or_insert_with(|| fault.clone());
            if fault.blocks && !known.blocks {
                *known = fault;
            }
        }
        let n_more = by_place.len().saturating_sub(PLACE_FAULTS_MAX) as u64;
        let kept = by_place.into_values().take(PLACE_FAULTS_MAX);
        Self { faults: kept.map(|fault| PlaceFault { reason: cut(fault.reason), ..fault }).collect(), n_more }
    }

    /// Whether nothing failed.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty() && self.n_more == 0
    }

    /// Whether a change of this task's publication is not in effect on the node
    /// although the node looked at it. What the list has no room for holds nothing.
    pub fn holds(&self, task: &Task) -> bool {
        let waits = |place: &Place| matches!(place, Place::Network(_) | Place::Service(_) | Place::Task(_));
        self.faults.iter().any(|fault| fault.blocks && waits(&fault.place) && fault.place.concerns(task))
    }

    /// The faults that a task of the node feels, the narrowest first.
    pub fn of_task(&self, task: &Task) -> impl Iterator<Item = &PlaceFault> {
        self.faults.iter().rev().filter(|fault| fault.place.concerns(task))
    }
}

/// A reason within its limit.
pub fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(PLACE_REASON_MAX));
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(n: u8) -> NetworkId {
        NetworkId::from_random([n; 16])
    }

    #[test]
    fn a_list_is_bounded_and_keeps_what_concerns_most() {
        let task = |n| PlaceFault::blocking(Place::Task(TaskId::from_random([n; 16])), "x".repeat(PLACE_REASON_MAX + 1));
        let wide = [
            PlaceFault::lasting(Place::Node, "no IPv6"),
            PlaceFault::lasting(Place::Node, "no IPv6"),
            PlaceFault::lasting(Place::Node, "not the same again"),
            PlaceFault::lasting(Place::Network(network(1)), "nothing waits for it"),
            PlaceFault::blocking(Place::Network(network(1)), "é".repeat(400)),
        ];
        let faults = PlaceFaults::new((0..100).map(task).chain(wide));
        assert_eq!((faults.faults.len(), faults.n_more), (PLACE_FAULTS_MAX, 103 - PLACE_FAULTS_MAX as u64));
        assert_eq!(faults.faults[0], PlaceFault::lasting(Place::Node, "no IPv6"));
        assert_eq!(faults.faults[1].reason, "not the same again");
        assert!(faults.faults[2].place == Place::Network(network(1)) && faults.faults[2].blocks);
        assert!(faults.faults.iter().all(|fault| fault.reason.len() <= PLACE_REASON_MAX));
        assert!(!faults.is_empty() && PlaceFaults::default().is_empty());
    }
}
