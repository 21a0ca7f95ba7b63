//! Keys, refusals, snapshots, removal: on real files.

use super::*;

fn filled(dir: &Path, n: u64) -> Log {
    let (mut log, _) = Log::open(dir, seal(), &small_files()).unwrap();
    for index in 1..=n {
        let batch =
            Batch { entries: vec![entry(index, 1, &[7; 200])], hard_state: Some(hard_state(1, index)), ..Batch::default() };
        log.append(batch).unwrap();
    }
    log
}

fn opened(dir: &Path, seal: RecordSeal) -> Result<Recovered, DiskError> {
    Log::open(dir, Arc::new(seal), &small_files()).map(|(_, recovered)| recovered)
}

fn keys(node: &str, keys: &[(u32, u8)], current: u32) -> RecordSeal {
    let keys = keys.iter().map(|(g, fill)| (*g, Zeroizing::new([*fill; 32])));
    RecordSeal::new(node, keys, current).unwrap()
}

#[test]
fn each_wrong_opening_has_its_own_refusal() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 3));
    assert!(matches!(opened(dir.path(), keys("node-a", &[(1, 9)], 1)), Err(DiskError::WrongKey { generation: 1, .. })));
    assert!(matches!(opened(dir.path(), keys("node-a", &[(2, 2)], 2)), Err(DiskError::MissingKey { generation: 1, .. })));
    assert!(matches!(opened(dir.path(), keys("node-b", &[(1, 1)], 1)), Err(DiskError::ForeignNode { .. })));
    let (_held, _) = Log::open(dir.path(), seal(), &small_files()).unwrap();
    assert!(matches!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)), Err(DiskError::InUse { .. })));
    std::fs::write(dir.path().join("identity"), "2 node-a\n").unwrap();
    assert!(matches!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)), Err(DiskError::NewerFormat { found: 2, .. })));
}

#[test]
fn a_log_whose_files_are_gone_is_not_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 200));
    let log = dir.path().join("log");
    let mut files: Vec<_> = std::fs::read_dir(&log).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "raftlog"));
    files.sort();
    assert!(files.len() > 4);
    let middle = std::fs::read(&files[1]).unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    assert!(matches!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)), Err(DiskError::Incomplete { .. })));
    std::fs::write(&files[1], middle).unwrap();
    let oldest = std::fs::read(&files[0]).unwrap();
    std::fs::remove_file(&files[0]).unwrap();
    assert!(matches!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)), Err(DiskError::Incomplete { .. })));
    std::fs::write(&files[0], oldest).unwrap();
    assert_eq!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)).unwrap().entries.len(), 200);
    for file in files {
        std::fs::remove_file(file).unwrap();
    }
    assert!(matches!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)), Err(DiskError::Incomplete { .. })));
}

#[test]
fn compaction_deletes_files_and_needs_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = filled(dir.path(), 400);
    assert!(matches!(log.compact_to(300), Err(DiskError::Misfit { .. })));
    let early = snapshot_at(dir.path(), log.seal(), 100, 1);
    log.note_snapshot(early).unwrap();
    assert!(matches!(log.compact_to(300), Err(DiskError::Misfit { .. })));
    let meta = snapshot_at(dir.path(), log.seal(), 390, 1);
    log.note_snapshot(meta.clone()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 1, "the older one is removed");
    log.compact_to(390).unwrap();
    assert!(log.counts().n_deleted > 5, "{:?}", log.counts());
    drop(log);
    let recovered = opened(dir.path(), keys("node-a", &[(1, 1)], 1)).unwrap();
    assert_eq!(recovered.entries.len(), 10);
    assert_eq!((recovered.compacted, recovered.snapshot), (Position { index: 390, term: 1 }, Some(meta)));
}

#[test]
fn a_snapshot_of_our_own_that_a_received_one_has_overtaken_is_of_no_account() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = filled(dir.path(), 400);
    let own = snapshot_at(dir.path(), log.seal(), 300, 1);
    let received = snapshot_at(dir.path(), log.seal(), 500, 1);
    log.apply(Change::InstallSnapshot { meta: received.clone(), hard_state: None }).unwrap();
    log.note_snapshot(own).unwrap();
    log.compact_to(299).unwrap();
    log.append(Batch { entries: vec![entry(501, 1, b"next")], ..Batch::default() }).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 1, "its file is removed");
    drop(log);
    let recovered = opened(dir.path(), keys("node-a", &[(1, 1)], 1)).unwrap();
    assert_eq!((recovered.snapshot, recovered.compacted), (Some(received), Position { index: 500, term: 1 }));
    assert_eq!(recovered.entries.len(), 1);
}

#[test]
fn several_write_the_same_snapshot_at_once_and_each_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 1);
    let begin = || SnapshotWriter::create(dir.path(), log.seal().clone(), 5, 2).unwrap();
    let (mut first, mut second, mut third) = (begin(), begin(), begin());
    for part in [vec![7; 900_000], vec![8; 900_000]] {
        first.write(&part).unwrap();
        second.write(&part).unwrap();
    }
    third.write(b"cut off").unwrap();
    let content = first.finish(None).unwrap();
    let meta = SnapshotMeta { index: 5, term: 2, membership: vec![], content };
    snapshot::verify(dir.path(), log.seal(), &meta).unwrap();
    assert!(third.finish(Some(&content)).is_err(), "it is not what was announced");
    snapshot::verify(dir.path(), log.seal(), &meta).unwrap();
    assert_eq!(second.finish(Some(&content)).unwrap(), content);
    snapshot::verify(dir.path(), log.seal(), &meta).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn an_old_generation_is_needed_until_compaction_removed_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = filled(dir.path(), 10);
    log.rotate_to(2).unwrap();
    log.append(Batch { entries: vec![entry(11, 1, b"new")], ..Batch::default() }).unwrap();
    assert_eq!(log.generations_in_use(), [1, 2].into());
    let meta = snapshot_at(dir.path(), log.seal(), 10, 1);
    log.note_snapshot(meta).unwrap();
    log.compact_to(9).unwrap();
    assert_eq!(log.generations_in_use(), [1, 2].into());
    log.compact_to(10).unwrap();
    assert_eq!(log.generations_in_use(), [2].into());
    drop(log);
    assert_eq!(opened(dir.path(), keys("node-a", &[(2, 2)], 2)).unwrap().entries.len(), 1);
}

#[test]
fn changes_that_do_not_fit_leave_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = filled(dir.path(), 3);
    let check = |log: &mut Log, entries: Vec<Entry>| {
        let refused = log.append(Batch { entries, ..Batch::default() });
        assert!(matches!(refused, Err(DiskError::Misfit { .. })), "{refused:?}");
    };
    check(&mut log, vec![entry(5, 1, b"hole")]);
    check(&mut log, vec![entry(0, 1, b"before the first")]);
    check(&mut log, vec![entry(4, 0, b"older term")]);
    check(&mut log, vec![entry(4, 1, b"ok"), entry(6, 1, b"hole inside")]);
    assert!(matches!(log.rotate_to(9), Err(DiskError::Seal { .. })));
    let meta = snapshot_at(dir.path(), log.seal(), 2, 1);
    log.note_snapshot(meta).unwrap();
    check(&mut log, vec![entry(2, 2, b"covered by the snapshot")]);
    drop(log);
    assert_eq!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)).unwrap().entries.len(), 3);
}

#[test]
fn nothing_readable_reaches_the_disk() {
    const CANARY: &[u8] = b"canary-7f3a9c-canary";
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(dir.path(), seal(), &small_files()).unwrap();
    let mut secret = entry(1, 1, CANARY);
    secret.set_context(CANARY.to_vec().into());
    log.append(Batch { entries: vec![secret], membership: Some(CANARY.to_vec()), ..Batch::default() }).unwrap();
    let mut writer = SnapshotWriter::create(dir.path(), log.seal().clone(), 1, 1).unwrap();
    writer.write(CANARY).unwrap();
    let content = writer.finish(None).unwrap();
    log.note_snapshot(SnapshotMeta { index: 1, term: 1, membership: CANARY.to_vec(), content }).unwrap();
    drop(log);
    let holds = |path: &Path| std::fs::read(path).unwrap().windows(CANARY.len()).any(|w| w == CANARY);
    let planted = dir.path().join("planted");
    std::fs::write(&planted, CANARY).unwrap();
    assert!(holds(&planted), "the search must be able to find it");
    let mut n_searched = 0;
    for folder in ["log", "snapshots"] {
        for file in std::fs::read_dir(dir.path().join(folder)).unwrap() {
            assert!(!holds(&file.unwrap().path()));
            n_searched += 1;
        }
    }
    assert!(n_searched >= 3);
}

#[test]
fn a_snapshot_comes_back_in_chunks_and_torn_at_any_byte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), seal(), &small_files()).unwrap();
    let check = |length: usize, n_chunks: usize| {
        let content: Vec<u8> = (0..length).map(|i| (i / 3) as u8).collect();
        let mut writer = SnapshotWriter::create(dir.path(), log.seal().clone(), 5, 2).unwrap();
        for part in content.chunks(300_001) {
            writer.write(part).unwrap();
        }
        let meta = SnapshotMeta { index: 5, term: 2, membership: vec![], content: writer.finish(None).unwrap() };
        let mut reader = SnapshotReader::open(dir.path(), log.seal().clone(), &meta).unwrap();
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            assert!(chunk.len() <= SNAPSHOT_CHUNK_BYTES);
            chunks.push(chunk.to_vec());
        }
        assert_eq!((chunks.len(), chunks.concat() == content), (n_chunks, true));
        meta
    };
    check(0, 1);
    check(SNAPSHOT_CHUNK_BYTES, 1);
    check(SNAPSHOT_CHUNK_BYTES * 2 + 5, 3);
    let meta = check(600, 1);
    let path = snapshot::path_of(dir.path(), 5, 2);
    let whole = std::fs::read(&path).unwrap();
    let refused = || {
        matches!(snapshot::verify(dir.path(), log.seal(), &meta), Err(DiskError::Snapshot { .. } | DiskError::MissingKey { .. }))
    };
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(refused(), "cut at {cut}");
        let mut flipped = whole.clone();
        flipped[cut] ^= 4;
        std::fs::write(&path, flipped).unwrap();
        assert!(refused(), "flipped at {cut}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(!refused());
    std::fs::remove_file(&path).unwrap();
    assert!(refused());
}

#[test]
fn a_snapshot_that_is_not_the_announced_one_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SnapshotWriter::create(dir.path(), seal(), 5, 2).unwrap();
    writer.write(b"other").unwrap();
    let announced = SnapshotDigest { length: 5, sha256: [0; 32] };
    assert!(matches!(writer.finish(Some(&announced)), Err(DiskError::Snapshot { .. })));
    assert_eq!(std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
}

#[test]
fn destroying_a_log_leaves_an_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = filled(dir.path(), 3);
    let meta = snapshot_at(dir.path(), log.seal(), 3, 1);
    log.note_snapshot(meta).unwrap();
    log.destroy().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    destroy(dir.path()).unwrap();
    assert_eq!(opened(dir.path(), keys("node-a", &[(1, 1)], 1)).unwrap().entries.len(), 0);
}
