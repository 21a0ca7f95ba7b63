//! What users and nodes may ask the managers to change.
//!
//! A mutation is already authenticated, authorised and sealed: no plaintext of a
//! secret is in it. Objects are named by a reference (id, name or unique id
//! prefix) that is resolved when the mutation is admitted. `expect` is the
//! version of the object's spec section that the caller read; a mutation of a
//! newer one is refused as out of sequence. `None` skips that check.

use crate::cluster::{Cluster, ClusterSpec, SealingSlot};
use crate::config::ConfigVersion;
use crate::network::NetworkSpec;
use crate::node::{Node, NodeSpec, Role};
use crate::sealed::Sealed;
use crate::secret::SecretVersion;
use crate::service::{Annotations, ServiceSpec};
use crate::{ConfigId, Id, NodeId, SecretId, Time};
use std::collections::BTreeMap;

/// One change that a user or node asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Mutation {
    /// Makes a service.
    CreateService {
        /// What is wanted.
        spec: Box<ServiceSpec>,
    },
    /// Replaces a service's spec.
    UpdateService {
        /// Which service.
        service: String,
        /// Version of the spec that was read.
        expect: Option<u64>,
        /// What is wanted.
        spec: Box<ServiceSpec>,
    },
    /// Returns a service to its previous spec.
    RollbackService {
        /// Which service.
        service: String,
        /// Version of the spec that was read.
        expect: Option<u64>,
    },
    /// Sets the number of replicas.
    ScaleService {
        /// Which service.
        service: String,
        /// How many.
        replicas: u64,
    },
    /// Removes a service and its tasks.
    RemoveService {
        /// Which service.
        service: String,
    },
    /// Makes a secret with its first version.
    CreateSecret {
        /// Minted by the shell that sealed the value, which is bound to it.
        id: SecretId,
        /// Name and labels.
        annotations: Annotations,
        /// Version 1.
        version: SecretVersion,
    },
    /// Adds a version to a secret, replaces its labels, or both.
    UpdateSecret {
        /// Which secret.
        secret: String,
        /// The next version; its number must be the newest one's plus one.
        version: Option<SecretVersion>,
        /// New labels.
        labels: Option<BTreeMap<String, String>>,
    },
    /// Removes a secret that no service uses.
    RemoveSecret {
        /// Which secret.
        secret: String,
    },
    /// Makes a config with its first version.
    CreateConfig {
        /// Minted by the shell that sealed the value, which is bound to it.
        id: ConfigId,
        /// Name and labels.
        annotations: Annotations,
        /// Version 1.
        version: ConfigVersion,
    },
    /// Adds a version to a config, replaces its labels, or both.
    UpdateConfig {
        /// Which config.
        config: String,
        /// The next version; its number must be the newest one's plus one.
        version: Option<ConfigVersion>,
        /// New labels.
        labels: Option<BTreeMap<String, String>>,
    },
    /// Removes a config that no service uses.
    RemoveConfig {
        /// Which config.
        config: String,
    },
    /// Makes a network object.
    CreateNetwork {
        /// What is wanted.
        spec: NetworkSpec,
    },
    /// Removes a network object.
    RemoveNetwork {
        /// Which network.
        network: String,
    },
    /// Changes labels, availability or desired role of a node.
    UpdateNode {
        /// Which node.
        node: String,
        /// Version of the spec that was read.
        expect: Option<u64>,
        /// What is wanted.
        spec: NodeSpec,
    },
    /// Removes a node.
    RemoveNode {
        /// Which node.
        node: String,
        /// Although it is ready.
        force: bool,
    },
    /// Changes the cluster's settings.
    UpdateCluster {
        /// Version of the spec that was read.
        expect: Option<u64>,
        /// What is wanted.
        spec: ClusterSpec,
    },
    /// Replaces a join token.
    RotateJoinToken {
        /// For which role.
        role: Role,
        /// The new token's secret part.
        sealed: Sealed,
    },
    /// The first mutation of a cluster: its object and its first manager.
    Bootstrap {
        /// The cluster.
        cluster: Box<Cluster>,
        /// The manager that was initialised.
        node: Box<Node>,
    },
    /// A node was given its first certificate.
    RegisterNode {
        /// Its id, minted by the manager that issued the certificate.
        node: NodeId,
        /// Role, by the token it showed.
        role: Role,
        /// Availability it asked for.
        availability: crate::node::Availability,
        /// Host name it gave.
        hostname: String,
        /// When the certificate ends.
        certificate_expires: Time,
        /// Where it says that others reach it.
        addresses: crate::address::ClaimedAddresses,
    },
    /// A node was given a new certificate.
    CertificateIssued {
        /// The node.
        node: NodeId,
        /// When it ends.
        certificate_expires: Time,
    },
    /// A node with a manager certificate asks to become a member of raft. The
    /// reply names its raft id; a repeat updates the address.
    JoinRaft {
        /// The node.
        node: NodeId,
        /// `host:port` at which the others reach it.
        address: String,
        /// The public half of its unsealing key.
        unsealing_key: Vec<u8>,
        /// The sealing key wrapped for it, one slot for each generation.
        slots: Vec<SealingSlot>,
        /// The newest stored format it can read.
        format_max: u32,
    },
    /// A node leaves: a manager leaves raft, a worker is marked down.
    Leave {
        /// The node.
        node: NodeId,
    },
}

/// What a mutation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The id of the object that was made or changed.
    pub id: Id,
    /// The store version at which it took effect.
    pub version: u64,
    /// For services: the spec version to wait for; for `JoinRaft`: the raft id.
    pub number: u64,
}
