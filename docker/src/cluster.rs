//! The settings of a cluster, as `info` shows them.
//!
//! Ours: `Network`.

use crate::scalar::nanos;
use serde::Serialize;
use skep_model::cluster as model;
use std::collections::BTreeMap;

/// Docker's `Swarm.Cluster.Spec`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClusterSpec {
    name: String,
    labels: BTreeMap<String, String>,
    orchestration: Orchestration,
    raft: Raft,
    dispatcher: Dispatcher,
    #[serde(rename = "CAConfig")]
    ca_config: CaConfig,
    task_defaults: TaskDefaults,
    encryption_config: EncryptionConfig,
    network: Network,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Orchestration {
    task_history_retention_limit: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Raft {
    snapshot_interval: u64,
    keep_old_snapshots: u64,
    log_entries_for_slow_followers: u64,
    election_tick: u32,
    heartbeat_tick: u32,
}

/// What of raft is no setting of a cluster, but the release's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftConfig {
    /// Entries that a compaction of the log keeps.
    pub entries_for_slow_followers: u64,
    /// Ticks without a word from the leader after which a follower stands for election.
    pub election_ticks: u32,
    /// Ticks between two words of the leader.
    pub heartbeat_ticks: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Dispatcher {
    heartbeat_period: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CaConfig {
    node_cert_expiry: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct TaskDefaults {}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptionConfig {
    auto_lock_managers: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    default_addr_pool: Vec<String>,
    subnet_size: u32,
    data_path_port: u16,
    barrier_timeout: u64,
    isolate_nodes: bool,
}

impl ClusterSpec {
    /// The settings, and what raft goes by.
    pub fn of(spec: &model::ClusterSpec, raft: RaftConfig) -> Self {
        Self {
            name: spec.annotations.name.clone(),
            labels: spec.annotations.labels.clone(),
            orchestration: Orchestration { task_history_retention_limit: spec.task_history_limit },
            raft: Raft {
                snapshot_interval: spec.snapshot_interval,
                keep_old_snapshots: spec.max_snapshots,
                log_entries_for_slow_followers: raft.entries_for_slow_followers,
                election_tick: raft.election_ticks,
                heartbeat_tick: raft.heartbeat_ticks,
            },
            dispatcher: Dispatcher { heartbeat_period: nanos(spec.heartbeat_period) },
            ca_config: CaConfig { node_cert_expiry: nanos(spec.node_cert_expiry) },
            task_defaults: TaskDefaults {},
            encryption_config: EncryptionConfig { auto_lock_managers: spec.autolock },
            network: Network {
                default_addr_pool: spec.address_pools.iter().map(ToString::to_string).collect(),
                subnet_size: spec.subnet_size,
                data_path_port: spec.data_path_port,
                barrier_timeout: nanos(spec.barrier_timeout),
                isolate_nodes: spec.isolate_nodes,
            },
        }
    }
}
