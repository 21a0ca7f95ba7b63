//! The log store of a manager: raft entries, hard state, membership and snapshots on this node's disk.
//!
//! Invariants:
//! - **Acknowledged means synced.** A change is answered only after one `fdatasync` that covers it. Everything
//!   that waits is written as one batch with one sync ([`LogThread`]).
//! - **Nothing readable on disk.** Entry data and context, hard state, membership and snapshots are sealed
//!   ([`RecordSeal`]); only index, term and type of an entry stay clear.
//! - **Rot is never taken for a torn write.** Before the engine opens its files, which cuts a damaged tail off,
//!   [`files`] reads all of them: damage with a valid batch after it, or in any but the newest file, refuses.
//!   One limit remains, as in any log without a second copy: damage to the very last batch looks like a torn
//!   write, and that batch is lost.
//! - **Everything is opened at start.** A hole, a record that does not open, a wrong key: each refuses with a
//!   sentence; a manager rejoins rather than run on a log that it cannot trust.
//! - **A failed write or sync ends the process**, with a sentence first ([`LastWords`]): after a failed
//!   sync nobody knows what the disk holds.
//!
//! There is no async code here and no clock: [`LogThread`] is a plain thread fed by a channel.
//!
//! On disk: `DIR/identity` (format and node; written last at creation, so its presence means that a log must be
//! there), `DIR/log/` (the engine's files), `DIR/snapshots/`.

mod files;
mod log;
mod seal;
mod snapshot;
mod thread;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

pub use files::FileCounts;
pub use log::{Batch, Change, Log, Position, Recovered, Settings, destroy, is_there};
pub use seal::{
    RECORDS_BEFORE_ROTATION, RECORDS_PER_GENERATION_MAX, RecordKind, RecordSeal, SEAL_OVERHEAD, SealError, generation_of,
};
pub use snapshot::{SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SnapshotDigest, SnapshotMeta, SnapshotReader, SnapshotWriter};
pub use thread::{GROUP_BYTES_MAX, GROUP_CHANGES_MAX, LogHandle, LogThread, QUEUE_MAX};

/// The version of what is written below the data folder.
pub const FORMAT: u32 = 1;

/// Called with one sentence when the disk failed. The default logs it and ends the process; a hook that
/// returns (tests) leaves a log that refuses everything with [`DiskError::Ended`].
pub type LastWords = Arc<dyn Fn(&str) + Send + Sync>;

/// The exit status of a manager whose disk failed.
pub const EXIT_DISK_FAILED: i32 = 74;

pub(crate) fn end_process(sentence: &str) {
    tracing::error!("{sentence}");
    std::process::exit(EXIT_DISK_FAILED);
}

const REJOIN: &str = "remove this manager from the cluster, delete its data folder and join it again";

/// Why the log store refused.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A file operation failed while opening, or on a snapshot file.
    #[error("{operation} {path} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("the log in {path} is in use by another process")]
    InUse {
        /// The folder of the log.
        path: PathBuf,
    },
    /// Damage that no power cut explains: bytes changed after they were written.
    #[error("{path} is damaged at byte {offset}: {reason}; this is disk rot, not a torn write: {REJOIN}")]
    Rot {
        /// The damaged file.
        path: PathBuf,
        /// The first damaged byte that is known.
        offset: u64,
        /// How it shows.
        reason: &'static str,
    },
    /// Files or records that must be there are not.
    #[error("the log in {path} is incomplete: {reason}; {REJOIN}")]
    Incomplete {
        /// The folder of the log.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A record was stored intact but does not open with the right key: it was moved or forged.
    #[error("{record} in {path} does not open although its data key is the right one; {REJOIN}")]
    Forged {
        /// The folder of the log.
        path: PathBuf,
        /// Which record.
        record: String,
    },
    /// The key of a generation is not the one that wrote this log. The log itself may be whole.
    #[error(
        "the data key of generation {generation} is not the one that wrote the log in {path}: the log is intact, the keystore does not belong to it"
    )]
    WrongKey {
        /// The folder of the log.
        path: PathBuf,
        /// The generation whose key differs.
        generation: u32,
    },
    /// The keystore lacks a generation that live records need.
    #[error("{record} in {path} needs the data key of generation {generation}, which the keystore lacks")]
    MissingKey {
        /// The folder of the log.
        path: PathBuf,
        /// The generation that is missing.
        generation: u32,
        /// The first record that needs it.
        record: String,
    },
    /// The folder belongs to another node.
    #[error("the log in {path} belongs to node {found}, not to {expected}")]
    ForeignNode {
        /// The data folder.
        path: PathBuf,
        /// The node it names.
        found: String,
        /// The node that opened it.
        expected: String,
    },
    /// Written by a newer version.
    #[error("the log in {path} has format {found}; this version reads up to {FORMAT}")]
    NewerFormat {
        /// The data folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The engine refused for a reason of its own.
    #[error("the log engine refused {operation} in {path}: {reason}")]
    Engine {
        /// What was asked of it.
        operation: &'static str,
        /// The folder of the log.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A change that does not fit the log; nothing was written.
    #[error("the change does not fit the log: {reason}")]
    Misfit {
        /// What does not fit.
        reason: String,
    },
    /// A snapshot is torn, altered or not the one that was announced.
    #[error("the snapshot {path} is not usable: {reason}")]
    Snapshot {
        /// The snapshot's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Sealing failed; nothing was written.
    #[error("sealing {record} failed")]
    Seal {
        /// Which record.
        record: String,
        /// Why.
        source: SealError,
    },
    /// The disk failed before; see the log for the sentence.
    #[error("the log has ended: {sentence}")]
    Ended {
        /// The last words.
        sentence: String,
    },
    /// The queue of the log's thread is full; nothing was queued.
    #[error("{QUEUE_MAX} changes already wait for the disk")]
    Busy,
    /// The log's thread has stopped; nothing was queued.
    #[error("the log's thread has stopped")]
    Stopped,
}
