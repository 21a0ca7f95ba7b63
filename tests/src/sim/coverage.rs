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

/// What ≥ 1,000 seeds must reach: every fault, refusal, conflict and step of a task
/// that the simulated parts can produce. (Agents pass `accepted` too quickly to
/// report it.)
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
    "fault: clock stepped forward",
    "fault: clock stepped back",
    "fault: stopped, the leader",
    "fault: stopped, a manager",
    "fault: stopped, all managers",
    "fault: stopped, everything",
    "fault: quorum lost",
    "fault: sync failed",
    "fault: disk full",
    "fault: log lost",
    "fault: bit rot",
    "raft: quorum lost",
    "raft: quorum back",
    "refusal: NoQuorum",
    "manager: refused to start without its log",
    "manager: refused to start from a rotten log",
    "snapshot: not saved",
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
    "conflict: NumberTaken",
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
    "fault: daemon killed",
    "fault: shim killed",
    "fault: pull failed",
    "fault: stop signal ignored",
    "fault: unhealthy",
    "node: Active",
    "node: Pause",
    "node: Drain",
    "node: label changed",
    "agent: found Fresh",
    "agent: found Killed",
    "agent: found StartFailed",
    "agent: found a silent shim",
    "fault: record lost",
    "agent: found Exited",
    "agent: found Nothing",
    "agent: found Running",
    "agent: restarted in place",
    "session: up",
    "session: broken by the network",
    "session: closed, heartbeat failure",
    "session: closed, is not the leader",
    "session: closed, is not the leader any more",
    "session: closed, is not part of the cluster",
    "assignments: complete",
    "assignments: increment",
    "refusal: TooLarge",
    "refusal: Exhausted",
    "refusal: Ambiguous",
    "refusal: PermissionDenied",
    "refusal: Unsupported",
    "task: pending to assigned",
    "task: pending to shutdown",
    "task: assigned to preparing",
    "task: assigned to ready",
    "task: assigned to starting",
    "task: assigned to running",
    "task: assigned to complete",
    "task: assigned to failed",
    "task: assigned to rejected",
    "task: assigned to shutdown",
    "task: preparing to ready",
    "task: preparing to starting",
    "task: preparing to running",
    "task: preparing to complete",
    "task: preparing to failed",
    "task: preparing to rejected",
    "task: preparing to shutdown",
    "task: ready to starting",
    "task: ready to running",
    "task: ready to failed",
    "task: ready to rejected",
    "task: ready to shutdown",
    "task: starting to running",
    "task: starting to complete",
    "task: starting to failed",
    "task: starting to shutdown",
    "task: running to complete",
    "task: running to failed",
    "task: running to rejected",
    "task: running to shutdown",
    "task: orphaned",
    "fault: place failed",
    "fault: slow netd",
    "fault: netd killed",
    "barrier: Published passed",
    "barrier: Withdrawn passed",
    "barrier: opened without stragglers",
    "assignments: may stop",
    "agent: drained",
];
