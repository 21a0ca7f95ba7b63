//! Opening: a first log is created, an old one is read whole, opened and checked before anybody relies on it.

use std::collections::BTreeSet;

use protobuf::Message;
use raft::eraftpb::{Entry, HardState};
use raft_engine::LogBatch;
use raft_engine::env::FileSystem;
use skep_model::guard;

use super::folder::{log_dir, write_identity};
use super::record::{KEY_APPLIED, KEY_COMPACTED, KEY_HARD_STATE, KEY_MEMBERSHIP, KEY_PREFIX, KEY_SNAPSHOT, SMALL_RECORDS, name};
use super::{Entries, GROUP, Log, Position};
use crate::disk::seal::{KEY_CHECK_LEN, generation_of};
use crate::disk::snapshot::{self, SnapshotMeta};
use crate::disk::{DiskError, FORMAT};

/// What the disk held when the log was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// The raft hard state; empty in a new log.
    pub hard_state: HardState,
    /// The membership as it was given.
    pub membership: Option<Vec<u8>>,
    /// The newest noted snapshot; its file was read and verified.
    pub snapshot: Option<SnapshotMeta>,
    /// Entries up to here are gone; the log begins behind it.
    pub compacted: Position,
    /// All entries behind `compacted`, opened.
    pub entries: Vec<Entry>,
    /// The last applied hint; 0 if there is none.
    pub applied: u64,
    /// The format of the data folder.
    pub format: u32,
}

impl<F: FileSystem> Log<F> {
    pub(super) fn create(&mut self) -> Result<Recovered, DiskError> {
        let mut batch = LogBatch::default();
        self.stage_small(&mut batch, &BTreeSet::new())?;
        self.write(&mut batch)?;
        // The engine syncs its folder only when it changes files.
        snapshot::sync_folder(&log_dir(&self.dir))?;
        write_identity(&self.dir, self.seal.node_id())?;
        Ok(Recovered { format: FORMAT, ..Recovered::default() })
    }

    pub(super) fn recover(&mut self) -> Result<Recovered, DiskError> {
        self.read_keys()?;
        let mut recovered = Recovered { format: FORMAT, ..Recovered::default() };
        for (key, kind) in SMALL_RECORDS {
            if let Some(sealed) = self.engine.get(GROUP, key) {
                let plain = self.open_record(kind, 0, 0, &sealed, &name(key))?;
                self.small.insert(key, plain);
            }
        }
        self.read_small(&mut recovered)?;
        recovered.entries = self.read_entries()?;
        if let Some(meta) = &recovered.snapshot {
            snapshot::verify(&self.dir, &self.seal, meta)?;
            self.snapshot_generations = snapshot::generations(&self.dir, meta)?;
        }
        self.check_whole(&recovered)?;
        let named = recovered.snapshot.as_ref().map(|m| snapshot::path_of(&self.dir, m.index, m.term));
        snapshot::remove_unless(&self.dir, |p| named.as_deref() == Some(p))?;
        Ok(recovered)
    }

    /// Tells a wrong key apart before anything is opened.
    fn read_keys(&mut self) -> Result<(), DiskError> {
        let mut records = Vec::new();
        let end = [KEY_PREFIX, &[0xff; 5]].concat();
        self.engine
            .scan_raw_messages(GROUP, Some(KEY_PREFIX), Some(&end), false, |key, value| {
                records.push((key.to_vec(), value.to_vec()));
                true
            })
            .map_err(|e| self.engine_error("reading", e))?;
        if records.is_empty() {
            return Err(self.incomplete("its first records are gone".to_owned()));
        }
        for (key, value) in records {
            let generation = key[KEY_PREFIX.len()..].try_into().map(u32::from_be_bytes);
            let (Ok(generation), true) = (generation, value.len() == KEY_CHECK_LEN + 8) else {
                return Err(self.incomplete("a key's record is malformed".to_owned()));
            };
            let (check, counted) = value.split_at(KEY_CHECK_LEN);
            let counted = u64::from_be_bytes(counted.try_into().expect("eight bytes"));
            match self.seal.key_check(generation) {
                Ok(expected) if expected != check => {
                    return Err(DiskError::WrongKey { path: self.dir.clone(), generation });
                }
                // A generation without a key matters only if a record needs it.
                Err(_) => continue,
                Ok(_) => {}
            }
            self.seal.continue_from(generation, counted);
            self.counted.insert(generation, counted);
        }
        Ok(())
    }

    fn read_small(&mut self, recovered: &mut Recovered) -> Result<(), DiskError> {
        let malformed = |what: &[u8]| self.incomplete(format!("{} is malformed", name(what)));
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
        if let Some(bytes) = self.small.get(KEY_HARD_STATE) {
            recovered.hard_state.merge_from_bytes(bytes).map_err(|_| malformed(KEY_HARD_STATE))?;
        }
        recovered.membership = self.small.get(KEY_MEMBERSHIP).map(|b| b.to_vec());
        if let Some(bytes) = self.small.get(KEY_SNAPSHOT) {
            recovered.snapshot = Some(SnapshotMeta::decode(bytes).ok_or_else(|| malformed(KEY_SNAPSHOT))?);
        }
        if let Some(bytes) = self.small.get(KEY_APPLIED) {
            recovered.applied = number(bytes).ok_or_else(|| malformed(KEY_APPLIED))?;
        }
        if let Some(bytes) = self.small.get(KEY_COMPACTED) {
            let (index, term) = bytes.split_at_checked(8).ok_or_else(|| malformed(KEY_COMPACTED))?;
            let parts = number(index).zip(number(term));
            let (index, term) = parts.ok_or_else(|| malformed(KEY_COMPACTED))?;
            recovered.compacted = Position { index, term };
        }
        self.snapshot = recovered.snapshot.clone();
        self.compacted = recovered.compacted;
        self.last = recovered.compacted;
        Ok(())
    }

    fn read_entries(&mut self) -> Result<Vec<Entry>, DiskError> {
        let (Some(first), Some(last)) = (self.engine.first_index(GROUP), self.engine.last_index(GROUP)) else {
            return Ok(Vec::new());
        };
        // The engine may bring compacted entries back once the file with the command is reclaimed.
        let begin = first.max(self.compacted.index + 1);
        if begin > last {
            return Ok(Vec::new());
        }
        let mut sealed = Vec::new();
        let fetched = guard::catch(|| self.engine.fetch_entries_to::<Entries>(GROUP, begin, last + 1, None, &mut sealed));
        match fetched {
            Ok(outcome) => outcome.map_err(|e| self.engine_error("reading entries", e))?,
            Err(_) => return Err(self.incomplete("an entry is not where its index says".to_owned())),
        };
        let mut entries = Vec::with_capacity(sealed.len());
        for entry in sealed {
            // Left over from before an installed snapshot, likewise brought back: raft's log matching makes their
            // terms lower than the snapshot's, and no entry behind it can have a lower term.
            if entry.term < self.compacted.term {
                break;
            }
            if entry.index != self.last.index + 1 || entry.term < self.last.term {
                let (found, last) = (entry.index, self.last);
                return Err(self.incomplete(format!("entry {found} (term {}) follows {last:?}", entry.term)));
            }
            let generation = generation_of(&entry.data).unwrap_or_default();
            entries.push(self.open_entry(entry)?);
            let newest = entries.last().expect("one was just added");
            self.last = Position { index: newest.index, term: newest.term };
            self.note_run(self.last.index, (generation, self.last.term));
        }
        Ok(entries)
    }

    fn check_whole(&self, recovered: &Recovered) -> Result<(), DiskError> {
        let covered = self.snapshot_index();
        if covered < self.compacted.index {
            return Err(self.incomplete(format!("it begins behind {} but its snapshot ends at {covered}", self.compacted.index)));
        }
        let needed = covered.max(recovered.hard_state.commit);
        if needed > self.last.index {
            return Err(self.incomplete(format!("entries up to {needed} were committed, it ends at {}", self.last.index)));
        }
        Ok(())
    }
}
