//! The log as raft reads it: every entry since the last compaction, in memory.
//!
//! raft's storage interface is synchronous and the disk is not, so raft reads
//! here what the disk is still writing; what it may *rely* on is told to it by
//! `Consensus::persisted`. A snapshot is metadata only: its content is a
//! clone of the store, which never passes raft.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};
use std::collections::VecDeque;

/// Entries, hard state and membership of one manager.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    /// What raft starts from; later the newest one handed out for persistence.
    pub(crate) hard_state: HardState,
    /// The members at the beginning.
    pub(crate) membership: ConfState,
    /// As of which index the newest known membership is. After a start it may be
    /// ahead of what is applied; no snapshot can be made until that has caught up.
    pub(crate) membership_index: u64,
    /// What a snapshot taken now would say: the applied index, its term, the members.
    pub(crate) applied: SnapshotMetadata,
    /// Index and term of the entry before the first.
    before: (u64, u64),
    entries: VecDeque<Entry>,
}

impl Log {
    /// A log whose first entry comes after `before` (index, term).
    pub(crate) fn new(before: (u64, u64), entries: Vec<Entry>) -> Self {
        let mut expected = before.0;
        for entry in &entries {
            expected += 1;
            assert!(entry.index == expected, "the log has a gap: entry {} where {expected} was expected", entry.index);
        }
        Self { before, entries: entries.into(), ..Self::default() }
    }

    /// Index of the first entry that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.before.0 + 1
    }

    /// Index of the last entry.
    pub(crate) fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    /// The entry at an index, while it is kept.
    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.first())? as usize)
    }

    /// Appends; an entry at index i replaces everything from i on.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index >= self.first() && first.index <= self.last() + 1,
            "entry {} does not continue a log that holds {} to {}",
            first.index,
            self.first(),
            self.last()
        );
        self.entries.truncate((first.index - self.first()) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// Forgets entries below `index`, which was applied.
    pub(crate) fn compact(&mut self, index: u64) {
        assert!(index <= self.applied.index + 1, "entries below {index} were to go, only {} are applied", self.applied.index);
        while self.first() < index {
            let Some(entry) = self.entries.pop_front() else { break };
            self.before = (entry.index, entry.term);
        }
    }

    /// Begins anew after a snapshot that was received.
    pub(crate) fn reset(&mut self, metadata: &SnapshotMetadata) {
        self.before = (metadata.index, metadata.term);
        self.entries.clear();
        self.applied = metadata.clone();
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.membership.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let is_first = size == 0;
            size += entry.data.len() as u64 + 32;
            is_first || size <= max_size
        };
        Ok(self.entries.range(range).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.entry(index).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        if self.applied.index < request_index.max(self.membership_index).max(1) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.applied.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range.map(|index| Entry { index, term, data: vec![0; 10].into(), ..Entry::default() }).collect()
    }

    fn indexes(log: &Log, low: u64, high: u64, max: u64) -> Vec<u64> {
        let found = log.entries(low, high, Some(max), GetEntriesContext::empty(false)).expect("they are kept");
        found.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn a_rewritten_tail_replaces_and_compaction_keeps_the_term_before() {
        let mut log = Log::new((1, 1), entries(2..=9, 1));
        log.append(&entries(7..=8, 2));
        assert_eq!((log.first(), log.last()), (2, 8));
        assert_eq!([log.term(6), log.term(7)], [Ok(1), Ok(2)]);
        log.applied.index = 6;
        log.compact(6);
        assert_eq!((log.first(), log.term(5), log.term(4)), (6, Ok(1), Err(Error::Store(StorageError::Compacted))));
        assert_eq!(indexes(&log, 6, 9, u64::MAX), [6, 7, 8]);
        assert_eq!(indexes(&log, 6, 9, 0), [6], "at least one entry, whatever the limit");
        assert_eq!(indexes(&log, 6, 9, 84), [6, 7]);
    }

    #[test]
    fn a_snapshot_begins_the_log_anew() {
        let mut log = Log::new((1, 1), entries(2..=9, 1));
        log.reset(&SnapshotMetadata { index: 50, term: 4, ..SnapshotMetadata::default() });
        assert_eq!((log.first(), log.last(), log.term(50)), (51, 50, Ok(4)));
        assert_eq!(log.snapshot(0, 2).map(|snapshot| snapshot.get_metadata().index), Ok(50));
        assert!(log.snapshot(51, 2).is_err());
    }
}
