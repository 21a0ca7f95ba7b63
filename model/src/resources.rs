//! CPU, memory and process limits and reservations.

use crate::Refusal;
use crate::said::{MEMORY_MAX, NANO_CPUS_MAX};

/// The smallest CPU limit or reservation: a thousandth of a core.
pub const NANO_CPUS_MIN: u64 = 1_000_000;
/// The smallest memory limit or reservation, in bytes.
pub const MEMORY_MIN: u64 = 4 * 1024 * 1024;
/// The highest limit of processes that the kernel takes (`PID_MAX_LIMIT`).
pub const PIDS_MAX: u64 = 4 * 1024 * 1024;

/// What a node offers or a task reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Resources {
    /// Billionths of a core; 0 = none.
    pub nano_cpus: u64,
    /// Bytes; 0 = none.
    pub memory_bytes: u64,
}

/// What a task may use at most. Zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Billionths of a core.
    pub nano_cpus: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Limits and reservations of a service's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ResourceRequirements {
    /// Upper bounds, enforced by the node's kernel; the scheduler ignores them.
    pub limits: Limits,
    /// What the scheduler sets aside on a node.
    pub reservations: Resources,
}

impl ResourceRequirements {
    /// Whether a node could have them.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        let (limits, reserved) = (&self.limits, &self.reservations);
        for (field, value) in [("cpu limit", limits.nano_cpus), ("cpu reservation", reserved.nano_cpus)] {
            let refuse = |reason| Err(Refusal::invalid(field, format!("{:.9}", value as f64 / 1e9), reason));
            match value {
                1..NANO_CPUS_MIN => return refuse("it must be at least 0.001 (a thousandth of a core)"),
                // The kernel counts a limit in microseconds of a period, and takes no more than 44 bits of them.
                _ if value > NANO_CPUS_MAX => return refuse("it must be at most 65536; 0 is no limit"),
                _ => {}
            }
        }
        for (field, value) in [("memory limit", limits.memory_bytes), ("memory reservation", reserved.memory_bytes)] {
            let refuse = |reason| Err(Refusal::invalid(field, value.to_string(), reason));
            match value {
                1..MEMORY_MIN => return refuse("it must be at least 4MiB"),
                _ if value > MEMORY_MAX => return refuse("it must be at most 1EiB; 0 is no limit"),
                _ => {}
            }
        }
        if limits.pids > PIDS_MAX {
            let reason = format!("it must be at most {PIDS_MAX}; 0 is no limit");
            return Err(Refusal::invalid("pids limit", limits.pids.to_string(), reason));
        }
        if limits.nano_cpus != 0 && reserved.nano_cpus > limits.nano_cpus {
            let cpus = |nanos: u64| (nanos as f64 / 1e9).to_string();
            let limit = cpus(limits.nano_cpus);
            let reason =
                format!("it exceeds the cpu limit of {limit}, so that a task could never use it: lower one or raise the other");
            return Err(Refusal::invalid("cpu reservation", cpus(reserved.nano_cpus), reason));
        }
        if limits.memory_bytes != 0 && reserved.memory_bytes > limits.memory_bytes {
            let limit = limits.memory_bytes;
            let reason = format!(
                "it exceeds the memory limit of {limit} bytes, so that a task could never use it: lower one or raise the other"
            );
            return Err(Refusal::invalid("memory reservation", reserved.memory_bytes.to_string(), reason));
        }
        Ok(())
    }
}
