//! What runs in a task: the container part of a service's spec.

pub mod check;

use crate::{ConfigId, SecretId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The container of a task. Empty lists and `None` mean "as the image says".
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ContainerSpec {
    /// Image reference, with the digest it was resolved to where it was.
    pub image: String,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Host name; may hold placeholders.
    pub hostname: String,
    /// `KEY=VALUE`, in the order given; values may hold placeholders.
    pub env: Vec<String>,
    /// Working directory inside the container.
    pub dir: String,
    /// `name|uid[:group|gid]`.
    pub user: String,
    /// Supplementary groups, names or numbers.
    pub groups: Vec<String>,
    /// Use a small init that forwards signals and reaps; `None` = the node's default, which is no.
    pub init: Option<bool>,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// File systems to attach.
    pub mounts: Vec<Mount>,
    /// Signal that asks the container to stop; empty = the image's, else SIGTERM.
    pub stop_signal: String,
    /// From the stop signal to SIGKILL; `None` = 10 s.
    pub stop_grace_period: Option<Duration>,
    /// How long busy connections may go on before the stop signal; `None` = as
    /// long as the grace period, at most 10 s.
    pub stop_drain: Option<Duration>,
    /// Health check; `None` = the image's.
    pub healthcheck: Option<HealthConfig>,
    /// Extra lines of `/etc/hosts`: `(address, name)` pairs.
    pub hosts: Vec<HostEntry>,
    /// Name resolution.
    pub dns: DnsConfig,
    /// Secrets, by target.
    pub secrets: Vec<SecretReference>,
    /// Configs, by target.
    pub configs: Vec<ConfigReference>,
    /// Capabilities added to the default set, `CAP_…` or `ALL`.
    pub capability_add: Vec<String>,
    /// Capabilities taken from the default set.
    pub capability_drop: Vec<String>,
    /// Kernel parameters of the task's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// −1000 to 1000.
    pub oom_score_adj: i32,
    /// Keep set-uid programs from gaining privileges.
    pub no_new_privileges: bool,
}

/// From the stop signal to SIGKILL, where a container does not say.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// The longest that a container that does not say lets busy connections go on.
pub const STOP_DRAIN_DEFAULT_MAX: Duration = Duration::from_secs(10);

impl ContainerSpec {
    /// From the stop signal to SIGKILL.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace_period.unwrap_or(STOP_GRACE)
    }

    /// How long busy connections may go on before the stop signal.
    pub fn drain_limit(&self) -> Duration {
        self.stop_drain.unwrap_or_else(|| self.stop_grace().min(STOP_DRAIN_DEFAULT_MAX))
    }

    /// Whether containers of both are the same: a default that is written out is no change.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        self == other || self.written_out() == other.written_out()
    }

    /// The same with defaults in the place of what is left open, where the image has no say.
    fn written_out(&self) -> Self {
        Self {
            stop_grace_period: Some(self.stop_grace()),
            stop_drain: Some(self.drain_limit()),
            init: Some(self.init.unwrap_or(false)),
            healthcheck: self.healthcheck.clone().filter(|check| *check != HealthConfig::default()),
            ..self.clone()
        }
    }
}

/// How a mount is provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A folder or file of the node.
    Bind,
    /// Memory, gone with the container.
    Tmpfs,
}

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// How it is provided.
    pub kind: MountKind,
    /// Absolute path on the node for a bind; empty for tmpfs.
    pub source: String,
    /// Absolute path in the container; unique within a container.
    pub target: String,
    /// No writing through it.
    pub read_only: bool,
    /// For tmpfs: size in bytes, 0 = unlimited.
    pub tmpfs_size: u64,
    /// For tmpfs: mode, 0 = 1777.
    pub tmpfs_mode: u32,
    /// For bind: propagation (`rprivate` when empty).
    pub propagation: String,
    /// For bind: make the source folder if it is missing.
    pub create_source: bool,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", program, …]` or `["CMD-SHELL", line]`; empty = the image's test.
    pub test: Vec<String>,
    /// Between two runs; `None` = 30 s.
    pub interval: Option<Duration>,
    /// For one run; `None` = 30 s.
    pub timeout: Option<Duration>,
    /// Failures in it do not count; `None` = 0.
    pub start_period: Option<Duration>,
    /// Between two runs in the start period; `None` = 5 s.
    pub start_interval: Option<Duration>,
    /// Failures in a row that make a container unhealthy; 0 = 3.
    pub retries: u32,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEntry {
    /// The address.
    pub address: String,
    /// The name.
    pub name: String,
}

/// Servers, search domains and options for name resolution.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DnsConfig {
    /// Addresses of servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// The resources that a [`Ulimit`] can name.
pub const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Soft and hard limit of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// One of [`ULIMITS`].
    pub name: String,
    /// Soft limit; −1 = unlimited.
    pub soft: i64,
    /// Hard limit; −1 = unlimited.
    pub hard: i64,
}

impl Ulimit {
    /// Whether the soft limit is not above the hard one.
    pub fn is_ordered(&self) -> bool {
        self.hard == -1 || (self.soft != -1 && self.soft <= self.hard)
    }
}

/// Where a secret or config appears in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTarget {
    /// Absolute path, or a name under `/run/secrets` (secrets) or `/` (configs).
    pub name: String,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A secret that a service uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference {
    /// The secret.
    pub id: SecretId,
    /// Its name when it was referenced.
    pub name: String,
    /// `None` follows the current version; a task's reference always has one.
    pub version: Option<u64>,
    /// Where it appears.
    pub file: FileTarget,
}

/// A config that a service uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigReference {
    /// The config.
    pub id: ConfigId,
    /// Its name when it was referenced.
    pub name: String,
    /// `None` follows the current version; a task's reference always has one.
    pub version: Option<u64>,
    /// Where it appears.
    pub file: FileTarget,
}
