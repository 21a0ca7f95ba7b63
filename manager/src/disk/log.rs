//! The log itself: open, commit changes with one sync, and answer where it stands. Its steps have files of their own.

mod change;
mod engine;
mod folder;
mod record;
mod recover;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::Entry;
use raft_engine::env::{DefaultFileSystem, FileSystem};
use raft_engine::{Engine, LogBatch, MessageExt};
use zeroize::Zeroizing;

pub use change::{Batch, Change, Position};
pub use engine::Settings;
pub use folder::{destroy, is_there};
pub use recover::Recovered;

use super::DiskError;
use super::files::{FileCounts, Watch, Watched, inspect};
use super::seal::RecordSeal;
use super::snapshot::{self, SnapshotMeta};
use engine::open_engine;
use folder::{check_identity, log_dir, make_folder, remove_folder};

/// The engine can hold many logs; we have one.
const GROUP: u64 = 1;

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

    fn incomplete(&self, reason: String) -> DiskError {
        DiskError::Incomplete { path: self.dir.clone(), reason }
    }
}
