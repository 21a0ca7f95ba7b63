//! CPU, memory and process limits and reservations.

use serde::{Deserialize, Serialize};

/// The smallest CPU limit or reservation: a thousandth of a core.
pub const NANO_CPUS_MIN: u64 = 1_000_000;
/// The smallest memory limit or reservation, in bytes.
pub const MEMORY_MIN: u64 = 4 * 1024 * 1024;

/// What a node offers or a task reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    /// Billionths of a core; 0 = none.
    #[serde(rename = "NanoCPUs")]
    pub nano_cpus: u64,
    /// Bytes; 0 = none.
    pub memory_bytes: u64,
}

/// What a task may use at most. Zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Limits {
    /// Billionths of a core.
    #[serde(rename = "NanoCPUs")]
    pub nano_cpus: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Limits and reservations of a service's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResourceRequirements {
    /// Upper bounds, enforced by the node's kernel; the scheduler ignores them.
    pub limits: Limits,
    /// What the scheduler sets aside on a node.
    pub reservations: Resources,
}
