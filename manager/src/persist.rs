//! From what the core wants durable to changes of the log, and back at start.
//!
//! An error of the disk ends the process with a sentence: a manager that cannot
//! keep its word must not go on giving it.

use crate::disk::{Batch, Change, LogHandle, LogThread, RecordSeal, SnapshotMeta, SnapshotReader, SnapshotWriter};
use protobuf::Message as _;
use raft::eraftpb::{ConfState, SnapshotMetadata};
use skep_manager_core::Recovered;
use skep_manager_core::action::Persist;
use skep_manager_core::store::SnapshotContent;
use skep_model::version::FORMAT_MAX;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The log's thread and what belongs to it.
pub struct Disk {
    pub(crate) folder: PathBuf,
    pub(crate) seal: Arc<RecordSeal>,
    log: LogHandle,
    thread: Mutex<Option<LogThread>>,
    /// Snapshots that arrived and wait for raft to take them, by index.
    pub(crate) received: Mutex<BTreeMap<u64, SnapshotMeta>>,
}

/// Why the disk's content cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The log or a snapshot file.
    #[error(transparent)]
    Disk(#[from] crate::disk::DiskError),
    /// The membership record.
    #[error("the recorded membership does not parse; remove this manager from the cluster and let it join again")]
    Membership,
    /// The snapshot's content.
    #[error(
        "the snapshot that ends at {index} cannot be read: {reason}; remove this manager from the cluster and let it join again"
    )]
    Snapshot {
        /// Its last index.
        index: u64,
        /// Why not.
        reason: String,
    },
}

impl Disk {
    /// Takes over an opened log.
    pub fn start(folder: PathBuf, seal: Arc<RecordSeal>, log: crate::disk::Log) -> Result<Self, PersistError> {
        let thread = LogThread::start(log)?;
        Ok(Self { folder, seal, log: thread.handle(), thread: Mutex::new(Some(thread)), received: Mutex::default() })
    }

    /// Makes a batch durable and then calls `done`.
    pub fn persist(&self, persist: Persist, done: impl FnOnce() + Send + 'static) {
        let mut batch = Batch { entries: persist.entries, hard_state: persist.hard_state, ..Batch::default() };
        batch.membership = persist.membership.map(|(index, members)| encode_membership(index, &members));
        if let Some(metadata) = persist.snapshot {
            let meta = self.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&metadata.index);
            let Some(meta) = meta else { fatal_text("install a snapshot", "it is not on the disk") };
            self.submit(Change::InstallSnapshot { meta, hard_state: batch.hard_state.take() }, || {});
        }
        self.submit(Change::Append(batch), done);
    }

    /// Entries before `index` go; a noted snapshot covers them.
    pub fn compact(&self, index: u64) {
        if index > 1 {
            self.submit(Change::Compact { through: index - 1 }, || {});
        }
    }

    /// A snapshot of our own is whole: it is noted, and the older one goes.
    pub fn note_snapshot(&self, meta: SnapshotMeta) -> Result<(), PersistError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.log.submit(Change::NoteSnapshot(meta), move |result| drop(sender.send(result)))?;
        receiver.recv().unwrap_or(Err(crate::disk::DiskError::Stopped))?;
        Ok(())
    }

    /// Finishes what is queued and closes the log.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(Err(error)) = thread.map(LogThread::stop) {
            tracing::error!(%error, "the log did not stop cleanly");
        }
    }

    fn submit(&self, change: Change, done: impl FnOnce() + Send + 'static) {
        let submitted = self.log.submit(change, move |result| match result {
            Ok(()) => done(),
            Err(error) => fatal("write to the log", &error),
        });
        match submitted {
            Ok(()) => {}
            Err(crate::disk::DiskError::Stopped) => tracing::debug!("the log has stopped; a batch was not written"),
            Err(error) => fatal("write to the log", &error),
        }
    }
}

/// Writes the beginning of a cluster: the empty store as a snapshot, which is
/// what every log continues from.
pub fn write_founding(
    folder: &Path,
    seal: &Arc<RecordSeal>,
    log: &mut crate::disk::Log,
    founding: &Recovered,
) -> Result<(), PersistError> {
    let (index, term) = (founding.membership_index, founding.hard_state.term);
    let mut writer = SnapshotWriter::create(folder, seal.clone(), index, term)?;
    writer.write(&FORMAT_MAX.to_be_bytes())?;
    let content = writer.finish(None)?;
    let membership = encode_membership(index, &founding.membership);
    let meta = SnapshotMeta { index, term, membership, content };
    log.apply(Change::InstallSnapshot { meta, hard_state: Some(founding.hard_state.clone()) })?;
    Ok(())
}

/// What the core needs of what the disk held.
pub fn recovered(folder: &Path, seal: &Arc<RecordSeal>, found: crate::disk::Recovered) -> Result<Recovered, PersistError> {
    let snapshot = found.snapshot.as_ref().map(|meta| read_snapshot(folder, seal, meta)).transpose()?;
    let (membership_index, membership) = match &found.membership {
        Some(bytes) => decode_membership(bytes).ok_or(PersistError::Membership)?,
        None => (0, ConfState::default()),
    };
    Ok(Recovered { hard_state: found.hard_state, membership, membership_index, snapshot, entries: found.entries })
}

/// Reads a snapshot file to its end: only then it is known to be the one that `meta` describes.
pub fn read_snapshot(
    folder: &Path,
    seal: &Arc<RecordSeal>,
    meta: &SnapshotMeta,
) -> Result<(SnapshotMetadata, SnapshotContent), PersistError> {
    let mut reader = SnapshotReader::open(folder, seal.clone(), meta)?;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.content.length).unwrap_or_default());
    while let Some(chunk) = reader.next_chunk()? {
        bytes.extend_from_slice(&chunk);
    }
    let (_, members) = decode_membership(&meta.membership).ok_or(PersistError::Membership)?;
    let mut metadata = SnapshotMetadata { index: meta.index, term: meta.term, ..SnapshotMetadata::default() };
    metadata.set_conf_state(members);
    let content = decode_content(meta.index, &bytes).map_err(|reason| PersistError::Snapshot { index: meta.index, reason })?;
    Ok((metadata, content))
}

/// The store in a snapshot's plain content: four bytes of format, then records.
fn decode_content(index: u64, bytes: &[u8]) -> Result<SnapshotContent, String> {
    let (format, records) = bytes.split_first_chunk::<4>().ok_or("it is too short")?;
    SnapshotContent::decode(index, u32::from_be_bytes(*format), FORMAT_MAX, records).map_err(|error| error.to_string())
}

/// Index and members as one record.
pub fn encode_membership(index: u64, members: &ConfState) -> Vec<u8> {
    let mut bytes = index.to_be_bytes().to_vec();
    members.write_to_vec(&mut bytes).expect("writing to memory does not fail");
    bytes
}

fn decode_membership(bytes: &[u8]) -> Option<(u64, ConfState)> {
    let (index, members) = bytes.split_first_chunk::<8>()?;
    let mut state = ConfState::default();
    state.merge_from_bytes(members).ok()?;
    Some((u64::from_be_bytes(*index), state))
}

/// The disk failed: says so and ends the process.
pub fn fatal(what: &str, error: &dyn Error) -> ! {
    fatal_text(what, &line(error))
}

/// An error with its causes.
pub fn line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn fatal_text(what: &str, text: &str) -> ! {
    tracing::error!("could not {what}: {text}; the manager stops, for it could not keep its word");
    std::process::exit(74);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_round_trips() {
        let members = ConfState { voters: vec![3, 5], learners: vec![9], ..ConfState::default() };
        assert_eq!(decode_membership(&encode_membership(7, &members)), Some((7, members)));
        assert_eq!(decode_membership(&[1, 2]), None);
    }
}
