//! The engine below the log: opening it, one write with one sync, reclaiming its files. Where it panics on damage,
//! the panic becomes an error here.

use std::path::Path;
use std::sync::Arc;

use raft_engine::env::FileSystem;
use raft_engine::{Config, Engine, LogBatch, ReadableSize, RecoveryMode, Version};
use skep_model::guard;

use super::Log;
use crate::disk::files::{Watch, Watched};
use crate::disk::{DiskError, LastWords, end_process, snapshot};

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

impl<F: FileSystem> Log<F> {
    pub(super) fn write(&self, batch: &mut LogBatch) -> Result<(), DiskError> {
        if !batch.is_empty() {
            let written = guard::catch(|| self.engine.write(batch, true));
            match written {
                Ok(outcome) => outcome.map_err(|e| self.engine_error("a write", e))?,
                Err(_) => return Err(self.engine_error("a write", raft_engine::Error::Corruption("it panicked".into()))),
            };
        }
        self.watch.alive()
    }

    /// Work after the answer is certain: reclaim files, remove older snapshots. A failure delays it only, until
    /// the next compaction. Where the disk no longer is as the engine believes, [`Watched`] has said its last
    /// words: after a failed write or sync, and after a failed deletion, which the engine would not try again.
    pub(super) fn tidy(&self, purge: bool, noted: bool) {
        if purge {
            match self.engine.purge_expired_files() {
                Ok(wanting) if wanting.is_empty() => {}
                Ok(_) => tracing::debug!("the log engine waits for the next compaction to reclaim more files"),
                Err(error) => {
                    let dir = self.dir.display();
                    tracing::warn!("log files in {dir} are not reclaimed until the next compaction: {error}");
                }
            }
        }
        if noted && let Err(error) = snapshot::remove_unless(&self.dir, |p| !snapshot::is_older(p, self.snapshot_index())) {
            tracing::warn!("older snapshots remain until the next one: {error}");
        }
    }

    pub(super) fn engine_error(&self, operation: &'static str, error: raft_engine::Error) -> DiskError {
        engine_error(operation, &self.dir, error)
    }
}

pub(super) fn open_engine<F: FileSystem>(
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
    // Its threads read the files, and a hole in one makes them panic.
    match skep_host::process::catch_with_helpers(|| Engine::open_with_file_system(config, watched)) {
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
