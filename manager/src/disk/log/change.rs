//! What can be asked of the log, and where in it things stand.

use raft::eraftpb::{Entry, HardState};

use crate::disk::snapshot::SnapshotMeta;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index of an entry; 0 is before the first.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What one raft ready wants on disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Contiguous entries. The first replaces an existing entry of its index and all behind it.
    pub entries: Vec<Entry>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The membership as the caller encodes it, if it changed.
    pub membership: Option<Vec<u8>>,
    /// How far the store had applied; a hint.
    pub applied: Option<u64>,
}

/// One change of the log; each is whole on disk or absent.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Entries and state of a raft ready.
    Append(Batch),
    /// Drops all entries up to and including this index; a noted snapshot must cover them.
    Compact {
        /// The last index to drop.
        through: u64,
    },
    /// A finished snapshot of our own; older snapshot files go.
    NoteSnapshot(SnapshotMeta),
    /// A finished snapshot from the leader, which replaces the whole log.
    InstallSnapshot {
        /// The snapshot.
        meta: SnapshotMeta,
        /// The hard state that goes with it, if it changed.
        hard_state: Option<HardState>,
    },
    /// Seals from now on with this generation, which the seal must know.
    RotateTo {
        /// The new current generation.
        generation: u32,
    },
}

impl Change {
    /// About how many bytes this adds to a batch.
    pub(in crate::disk) fn weight(&self) -> usize {
        match self {
            Change::Append(batch) => {
                let entries = batch.entries.iter().map(|e| e.data.len() + e.context.len() + 64);
                entries.sum::<usize>() + batch.membership.as_ref().map_or(0, Vec::len) + 128
            }
            _ => 256,
        }
    }
}
