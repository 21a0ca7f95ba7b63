//! What the raft node asks for: one round at a time, and batches on their way to the disk.

use raft::ReadState;
use raft::eraftpb::{self, Entry, Message, SnapshotMetadata};
use skep_model::Time;

/// One step of the raft node, to be carried out in the order of the fields.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Messages that may leave at once.
    pub(crate) messages: Vec<Message>,
    /// What must become durable.
    pub(crate) persist: Option<Persist>,
    /// A snapshot that was received takes the place of store and log.
    pub(crate) snapshot: Option<SnapshotMetadata>,
    /// Entries that were agreed; `Consensus::applied` is called after each.
    pub(crate) committed: Vec<Entry>,
    /// Answers to `Consensus::read_index`.
    pub(crate) reads: Vec<ReadState>,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) n: u64,
    pub(super) ready: u64,
    pub(super) has_entries: bool,
    pub(super) snapshot: Option<u64>,
    pub(super) messages: Vec<Message>,
    pub(super) at: Time,
}

/// What must become durable, as one batch.
#[derive(Clone, Debug, Default)]
pub struct Persist {
    /// Rises by one with every batch.
    pub n: u64,
    /// A received snapshot (which is on disk) takes effect: the log is emptied and
    /// continues after it. Comes before the entries.
    pub snapshot: Option<eraftpb::SnapshotMetadata>,
    /// Entries; one at index i replaces everything from i on.
    pub entries: Vec<eraftpb::Entry>,
    /// The new hard state, if it changed.
    pub hard_state: Option<eraftpb::HardState>,
    /// The new membership, if it changed, with the index as of which it
    /// is: the newest such record is [`crate::Recovered::membership`].
    pub membership: Option<(u64, eraftpb::ConfState)>,
    /// For the log: when it was made.
    pub at: Time,
}
