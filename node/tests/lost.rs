//! What is lost and found again: a manager's log, its address, the quorum, a node that leaves.

mod common;

use common::{Daemon, text, wait_until};
use skep_proto::v1::*;
use std::time::{Duration, Instant};
use tonic::Code;

/// A founder and as many further managers, all of them up to date.
async fn managers(n: usize, init: InitRequest) -> (Vec<Daemon>, InitReply) {
    let mut managers = vec![Daemon::new()];
    let founded = managers[0].init(init).await.unwrap();
    let token = text(founded.manager_token.clone());
    for _ in 1..n {
        let joiner = Daemon::new();
        joiner.join(&managers[0].address, &token).await.unwrap();
        managers.push(joiner);
    }
    for manager in &managers {
        let id = manager.info().await.node_id;
        wait_until("every manager counts for the quorum", async || is_reachable(&managers[0], &id).await).await;
        wait_until("all managers answer", async || manager.nodes().await.is_ok()).await;
    }
    (managers, founded)
}

/// Whether a node is a manager that counts for the quorum.
async fn is_reachable(asked: &Daemon, id: &str) -> bool {
    let node = asked.nodes().await.unwrap_or_default().into_iter().find(|node| node.id == id);
    node.and_then(|node| node.plan?.value?.manager).is_some_and(|manager| !manager.unreachable)
}

fn network(name: &str) -> mutate_request::Mutation {
    let annotations = Some(Annotations { name: name.into(), ..Annotations::default() });
    let spec = NetworkSpec { annotations, driver: "overlay".into(), ..NetworkSpec::default() };
    mutate_request::Mutation::CreateNetwork(CreateNetwork { spec: Some(spec) })
}

async fn status(asked: &Daemon, id: &str) -> Option<NodeStatus> {
    asked.nodes().await.ok()?.into_iter().find(|node| node.id == id)?.status?.value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_whose_log_is_lost_takes_no_part_until_it_is_made_one_anew() {
    let (mut managers, _) = managers(3, InitRequest::default()).await;
    let lost = managers[2].info().await.node_id;
    managers[2].kill();
    std::fs::remove_dir_all(managers[2].data().join("manager")).unwrap();
    // An empty folder is what a mount point looks like whose disk is missing.
    std::fs::create_dir(managers[2].data().join("manager")).unwrap();
    managers[2].start();
    wait_until("it says what is wrong", async || managers[2].info().await.state() == LocalState::Error).await;
    let error = managers[2].info().await.error;
    for part in ["the log of this manager is not in", &format!("skep node demote {lost}"), "skep swarm leave --force"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(std::fs::read_dir(managers[2].data().join("manager")).unwrap().count(), 0);
    managers[0].mutate(network("n1")).await.unwrap();
    // The way out that it names.
    managers[0].set_role(&lost, Role::Worker).await.unwrap();
    wait_until("it is a worker", async || {
        let info = managers[2].info().await;
        !info.is_manager && info.state() == LocalState::Active
    })
    .await;
    managers[0].set_role(&lost, Role::Manager).await.unwrap();
    wait_until("it is a manager again", async || managers[2].nodes().await.is_ok()).await;
    assert_eq!(managers[2].info().await.error, "");
    // It counts for the quorum again: another one may be gone.
    wait_until("it has a vote", async || is_reachable(&managers[0], &lost).await).await;
    managers[1].kill();
    wait_until("changes are taken", async || managers[0].mutate(network("n2")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_may_come_back_under_another_address_one_after_the_other() {
    let (mut managers, founded) = managers(3, InitRequest::default()).await;
    let mut worker = Daemon::new();
    worker.join(&managers[0].address, &text(founded.worker_token)).await.unwrap();
    renumber_worker(&mut worker, &managers[1]).await;
    for number in 0..3 {
        let address = Daemon::free_address();
        let id = managers[number].info().await.node_id;
        managers[number].restart_after_kill(&["--advertise-addr", &address]);
        managers[number].address.clone_from(&address);
        wait_until("the others know the new address", async || {
            let asked = &managers[(number + 1) % 3];
            let node = asked.nodes().await.unwrap_or_default().into_iter().find(|node| node.id == id);
            let plan = node.and_then(|node| node.plan?.value?.manager);
            plan.is_some_and(|manager| manager.address == address)
        })
        .await;
        wait_until("it takes part", async || managers[number].nodes().await.is_ok()).await;
        // As an operator would look before the next is moved.
        wait_until("the worker knows the new address", async || worker.info().await.manager_addresses.contains(&address)).await;
        // It is one of the majority: another one may be gone.
        let other = (number + 2) % 3;
        managers[other].kill();
        let name = format!("n{number}");
        wait_until("changes are taken", async || managers[number].mutate(network(&name)).await.is_ok()).await;
        managers[other].start();
        wait_until("it is back", async || managers[other].nodes().await.is_ok()).await;
    }
    // A restart without a word changes nothing more.
    managers[0].restart_after_kill(&[]);
    wait_until("it is there", async || managers[0].nodes().await.is_ok()).await;
    // The worker has none of the addresses that it joined with.
    renumber_worker(&mut worker, &managers[2]).await;
}

/// A worker comes back under another address, which a manager knows of within seconds.
async fn renumber_worker(worker: &mut Daemon, asked: &Daemon) {
    let address = Daemon::free_address();
    let ip = address.split_once(':').unwrap().0;
    let id = worker.info().await.node_id;
    let begun = Instant::now();
    worker.restart_after_kill(&["--advertise-addr", &address]);
    worker.address.clone_from(&address);
    wait_until("the managers know where the worker is", async || {
        let node = asked.nodes().await.unwrap_or_default().into_iter().find(|node| node.id == id);
        let is_ready = node.as_ref().and_then(|node| node.status.as_ref()?.value.as_ref()).map(|status| status.state());
        let underlay = node.and_then(|node| node.description?.value?.underlay);
        is_ready == Some(NodeState::Ready) && underlay.is_some_and(|underlay| underlay.address == ip)
    })
    .await;
    let took = begun.elapsed();
    println!("the managers knew the worker's new address after {took:?}");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_change_is_refused_at_once_with_who_is_missing() {
    let (mut managers, _) = managers(3, InitRequest::default()).await;
    let gone = [managers[1].address.clone(), managers[2].address.clone()];
    managers[1].kill();
    managers[2].kill();
    for name in ["n1", "n2"] {
        let begun = Instant::now();
        let refused = managers[0].mutate(network(name)).await.expect_err("nobody can agree to it");
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(2_500), "it took {took:?}: {refused:?}");
        assert_eq!(refused.code(), Code::Unavailable);
        let text = refused.message();
        for part in ["The swarm does not have a leader.", "2 of 3 are needed", "test (", &gone[0], &gone[1]] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(managers[0].nodes().await.expect_err("a read is no better").message(), text);
    }
    managers[1].start();
    wait_until("the quorum is back", async || managers[0].mutate(network("n3")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_is_down_at_once_and_may_be_removed() {
    let slow = InitRequest { heartbeat_period: Some(10_000_000_000), ..InitRequest::default() };
    let (managers, founded) = managers(1, slow).await;
    let worker = Daemon::new();
    worker.join(&managers[0].address, &text(founded.worker_token)).await.unwrap();
    let id = worker.info().await.node_id;
    let is = async |state: NodeState| status(&managers[0], &id).await.is_some_and(|status| status.state() == state);
    wait_until("it is ready", async || is(NodeState::Ready).await).await;
    let begun = Instant::now();
    worker.leave(false).await.unwrap();
    wait_until("it is down", async || is(NodeState::Down).await).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "that took {took:?}");
    assert_eq!(status(&managers[0], &id).await.unwrap().message, "the node left the cluster");
    managers[0].mutate(mutate_request::Mutation::RemoveNode(RemoveNode { reference: id.clone(), force: false })).await.unwrap();
}
