//! When to probe and what the answers mean: Docker's rules as a small machine without clock or process.
//!
//! Times are nanoseconds of one clock that never goes back. The first probe comes one start interval after the start, or
//! one interval where that is shorter: a long interval must not keep a container that is well from being known to be. Every
//! next one comes an interval (inside the start period a start interval) after the end of the former. Failures inside the
//! start period do not count; a success ends it.

use skep_shim::protocol::{Health, HealthReport, HealthState};
use skep_shim::spec::probe_command;

const SECOND: u64 = 1_000_000_000;

/// A health check that is switched on, with its defaults filled in.
pub struct Monitor {
    /// The program to run.
    pub command: Vec<String>,
    /// The longest a probe may take.
    pub timeout_ns: u64,
    interval_ns: u64,
    start_period_ns: u64,
    start_interval_ns: u64,
    retries: u32,
    started_ns: u64,
    /// When the next probe is due; none while one runs.
    pub due_ns: Option<u64>,
    /// What is true now.
    pub report: HealthReport,
}

/// What a probe found.
pub struct Outcome {
    /// Exit code; none when it was killed at the timeout or could not run.
    pub code: Option<i32>,
    /// Its output, or what went wrong.
    pub output: String,
}

impl Monitor {
    /// A monitor for a container that starts now; none when the check is off. Refuses an unknown kind of test.
    pub fn new(health: &Health, now_ns: u64, at_ns: u64) -> Result<Option<Self>, String> {
        let Some(command) = probe_command(health)? else { return Ok(None) };
        let or = |ms: u64, default_ns: u64| if ms == 0 { default_ns } else { ms.saturating_mul(1_000_000) };
        let mut monitor = Self {
            command,
            timeout_ns: or(health.timeout_ms, 30 * SECOND),
            interval_ns: or(health.interval_ms, 30 * SECOND),
            start_period_ns: health.start_period_ms.saturating_mul(1_000_000),
            start_interval_ns: or(health.start_interval_ms, 5 * SECOND),
            retries: if health.retries == 0 { 3 } else { health.retries },
            started_ns: now_ns,
            due_ns: None,
            report: HealthReport { state: HealthState::Starting, failing_streak: 0, exit_code: 0, output: String::new(), at_ns },
        };
        let first = match monitor.start_period_ns {
            0 => monitor.start_interval_ns.min(monitor.interval_ns),
            _ => monitor.start_interval_ns,
        };
        monitor.due_ns = Some(now_ns.saturating_add(first));
        Ok(Some(monitor))
    }

    /// Takes the outcome of a probe that began at `began_ns` and ended `now_ns`; says whether it is worth telling.
    pub fn take(&mut self, outcome: Outcome, began_ns: u64, now_ns: u64, at_ns: u64) -> bool {
        let before = self.report.state;
        let healthy = outcome.code == Some(0);
        if healthy {
            self.report.state = HealthState::Healthy;
            self.report.failing_streak = 0;
        } else if !(before == HealthState::Starting && self.in_start_period(began_ns)) {
            self.report.failing_streak += 1;
            if self.report.failing_streak >= self.retries {
                self.report.state = HealthState::Unhealthy;
            }
        }
        self.report.exit_code = outcome.code.unwrap_or(-1);
        self.report.output = outcome.output;
        self.report.at_ns = at_ns;
        self.due_ns = Some(now_ns.saturating_add(self.pause(now_ns)));
        !healthy || before != self.report.state
    }

    fn pause(&self, now_ns: u64) -> u64 {
        match self.report.state == HealthState::Starting && self.in_start_period(now_ns) {
            true => self.start_interval_ns,
            false => self.interval_ns,
        }
    }

    fn in_start_period(&self, at_ns: u64) -> bool {
        at_ns.saturating_sub(self.started_ns) < self.start_period_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthState::{Healthy, Starting, Unhealthy};

    /// Runs probes of 0 s each; outcomes are exit codes. Returns state and second of each probe.
    fn story(health: Health, codes: &[i32]) -> Vec<(u64, HealthState)> {
        let mut monitor = Monitor::new(&health, 0, 0).unwrap().unwrap();
        let mut told = Vec::new();
        for code in codes {
            let now = monitor.due_ns.take().unwrap();
            monitor.take(Outcome { code: Some(*code), output: String::new() }, now, now, now);
            told.push((now / SECOND, monitor.report.state));
        }
        told
    }

    fn check() -> Health {
        Health { test: vec!["CMD-SHELL".into(), "true".into()], ..Health::default() }
    }

    #[test]
    fn the_rules_are_dockers() {
        assert_eq!(story(check(), &[1, 1, 1, 0]), [(5, Starting), (35, Starting), (65, Unhealthy), (95, Healthy)]);
        assert_eq!(story(check(), &[0, 1, 1, 0, 1]).last(), Some(&(125, Healthy)));
        let patient = Health { start_period_ms: 12_000, retries: 1, interval_ms: 60_000, ..check() };
        assert_eq!(story(patient.clone(), &[1, 1, 1]), [(5, Starting), (10, Starting), (15, Unhealthy)]);
        assert_eq!(story(patient, &[1, 0, 1]), [(5, Starting), (10, Healthy), (70, Unhealthy)]);
    }

    #[test]
    fn the_first_probe_does_not_wait_for_a_long_interval() {
        let first = |interval_ms, start_interval_ms, start_period_ms| {
            story(Health { interval_ms, start_interval_ms, start_period_ms, ..check() }, &[0])[0].0
        };
        assert_eq!(first(45_000, 0, 0), 5);
        assert_eq!(first(2_000, 0, 0), 2);
        assert_eq!(first(45_000, 1_000, 0), 1);
        assert_eq!(first(2_000, 0, 60_000), 5);
        assert_eq!(first(3_600_000, 7_000, 60_000), 7);
    }

    #[test]
    fn tests_are_off_on_or_refused() {
        let kind = |test: &[&str]| {
            let test = test.iter().map(|part| part.to_string()).collect();
            Monitor::new(&Health { test, ..Health::default() }, 0, 0).map(|m| m.map(|m| m.command))
        };
        assert_eq!(kind(&[]), Ok(None));
        assert_eq!(kind(&["NONE"]), Ok(None));
        assert_eq!(kind(&["CMD", "a", "b"]), Ok(Some(vec!["a".into(), "b".into()])));
        assert_eq!(kind(&["CMD-SHELL", "a b"]), Ok(Some(vec!["/bin/sh".into(), "-c".into(), "a b".into()])));
        assert!(kind(&["CMD"]).is_err() && kind(&["ls"]).is_err());
    }
}
