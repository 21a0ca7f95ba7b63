//! Tests of the log store: against a model, through power cuts, with flipped bits.

mod crash;
mod group;
mod model;
mod ordinary;
mod power;
mod rot;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};
use zeroize::Zeroizing;

use super::*;
use model::Model;
use power::PowerFs;

fn seal() -> Arc<RecordSeal> {
    let keys = [(1, Zeroizing::new([1; 32])), (2, Zeroizing::new([2; 32]))];
    Arc::new(RecordSeal::new("node-a", keys, 1).unwrap())
}

/// Files small enough that a short run closes, rewrites and deletes many.
fn small_files() -> Settings {
    Settings {
        target_file_bytes: 8 << 10,
        purge_threshold_bytes: 16 << 10,
        last_words: Arc::new(|sentence| panic!("unexpected last words: {sentence}")),
    }
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    let mut entry = Entry { index, term, ..Entry::default() };
    entry.set_data(data.to_vec().into());
    entry.set_context(vec![index as u8].into());
    entry
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, commit, vote: 1, ..HardState::default() }
}

fn snapshot_at(dir: &Path, seal: &Arc<RecordSeal>, index: u64, term: u64) -> SnapshotMeta {
    let mut writer = SnapshotWriter::create(dir, seal.clone(), index, term).unwrap();
    writer.write(format!("state at {index}").as_bytes()).unwrap();
    let content = writer.finish(None).unwrap();
    SnapshotMeta { index, term, membership: b"voters".to_vec(), content }
}

/// A data folder whose engine files are in memory, as found after a cut.
fn reopen(seed_dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<Model, DiskError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("log")).unwrap();
    std::fs::create_dir_all(dir.path().join("snapshots")).unwrap();
    std::fs::copy(seed_dir.join("identity"), dir.path().join("identity")).unwrap();
    for snapshot in std::fs::read_dir(seed_dir.join("snapshots-kept")).unwrap() {
        let path = snapshot.unwrap().path();
        std::fs::hard_link(&path, dir.path().join("snapshots").join(path.file_name().unwrap())).unwrap();
    }
    let fs = PowerFs::with_files(&dir.path().join("log"), files);
    let (_log, recovered) = Log::open_in(dir.path(), seal(), &small_files(), Arc::new(fs))?;
    Ok(Model::from(recovered))
}
