//! Runs seeds of the simulator: `simulate --seed N`, `--seeds A..B`, `--minutes N` or
//! `--fresh N`, with `--plant BUG` to see one found. Ends with 1 at the first violation
//! and says how to replay it.

use clap::Parser;
use skep_tests::sim::{Coverage, Options, Plant, run};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Simulates whole clusters, one seed after the other.
#[derive(Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// One seed; prints the hash of its trace.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// A range of seeds: A..B, without B.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Seeds from the time of day on, for this many minutes.
    #[arg(long, conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// So many seeds that nobody has run before, drawn from the time of day and printed; on
    /// all processors. With --minutes, it is an error if they take longer.
    #[arg(long, conflicts_with_all = ["seed", "seeds", "trace"])]
    fresh: Option<u64>,
    /// A planted bug, which is to be found.
    #[arg(long)]
    plant: Option<Plant>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Print what was reached.
    #[arg(long)]
    coverage: bool,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text.split_once("..").ok_or("a range has the form A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?} is no number: {error}"));
    let (first, end) = (number(first)?, number(end)?);
    if first < end { Ok((first, end)) } else { Err("the range is empty".into()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    if let Some(n_seeds) = arguments.fresh {
        return run_fresh(n_seeds, &arguments, begun);
    }
    let (first, end) = match (arguments.seed, arguments.seeds, arguments.minutes) {
        (Some(seed), _, _) => (seed, seed + 1),
        (None, Some(range), _) => range,
        (None, None, Some(_)) => (seconds_since_1970(), u64::MAX),
        (None, None, None) => (0, 100),
    };
    let deadline = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let (mut coverage, mut n_seeds) = (Coverage::default(), 0_u64);
    for seed in first..end {
        if deadline.is_some_and(|deadline| begun.elapsed() >= deadline) {
            break;
        }
        let report = run(Options { seed, plant: arguments.plant, is_printed: arguments.trace });
        coverage.add(&report.coverage);
        n_seeds += 1;
        if report.violation.is_some() || arguments.seed.is_some() {
            println!("{report}");
        }
        if report.violation.is_some() {
            return ExitCode::FAILURE;
        }
    }
    if arguments.coverage || arguments.seed.is_some() {
        for (what, n) in coverage.iter() {
            println!("{n:>10}  {what}");
        }
    }
    println!("{n_seeds} seeds without a violation in {:.1} s", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

/// Runs seeds that follow from the time of day, as many at a time as there are processors.
fn run_fresh(n_seeds: u64, arguments: &Arguments, begun: Instant) -> ExitCode {
    // Far from the seeds that everybody runs, and from those of the second before.
    let first = seconds_since_1970() * 1_000;
    println!("seeds {first}..{}, drawn from the time of day", first + n_seeds);
    let deadline = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let is_late = || deadline.is_some_and(|deadline| begun.elapsed() >= deadline);
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let coverage = Mutex::new((Coverage::default(), 0_u64));
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + n_seeds || is_late() || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let report = run(Options { seed, plant: arguments.plant, is_printed: false });
                    if report.violation.is_some() {
                        failed.store(true, Ordering::Relaxed);
                        println!("{report}");
                    }
                    let mut sum = coverage.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.0.add(&report.coverage);
                    sum.1 += 1;
                }
            });
        }
    });
    let (coverage, n_done) = coverage.into_inner().unwrap_or_else(PoisonError::into_inner);
    if arguments.coverage {
        coverage.iter().for_each(|(what, n)| println!("{n:>10}  {what}"));
    }
    let seconds = begun.elapsed().as_secs_f64();
    if failed.into_inner() {
        return ExitCode::FAILURE;
    }
    if n_done < n_seeds {
        println!("only {n_done} of {n_seeds} seeds in {seconds:.1} s");
        return ExitCode::FAILURE;
    }
    println!("{n_done} seeds without a violation in {seconds:.1} s");
    ExitCode::SUCCESS
}

fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
