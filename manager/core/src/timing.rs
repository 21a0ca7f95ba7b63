//! Every duration of the control plane, in one place.

use std::time::Duration;

/// One raft tick.
pub const TICK: Duration = Duration::from_millis(50);
/// Raft ticks between two heartbeats of the leader.
pub const HEARTBEAT_TICKS: usize = 2;
/// Raft ticks without a leader until an election (randomised up to twice).
pub const ELECTION_TICKS: usize = 8;
/// Between two heartbeats of an agent's session; a cluster setting.
pub const SESSION_HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which a node is down, in heartbeats (3 s at the default).
pub const NODE_DOWN_HEARTBEATS: u32 = 6;
/// The same for nodes that a new leader has not heard of yet (6 s at the default).
pub const NODE_DOWN_HEARTBEATS_NEW_LEADER: u32 = 12;
/// A manager that did not look at anything for this long was stopped or asleep: what it
/// did not hear meanwhile says nothing of others.
pub const LAG_MAX: Duration = Duration::from_secs(1);
/// How long a node may be down until its tasks are orphaned.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 3600);
/// A replacement waits at least this long for the task it replaces to stop, unless it stops.
pub const OLD_TASK_TIMEOUT: Duration = Duration::from_secs(60);
/// How much longer than it may take to withdraw, drain and stop a task its replacement
/// waits: for the kill, and for word of the end.
pub const OLD_TASK_MARGIN: Duration = Duration::from_secs(30);
/// The deadline of a deployment without progress, unless its spec says otherwise.
pub const DEPLOYMENT_DEADLINE: Duration = Duration::from_secs(600);
/// So many early ends of tasks in one slot mean that a created service does not come up,
/// where its spec names no deadline.
pub const CREATE_FAILURES_MAX: usize = 3;
/// How long outcomes of request ids are kept.
pub const REQUEST_MEMORY: Duration = Duration::from_secs(600);
/// How many outcomes of request ids are kept at most.
pub const REQUEST_MEMORY_MAX: usize = 100_000;
/// Log entries between two compactions.
pub const COMPACT_ENTRIES: u64 = 10_000;
/// Bytes of log entries between two compactions.
pub const COMPACT_BYTES: usize = 64 * 1024 * 1024;
/// The pause after a snapshot that could not be saved.
pub const SNAPSHOT_AGAIN: Duration = Duration::from_secs(10);
/// How old what waits for the disk may become until a leader hands its leadership over.
pub const DISK_STALL_MAX: Duration = Duration::from_secs(2);
/// Log entries that a compaction keeps for slow followers.
pub const KEEP_ENTRIES: u64 = 1_000;
/// How long a service that was set aside after a panic waits for the next attempt.
pub const ASIDE_RETRY: Duration = Duration::from_secs(60);
/// A manager whose raft was not heard of for so long is shown as unreachable.
pub const MANAGER_UNREACHABLE: Duration = Duration::from_secs(2);
/// Between two reports of one task that tell more about the same state.
pub const SAME_STATE_REPORTS: Duration = Duration::from_secs(1);
/// How long a value that could not be sent to a node waits for the next attempt.
pub const VALUE_RETRY: Duration = Duration::from_secs(5);
/// The most bytes of one encoded transaction.
pub const TRANSACTION_BYTES_MAX: usize = 1_500_000;
/// The most writes of one transaction.
pub const TRANSACTION_WRITES_MAX: usize = 2_000;
/// How many store versions back a watch can resume.
pub const WATCH_HISTORY_MAX: usize = 10_000;
/// The most memory that those versions may take, in bytes.
pub const WATCH_HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// For how long no leader and too few managers must be heard of until requests are refused
/// for that: every candidate has asked everybody for its vote by then.
pub const QUORUM_LOST_AFTER: Duration = Duration::from_millis(2 * ELECTION_TICKS as u64 * TICK.as_millis() as u64);
/// A proposal or read that is not decided within this time is answered as unavailable.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
