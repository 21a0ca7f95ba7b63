//! From a change to a batch: judge whether it fits, seal it, and bring the log in memory to where the disk will be.
//!
//! A change is judged before anything of it is staged; what is staged is written or ends the log.

use std::collections::BTreeSet;

use protobuf::Message;
use raft::eraftpb::{Entry, HardState};
use raft_engine::env::FileSystem;
use raft_engine::{Command, LogBatch};
use zeroize::Zeroizing;

use super::record::SMALL_RECORDS;
use super::record::{KEY_APPLIED, KEY_COMPACTED, KEY_HARD_STATE, KEY_MEMBERSHIP, KEY_SNAPSHOT};
use super::{Batch, Change, Entries, GROUP, Log, Position};
use crate::disk::DiskError;
use crate::disk::seal::generation_of;
use crate::disk::snapshot::{self, SnapshotMeta};

/// Entry data plus context; a transaction is far smaller.
const ENTRY_BYTES_MAX: usize = 16 << 20;

impl<F: FileSystem> Log<F> {
    pub(super) fn stage(
        &mut self,
        batch: &mut LogBatch,
        dirty: &mut BTreeSet<&'static [u8]>,
        change: Change,
    ) -> Result<(), DiskError> {
        match change {
            Change::Append(append) => self.stage_append(batch, dirty, append),
            // A snapshot that was received meanwhile has taken the place of these entries.
            Change::Compact { through } if through < self.compacted.index => Ok(()),
            Change::Compact { through } => {
                self.check_compaction(through)?;
                let term = self.term_at(through);
                self.drop_entries(batch, Position { index: through, term }, through + 1);
                dirty.extend(SMALL_RECORDS.map(|r| r.0));
                Ok(())
            }
            // One of our own that took longer than a newer one took to arrive: it goes when
            // the folder is tidied.
            Change::NoteSnapshot(meta) if meta.index < self.snapshot_index() => Ok(()),
            Change::NoteSnapshot(meta) => {
                if meta.index > self.last.index {
                    return misfit(format!("a snapshot at {}, with the log at {}", meta.index, self.last.index));
                }
                self.stage_snapshot(dirty, meta)
            }
            Change::InstallSnapshot { meta, hard_state } => {
                if meta.index <= self.compacted.index || meta.index < self.snapshot_index() {
                    return misfit(format!("a snapshot at {}, behind the present one", meta.index));
                }
                let to = Position { index: meta.index, term: meta.term };
                let membership = Zeroizing::new(meta.membership.clone());
                self.stage_snapshot(dirty, meta)?;
                self.small.insert(KEY_MEMBERSHIP, membership);
                self.drop_entries(batch, to, self.last.index.max(to.index) + 1);
                self.last = to;
                self.runs.clear();
                self.put_hard_state(hard_state)?;
                dirty.extend(SMALL_RECORDS.map(|r| r.0));
                Ok(())
            }
            Change::RotateTo { generation } => {
                let known = self.seal.switch_to(generation);
                known.map_err(|source| DiskError::Seal { record: "the log's records".to_owned(), source })?;
                dirty.extend(SMALL_RECORDS.map(|r| r.0));
                Ok(())
            }
        }
    }

    fn stage_append(
        &mut self,
        batch: &mut LogBatch,
        dirty: &mut BTreeSet<&'static [u8]>,
        append: Batch,
    ) -> Result<(), DiskError> {
        self.check_fit(&append.entries)?;
        let sealed: Result<Vec<Entry>, DiskError> = append.entries.iter().map(|e| self.seal_entry(e)).collect();
        let sealed = sealed?;
        batch.add_entries::<Entries>(GROUP, &sealed).map_err(|e| self.engine_error("a batch", e))?;
        if let Some(first) = append.entries.first() {
            self.runs.split_off(&first.index);
        }
        for (entry, sealed) in append.entries.iter().zip(&sealed) {
            let generation = generation_of(&sealed.data).expect("it was just sealed");
            self.note_run(entry.index, (generation, entry.term));
            self.last = Position { index: entry.index, term: entry.term };
        }
        if append.hard_state.is_some() {
            dirty.insert(KEY_HARD_STATE);
            self.put_hard_state(append.hard_state)?;
        }
        if let Some(membership) = append.membership {
            dirty.insert(KEY_MEMBERSHIP);
            self.small.insert(KEY_MEMBERSHIP, Zeroizing::new(membership));
        }
        if let Some(applied) = append.applied {
            dirty.insert(KEY_APPLIED);
            self.small.insert(KEY_APPLIED, Zeroizing::new(applied.to_be_bytes().to_vec()));
        }
        Ok(())
    }

    fn stage_snapshot(&mut self, dirty: &mut BTreeSet<&'static [u8]>, meta: SnapshotMeta) -> Result<(), DiskError> {
        self.snapshot_generations = snapshot::generations(&self.dir, &meta)?;
        self.small.insert(KEY_SNAPSHOT, Zeroizing::new(meta.encode()));
        self.snapshot = Some(meta);
        dirty.insert(KEY_SNAPSHOT);
        Ok(())
    }

    fn drop_entries(&mut self, batch: &mut LogBatch, compacted: Position, first_kept: u64) {
        if let Some((_, run)) = self.runs.range(..=first_kept).next_back()
            && first_kept <= self.last.index
        {
            self.runs.insert(first_kept, *run);
        }
        self.runs = self.runs.split_off(&first_kept);
        self.compacted = compacted;
        let mut bytes = compacted.index.to_be_bytes().to_vec();
        bytes.extend_from_slice(&compacted.term.to_be_bytes());
        self.small.insert(KEY_COMPACTED, Zeroizing::new(bytes));
        // In our own synced batch: the engine's compact_to would write it without a sync.
        batch.add_command(GROUP, Command::Compact { index: first_kept });
    }

    fn put_hard_state(&mut self, hard_state: Option<HardState>) -> Result<(), DiskError> {
        if let Some(state) = hard_state {
            let bytes = state.write_to_bytes().map_err(|e| self.engine_error("the hard state", e.into()))?;
            self.small.insert(KEY_HARD_STATE, Zeroizing::new(bytes));
        }
        Ok(())
    }

    fn check_fit(&self, entries: &[Entry]) -> Result<(), DiskError> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        // A snapshot holds committed entries only, and raft never replaces those.
        let fixed = self.compacted.index.max(self.snapshot_index());
        if first.index <= fixed || first.index > self.last.index + 1 {
            return misfit(format!(
                "entries from {} do not join a log that is fixed up to {fixed} and ends at {}",
                first.index, self.last.index
            ));
        }
        let mut before = Position { index: first.index - 1, term: self.term_at(first.index - 1) };
        for entry in entries {
            if entry.index != before.index + 1 || entry.term < before.term {
                return misfit(format!("entry {} at term {} behind {before:?}", entry.index, entry.term));
            }
            if entry.data.len() + entry.context.len() > ENTRY_BYTES_MAX {
                return misfit(format!("entry {} has more than {ENTRY_BYTES_MAX} bytes", entry.index));
            }
            before = Position { index: entry.index, term: entry.term };
        }
        Ok(())
    }

    fn check_compaction(&self, through: u64) -> Result<(), DiskError> {
        if through > self.last.index || through > self.snapshot_index() {
            return misfit(format!(
                "compaction to {through}: the log reaches from {} to {}, its snapshot to {}",
                self.compacted.index,
                self.last.index,
                self.snapshot_index()
            ));
        }
        Ok(())
    }
}

fn misfit<T>(reason: String) -> Result<T, DiskError> {
    Err(DiskError::Misfit { reason })
}
