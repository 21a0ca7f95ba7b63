//! Measured times against the figures that are promised.

use std::time::Duration;

/// How much slower than the figure a check may be: it runs beside other work, on whatever machine there is.
const CHECK_ALLOWANCE: u32 = 10;

/// Whether the full sizes were asked for, with `SKEP_FULL=1`; then the figures hold as they stand.
pub fn is_full() -> bool {
    std::env::var("SKEP_FULL").is_ok_and(|value| value == "1")
}

/// The times of one test; prints its table when it goes away, and fails the test if a figure does not hold.
pub struct Figures {
    test: &'static str,
    rows: Vec<(String, Vec<Duration>, Duration)>,
}

impl Figures {
    /// An empty table.
    pub fn new(test: &'static str) -> Self {
        Self { test, rows: Vec::new() }
    }

    /// Adds a time to the row `what`, whose median may be at most `figure`.
    pub fn add(&mut self, what: &str, took: Duration, figure: Duration) {
        match self.rows.iter_mut().find(|row| row.0 == what) {
            Some(row) => row.1.push(took),
            None => self.rows.push((what.to_owned(), vec![took], figure)),
        }
    }

    fn limit(figure: Duration) -> Duration {
        if is_full() { figure } else { figure * CHECK_ALLOWANCE }
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

impl Drop for Figures {
    fn drop(&mut self) {
        println!("\n{:<58} {:>3} {:>9} {:>9} {:>9} {:>9}", self.test, "n", "median", "worst", "figure", "limit");
        let mut slow = Vec::new();
        for (what, times, figure) in &self.rows {
            let (median, worst) = (median(times), times.iter().max().copied().unwrap_or_default());
            let limit = Self::limit(*figure);
            let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
            println!(
                "{what:<58} {:>3} {:>9} {:>9} {:>9} {:>9}",
                times.len(),
                seconds(median),
                seconds(worst),
                seconds(*figure),
                seconds(limit)
            );
            if median > limit {
                slow.push(what.as_str());
            }
        }
        if !std::thread::panicking() {
            assert!(slow.is_empty(), "slower than promised: {}", slow.join("; "));
        }
    }
}
