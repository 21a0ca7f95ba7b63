//! The cluster object: settings, root of trust, sealed keys. There is one.

use crate::duration::print;
use crate::sealed::Sealed;
use crate::service::Annotations;
use crate::{ClusterId, Meta, NodeId, Refusal, Section, Time};
use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The cluster. Writers: users (`spec`), the leader (`plan`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its id; the organisation in every certificate.
    pub id: ClusterId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// Settings.
    pub spec: Section<ClusterSpec>,
    /// Trust and keys.
    pub plan: Section<ClusterPlan>,
}

/// The settings that users write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Name (`default`) and labels.
    pub annotations: Annotations,
    /// Ended tasks kept per slot or node; negative = all.
    pub task_history_limit: i64,
    /// Between two heartbeats of a session.
    pub heartbeat_period: Duration,
    /// Validity of node certificates.
    pub node_cert_expiry: Duration,
    /// Log entries between two snapshots.
    pub snapshot_interval: u64,
    /// Older snapshots kept.
    pub max_snapshots: u64,
    /// Managers start locked.
    pub autolock: bool,
    /// Where the subnets of networks are taken from.
    pub address_pools: Vec<IpNet>,
    /// The prefix length of such a subnet (v4; a v6 one has 64).
    pub subnet_size: u32,
    /// The UDP port of VXLAN.
    pub data_path_port: u16,
    /// How long a change of an endpoint is waited for on nodes that do not say
    /// that they have programmed it; one of [`BARRIER_TIMEOUTS`].
    pub barrier_timeout: Duration,
    /// No task opens a connection to an address of its own node.
    pub isolate_nodes: bool,
}

/// What a barrier's timeout may be: below, sound nodes would be found late; above,
/// one that is lost would hold every deployment up.
pub const BARRIER_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
/// What the heartbeat period may be: a node is down after six of them.
pub const HEARTBEAT_PERIODS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// The shortest validity of a node's certificate, as in Swarm.
pub const CERT_EXPIRY_MIN: Duration = Duration::from_secs(3600);
/// UDP ports that the overlay may have, as in Swarm.
pub const DATA_PATH_PORTS: RangeInclusive<u16> = 1024..=49_151;
/// The longest prefix of a subnet, as in Swarm.
pub const SUBNET_SIZE_MAX: u32 = 29;

impl ClusterSpec {
    /// The bounds of the settings, when a cluster is made and when it is changed.
    ///
    /// # Errors
    /// Names the flag of `swarm init` and `swarm update`, the value and what it may be.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.node_cert_expiry < CERT_EXPIRY_MIN {
            let reason = "minimum certificate expiry time is 1h0m0s";
            return Err(Refusal::invalid("--cert-expiry", print(self.node_cert_expiry), reason));
        }
        if !HEARTBEAT_PERIODS.contains(&self.heartbeat_period) {
            let reason = "it must be between 100ms and 10m0s";
            return Err(Refusal::invalid("--dispatcher-heartbeat", print(self.heartbeat_period), reason));
        }
        if !BARRIER_TIMEOUTS.contains(&self.barrier_timeout) {
            return Err(Refusal::invalid("--barrier-timeout", print(self.barrier_timeout), "it must be between 100ms and 1m0s"));
        }
        if self.snapshot_interval == 0 {
            return Err(Refusal::invalid("--snapshot-interval", "0", "at least 1 log entry lies between two snapshots"));
        }
        if !DATA_PATH_PORTS.contains(&self.data_path_port) {
            let reason = format!("it must be between {} and {}", DATA_PATH_PORTS.start(), DATA_PATH_PORTS.end());
            return Err(Refusal::invalid("--data-path-port", self.data_path_port.to_string(), reason));
        }
        if self.subnet_size > SUBNET_SIZE_MAX {
            let reason = format!("it must be at most {SUBNET_SIZE_MAX}");
            return Err(Refusal::invalid("--default-addr-pool-mask-length", self.subnet_size.to_string(), reason));
        }
        Ok(())
    }
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            annotations: Annotations { name: "default".into(), labels: BTreeMap::new() },
            task_history_limit: 5,
            heartbeat_period: Duration::from_millis(500),
            node_cert_expiry: Duration::from_secs(90 * 24 * 3600),
            snapshot_interval: 10_000,
            max_snapshots: 0,
            autolock: false,
            address_pools: vec![IpNet::V4(Ipv4Net::new_assert([10, 0, 0, 0].into(), 8))],
            subnet_size: 20,
            data_path_port: 4789,
            barrier_timeout: Duration::from_secs(5),
            isolate_nodes: false,
        }
    }
}

/// The section that managers write for the cluster's trust.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClusterPlan {
    /// The root certificate, PEM.
    pub root_ca: String,
    /// The root's private key, sealed.
    pub sealed_ca_key: Sealed,
    /// The secret parts of the join tokens, sealed.
    pub sealed_worker_token: Sealed,
    /// See `sealed_worker_token`.
    pub sealed_manager_token: Sealed,
    /// The key of fingerprints, sealed.
    pub sealed_fingerprint_key: Sealed,
    /// The sealing key, wrapped for each manager's unsealing key, by generation.
    pub sealing_slots: BTreeMap<NodeId, Vec<SealingSlot>>,
    /// The generation that new values are sealed with.
    pub sealing_generation: u32,
    /// The lowest newest format among the managers; proposers never exceed it.
    pub format: u32,
    /// Nodes that were removed, refused by id until the time given.
    pub removed_nodes: BTreeMap<NodeId, Time>,
    /// Raft ids that were used and may not be used again.
    pub removed_raft_ids: Vec<u64>,
    /// The unlock key under which managers seal their keystores while autolock is on, sealed.
    pub sealed_unlock_key: Option<Sealed>,
}

/// One generation of the sealing key, wrapped for one manager (HPKE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingSlot {
    /// Which generation.
    pub generation: u32,
    /// Encapsulated key and ciphertext.
    pub bytes: Vec<u8>,
}
