//! A quorum that is lost: nothing can be decided, and whoever asks is told why at once.
//!
//! While there is a leader, or the managers that are heard of could elect one, requests
//! wait: that takes less than the caller's patience. Otherwise only users can help, so
//! they hear which managers are missing instead of waiting for nothing.

use super::Manager;
use crate::action::Action;
use crate::timing;
use skep_model::{Refusal, Time};

/// What is known of the quorum.
#[derive(Debug, Default)]
pub(super) struct Quorum {
    /// Since when there is no leader.
    leaderless_since: Option<Time>,
    /// It is lost: which managers are missing.
    missing: Vec<u64>,
}

impl Manager {
    /// Looks whether the quorum is lost or back, and says so.
    pub(super) fn watch_quorum(&mut self) {
        if self.consensus.leader() != 0 {
            self.quorum.leaderless_since = None;
        } else {
            self.quorum.leaderless_since.get_or_insert(self.now);
        }
        let is_over = |since: Time| self.now.since(since) >= timing::QUORUM_LOST_AFTER;
        let missing = match self.quorum.leaderless_since {
            Some(since) if is_over(since) => self.consensus.missing(self.now),
            _ => Vec::new(),
        };
        if missing == self.quorum.missing {
            return;
        }
        self.quorum.missing = missing;
        let refusal = self.quorum_lost();
        let sentence = refusal.as_ref().map(ToString::to_string);
        self.actions.push(Action::QuorumLost { sentence });
        if let Some(refusal) = refusal {
            self.refuse_everybody(&refusal);
        }
    }

    /// Why nothing can be decided at the moment, if that is so.
    pub(super) fn quorum_lost(&self) -> Option<Refusal> {
        if self.quorum.missing.is_empty() {
            return None;
        }
        let n = self.consensus.members().voters.len();
        let named: Vec<String> = self.quorum.missing.iter().map(|raft_id| self.name_of(*raft_id)).collect();
        let sentence = format!(
            "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the \
             managers are online: {} of {n} are needed, and there is no answer from {}",
            n / 2 + 1,
            named.join(", ")
        );
        Some(Refusal::NoQuorum(sentence))
    }

    /// A manager as users know it.
    fn name_of(&self, raft_id: u64) -> String {
        let address = self.directory.address(raft_id);
        let node = self.directory.node(raft_id).and_then(|node| self.store.node(node));
        match node.map(|node| node.description.hostname.as_str()).filter(|name| !name.is_empty()) {
            Some(name) => format!("{name} ({address})"),
            None => address,
        }
    }
}
