//! Objects as docker's JSON has them: what `inspect` prints and templates read.

use serde_json::{Value, json};
use skep_model::cluster::ClusterSpec;

/// The settings of a cluster.
pub fn cluster_spec(spec: &ClusterSpec) -> Value {
    json!({
        "Name": spec.annotations.name,
        "Labels": spec.annotations.labels,
        "Orchestration": { "TaskHistoryRetentionLimit": spec.task_history_limit },
        "Raft": { "SnapshotInterval": spec.snapshot_interval, "KeepOldSnapshots": spec.max_snapshots },
        "Dispatcher": { "HeartbeatPeriod": nanos(spec.heartbeat_period) },
        "CAConfig": { "NodeCertExpiry": nanos(spec.node_cert_expiry) },
        "EncryptionConfig": { "AutoLockManagers": spec.autolock },
    })
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
