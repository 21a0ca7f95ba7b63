//! The simulator's promises: seeds hold, planted bugs are found, and a seed is one
//! history. `SKEP_FULL=1` runs the long range with its demands on coverage.

use skep_tests::sim::{Coverage, Options, PLANTS, Report, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Seeds of a usual test run.
const SHORT: std::ops::Range<u64> = 1_000..1_016;
/// Seeds of a full run.
const FULL: std::ops::Range<u64> = 0..1_000;
/// A planted bug is found within this many seeds.
const PLANT_SEEDS: u64 = 200;

/// Runs one seed. What it violates is printed at once: a full range takes its time.
fn simulate(seed: u64) -> Report {
    let report = run(Options { seed, plant: None, is_printed: false });
    if report.violation.is_some() {
        eprintln!("{report}");
    }
    report
}

/// Does something with each item, on all processors; what came of it in order.
fn on_all<I: Sync, R: Send>(items: &[I], act: impl Fn(&I) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { return };
                    let result = act(item);
                    done.lock().expect("a simulation reports, it does not panic").push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("all threads have ended");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Reports of seeds, in order. Each simulation is one thread's alone.
fn simulate_all(seeds: impl IntoIterator<Item = u64>) -> Vec<Report> {
    on_all(&seeds.into_iter().collect::<Vec<_>>(), |seed| simulate(*seed))
}

fn assert_sound(reports: &[Report]) {
    for report in reports {
        assert!(report.violation.is_none(), "{report}");
        assert!(report.events >= 5_000 && report.passed.as_secs() >= 300, "{report}");
    }
}

#[test]
fn a_short_range_of_seeds_holds() {
    assert_sound(&simulate_all(SHORT));
}

#[test]
fn seeds_that_failed_once_hold() {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let seeds: Vec<u64> = lines
        .map(|line| line.split_whitespace().next().and_then(|seed| seed.parse().ok()).expect("a line begins with a seed"))
        .collect();
    assert!(!seeds.is_empty());
    assert_sound(&simulate_all(seeds));
}

#[test]
fn a_seed_is_one_history() {
    for seed in [1_003, 1_004, 1_006] {
        let (first, second) = (simulate(seed), simulate(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.coverage, second.coverage, "seed {seed}");
        assert_ne!(first.hash, simulate(seed + 100).hash, "seeds differ");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let is_found = |seed: u64, plant| run(Options { seed, plant: Some(plant), is_printed: false }).violation;
    let found = on_all(&PLANTS, |plant| (0..PLANT_SEEDS).find_map(|seed| Some((seed, is_found(seed, *plant)?.sentence))));
    let mut missed = Vec::new();
    for (plant, found) in PLANTS.into_iter().zip(found) {
        match found {
            Some((seed, sentence)) => println!("{plant}: seed {seed}: {sentence}"),
            None => missed.push(plant.to_string()),
        }
    }
    assert_eq!(missed, Vec::<String>::new(), "not found within {PLANT_SEEDS} seeds");
}

#[test]
fn a_full_range_reaches_everything() {
    // Minutes long: asked for by name.
    if std::env::var_os("SKEP_FULL").is_none() {
        return;
    }
    let reports = simulate_all(FULL);
    assert_sound(&reports);
    let mut coverage = Coverage::default();
    reports.iter().for_each(|report| coverage.add(&report.coverage));
    assert_eq!(coverage.missing(), Vec::<&str>::new(), "these were never reached");
    let changed = reports.iter().filter(|report| report.coverage.get("raft: leader changed during a write") > 0).count();
    assert!(changed * 2 >= reports.len(), "only {changed} of {} seeds changed leader during a write", reports.len());
}
