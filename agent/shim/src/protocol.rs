//! The words agent and shim exchange: what a task is, what can be asked, what is reported.
//!
//! Times are nanoseconds since the Unix epoch unless a name says otherwise; durations end in their unit.
//! Fields are only ever added, with a default: a shim outlives the agent that started it, so an older shim talks to a
//! newer agent. Each says in its first [`Status`] which versions it speaks; a message of an unknown kind is skipped by
//! an agent, and answered with a refusal by a shim.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sensitive::Sensitive;
use crate::state::ExitRecord;

/// Bytes of a health probe's output that are kept.
pub const HEALTH_OUTPUT_MAX: usize = 4096;
/// Version of this protocol, sent with every [`Status`]. Version 2 refuses unknown requests instead of the connection.
pub const PROTOCOL_VERSION: u32 = 2;
/// The oldest version of the other side that this one works with.
pub const PROTOCOL_MIN: u32 = 1;

/// Everything the shim needs to create a task's container, again and again until it is released.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct TaskSpec {
    /// The cluster's id of the task; 1 to 64 letters, digits, `-`, `_` or `.`.
    pub task_id: String,
    /// Counts starts of this same task; the first is 1.
    pub attempt: u32,
    /// Host name inside; empty means the first 12 characters of the task id.
    pub hostname: String,
    /// The command, its program first.
    pub args: Vec<String>,
    /// `KEY=VALUE` entries; values may hold secrets. PATH, HOME and HOSTNAME are added when missing.
    pub env: Vec<Sensitive>,
    /// Working directory; created when missing. Empty means `/`.
    pub cwd: String,
    /// Docker's `name|uid[:group|gid]`, looked up in the image's own passwd and group. Empty means root.
    pub user: String,
    /// More groups, by name or number.
    pub groups: Vec<String>,
    /// Unpacked layers, the uppermost first, as overlayfs counts them.
    pub lower_dirs: Vec<PathBuf>,
    /// The writable layer; emptied at every start.
    pub upper_dir: PathBuf,
    /// Overlayfs' work folder, on the same file system as `upper_dir`; emptied at every start.
    pub work_dir: PathBuf,
    /// Where the log files go.
    pub log: LogSpec,
    /// Folder on the disk where it is put down how an attempt ended; empty means the state folder.
    pub exit_dir: PathBuf,
    /// The task's cgroup, from the root of every hierarchy: absolute, without `..`.
    pub cgroups_path: String,
    /// Limits.
    pub resources: Resources,
    /// Capabilities beside Docker's default set.
    pub cap_add: Vec<String>,
    /// Capabilities taken away; `ALL` empties the default set.
    pub cap_drop: Vec<String>,
    /// Forbid gaining privileges by set-uid programs.
    pub no_new_privileges: bool,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// A reaping init as PID 1: refused by name until it exists.
    pub init: bool,
    /// A terminal: refused by name until it exists.
    pub tty: bool,
    /// Resource limits of the process; the start fails where this machine does not allow one.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters of the task's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Name or number of the stop signal; empty means SIGTERM.
    pub stop_signal: String,
    /// Between the stop signal and SIGKILL, where a [`Request::Stop`] names nothing else. 0 is no grace at all; Docker's
    /// default of 10 s is for the caller to fill in.
    pub stop_grace_ms: u64,
    /// What to mount.
    pub mounts: Vec<Mount>,
    /// More lines for `/etc/hosts`.
    pub extra_hosts: Vec<HostEntry>,
    /// Name resolution; without servers the node's own resolv.conf is copied.
    pub dns: Dns,
    /// The task's network.
    pub network: Network,
    /// The task's own addresses, written to `/etc/hosts` beside its host name.
    pub addresses: Vec<std::net::IpAddr>,
    /// Labels, reported back in the status.
    pub labels: BTreeMap<String, String>,
    /// How health is probed.
    pub health: Option<Health>,
    /// Secret files; relative targets are under `/run/secrets`.
    pub secrets: Vec<FileSpec>,
    /// Config files; relative targets are under `/`.
    pub configs: Vec<FileSpec>,
    /// Preference of the kernel's out-of-memory killer, -1000 to 1000; the start fails where this machine does not allow it.
    pub oom_score_adj: Option<i32>,
}

/// Where and how much is logged.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSpec {
    /// Folder of the log files, made when missing.
    pub dir: PathBuf,
    /// A file that reached this many bytes is closed and the next begun.
    pub max_file_bytes: u64,
    /// Files kept, the one being written included; at least 1.
    pub max_files: u32,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { dir: PathBuf::new(), max_file_bytes: 10 << 20, max_files: 5 }
    }
}

/// Limits of a task; 0 means none. With a memory limit, swap is limited to as much again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Resources {
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Processes and threads.
    pub pids: u64,
}

/// A process limit as `ulimit` names it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `core`, …
    pub name: String,
    /// -1 is unlimited.
    pub soft: i64,
    /// -1 is unlimited.
    pub hard: i64,
}

/// One mount in the task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Mount {
    /// A folder or file of the node.
    Bind {
        /// Absolute path on the node; must exist.
        source: PathBuf,
        /// Absolute path in the task.
        target: String,
        /// Read-only, the mounts below it included.
        read_only: bool,
        /// `rprivate` (default when empty), `rslave`, `private` or `slave`. What would carry the task's mounts to the node
        /// (`shared`) is refused.
        propagation: String,
    },
    /// Memory that vanishes with the container.
    Tmpfs {
        /// Absolute path in the task.
        target: String,
        /// Bytes; 0 means the kernel's default.
        size_bytes: u64,
        /// Mode of its root; 0 means 1777.
        mode: u32,
    },
}

impl Mount {
    /// Where it appears in the task.
    pub fn target(&self) -> &str {
        match self {
            Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } => target,
        }
    }
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostEntry {
    /// The name.
    pub host: String,
    /// Its address.
    pub address: String,
}

/// resolv.conf in parts.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// The network namespace of a task.
#[derive(Debug, Clone, Serialize, Deserialize, Default, PartialEq, Eq)]
pub enum Network {
    /// One of its own with nothing but the loopback device.
    #[default]
    None,
    /// The node's.
    Host,
    /// An existing one, pinned at this path.
    Path(PathBuf),
}

/// A health check, with Docker's meaning and defaults: 0 stands for the default.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Health {
    /// `["NONE"]`, `["CMD", program, …]` or `["CMD-SHELL", line]`; empty is the same as NONE.
    pub test: Vec<String>,
    /// Between two probes; default 30 s.
    pub interval_ms: u64,
    /// The longest a probe may take; default 30 s.
    pub timeout_ms: u64,
    /// After the start, while failures do not count; default 0.
    pub start_period_ms: u64,
    /// Between two probes in the start period; default 5 s.
    pub start_interval_ms: u64,
    /// Failures in a row that make a task unhealthy; default 3.
    pub retries: u32,
}

/// A secret or config as a file of the task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileSpec {
    /// The object's name, for messages and later replacement.
    pub name: String,
    /// Its version, reported in the status.
    pub version: u64,
    /// Absolute path, or a name relative to the kind's folder.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub bytes: Sensitive,
}

/// What a client may ask; each is answered by one [`Reply`] with its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Create and start the container; once per shim.
    Start(Box<TaskSpec>),
    /// A new container of the same spec, secrets still in place; only after the exit of the former.
    Restart {
        /// Its number; must be above the former.
        attempt: u32,
    },
    /// The stop signal now, SIGKILL after the grace; the reply comes at once, the exit as an event.
    Stop {
        /// Name or number; none means the spec's.
        signal: Option<String>,
        /// None means the spec's.
        grace_ms: Option<u64>,
    },
    /// SIGKILL now.
    Kill,
    /// Send the current status (as [`FromShim::Status`], before the reply).
    Status,
    /// Swap in another version of a secret: refused by name until it exists.
    ReplaceSecret {
        /// Which.
        name: String,
        /// The new version.
        version: u64,
        /// Its contents.
        bytes: Sensitive,
    },
    /// Forget everything and end; refused while the container runs.
    Release,
}

/// One frame to the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToShim {
    /// Chosen by the client, repeated in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What every frame to the shim has, also one whose request is not known.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Numbered {
    /// Chosen by the client, repeated in the reply.
    pub id: u64,
}

/// The answer to one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Of the request.
    pub id: u64,
    /// `Err` is a sentence for the user and says that nothing was changed, or for a failed start, why.
    pub result: Result<(), String>,
}

/// One frame from the shim. A new connection gets a `Status` first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromShim {
    /// The whole state.
    Status(Box<Status>),
    /// Something happened.
    Event(Event),
    /// An answer.
    Reply(Reply),
}

/// Something that happened, sent to every connected client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// The container exists and its command has not begun.
    Created {
        /// Of which attempt.
        attempt: u32,
    },
    /// The command runs.
    Started {
        /// Of which attempt.
        attempt: u32,
        /// As the shim's pid namespace counts.
        pid: i32,
        /// When.
        at_ns: u64,
    },
    /// A probe ended and changed the health, or failed.
    Health {
        /// Of which attempt.
        attempt: u32,
        /// What is true now.
        report: HealthReport,
    },
    /// The container ended; the record is on disk already.
    Exited(ExitRecord),
    /// It could not be started; the record, with its `error`, is on disk already.
    StartFailed(ExitRecord),
}

/// Health as Docker names it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub enum HealthState {
    /// No verdict yet.
    Starting,
    /// The last probe succeeded, or too few failed since.
    Healthy,
    /// `retries` probes in a row failed.
    Unhealthy,
}

/// Health, and the probe it comes from.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct HealthReport {
    /// The verdict.
    pub state: HealthState,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// Of the last probe; -1 when it was killed at its timeout or could not run.
    pub exit_code: i32,
    /// Of the last probe, at most [`HEALTH_OUTPUT_MAX`] bytes.
    pub output: String,
    /// End of the last probe, or the start of the container.
    pub at_ns: u64,
}

/// What a shim is doing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Default)]
pub enum Phase {
    /// No `Start` yet.
    #[default]
    Waiting,
    /// The command runs.
    Running,
    /// It ended, or could not start: see `exit`.
    Exited,
}

/// The whole state of a shim.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Status {
    /// [`PROTOCOL_VERSION`] of the shim.
    pub protocol: u32,
    /// [`PROTOCOL_MIN`] of the shim; shims of version 1 do not say it.
    pub protocol_min: u32,
    /// Empty while waiting.
    pub task_id: String,
    /// 0 while waiting.
    pub attempt: u32,
    /// What it is doing.
    pub phase: Phase,
    /// Of the shim itself.
    pub shim_pid: i32,
    /// Of the container's first process, while running.
    pub pid: Option<i32>,
    /// Of the current or last attempt.
    pub started_at_ns: Option<u64>,
    /// None without a health check, or before the start.
    pub health: Option<HealthReport>,
    /// Of the last attempt, once ended.
    pub exit: Option<ExitRecord>,
    /// Name and version of every secret the task holds.
    pub secrets: Vec<(String, u64)>,
    /// Name and version of every config the task holds.
    pub configs: Vec<(String, u64)>,
    /// The spec's.
    pub labels: BTreeMap<String, String>,
}

impl Status {
    /// Whether an agent of this version can talk to the shim; otherwise why not.
    pub fn check_protocol(&self) -> Result<(), String> {
        let (own, shims) = (PROTOCOL_MIN..=PROTOCOL_VERSION, self.protocol_min.max(1)..=self.protocol);
        if own.start() <= shims.end() && shims.start() <= own.end() {
            return Ok(());
        }
        let range = |range: &std::ops::RangeInclusive<u32>| format!("{} to {}", range.start(), range.end());
        Err(format!("the shim speaks versions {} of its protocol, this daemon {}", range(&shims), range(&own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_must_have_one_in_common() {
        let check = |protocol_min, protocol| Status { protocol_min, protocol, ..Status::default() }.check_protocol();
        for (min, max) in [(0, 1), (1, PROTOCOL_VERSION), (PROTOCOL_VERSION, PROTOCOL_VERSION + 5)] {
            assert_eq!(check(min, max), Ok(()), "{min} to {max}");
        }
        let newer = check(PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2).unwrap_err();
        assert!(newer.contains(&format!("speaks versions {} to {}", PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2)), "{newer}");
    }
}
