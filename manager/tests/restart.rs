//! One manager, from its founding through a restart: what was acknowledged is
//! there again, from a log in which no value can be read.

use skep_identity::SecretBytes;
use skep_identity::ca::NodeKey;
use skep_identity::seal::UnsealingKey;
use skep_identity::tls::{Material, TlsIdentity};
use skep_manager::{Founding, Manager, NewCluster, NoteLog, Start, StartError, found};
use skep_model::cluster::ClusterSpec;
use skep_model::node::{Node, NodeDescription, NodePlan, NodeSpec, NodeStatus, Role};
use skep_model::{ClusterId, Meta, NodeId, Section};
use skep_proto::v1::control_server::Control;
use skep_proto::v1::{self, Confidential};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tonic::Request;

const RAFT_ID: u64 = 7;
const VALUE: &[u8] = b"canary-5f0c2a9d71";

struct Keys {
    data: SecretBytes,
    unsealing: UnsealingKey,
    tls: SecretBytes,
}

fn start(folder: &Path, node: NodeId, keys: &Keys, certificate: &str, root: &str, founding: Option<Founding>) -> Start {
    let material = Material { chain_pem: certificate, key_pkcs8: &keys.tls, roots_pem: root };
    Start {
        node,
        raft_id: RAFT_ID,
        address: "127.0.0.1:2377".into(),
        folder: folder.join("manager"),
        tls: TlsIdentity::new(&material).expect("the identity is whole"),
        listen: "127.0.0.1:0".parse().expect("an address"),
        data_keys: BTreeMap::from([(1, keys.data.duplicate())]),
        unsealing: UnsealingKey::from_bytes(keys.unsealing.bytes().duplicate()).expect("a key"),
        peers: BTreeMap::new(),
        note_log: founding.is_some().then(|| Box::new(|| Ok(())) as NoteLog),
        founding,
    }
}

async fn list_secrets(manager: &Manager) -> Vec<v1::Object> {
    let query = v1::read_request::Query::List(v1::ListQuery { kind: v1::Kind::Secret.into(), filters: Vec::new() });
    let request = v1::ReadRequest { query: Some(query), stale: false };
    manager.control().read(Request::new(request)).await.expect("a read is answered").into_inner().objects
}

fn contains(folder: &Path, needle: &[u8]) -> bool {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return contains(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_restart_and_is_sealed_on_disk() {
    tracing_subscriber::fmt().with_test_writer().init();
    skep_identity::process::install_crypto_provider();
    let folder = tempfile::tempdir().expect("a folder");
    let (node, cluster_id) = (NodeId::from_random([1; 16]), ClusterId::from_random([2; 16]));
    let tls = NodeKey::generate().expect("a key");
    let keys = Keys { data: SecretBytes::random(32), unsealing: UnsealingKey::generate(), tls: tls.pkcs8().duplicate() };
    let request = tls.signing_request().expect("a request");
    let NewCluster { cluster, certificate } =
        found(node, &keys.unsealing, cluster_id, ClusterSpec::default(), &request).expect("a cluster");
    let root = cluster.plan.root_ca.clone();
    let plan = NodePlan {
        role: Role::Manager,
        manager: Some(skep_model::node::ManagerStatus {
            raft_id: RAFT_ID,
            address: "127.0.0.1:2377".into(),
            format_max: 1,
            unreachable: false,
        }),
        unsealing_key: keys.unsealing.public().0.to_vec(),
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
    let founding = Founding { cluster: Box::new(cluster), node: Box::new(first) };

    let manager =
        Manager::start(start(folder.path(), node, &keys, &certificate, &root, Some(founding))).await.expect("a first start");
    let create = v1::MutateRequest {
        request_id: vec![9; 16],
        mutation: Some(v1::mutate_request::Mutation::CreateSecret(v1::CreateSecret {
            annotations: Some(v1::Annotations { name: "password".into(), ..Default::default() }),
            value: Some(Confidential::new(VALUE.to_vec())),
        })),
    };
    let created = manager.control().mutate(Request::new(create.clone())).await.expect("a secret is made").into_inner();
    let repeated = manager.control().mutate(Request::new(create)).await.expect("a repeat is answered").into_inner();
    assert_eq!(created.outcome, repeated.outcome, "a repeat gets the first outcome");
    assert_eq!(list_secrets(&manager).await.len(), 1);
    tokio::time::timeout(Duration::from_secs(20), manager.stop()).await.expect("the manager stops");

    assert!(!contains(folder.path(), VALUE), "the value is readable in a file of the manager");
    std::fs::write(folder.path().join("planted"), VALUE).expect("a file");
    assert!(contains(folder.path(), VALUE), "the search must be able to find it");

    let manager = Manager::start(start(folder.path(), node, &keys, &certificate, &root, None)).await.expect("a second start");
    let secrets = list_secrets(&manager).await;
    assert_eq!(secrets.len(), 1, "an acknowledged secret is there after a restart");
    assert!(!format!("{secrets:?}").contains("canary"), "a list shows no value");
    manager.stop().await;
    // A disk that is not mounted: the folder is there and empty.
    let (log, away) = (folder.path().join("manager"), folder.path().join("away"));
    std::fs::rename(&log, &away).expect("the folder can be moved");
    std::fs::create_dir(&log).expect("a mount point");
    let again = || start(folder.path(), node, &keys, &certificate, &root, None);
    let refused = Manager::start(again()).await.err().expect("it has promised what it does not know any more");
    assert!(matches!(refused, StartError::LogLost { raft_id: RAFT_ID, .. }), "{refused}");
    let text = refused.to_string();
    for part in ["not mounted", &format!("skep node demote {node}"), "skep node promote", "skep swarm leave --force"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(std::fs::read_dir(&log).expect("it is there").count(), 0, "nothing is put where the disk belongs");
    std::fs::remove_dir(&log).expect("it is empty");
    assert!(matches!(Manager::start(again()).await, Err(StartError::LogLost { .. })), "the folder is gone, too");
    std::fs::rename(&away, &log).expect("it comes back");
    let manager = Manager::start(again()).await.expect("the log is there again");
    assert_eq!(list_secrets(&manager).await.len(), 1);
    manager.stop().await;
}
