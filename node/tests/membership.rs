//! Real daemons come into a cluster, change their roles in it and leave it, and
//! find their place again after they were killed.

mod common;

use common::{Daemon, refused, text, wait_until, worker};
use skep_identity::token::{JoinToken, RootDigest};
use skep_proto::v1::{Confidential, InitRequest, LocalState, NodeState, Role, UnlockKeyRequest, UnlockRequest};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_finds_its_place_again() {
    let mut m1 = Daemon::new();
    assert_eq!(m1.info().await.state(), LocalState::Inactive);
    refused(m1.nodes().await, Code::FailedPrecondition, "Use \"skep swarm init\" or \"skep swarm join\"");
    refused(m1.leave(true).await, Code::FailedPrecondition, "not part of a swarm");
    let bad = InitRequest { cert_expiry: Some(1), ..InitRequest::default() };
    refused(m1.init(bad).await, Code::InvalidArgument, "minimum certificate expiry time");
    assert!(m1.is_clean());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    assert_eq!(founded.address, m1.address);
    assert!(founded.unlock_key.is_none());
    refused(m1.init(InitRequest::default()).await, Code::FailedPrecondition, "already part of a swarm");
    let check = async |m1: &Daemon| {
        wait_until("the manager leads", async || m1.info().await.is_leader).await;
        let info = m1.info().await;
        assert_eq!((info.state(), &info.node_id, &info.cluster_id), (LocalState::Active, &founded.node_id, &founded.cluster_id));
        assert!(info.is_manager && info.managers == 1 && info.certificate_expires > 0);
        assert_eq!(m1.nodes().await.unwrap().len(), 1);
    };
    check(&m1).await;
    m1.restart_after_kill(&[]);
    check(&m1).await;
    m1.terminate().await;
    m1.start();
    check(&m1).await;
    refused(m1.leave(false).await, Code::FailedPrecondition, "Removing the last manager erases all current state");
    m1.leave(true).await.unwrap();
    assert_eq!(m1.info().await.state(), LocalState::Inactive);
    assert!(m1.is_clean());
    let again = m1.init(InitRequest::default()).await.unwrap();
    assert_ne!(again.cluster_id, founded.cluster_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_token_joins_and_a_refused_join_changes_nothing() {
    let (m1, mut w1) = (Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let token = text(founded.worker_token);
    // The right CA, but another secret; then another CA.
    let digest = JoinToken::parse(&token).unwrap().digest();
    let wrong = JoinToken::generate(digest).reveal().to_string();
    let foreign = JoinToken::generate(RootDigest::of(b"another CA")).reveal().to_string();
    let dead = "127.0.0.1:9";
    for (remote, token, code, words) in [
        (m1.address.as_str(), "SWMTKN-2", Code::InvalidArgument, "does not begin with SWMTKN-1-"),
        (m1.address.as_str(), wrong.as_str(), Code::PermissionDenied, "valid join token is necessary"),
        (m1.address.as_str(), foreign.as_str(), Code::PermissionDenied, "remote CA does not match fingerprint"),
        (dead, token.as_str(), Code::FailedPrecondition, "cannot reach a manager at 127.0.0.1:9"),
        ("nobody.invalid", token.as_str(), Code::FailedPrecondition, "cannot find the manager nobody.invalid:2377"),
        ("no such host", token.as_str(), Code::InvalidArgument, "expected HOST or HOST:PORT"),
    ] {
        refused(w1.join(remote, token).await, code, words);
        assert!(w1.is_clean(), "{words}");
        assert_eq!(w1.info().await.state(), LocalState::Inactive);
    }
    assert_eq!(m1.nodes().await.unwrap().len(), 1);
    let joined = w1.join(&m1.address, &token).await.unwrap();
    assert_eq!(joined.role(), Role::Worker);
    refused(w1.join(&m1.address, &token).await, Code::FailedPrecondition, "already part of a swarm");
    refused(w1.nodes().await, Code::FailedPrecondition, "Worker nodes can't be used");
    assert_eq!(m1.nodes().await.unwrap().len(), 2);
    w1.restart_after_kill(&[]);
    wait_until("the worker has a session", async || !w1.info().await.manager_addresses.is_empty()).await;
    assert_eq!(w1.info().await.node_id, joined.node_id);
    w1.leave(false).await.unwrap();
    assert!(w1.is_clean());
    let again = w1.join(&m1.address, &token).await.unwrap();
    assert_ne!(again.node_id, joined.node_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_network_daemon_is_there_and_not_ready_and_says_why() {
    let (m1, mut w1) = (Daemon::new(), Daemon::without_netd());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let joined = w1.join(&m1.address, &text(founded.worker_token)).await.unwrap();
    let status = async |id: &str| {
        let nodes = m1.nodes().await.unwrap_or_default();
        let node = nodes.into_iter().find(|node| node.id == id)?;
        let status = node.status?.value?;
        Some((status.state(), status.message))
    };
    let is_waiting = async || match status(&joined.node_id).await {
        Some((state, message)) => state != NodeState::Ready && message.starts_with("waits for skep-netd at "),
        None => false,
    };
    let is_ready = async |id: &str| status(id).await == Some((NodeState::Ready, String::new()));
    wait_until("the node with its network daemon is ready", async || is_ready(&founded.node_id).await).await;
    wait_until("the other one says what it waits for", is_waiting).await;
    // It knows the cluster, and says the same itself.
    let info = w1.info().await;
    assert_eq!(info.manager_addresses, std::slice::from_ref(&m1.address));
    assert!(info.warnings.iter().any(|warning| warning.starts_with("waits for skep-netd at ")), "{:?}", info.warnings);
    w1.restart_after_kill(&[]);
    wait_until("it says so again after a restart", async || {
        let info = w1.info().await;
        !info.manager_addresses.is_empty() && is_waiting().await
    })
    .await;
    w1.start_netd();
    wait_until("it becomes ready by itself", async || is_ready(&joined.node_id).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_becomes_a_manager_and_a_worker_again() {
    let (m1, mut w1, m2) = (Daemon::new(), Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let id = w1.join(&m1.address, &text(founded.worker_token)).await.unwrap().node_id;
    let manager_token = text(founded.manager_token);
    // Any manager admits; the newcomer learns its role from its token.
    assert_eq!(m2.join(&m1.address, &manager_token).await.unwrap().role(), Role::Manager);
    wait_until("the second manager answers", async || m2.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    m2.set_role(&id, Role::Manager).await.unwrap();
    wait_until("the worker is a manager", async || w1.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    w1.restart_after_kill(&[]);
    wait_until("it is one after a restart", async || w1.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    refused(w1.leave(false).await, Code::FailedPrecondition, "participating as a manager");
    m1.set_role(&id, Role::Worker).await.unwrap();
    wait_until("the manager is a worker", async || !w1.info().await.is_manager).await;
    wait_until("its log is gone", async || !w1.data().join("manager").exists()).await;
    let info = w1.info().await;
    assert_eq!((&info.node_id, info.error), (&id, String::new()));
    // Once more: its old raft id is spent, and the others know it under a new one.
    m1.set_role(&id, Role::Manager).await.unwrap();
    wait_until("the worker is a manager again", async || w1.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    assert!(w1.info().await.leader_id.is_some());
    wait_until("the leader reaches it", async || reachable(&m1, &id).await).await;
    m1.set_role(&id, Role::Worker).await.unwrap();
    wait_until("the manager is a worker again", async || !w1.info().await.is_manager).await;
    m2.leave(true).await.unwrap();
    assert!(m2.is_clean());
    wait_until("one manager is left", async || m1.info().await.managers == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_manager_waits_for_its_key() {
    let mut m1 = Daemon::new();
    let founded = m1.init(InitRequest { autolock: true, ..InitRequest::default() }).await.unwrap();
    let key = text(founded.unlock_key);
    assert!(!m1.data().join("identity/keystore.key").exists());
    let unlock = async |m1: &Daemon, key: &str| {
        let request = UnlockRequest { key: Some(Confidential::new(key.as_bytes())) };
        m1.local().unlock(request).await.map(drop)
    };
    refused(unlock(&m1, &key).await, Code::FailedPrecondition, "swarm is not locked");
    let rotated = m1.local().unlock_key(UnlockKeyRequest { rotate: true }).await.unwrap().into_inner();
    let rotated = text(rotated.key);
    assert_ne!(rotated, key);
    m1.restart_after_kill(&[]);
    wait_until("it is locked", async || m1.info().await.state() == LocalState::Locked).await;
    refused(m1.nodes().await, Code::FailedPrecondition, "needs to be unlocked");
    refused(m1.init(InitRequest::default()).await, Code::FailedPrecondition, "needs to be unlocked");
    refused(m1.leave(false).await, Code::FailedPrecondition, "needs to be unlocked");
    for wrong in [key.as_str(), "", "SWMKEY-1-short"] {
        refused(unlock(&m1, wrong).await, Code::InvalidArgument, "invalid key provided");
    }
    unlock(&m1, &rotated).await.unwrap();
    wait_until("it leads again", async || m1.nodes().await.is_ok_and(|nodes| nodes.len() == 1)).await;
    m1.restart_after_kill(&[]);
    wait_until("it is locked again", async || m1.info().await.state() == LocalState::Locked).await;
    m1.leave(true).await.unwrap();
    assert!(m1.is_clean());
}

/// A certificate of one hour is renewed once its second half has come, whenever
/// the daemon finds out.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_in_time() {
    let mut m1 = Daemon::new();
    let hour = 3_600_000_000_000;
    m1.init(InitRequest { cert_expiry: Some(hour), ..InitRequest::default() }).await.unwrap();
    let before = m1.info().await.certificate_expires;
    // Valid from an hour back for two: 45 minutes on, more than four fifths are over.
    m1.restart_after_kill(&["--clock-offset-ms", "2700000"]);
    wait_until("the certificate is another", async || m1.info().await.certificate_expires > before).await;
}

/// Every step that a daemon may have been killed at is gone on with or undone, as
/// its place on disk says.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_on_the_way_is_undone_or_finished() {
    let (mut m1, mut w1) = (Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let token = text(founded.worker_token);
    let joined = w1.join(&m1.address, &token).await.unwrap();
    let set_stage = |daemon: &mut Daemon, stage: &str| {
        daemon.kill();
        let path = daemon.data().join("node.json");
        let old = std::fs::read_to_string(&path).unwrap();
        let new = old.replace("\"stage\": \"member\"", &format!("\"stage\": \"{stage}\""));
        assert_ne!(old, new);
        std::fs::write(&path, new).unwrap();
        daemon.start();
    };
    let settled = async |daemon: &Daemon, state: LocalState| {
        wait_until("it has found its place", async || daemon.info().await.state() == state).await;
    };
    // The certificate was put away, the place not yet made final.
    set_stage(&mut w1, "joining");
    settled(&w1, LocalState::Active).await;
    assert_eq!(w1.info().await.node_id, joined.node_id);
    // On its way out.
    set_stage(&mut w1, "leaving");
    settled(&w1, LocalState::Inactive).await;
    assert!(w1.is_clean());
    w1.join(&m1.address, &token).await.unwrap();
    // A place without its keystore: told, and left by force.
    w1.kill();
    std::fs::remove_file(w1.data().join("identity/keystore")).unwrap();
    w1.start();
    settled(&w1, LocalState::Error).await;
    assert!(w1.info().await.error.contains("keystore is gone"));
    refused(w1.leave(false).await, Code::FailedPrecondition, "Use --force");
    w1.leave(true).await.unwrap();
    assert!(w1.is_clean());
    // A cluster that nobody was told of is none.
    set_stage(&mut m1, "founding");
    settled(&m1, LocalState::Inactive).await;
    assert!(m1.is_clean());
}

/// The moments are any; what is found afterwards is one of two things.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_nothing_half() {
    let (m1, mut other) = (Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let (worker, manager) = (text(founded.worker_token), text(founded.manager_token));
    for round in 0..20 {
        let mut chance = [0; 1];
        getrandom::fill(&mut chance).unwrap();
        let moment = std::time::Duration::from_millis(u64::from(chance[0]) * 2);
        let what = format!("round {round}, killed after {moment:?}");
        let begun = async {
            match round % 4 {
                0 | 2 => other.init(InitRequest::default()).await.map(drop),
                1 => other.join(&m1.address, &worker).await.map(drop),
                _ => other.join(&m1.address, &manager).await.map(drop),
            }
        };
        // Without an answer in time it is under way in the daemon.
        let answer = tokio::time::timeout(moment, begun).await;
        println!("{what}: {answer:?}");
        other.restart_after_kill(&[]);
        wait_until(&what, async || matches!(other.info().await.state(), LocalState::Inactive | LocalState::Active)).await;
        if other.info().await.state() == LocalState::Inactive {
            assert!(other.is_clean() && !matches!(answer, Ok(Ok(()))), "{what}");
            continue;
        }
        match round % 4 {
            1 => wait_until(&what, async || !other.info().await.manager_addresses.is_empty()).await,
            _ => wait_until(&what, async || other.nodes().await.is_ok()).await,
        }
        assert_eq!(other.info().await.error, "", "{what}");
        other.leave(true).await.unwrap();
        assert!(other.is_clean(), "{what}");
        wait_until(&what, async || m1.nodes().await.is_ok()).await;
    }
}

/// Whether a manager has a session with a node that is a manager too.
async fn reachable(manager: &Daemon, id: &str) -> bool {
    let nodes = manager.nodes().await.unwrap_or_default();
    let Some(node) = nodes.into_iter().find(|node| node.id == id) else { return false };
    let is_manager = node.plan.and_then(|plan| plan.value).is_some_and(|plan| plan.manager.is_some());
    let state = node.status.and_then(|status| status.value).map(|status| status.state());
    is_manager && state == Some(NodeState::Ready)
}

/// A joiner that did not get the answer asks anew, perhaps another manager.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_leaves_no_node_behind() {
    let (m1, m2) = (Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    m2.join(&m1.address, &text(founded.manager_token)).await.unwrap();
    wait_until("both answer", async || m2.nodes().await.is_ok_and(|nodes| nodes.len() == 2)).await;
    let key = skep_identity::ca::NodeKey::generate().unwrap();
    let request = worker::request(&key, &text(founded.worker_token), "w1");
    let mut ids = std::collections::BTreeSet::new();
    for manager in [&m1, &m2, &m1] {
        ids.insert(worker::issue(&manager.address, &request).await.unwrap().node_id);
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(m1.nodes().await.unwrap().len(), 3);
    // An address of another node is nobody else's; who has it is named.
    let claim = |advertise: &str| {
        let key = skep_identity::ca::NodeKey::generate().unwrap();
        let token = request.token.as_ref().unwrap().text().unwrap();
        skep_proto::v1::IssueRequest { advertise_address: advertise.into(), ..worker::request(&key, token, "w2") }
    };
    let (own, _) = m1.address.split_once(':').unwrap();
    let taken = format!("invalid --advertise-addr {own:?}: it is the address of node test ({})", founded.node_id);
    // Also where the manager that is asked only hands the request on.
    for manager in [&m1, &m2] {
        refused(worker::issue(&manager.address, &claim(own)).await, Code::InvalidArgument, &taken);
        refused(worker::issue(&manager.address, &claim("240.0.0.1")).await, Code::InvalidArgument, "reserved address");
        worker::issue(&manager.address, &claim("127.0.0.1")).await.expect("it connects from there");
    }
}

#[tokio::test]
async fn one_data_folder_has_one_daemon() {
    let m1 = Daemon::new();
    let second = m1.second();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another skepd uses the data folder") && said.lines().count() == 1, "{said}");
}
/// A daemon that is ended on purpose leaves no gap: its leadership is another's
/// when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_hands_over() {
    let (mut m1, m2, m3) = (Daemon::new(), Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let token = text(founded.manager_token);
    m2.join(&m1.address, &token).await.unwrap();
    m3.join(&m2.address, &token).await.unwrap();
    wait_until("all are managers", async || m3.info().await.managers == 3).await;
    wait_until("all have caught up", async || m3.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    wait_until("the others know the leader", async || m2.info().await.leader_id == Some(founded.node_id.clone())).await;
    m1.terminate().await;
    wait_until("another leads", async || {
        let leader = m2.info().await.leader_id;
        leader.is_some_and(|leader| leader != founded.node_id)
    })
    .await;
    wait_until("the other follows it", async || m3.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    m1.start();
    wait_until("it follows", async || m1.nodes().await.is_ok_and(|nodes| nodes.len() == 3)).await;
    assert!(!m1.info().await.is_leader);
}
