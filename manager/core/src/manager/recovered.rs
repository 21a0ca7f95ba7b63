//! What a manager begins with: its log, its store and its members, as the disk has them.

use crate::consensus::log::Log;
use crate::store::{SnapshotContent, Store};
use raft::eraftpb;

/// What was found on disk.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term, vote and commit.
    pub hard_state: eraftpb::HardState,
    /// The members, as of the newest of snapshot and membership records.
    pub membership: eraftpb::ConfState,
    /// The index as of which `membership` is.
    pub membership_index: u64,
    /// The newest snapshot, if there is one.
    pub snapshot: Option<(eraftpb::SnapshotMetadata, SnapshotContent)>,
    /// Every entry after the snapshot (and some before it), without a gap.
    pub entries: Vec<eraftpb::Entry>,
}

/// Whether a manager may start. One that has promised something in the name of its raft
/// id (a vote, an acknowledgement) and lost its log would break its word as if it had
/// never given it.
pub fn may_start(is_id_used: bool, has_log: bool) -> bool {
    has_log || !is_id_used
}

/// The first index of a cluster's log that is an entry; the one before stands for
/// the founding, so that every later member begins with a snapshot.
const FOUNDING: (u64, u64) = (1, 1);

impl Recovered {
    /// The beginning of a cluster: nothing but its first member. The shell then
    /// sends `Mutation::Bootstrap` as the first request. A manager that joins
    /// begins with `Recovered::default()` instead.
    pub fn bootstrap(raft_id: u64) -> Self {
        let (commit, term) = FOUNDING;
        Self {
            hard_state: eraftpb::HardState { term, commit, ..eraftpb::HardState::default() },
            membership: eraftpb::ConfState { voters: vec![raft_id], ..eraftpb::ConfState::default() },
            membership_index: commit,
            ..Self::default()
        }
    }

    /// Log, store and newest membership. What the disk holds after a crash may be
    /// a snapshot that the log has not been reset for: entries that contradict it
    /// were never agreed, and go.
    pub(super) fn begin(self) -> (Log, Store, (u64, eraftpb::ConfState)) {
        let is_member = !self.membership.voters.is_empty();
        let (mut applied, store) = match self.snapshot {
            Some((metadata, content)) => (metadata, content.store),
            None if is_member => {
                let (index, term) = FOUNDING;
                (eraftpb::SnapshotMetadata { index, term, ..eraftpb::SnapshotMetadata::default() }, Store::empty(index))
            }
            None => (eraftpb::SnapshotMetadata::default(), Store::default()),
        };
        assert!(
            store.version == applied.index,
            "a snapshot that ends at {} says that it ends at {}",
            store.version,
            applied.index
        );
        let membership = if self.membership_index >= applied.index {
            (self.membership_index, self.membership)
        } else {
            (applied.index, applied.get_conf_state().clone())
        };
        applied.set_conf_state(membership.1.clone());
        let mut entries = self.entries;
        let contradicts = |entry: &eraftpb::Entry| entry.index == applied.index && entry.term != applied.term;
        let is_behind = entries.last().is_some_and(|last| last.index < applied.index);
        if is_behind || entries.iter().any(contradicts) {
            entries.clear();
        }
        let before = match entries.first() {
            Some(first) if first.index <= applied.index => {
                let before = (first.index, first.term);
                entries.remove(0);
                before
            }
            _ => (applied.index, applied.term),
        };
        let mut log = Log::new(before, entries);
        log.hard_state = self.hard_state;
        if log.hard_state.term < applied.term {
            log.hard_state.term = applied.term;
            log.hard_state.vote = 0;
        }
        log.hard_state.commit = log.hard_state.commit.max(applied.index);
        assert!(
            log.hard_state.commit <= log.last(),
            "the log ends at {} although {} was agreed: acknowledged entries are lost",
            log.last(),
            log.hard_state.commit
        );
        log.applied = applied;
        (log, store, membership)
    }
}
