//! One manager in this process, with its folder and keys. Whoever starts it stops it.

#![allow(dead_code, reason = "every test file uses its own part")]

use skep_identity::SecretBytes;
use skep_identity::ca::NodeKey;
use skep_identity::seal::UnsealingKey;
use skep_identity::tls::{Material, TlsIdentity};
use skep_manager::{Founding, Manager, NewCluster, NoteLog, Start, found};
use skep_model::cluster::ClusterSpec;
use skep_model::node::{ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeStatus, Role};
use skep_model::{ClusterId, Meta, NodeId, Section};
use skep_proto::v1::control_server::Control as _;
use skep_proto::v1::mutate_request::Mutation;
use skep_proto::v1::{MutateReply, MutateRequest};
use std::collections::BTreeMap;
use tempfile::TempDir;
use tonic::Request;

/// The raft id of the one manager.
pub const RAFT_ID: u64 = 7;
const ADDRESS: &str = "127.0.0.1:2377";

/// What a node keeps of its manager while that does not run.
pub struct Site {
    pub folder: TempDir,
    pub node: NodeId,
    data_key: SecretBytes,
    unsealing: UnsealingKey,
    tls: NodeKey,
    certificate: String,
    root: String,
}

impl Site {
    /// A node whose manager has never run, and the cluster that its first start founds.
    pub fn new() -> (Self, Founding) {
        skep_identity::tls::install_crypto_provider();
        let (node, cluster_id) = (NodeId::from_random([1; 16]), ClusterId::from_random([2; 16]));
        let (tls, unsealing) = (NodeKey::generate().expect("a key"), UnsealingKey::generate());
        let request = tls.signing_request().expect("a request");
        let NewCluster { cluster, certificate } =
            found(node, &unsealing, cluster_id, ClusterSpec::default(), &request).expect("a cluster");
        let plan = NodePlan {
            role: Role::Manager,
            manager: Some(ManagerStatus { raft_id: RAFT_ID, address: ADDRESS.into(), format_max: 1, unreachable: false }),
            unsealing_key: unsealing.public().0.to_vec(),
            ..NodePlan::default()
        };
        let first = Node {
            id: node,
            meta: Meta::default(),
            spec: Section::new(NodeSpec { desired_role: Role::Manager, ..NodeSpec::default() }),
            description: Section::new(NodeDescription { hostname: "m1".into(), ..NodeDescription::default() }),
            status: Section::new(NodeStatus::default()),
            plan: Section::new(plan),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let (data_key, root) = (SecretBytes::random(32), cluster.plan.root_ca.clone());
        let site = Self { folder, node, data_key, unsealing, tls, certificate, root };
        (site, Founding { cluster: Box::new(cluster), node: Box::new(first) })
    }

    /// What `Manager::start` needs; without a founding it is a later start.
    pub fn start(&self, founding: Option<Founding>) -> Start {
        let material = Material { chain_pem: &self.certificate, key_pkcs8: self.tls.pkcs8(), roots_pem: &self.root };
        Start {
            node: self.node,
            raft_id: RAFT_ID,
            address: ADDRESS.into(),
            folder: self.folder.path().join("manager"),
            tls: TlsIdentity::new(&material).expect("the identity is whole"),
            listen: "127.0.0.1:0".parse().expect("an address"),
            data_keys: BTreeMap::from([(1, self.data_key.duplicate())]),
            unsealing: UnsealingKey::from_bytes(self.unsealing.bytes().duplicate()).expect("a key"),
            peers: BTreeMap::new(),
            note_log: founding.is_some().then(|| Box::new(|| Ok(())) as NoteLog),
            founding,
        }
    }
}

/// Asks for a change, under a request id of its own; it must be made.
pub async fn ask(manager: &Manager, mutation: Mutation) -> MutateReply {
    let request = MutateRequest { request_id: skep_host::chance::bytes::<16>().to_vec(), mutation: Some(mutation) };
    manager.control().mutate(Request::new(request)).await.expect("the change is made").into_inner()
}
