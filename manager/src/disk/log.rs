//! The log itself: open and recover, commit changes with one sync, compact, change keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protobuf::Message;
use raft::eraftpb::{Entry, HardState};
use raft_engine::env::{DefaultFileSystem, FileSystem};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode, Version};
use zeroize::Zeroizing;

use super::files::{FileCounts, Watch, Watched, inspect};
use super::seal::{KEY_CHECK_LEN, RecordKind, RecordSeal, SealError, generation_of};
use super::snapshot::{self, SnapshotMeta, io_error};
use super::{DiskError, FORMAT, LastWords, end_process};

/// The engine can hold many logs; we have one.
const GROUP: u64 = 1;
/// Entry data plus context; a transaction is far smaller.
const ENTRY_BYTES_MAX: usize = 16 << 20;
/// Sealed records are counted on disk ahead of time, in steps of this many.
const SEALED_COUNT_STEP: u64 = 1 << 20;

const KEY_HARD_STATE: &[u8] = b"hard-state";
const KEY_MEMBERSHIP: &[u8] = b"membership";
const KEY_SNAPSHOT: &[u8] = b"snapshot";
const KEY_COMPACTED: &[u8] = b"compacted";
const KEY_APPLIED: &[u8] = b"applied";
const KEY_PREFIX: &[u8] = b"key/";
const SMALL_RECORDS: [(&[u8], RecordKind); 5] = [
    (KEY_HARD_STATE, RecordKind::HardState),
    (KEY_MEMBERSHIP, RecordKind::Membership),
    (KEY_SNAPSHOT, RecordKind::SnapshotMeta),
    (KEY_COMPACTED, RecordKind::Compacted),
    (KEY_APPLIED, RecordKind::Applied),
];

/// Sizes of the engine's files, and who hears the last words.
#[derive(Clone)]
pub struct Settings {
    /// A file is closed beyond this size, in bytes.
    pub target_file_bytes: u64,
    /// Old files are reclaimed beyond this total, in bytes.
    pub purge_threshold_bytes: u64,
    /// Called when the disk fails.
    pub last_words: LastWords,
}

impl Default for Settings {
    fn default() -> Self {
        Self { target_file_bytes: 16 << 20, purge_threshold_bytes: 64 << 20, last_words: Arc::new(end_process) }
    }
}

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
    pub(super) fn weight(&self) -> usize {
        match self {
            Change::Append(batch) => {
                let entries = batch.entries.iter().map(|e| e.data.len() + e.context.len() + 64);
                entries.sum::<usize>() + batch.membership.as_ref().map_or(0, Vec::len) + 128
            }
            _ => 256,
        }
    }
}

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

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// The log of one manager. Blocking; see [`super::LogThread`].
pub struct Log<F: FileSystem = DefaultFileSystem> {
    engine: Engine<Watched<F>>,
    watch: Arc<Watch>,
    seal: Arc<RecordSeal>,
    dir: PathBuf,
    small: BTreeMap<&'static [u8], Zeroizing<Vec<u8>>>,
    compacted: Position,
    last: Position,
    /// Where in the log generation or term change: first index → (generation, term).
    runs: BTreeMap<u64, (u32, u64)>,
    snapshot: Option<SnapshotMeta>,
    snapshot_generations: BTreeSet<u32>,
    counted: BTreeMap<u32, u64>,
}

impl Log {
    /// Opens the log below the data folder `dir`, or creates it if the folder holds none.
    ///
    /// # Errors
    /// Every way of [`DiskError`] in which a log can be unusable; nothing is changed then.
    pub fn open(dir: &Path, seal: Arc<RecordSeal>, settings: &Settings) -> Result<(Self, Recovered), DiskError> {
        Log::open_in(dir, seal, settings, Arc::new(DefaultFileSystem))
    }
}

impl<F: FileSystem> Log<F> {
    /// As [`Log::open`], on another file system for the engine's files.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_in(
        dir: &Path,
        seal: Arc<RecordSeal>,
        settings: &Settings,
        system: Arc<F>,
    ) -> Result<(Self, Recovered), DiskError> {
        let is_new = !check_identity(dir, &seal)?;
        let log_dir = log_dir(dir);
        make_folder(dir)?;
        if is_new {
            // What an interrupted creation left was never acknowledged to anybody.
            remove_folder(&log_dir)?;
            remove_folder(&snapshot::folder(dir))?;
        }
        make_folder(&log_dir)?;
        make_folder(&snapshot::folder(dir))?;
        inspect(system.as_ref(), &log_dir)?;
        let watch = Arc::new(Watch::new(settings.last_words.clone()));
        let engine = open_engine(&log_dir, settings, system, watch.clone())?;
        let mut log = Self {
            engine,
            watch,
            seal,
            dir: dir.to_path_buf(),
            small: BTreeMap::new(),
            compacted: Position::default(),
            last: Position::default(),
            runs: BTreeMap::new(),
            snapshot: None,
            snapshot_generations: BTreeSet::new(),
            counted: BTreeMap::new(),
        };
        let recovered = match is_new {
            true => log.create()?,
            false => log.recover()?,
        };
        Ok((log, recovered))
    }

    /// Commits the changes in order with one sync and answers each. A change that does not fit is refused on its
    /// own and leaves no trace; the others go on.
    pub fn commit(&mut self, changes: Vec<Change>) -> Vec<Result<(), DiskError>> {
        let mut batch = LogBatch::default();
        let mut dirty = BTreeSet::new();
        let mut answers = Vec::with_capacity(changes.len());
        let mut purge = false;
        let mut noted = false;
        for change in changes {
            purge |= matches!(change, Change::Compact { .. } | Change::InstallSnapshot { .. });
            noted |= matches!(change, Change::NoteSnapshot(_) | Change::InstallSnapshot { .. });
            answers.push(self.watch.alive().and_then(|()| self.stage(&mut batch, &mut dirty, change)));
        }
        let written = self.stage_small(&mut batch, &dirty).and_then(|()| self.write(&mut batch));
        if let Err(error) = written {
            // The log in memory is ahead of the disk: nothing after this can be trusted.
            self.watch.end(format!("writing the log in {} failed ({error}), so this manager stops", self.dir.display()));
            let ended = |a: Result<(), DiskError>| a.and_then(|()| self.watch.alive());
            return answers.into_iter().map(ended).collect();
        }
        self.tidy(purge, noted);
        answers
    }

    /// Commits one change.
    ///
    /// # Errors
    /// [`DiskError::Misfit`], [`DiskError::Seal`], [`DiskError::Snapshot`]: nothing was written;
    /// [`DiskError::Ended`]: the disk failed.
    pub fn apply(&mut self, change: Change) -> Result<(), DiskError> {
        self.commit(vec![change]).pop().expect("one change, one answer")
    }

    /// Commits entries and state.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn append(&mut self, batch: Batch) -> Result<(), DiskError> {
        self.apply(Change::Append(batch))
    }

    /// Drops all entries up to and including `through`, then reclaims files.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn compact_to(&mut self, through: u64) -> Result<(), DiskError> {
        self.apply(Change::Compact { through })
    }

    /// Records a finished snapshot of our own.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn note_snapshot(&mut self, meta: SnapshotMeta) -> Result<(), DiskError> {
        self.apply(Change::NoteSnapshot(meta))
    }

    /// Seals with `generation` from now on.
    ///
    /// # Errors
    /// As [`Log::apply`].
    pub fn rotate_to(&mut self, generation: u32) -> Result<(), DiskError> {
        self.apply(Change::RotateTo { generation })
    }

    /// The key generations that a restart would need: of live entries, small records and the snapshot.
    pub fn generations_in_use(&self) -> BTreeSet<u32> {
        let mut generations: BTreeSet<u32> = self.runs.values().map(|run| run.0).collect();
        generations.extend(&self.snapshot_generations);
        generations.insert(self.seal.current());
        generations
    }

    /// The newest entry; the compacted position if there is none.
    pub fn last(&self) -> Position {
        self.last
    }

    /// The seal that this log writes with.
    pub fn seal(&self) -> &Arc<RecordSeal> {
        &self.seal
    }

    /// What was done to the engine's files since the log was opened.
    pub fn counts(&self) -> FileCounts {
        self.watch.counts()
    }

    /// Removes the log and everything below its data folder: the node leaves or is no manager any more.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn destroy(self) -> Result<(), DiskError> {
        let Self { engine, dir, .. } = self;
        drop(engine);
        destroy(&dir)
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    // ---- staging -------------------------------------------------------------------------------------------

    fn stage(&mut self, batch: &mut LogBatch, dirty: &mut BTreeSet<&'static [u8]>, change: Change) -> Result<(), DiskError> {
        match change {
            Change::Append(append) => self.stage_append(batch, dirty, append),
            Change::Compact { through } => {
                self.check_compaction(through)?;
                let term = self.term_at(through);
                self.drop_entries(batch, Position { index: through, term }, through + 1);
                dirty.extend(SMALL_RECORDS.map(|r| r.0));
                Ok(())
            }
            Change::NoteSnapshot(meta) => {
                if meta.index > self.last.index || meta.index < self.snapshot_index() {
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
        if through > self.last.index || through < self.compacted.index || through > self.snapshot_index() {
            return misfit(format!(
                "compaction to {through}: the log reaches from {} to {}, its snapshot to {}",
                self.compacted.index,
                self.last.index,
                self.snapshot_index()
            ));
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

    /// Seals the small records that changed, and counts sealed records ahead.
    fn stage_small(&mut self, batch: &mut LogBatch, dirty: &BTreeSet<&'static [u8]>) -> Result<(), DiskError> {
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

    fn write(&self, batch: &mut LogBatch) -> Result<(), DiskError> {
        if !batch.is_empty() {
            let written = catch_unwind(AssertUnwindSafe(|| self.engine.write(batch, true)));
            match written {
                Ok(outcome) => outcome.map_err(|e| self.engine_error("a write", e))?,
                Err(_) => return Err(self.engine_error("a write", raft_engine::Error::Corruption("it panicked".into()))),
            };
        }
        self.watch.alive()
    }

    /// Work after the answer is certain: reclaim files, remove older snapshots. A failure delays it only.
    fn tidy(&self, purge: bool, noted: bool) {
        if purge {
            match self.engine.purge_expired_files() {
                Ok(wanting) if wanting.is_empty() => {}
                Ok(_) => tracing::debug!("the log engine waits for the next compaction to reclaim more files"),
                Err(error) => self
                    .watch
                    .end(format!("reclaiming log files in {} failed ({error}), so this manager stops", self.dir.display())),
            }
        }
        if noted && let Err(error) = snapshot::remove_unless(&self.dir, |p| !snapshot::is_older(p, self.snapshot_index())) {
            tracing::warn!("older snapshots remain until the next one: {error}");
        }
    }

    fn seal_entry(&self, entry: &Entry) -> Result<Entry, DiskError> {
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

    fn note_run(&mut self, index: u64, run: (u32, u64)) {
        if self.runs.values().next_back() != Some(&run) {
            self.runs.insert(index, run);
        }
    }

    fn term_at(&self, index: u64) -> u64 {
        match index <= self.compacted.index {
            true => self.compacted.term,
            false => self.runs.range(..=index).next_back().map_or(0, |(_, run)| run.1),
        }
    }

    fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |s| s.index)
    }

    fn engine_error(&self, operation: &'static str, error: raft_engine::Error) -> DiskError {
        engine_error(operation, &self.dir, error)
    }

    // ---- opening -------------------------------------------------------------------------------------------

    fn create(&mut self) -> Result<Recovered, DiskError> {
        let mut batch = LogBatch::default();
        self.stage_small(&mut batch, &BTreeSet::new())?;
        self.write(&mut batch)?;
        // The engine syncs its folder only when it changes files.
        snapshot::sync_folder(&log_dir(&self.dir))?;
        write_identity(&self.dir, self.seal.node_id())?;
        Ok(Recovered { format: FORMAT, ..Recovered::default() })
    }

    fn recover(&mut self) -> Result<Recovered, DiskError> {
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
        let fetched =
            catch_unwind(AssertUnwindSafe(|| self.engine.fetch_entries_to::<Entries>(GROUP, begin, last + 1, None, &mut sealed)));
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

    fn open_entry(&self, mut entry: Entry) -> Result<Entry, DiskError> {
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

    fn open_record(
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

    fn incomplete(&self, reason: String) -> DiskError {
        DiskError::Incomplete { path: self.dir.clone(), reason }
    }
}

/// Removes everything that a log left in its data folder `dir`. The caller has closed the log.
///
/// # Errors
/// [`DiskError::Io`].
pub fn destroy(dir: &Path) -> Result<(), DiskError> {
    let identity = identity_path(dir);
    // First, so that a half-removed log counts as none.
    match fs::remove_file(&identity) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("removing", &identity)(error)),
        _ => {}
    }
    remove_folder(&log_dir(dir))?;
    remove_folder(&snapshot::folder(dir))?;
    match dir.exists() {
        true => snapshot::sync_folder(dir),
        false => Ok(()),
    }
}

fn open_engine<F: FileSystem>(
    dir: &Path,
    settings: &Settings,
    system: Arc<F>,
    watch: Arc<Watch>,
) -> Result<Engine<Watched<F>>, DiskError> {
    let config = Config {
        dir: dir.to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: 1,
        batch_compression_threshold: ReadableSize(0),
        format_version: Version::V1,
        enable_log_recycle: false,
        target_file_size: ReadableSize(settings.target_file_bytes),
        purge_threshold: ReadableSize(settings.purge_threshold_bytes),
        ..Config::default()
    };
    let watched = Arc::new(Watched::new(system, watch));
    match catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, watched))) {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(raft_engine::Error::Other(error))) if error.to_string().contains("Failed to lock file") => {
            Err(DiskError::InUse { path: dir.into() })
        }
        Ok(Err(error)) => Err(engine_error("opening", dir, error)),
        Err(_) => Err(DiskError::Incomplete { path: dir.into(), reason: "the engine found a hole in it".to_owned() }),
    }
}

fn engine_error(operation: &'static str, dir: &Path, error: raft_engine::Error) -> DiskError {
    DiskError::Engine { operation, path: dir.into(), reason: error.to_string() }
}

fn entry_kind(entry: &Entry) -> RecordKind {
    RecordKind::Entry(entry.get_entry_type() as i32)
}

fn name(key: &[u8]) -> String {
    format!("the record {:?}", String::from_utf8_lossy(key))
}

fn misfit<T>(reason: String) -> Result<T, DiskError> {
    Err(DiskError::Misfit { reason })
}

fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

fn identity_path(dir: &Path) -> PathBuf {
    dir.join("identity")
}

/// Whether there is a log in `dir`; refuses one of another node or a newer format.
fn check_identity(dir: &Path, seal: &RecordSeal) -> Result<bool, DiskError> {
    let path = identity_path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("reading", &path)(error)),
    };
    let mut words = text.split_whitespace();
    let (format, node) = (words.next().and_then(|w| w.parse::<u32>().ok()), words.next());
    let (Some(format), Some(node)) = (format, node) else {
        return Err(DiskError::Rot { path, offset: 0, reason: "it does not name a format and a node" });
    };
    if format > FORMAT {
        return Err(DiskError::NewerFormat { path: dir.into(), found: format });
    }
    if node != seal.node_id() {
        return Err(DiskError::ForeignNode { path: dir.into(), found: node.to_owned(), expected: seal.node_id().to_owned() });
    }
    Ok(true)
}

fn write_identity(dir: &Path, node_id: &str) -> Result<(), DiskError> {
    use std::io::Write;
    let path = identity_path(dir);
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        writeln!(file, "{FORMAT} {node_id}")?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(io_error("writing", &path))?;
    snapshot::sync_folder(dir)
}

fn make_folder(path: &Path) -> Result<(), DiskError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_error("creating", path))
}

fn remove_folder(path: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path)(error)),
        _ => Ok(()),
    }
}
