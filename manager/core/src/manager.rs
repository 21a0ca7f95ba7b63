//! The manager: one value that events go into and actions come out of.
//!
//! It owns the parts and their order, nothing more: consensus first, then what
//! committed, then the leader's turn, then what the agents are to be told.

use crate::action::Action;
use crate::event::Event;
use raft::eraftpb;
use skep_model::{NodeId, Time};

/// What a manager must know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its node.
    pub node: NodeId,
    /// Its raft id; not 0.
    pub raft_id: u64,
    /// Release, for messages.
    pub format_max: u32,
}

/// What was found on disk.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term, vote and commit.
    pub hard_state: eraftpb::HardState,
    /// The members, as of the newest of snapshot and membership records.
    pub membership: eraftpb::ConfState,
    /// The newest snapshot, if there is one.
    pub snapshot: Option<(eraftpb::SnapshotMetadata, crate::store::SnapshotContent)>,
    /// Every entry after the snapshot (and some before it), without a gap.
    pub entries: Vec<eraftpb::Entry>,
}

/// The brain of a manager.
#[derive(Debug)]
pub struct Manager {}

impl Manager {
    /// A manager as it was when it stopped, or a new one.
    pub fn new(_config: Config, _seed: u64, _recovered: Recovered, _now: Time) -> Self {
        Self {}
    }

    /// One thing happened.
    pub fn handle(&mut self, _now: Time, _event: Event) {}

    /// What the world should do about it, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        Vec::new()
    }

    /// When to call again if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        None
    }
}
