//! Power cuts: after any of them the log holds exactly what was acknowledged, or that and the one change that
//! was under way, whole.

use super::model::next_change;
use super::*;

pub fn full() -> bool {
    std::env::var_os("SKEP_FULL").is_some()
}

/// A small generator of our own, so that a failing run is named by its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

pub struct Run {
    pub dir: tempfile::TempDir,
    pub fs: PowerFs,
    /// `states[n]` is what the log holds after `n` changes.
    pub states: Vec<Model>,
}

/// Runs `n` random changes on a new log in memory and keeps every snapshot file for later.
pub fn run(seed: u64, n: usize, every: u64) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("snapshots-kept");
    std::fs::create_dir(&kept).unwrap();
    let fs = PowerFs::default();
    let (mut log, _) = Log::open_in(dir.path(), seal(), &small_files(), Arc::new(fs.clone())).unwrap();
    fs.keep_images(every, seed);
    let mut dice = Dice(seed);
    let mut states = vec![Model::default()];
    for done in 0..n {
        let model = &states[done];
        let change = next_change(model, dir.path(), log.seal(), dice.roll() as u8, dice.roll() as u8);
        if let Change::NoteSnapshot(meta) | Change::InstallSnapshot { meta, .. } = &change {
            let path = snapshot::path_of(dir.path(), meta.index, meta.term);
            std::fs::hard_link(&path, kept.join(path.file_name().unwrap())).unwrap();
        }
        let mut after = model.clone();
        after.apply(&change);
        states.push(after);
        log.apply(change).unwrap();
        fs.mark(done + 1);
    }
    drop(log);
    fs.mark(n);
    Run { dir, fs, states }
}

const TORN: [usize; 6] = [0, 1, 7, 40, 300, 4096];

#[test]
fn every_acknowledged_change_survives_a_power_cut() {
    let wanted = if full() { 1_000 } else { 150 };
    let (mut n_points, mut n_ahead, mut n_deleted, mut n_torn, mut n_rewritten) = (0, 0, 0, 0, 0);
    let mut seed = 1;
    while n_points < wanted {
        let run = run(seed, 160, 11);
        n_deleted += run.fs.n_deleted();
        let images = run.fs.take_images();
        assert!(images.len() > 10, "seed {seed} reached only {} points", images.len());
        for image in images {
            let torn = TORN[(image.at as usize + n_points) % TORN.len()];
            let files = image.after_cut(torn);
            n_rewritten += usize::from(files.iter().any(|(n, b)| n.ends_with(".rewrite") && b.len() > 64));
            n_torn += usize::from(files != image.after_cut(0));
            let found = reopen(run.dir.path(), &files)
                .unwrap_or_else(|e| panic!("seed {seed}, operation {}, torn {torn}: refused: {e}", image.at));
            let acknowledged = &run.states[image.marker];
            let ahead = run.states.get(image.marker + 1);
            assert!(
                found == *acknowledged || Some(&found) == ahead,
                "seed {seed}, operation {}, torn {torn}: neither what was acknowledged nor one change more",
                image.at
            );
            n_ahead += usize::from(found != *acknowledged);
            n_points += 1;
        }
        seed += 1;
    }
    println!(
        "{n_points} cuts: {n_torn} torn, {n_ahead} one change ahead, {n_rewritten} with rewritten records, {n_deleted} files deleted"
    );
    assert!(n_points >= wanted);
    assert!(n_rewritten > wanted / 20, "only {n_rewritten} cuts had rewritten records");
    assert!(n_deleted > 10, "only {n_deleted} files were deleted");
    assert!(n_torn > wanted / 20, "only {n_torn} cuts tore a write");
    assert!(n_ahead > 0, "no cut ever fell between sync and answer");
}

/// The test above can fail: a log that answers before its sync is caught.
#[test]
fn an_answer_before_the_sync_would_be_noticed() {
    let run = run(7, 100, 3);
    let lost = run.fs.take_images().iter().any(|image| {
        let found = reopen(run.dir.path(), &image.after_cut(0)).unwrap();
        // As if the change under way had been acknowledged already.
        run.states.get(image.marker + 1).is_some_and(|early| found != *early)
    });
    assert!(lost);
}
