//! What a range of seeds has reached. A range that did not reach something that
//! it claims to test fails.

use std::collections::BTreeMap;

/// Counters by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

impl Coverage {
    /// Counts something.
    pub fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// How often it was counted.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds another seed's counters.
    pub fn add(&mut self, other: &Coverage) {
        for (what, n) in &other.0 {
            *self.0.entry(what.clone()).or_default() += n;
        }
    }

    /// All counters by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, n)| (what.as_str(), *n))
    }

    /// What a long range must have reached and did not.
    pub fn missing(&self) -> Vec<&'static str> {
        DEMANDED.iter().copied().filter(|what| self.get(what) == 0).collect()
    }
}

/// What ≥ 500 seeds must reach: every fault, refusal and conflict that the
/// simulated parts can produce.
pub const DEMANDED: &[&str] = &[
    "fault: loss",
    "fault: duplication",
    "fault: reordering",
    "fault: partition, symmetric",
    "fault: partition, one way",
    "fault: crash",
    "fault: unsynced batches lost",
    "fault: last batch torn",
    "fault: restart",
    "fault: pause",
    "fault: permanent loss",
    "fault: disk stall",
    "role: demoted",
    "role: promoted",
    "role: joined",
    "role: removed",
    "raft: leader changed",
    "raft: leader changed during a write",
    "raft: stepped down on order",
    "snapshot: saved",
    "snapshot: streamed",
    "snapshot: lost",
    "snapshot: installed",
    "log: compacted",
    "request: repeated with its id",
    "conflict: Changed",
    "conflict: Missing",
    "refusal: NotFound",
    "refusal: NameConflict",
    "refusal: Invalid",
    "refusal: InUse",
    "refusal: OutOfSequence",
    "refusal: NotLeader",
    "refusal: Unavailable",
    "refusal: Aborted",
    "refusal: FailedPrecondition",
    "read: linearizable",
    "watch: resumed",
    "watch: resync",
];
