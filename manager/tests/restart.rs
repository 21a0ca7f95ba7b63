//! One manager, from its founding through a restart: what was acknowledged is
//! there again, from a log in which no value can be read.

mod common;

use common::{RAFT_ID, Site};
use skep_manager::{Manager, StartError};
use skep_proto::v1::control_server::Control;
use skep_proto::v1::{self, Confidential};
use std::path::Path;
use std::time::Duration;
use tonic::Request;

const VALUE: &[u8] = b"canary-5f0c2a9d71";

async fn list_secrets(manager: &Manager) -> Vec<v1::Object> {
    let query = v1::read_request::Query::List(v1::ListQuery { kind: v1::Kind::Secret.into(), ..Default::default() });
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
    let (site, founding) = Site::new();
    let (node, folder) = (site.node, site.folder.path());
    let manager = Manager::start(site.start(Some(founding))).await.expect("a first start");
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

    assert!(!contains(folder, VALUE), "the value is readable in a file of the manager");
    std::fs::write(folder.join("planted"), VALUE).expect("a file");
    assert!(contains(folder, VALUE), "the search must be able to find it");

    let manager = Manager::start(site.start(None)).await.expect("a second start");
    let secrets = list_secrets(&manager).await;
    assert_eq!(secrets.len(), 1, "an acknowledged secret is there after a restart");
    assert!(!format!("{secrets:?}").contains("canary"), "a list shows no value");
    manager.stop().await;
    // A disk that is not mounted: the folder is there and empty.
    let (log, away) = (folder.join("manager"), folder.join("away"));
    std::fs::rename(&log, &away).expect("the folder can be moved");
    std::fs::create_dir(&log).expect("a mount point");
    let refused = Manager::start(site.start(None)).await.err().expect("it has promised what it does not know any more");
    assert!(matches!(refused, StartError::LogLost { raft_id: RAFT_ID, .. }), "{refused}");
    let text = refused.to_string();
    for part in ["not mounted", &format!("skep node demote {node}"), "skep node promote", "skep swarm leave --force"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(std::fs::read_dir(&log).expect("it is there").count(), 0, "nothing is put where the disk belongs");
    std::fs::remove_dir(&log).expect("it is empty");
    assert!(matches!(Manager::start(site.start(None)).await, Err(StartError::LogLost { .. })), "the folder is gone, too");
    std::fs::rename(&away, &log).expect("it comes back");
    let manager = Manager::start(site.start(None)).await.expect("the log is there again");
    assert_eq!(list_secrets(&manager).await.len(), 1);
    manager.stop().await;
}
