//! What this manager knows of the other members: who has a vote, who is there, and whether
//! those are enough.

use super::Consensus;
use crate::timing;
use raft::eraftpb::ConfState;
use skep_model::Time;
use std::time::Duration;

/// A learner that lacks no more entries than these becomes a voter.
const CAUGHT_UP_ENTRIES: u64 = 100;
/// A member that was silent for longer is not counted on.
const SILENT_AFTER: Duration = Duration::from_millis(2 * timing::ELECTION_TICKS as u64 * 50);

impl Consensus {
    /// The members.
    pub(crate) fn members(&self) -> &ConfState {
        &self.membership.1
    }

    /// Whether a raft id is a member, voting or learning.
    pub(crate) fn is_member(&self, raft_id: u64) -> bool {
        self.membership.1.voters.contains(&raft_id) || self.membership.1.learners.contains(&raft_id)
    }

    /// Whether a member has a vote.
    pub(crate) fn is_voter(&self, raft_id: u64) -> bool {
        self.membership.1.voters.contains(&raft_id)
    }

    /// A learner that has all but the newest entries and is there.
    pub(crate) fn learner_to_promote(&self, now: Time) -> Option<u64> {
        let last = self.raw.raft.raft_log.last_index();
        let is_ready = |id: &u64| {
            let matched = self.stored(*id);
            matched > 0 && matched + CAUGHT_UP_ENTRIES >= last && self.is_active(now, *id)
        };
        self.membership.1.learners.iter().copied().find(is_ready)
    }

    /// Whether a quorum of the remaining voters is there once this one is gone. One
    /// that was heard of lately may be lost already; what it has stored of the log,
    /// which is to be everything up to an index, says that it was there by then.
    pub(crate) fn can_remove(&self, now: Time, raft_id: u64, stored_through: u64) -> bool {
        let voters = &self.membership.1.voters;
        if !voters.contains(&raft_id) {
            return true;
        }
        let remaining: Vec<u64> = voters.iter().copied().filter(|id| *id != raft_id).collect();
        let is_there = |id: &&u64| self.is_active(now, **id) && self.stored(**id) >= stored_through;
        let active = remaining.iter().filter(is_there).count();
        !remaining.is_empty() && active > remaining.len() / 2
    }

    /// Whether a member has not been heard of for so long that it counts as unreachable,
    /// as its leader, which leads since `since`, sees it.
    pub(crate) fn is_silent(&self, now: Time, raft_id: u64, since: Time) -> bool {
        let heard = self.heard.get(&raft_id).copied().unwrap_or(since).max(since);
        raft_id != self.raft_id() && now.since(heard) >= timing::MANAGER_UNREACHABLE
    }

    /// The voters that were not heard of lately, if the others are too few to decide
    /// anything; empty if they are enough.
    pub(crate) fn missing(&self, now: Time) -> Vec<u64> {
        let voters = &self.membership.1.voters;
        let silent: Vec<u64> = voters.iter().copied().filter(|id| !self.is_active(now, *id)).collect();
        if (voters.len() - silent.len()) * 2 > voters.len() { Vec::new() } else { silent }
    }

    /// The last entry that a member is known by its leader to have stored; 0 = none.
    pub(super) fn stored(&self, raft_id: u64) -> u64 {
        self.raw.raft.prs().get(raft_id).map_or(0, |progress| progress.matched)
    }

    /// Whether a member was heard of lately; this one always is.
    pub(super) fn is_active(&self, now: Time, raft_id: u64) -> bool {
        raft_id == self.raft_id() || self.heard.get(&raft_id).is_some_and(|at| now.since(*at) < SILENT_AFTER)
    }
}
