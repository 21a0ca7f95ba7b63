//! Records on disk: sealing and opening entries and the small records, and each key generation's own record.
//!
//! A key's record is clear: a check value of the key, and how many records it may have sealed. It is counted ahead
//! of time, so that a crash never makes a count too low.

use std::collections::BTreeSet;

use raft::eraftpb::Entry;
use raft_engine::LogBatch;
use raft_engine::env::FileSystem;
use zeroize::Zeroizing;

use super::{GROUP, Log};
use crate::disk::DiskError;
use crate::disk::seal::{RecordKind, SealError};

/// Sealed records are counted on disk ahead of time, in steps of this many.
const SEALED_COUNT_STEP: u64 = 1 << 20;

pub(super) const KEY_HARD_STATE: &[u8] = b"hard-state";
pub(super) const KEY_MEMBERSHIP: &[u8] = b"membership";
pub(super) const KEY_SNAPSHOT: &[u8] = b"snapshot";
pub(super) const KEY_COMPACTED: &[u8] = b"compacted";
pub(super) const KEY_APPLIED: &[u8] = b"applied";
pub(super) const KEY_PREFIX: &[u8] = b"key/";
pub(super) const SMALL_RECORDS: [(&[u8], RecordKind); 5] = [
    (KEY_HARD_STATE, RecordKind::HardState),
    (KEY_MEMBERSHIP, RecordKind::Membership),
    (KEY_SNAPSHOT, RecordKind::SnapshotMeta),
    (KEY_COMPACTED, RecordKind::Compacted),
    (KEY_APPLIED, RecordKind::Applied),
];

impl<F: FileSystem> Log<F> {
    pub(super) fn seal_entry(&self, entry: &Entry) -> Result<Entry, DiskError> {
        // One nonce for both: length of the data, data, context.
        let mut plain = Zeroizing::new(Vec::with_capacity(4 + entry.data.len() + entry.context.len()));
        plain.extend_from_slice(&(entry.data.len() as u32).to_be_bytes());
        plain.extend_from_slice(&entry.data);
        plain.extend_from_slice(&entry.context);
        let sealed = self.seal.seal(entry_kind(entry), entry.index, entry.term, &plain);
        let sealed = sealed.map_err(|source| DiskError::Seal { record: format!("entry {}", entry.index), source })?;
        let mut out = entry.clone();
        out.set_data(sealed.into());
        out.set_context(Default::default());
        Ok(out)
    }

    pub(super) fn open_entry(&self, mut entry: Entry) -> Result<Entry, DiskError> {
        let record = format!("entry {}", entry.index);
        let plain = self.open_record(entry_kind(&entry), entry.index, entry.term, &entry.data, &record)?;
        let malformed = || self.incomplete(format!("{record} is malformed"));
        let (length, body) = plain.split_at_checked(4).ok_or_else(malformed)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        let (data, context) = body.split_at_checked(length).ok_or_else(malformed)?;
        entry.set_data(data.to_vec().into());
        entry.set_context(context.to_vec().into());
        Ok(entry)
    }

    pub(super) fn open_record(
        &self,
        kind: RecordKind,
        index: u64,
        term: u64,
        sealed: &[u8],
        record: &str,
    ) -> Result<Zeroizing<Vec<u8>>, DiskError> {
        let (path, record) = (self.dir.clone(), record.to_owned());
        self.seal.open(kind, index, term, sealed).map_err(|error| match error {
            SealError::NoKey { generation } => DiskError::MissingKey { path, generation, record },
            _ => DiskError::Forged { path, record },
        })
    }

    /// Seals the small records that changed, and counts sealed records ahead.
    pub(super) fn stage_small(&mut self, batch: &mut LogBatch, dirty: &BTreeSet<&'static [u8]>) -> Result<(), DiskError> {
        for (key, kind) in SMALL_RECORDS {
            if let Some(plain) = self.small.get(key).filter(|_| dirty.contains(key)) {
                let sealed = self.seal.seal(kind, 0, 0, plain);
                let sealed = sealed.map_err(|source| DiskError::Seal { record: name(key), source })?;
                batch.put(GROUP, key.to_vec(), sealed).map_err(|e| self.engine_error("a record", e))?;
            }
        }
        let generation = self.seal.current();
        let counted = self.counted.get(&generation).copied().unwrap_or(0);
        // A compaction rewrites these too, or they would pin the oldest file.
        if self.seal.n_sealed(generation) + SEALED_COUNT_STEP / 2 > counted || dirty.contains(KEY_COMPACTED) {
            let counted = self.seal.n_sealed(generation) + SEALED_COUNT_STEP;
            self.counted.insert(generation, counted.max(self.counted.get(&generation).copied().unwrap_or(0)));
            self.stage_keys(batch)?;
        }
        Ok(())
    }

    fn stage_keys(&mut self, batch: &mut LogBatch) -> Result<(), DiskError> {
        let in_use = self.generations_in_use();
        for (&generation, &counted) in &self.counted {
            let key = [KEY_PREFIX, &generation.to_be_bytes()].concat();
            if !in_use.contains(&generation) {
                batch.delete(GROUP, key);
                continue;
            }
            let check = self.seal.key_check(generation);
            let check = check.map_err(|source| DiskError::Seal { record: "a key's check value".to_owned(), source })?;
            let value = [&check[..], &counted.to_be_bytes()].concat();
            batch.put(GROUP, key, value).map_err(|e| self.engine_error("a key's record", e))?;
        }
        self.counted.retain(|generation, _| in_use.contains(generation));
        Ok(())
    }
}

fn entry_kind(entry: &Entry) -> RecordKind {
    RecordKind::Entry(entry.get_entry_type() as i32)
}

pub(super) fn name(key: &[u8]) -> String {
    format!("the record {:?}", String::from_utf8_lossy(key))
}
