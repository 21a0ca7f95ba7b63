//! The log's thread: fewer syncs than changes, answers in order, last words.

use std::sync::Mutex;
use std::sync::mpsc;

use super::*;

fn one(index: u64) -> Change {
    Change::Append(Batch { entries: vec![entry(index, 1, b"x")], ..Batch::default() })
}

#[test]
fn waiting_changes_share_a_sync_and_are_answered_in_order() {
    const N: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), seal(), &Settings::default()).unwrap();
    let before = log.counts().n_syncs;
    let thread = LogThread::start(log).unwrap();
    let handle = thread.handle();
    // The first answer holds the thread until all others wait.
    let (go, gate) = mpsc::channel::<()>();
    let (told, answers) = mpsc::channel();
    handle
        .submit(one(1), move |r| {
            r.unwrap();
            gate.recv().unwrap();
        })
        .unwrap();
    for index in 2..=N {
        let told = told.clone();
        handle.submit(one(index), move |r| told.send((index, r.is_ok())).unwrap()).unwrap();
    }
    // One that does not fit is refused alone.
    let late = told.clone();
    handle.submit(one(N + 9), move |r| late.send((0, r.is_ok())).unwrap()).unwrap();
    handle.submit(one(N + 1), move |r| told.send((N + 1, r.is_ok())).unwrap()).unwrap();
    go.send(()).unwrap();
    let heard: Vec<_> = answers.iter().collect();
    let mut expected: Vec<_> = (2..=N).map(|i| (i, true)).collect();
    expected.extend([(0, false), (N + 1, true)]);
    assert_eq!(heard, expected);
    let log = thread.stop().unwrap();
    assert!(matches!(handle.submit(one(1), |_| ()), Err(DiskError::Stopped)));
    let n_syncs = log.counts().n_syncs - before;
    assert!((1..=4).contains(&n_syncs), "{n_syncs} syncs for {N} changes");
    drop(log);
    let (_, recovered) = Log::open(dir.path(), seal(), &Settings::default()).unwrap();
    assert_eq!(recovered.entries.len() as u64, N + 1);
}

#[test]
fn a_failed_sync_is_said_once_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let ear = said.clone();
    let settings = Settings { last_words: Arc::new(move |s| ear.lock().unwrap().push(s.to_owned())), ..small_files() };
    let fs = PowerFs::default();
    let (log, _) = Log::open_in(dir.path(), seal(), &settings, Arc::new(fs.clone())).unwrap();
    let thread = LogThread::start(log).unwrap();
    fs.fail_syncs();
    let (told, answers) = mpsc::channel();
    for index in 1..=3 {
        let told = told.clone();
        thread.handle().submit(one(index), move |r| told.send(r).unwrap()).unwrap();
    }
    drop(told);
    let answers: Vec<_> = answers.iter().collect();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|r| matches!(r, Err(DiskError::Ended { .. }))), "{answers:?}");
    drop(thread);
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("syncing ") && said[0].contains("the disk is gone"), "{said:?}");
}

/// Reclaiming reads what it keeps: where that does not read for a while, files stay, and nothing else happens.
#[test]
fn files_that_cannot_be_reclaimed_wait_for_the_next_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PowerFs::default();
    // Last words would be a panic.
    let (mut log, _) = Log::open_in(dir.path(), seal(), &small_files(), Arc::new(fs.clone())).unwrap();
    for index in 1..=20 {
        log.append(Batch { entries: vec![entry(index, 1, b"x")], ..Batch::default() }).unwrap();
    }
    // A few entries in the oldest of many files: those are copied before it goes.
    for term in 1..=1_000 {
        log.append(Batch { hard_state: Some(hard_state(term, 20)), ..Batch::default() }).unwrap();
    }
    log.note_snapshot(snapshot_at(dir.path(), log.seal(), 15, 1)).unwrap();
    fs.fail_reads(true);
    log.compact_to(10).unwrap();
    assert!(fs.n_failed_reads() > 0, "reclaiming reads what it keeps");
    log.append(Batch { entries: vec![entry(21, 1_000, b"x")], ..Batch::default() }).unwrap();
    let before = fs.n_deleted();
    fs.fail_reads(false);
    log.compact_to(15).unwrap();
    assert!(fs.n_deleted() > before + 5, "{before}, {}", fs.n_deleted());
    let files = fs.files();
    drop(log);
    let again = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(again.path().join("log")).unwrap();
    std::fs::create_dir_all(again.path().join("snapshots")).unwrap();
    std::fs::copy(dir.path().join("identity"), again.path().join("identity")).unwrap();
    for snapshot in std::fs::read_dir(dir.path().join("snapshots")).unwrap() {
        let path = snapshot.unwrap().path();
        std::fs::copy(&path, again.path().join("snapshots").join(path.file_name().unwrap())).unwrap();
    }
    let fs = PowerFs::with_files(&again.path().join("log"), &files);
    let (_log, recovered) = Log::open_in(again.path(), seal(), &small_files(), Arc::new(fs)).unwrap();
    assert_eq!((recovered.compacted.index, recovered.entries.len()), (15, 6));
}
