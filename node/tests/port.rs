//! What comes at a manager's port, or over it, takes down nothing but itself.

mod common;

use common::flood::{Http2, REFUSED_STREAM, Sent};
use common::{Daemon, flood, text, wait_until};
use skep_model::service::{Annotations, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig};
use skep_proto::v1::mutate_request::Mutation;
use skep_proto::v1::{
    Confidential, CreateSecret, CreateService, GetQuery, InitRequest, Kind, ListQuery, Object, ReadRequest, Remove, Task, object,
    read_request,
};
use std::collections::BTreeMap;
use std::time::Duration;

fn service(name: &str) -> Mutation {
    Mutation::CreateService(CreateService { spec: Some((&spec(name)).into()) })
}

fn spec(name: &str) -> ServiceSpec {
    let mut task_template = TaskSpec::default();
    task_template.container_spec.image = "busybox".into();
    ServiceSpec {
        annotations: Annotations { name: name.into(), labels: BTreeMap::new() },
        task_template,
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    }
}

/// The services whose tasks have a node.
async fn assigned(daemon: &Daemon) -> Vec<String> {
    let query = read_request::Query::List(ListQuery { kind: Kind::Task.into(), ..ListQuery::default() });
    let reply = daemon.control().read(ReadRequest { query: Some(query), stale: false }).await;
    let objects = reply.map(|reply| reply.into_inner().objects).unwrap_or_default();
    let task = |object: Object| match object.object {
        Some(object::Object::Task(task)) => Some(task),
        _ => None,
    };
    let has_node = |task: &Task| task.plan.as_ref().and_then(|plan| plan.value.as_ref()).is_some_and(|plan| plan.node.is_some());
    objects.into_iter().filter_map(task).filter(has_node).map(|task| task.service_name).collect()
}

/// How many nodes this manager knows in each state.
async fn states(daemon: &Daemon) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for node in daemon.nodes().await.unwrap_or_default() {
        let status = node.status.and_then(|status| status.value).unwrap_or_default();
        *states.entry(status.state().as_str_name().to_owned()).or_default() += 1;
    }
    states
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_a_service_is_placed_while_strangers_hold_and_fill_the_port() {
    let (n_idle, n_garbage) = if std::env::var_os("SKEP_FULL").is_some() { (1_000, 100) } else { (200, 20) };
    let (m1, w1) = (Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    wait_until("the manager's own node is ready", async || states(&m1).await.get("NODE_STATE_READY") == Some(&1)).await;
    let before = descriptors(&m1);
    // Idle ones of one address, which are cut off at its number of places…
    let mut idle = Vec::new();
    for _ in 0..n_idle {
        idle.extend(flood::connect([127, 99, 0, 1], &m1.address).await.ok());
    }
    assert!(!idle.is_empty(), "a place is anybody's while there is one");
    let held = descriptors(&m1) - before;
    assert!(held <= 100, "{n_idle} connections of one address hold {held} descriptors");
    // …and garbage of many.
    let mut garbage = tokio::task::JoinSet::new();
    for n in 0..n_garbage {
        garbage.spawn(flood::garbage([127, 99, 1, n as u8], m1.address.clone()));
    }
    let joined = tokio::time::timeout(Duration::from_secs(20), w1.join(&m1.address, &text(founded.worker_token))).await;
    joined.expect("a node joins in time").expect("a node joins");
    m1.mutate(service("web")).await.unwrap();
    wait_until("a task of the service has a node", async || assigned(&m1).await.contains(&"web".to_owned())).await;
    wait_until("both nodes are ready", async || states(&m1).await.get("NODE_STATE_READY") == Some(&2)).await;
    garbage.shutdown().await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_certificate_that_asks_for_nothing_ends() {
    let m1 = Daemon::new();
    m1.init(InitRequest::default()).await.unwrap();
    let mut silent = flood::connect([127, 99, 2, 1], &m1.address).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(25), async {
        use tokio::io::AsyncReadExt as _;
        let mut bytes = [0; 1024];
        while silent.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
    });
    ended.await.expect("the manager ends it");
}

/// Strangers may send what a certificate needs, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_not_send_much() {
    let m1 = Daemon::new();
    m1.init(InitRequest::default()).await.unwrap();
    let channel = skep_identity::tls::RootFetch::connect(&m1.address).await.unwrap().channel();
    let mut ca = skep_proto::v1::ca_client::CaClient::new(channel);
    let request = |length| skep_proto::v1::IssueRequest { csr: "A".repeat(length), ..Default::default() };
    let long = ca.issue(request(15 * 1024)).await.unwrap_err();
    assert!(long.message().contains("join token"), "that much is read: {long:?}");
    let longer = ca.issue(request(25 * 1024)).await.unwrap_err();
    assert_eq!(longer.code(), tonic::Code::OutOfRange, "{longer:?}");
}

/// What the manager sends next on a stranger's connection, which ends within a minute whatever happens on it.
async fn next(stranger: &mut Http2) -> Option<Sent> {
    tokio::time::timeout(Duration::from_secs(90), stranger.next()).await.expect("the connection ends in time")
}

/// Strangers may open what they like: the manager looks at few of their calls at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_has_few_calls_at_once() {
    let m1 = Daemon::new();
    m1.init(InitRequest::default()).await.unwrap();
    let mut stranger = Http2::connect([127, 99, 4, 1], &m1.address).await;
    // A client's streams have odd numbers.
    let too_many = 2 * skep_identity::tls::UNAUTHENTICATED_STREAMS_MAX + 1;
    for stream in (1..=too_many).step_by(2) {
        stranger.begin(stream).await;
    }
    assert_eq!(next(&mut stranger).await, Some(Sent::Reset { stream: too_many, code: REFUSED_STREAM }));
    // Those that have a place go on, and the place is another's when one has ended.
    stranger.finish(1).await;
    assert_eq!(next(&mut stranger).await, Some(Sent::Answer { stream: 1 }));
    stranger.begin(too_many + 2).await;
    stranger.finish(too_many + 2).await;
    assert_eq!(next(&mut stranger).await, Some(Sent::Answer { stream: too_many + 2 }));
}

/// A call holds its place for half a minute at most, and its connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_stranger_that_says_nothing_is_ended() {
    let m1 = Daemon::new();
    m1.init(InitRequest::default()).await.unwrap();
    let mut stranger = Http2::connect([127, 99, 5, 1], &m1.address).await;
    stranger.begin(1).await;
    assert_eq!(next(&mut stranger).await, Some(Sent::Answer { stream: 1 }), "the call ends before the connection does");
    stranger.begin(3).await;
    stranger.finish(3).await;
    let mut sent = next(&mut stranger).await;
    // The rest of the first call is not wanted any more.
    while matches!(sent, Some(Sent::Reset { stream: 1, .. })) {
        sent = next(&mut stranger).await;
    }
    assert_eq!(sent, Some(Sent::Answer { stream: 3 }));
}

/// Out of descriptors, a manager turns newcomers away, and takes them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_manager_without_descriptors_for_more_lives_on() {
    let m1 = Daemon::new();
    m1.init(InitRequest::default()).await.unwrap();
    wait_until("its node is ready", async || states(&m1).await.get("NODE_STATE_READY") == Some(&1)).await;
    let limit = descriptors(&m1) + 8;
    let arguments = [format!("--pid={}", m1.pid()), format!("--nofile={limit}:{limit}")];
    assert!(std::process::Command::new("prlimit").args(arguments).status().unwrap().success());
    let mut held = Vec::new();
    for n in 0..32 {
        held.extend(flood::connect([127, 99, 3, n], &m1.address).await.ok());
    }
    assert!(held.len() < 32, "some were turned away");
    assert!(m1.said("out of descriptors"), "it says why");
    drop(held);
    wait_until("it takes connections again", async || flood::connect([127, 99, 3, 40], &m1.address).await.is_ok()).await;
    m1.mutate(service("web")).await.unwrap();
}

/// The leader's loop, the agent's, one call, the preparation of one task: a panic ends the
/// daemon, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_daemon_with_its_sentence_and_it_starts_again() {
    for (place, sentence) in [
        ("manager", "the manager's loop panicked"),
        ("agent", "the agent's loop panicked"),
        ("call", "panicked"),
        ("task", "panicked"),
    ] {
        let mut m1 = Daemon::planted(&format!("{place}=boom"));
        m1.init(InitRequest::default()).await.unwrap();
        wait_until("its node is ready", async || states(&m1).await.get("NODE_STATE_READY") == Some(&1)).await;
        // The answer may be lost with the daemon.
        let _lost = tokio::time::timeout(Duration::from_secs(25), m1.mutate(service("boom"))).await;
        let code = m1.ended().await;
        assert_eq!(code, Some(skep_host::process::EXIT_FAULT), "{place}");
        assert!(m1.said(&format!("{sentence}: planted in {place} for boom; this process ends")), "{place}");
        // Whoever supervises it starts it again, here without the fault.
        m1.start();
        wait_until("it leads again", async || m1.info().await.is_leader).await;
        m1.mutate(service("web")).await.unwrap();
    }
}

/// One service that no leader can decide about is set aside by each of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_one_service_in_every_manager_costs_that_service_alone() {
    let daemons = [(); 3].map(|()| Daemon::planted("draft=boom"));
    let [m1, m2, m3] = &daemons;
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let token = text(founded.manager_token);
    m2.join(&m1.address, &token).await.unwrap();
    m3.join(&m1.address, &token).await.unwrap();
    wait_until("all nodes are ready", async || states(m1).await.get("NODE_STATE_READY") == Some(&3)).await;
    m1.mutate(service("boom")).await.unwrap();
    for n in 0..3 {
        m1.mutate(service(&format!("web{n}"))).await.unwrap();
    }
    let is_placed = async || {
        let assigned = assigned(m1).await;
        (0..3).all(|n| assigned.contains(&format!("web{n}"))) && !assigned.contains(&"boom".to_owned())
    };
    let started = std::time::Instant::now();
    wait_until("all other services are placed", is_placed).await;
    println!("all other services were placed within {:?}", started.elapsed());
    let cause = async || {
        let get = read_request::Query::Get(GetQuery { kind: Kind::Service.into(), reference: "boom".into() });
        let reply = m1.control().read(ReadRequest { query: Some(get), stale: false }).await.unwrap().into_inner();
        let Some(object::Object::Service(service)) = reply.objects.into_iter().next().and_then(|object| object.object) else {
            panic!("the service is there")
        };
        let deployment = service.plan.and_then(|plan| plan.value).and_then(|plan| plan.deployment);
        deployment.map(|deployment| deployment.cause).unwrap_or_default()
    };
    wait_until("the service says why", async || cause().await.starts_with(skep_model::deployment::SET_ASIDE)).await;
    assert!(cause().await.contains("planted for service boom"), "{}", cause().await);
    for daemon in &daemons {
        assert!(daemon.said_nothing_of("this process ends"));
    }
}

/// A task that has not ended keeps the secret that it references, whatever became of its service.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_not_removed_under_a_task_whose_node_is_away() {
    let (m1, mut w1) = (Daemon::new(), Daemon::new());
    let founded = m1.init(InitRequest::default()).await.unwrap();
    let joined = w1.join(&m1.address, &text(founded.worker_token)).await.unwrap();
    wait_until("both nodes are ready", async || states(&m1).await.get("NODE_STATE_READY") == Some(&2)).await;
    let annotations = Some((&Annotations { name: "key".into(), ..Annotations::default() }).into());
    m1.mutate(Mutation::CreateSecret(CreateSecret { annotations, value: Some(Confidential::new(*b"canary")) })).await.unwrap();
    let secret = {
        let get = read_request::Query::Get(GetQuery { kind: Kind::Secret.into(), reference: "key".into() });
        let reply = m1.control().read(ReadRequest { query: Some(get), stale: false }).await.unwrap().into_inner();
        match reply.objects.into_iter().next().and_then(|object| object.object) {
            Some(object::Object::Secret(secret)) => secret.id,
            other => panic!("{other:?}"),
        }
    };
    let mut spec = spec("web");
    spec.task_template.placement.constraints = vec![format!("node.id=={}", joined.node_id)];
    spec.task_template.container_spec.secrets = vec![skep_model::container::SecretReference {
        id: secret.parse().unwrap(),
        name: "key".into(),
        version: None,
        file: skep_model::container::FileTarget { name: "key".into(), uid: 0, gid: 0, mode: 0o400 },
    }];
    // Its node goes away before it ever hears of the task: nobody can say that the task has ended.
    w1.kill();
    m1.mutate(Mutation::CreateService(CreateService { spec: Some((&spec).into()) })).await.unwrap();
    wait_until("a task of the service has a node", async || assigned(&m1).await.contains(&"web".to_owned())).await;
    m1.mutate(Mutation::RemoveService(Remove { reference: "web".into() })).await.unwrap();
    let removal = || Mutation::RemoveSecret(Remove { reference: "key".into() });
    let refused = m1.mutate(removal()).await.expect_err("a task needs it");
    assert!(refused.message().contains("task web.1.") && refused.message().contains("has not ended"), "{refused:?}");
    // The node comes back, hears of everything, and goes on taking tasks.
    w1.start();
    wait_until("the secret can go once the task has ended", async || m1.mutate(removal()).await.is_ok()).await;
    wait_until("both nodes are ready", async || states(&m1).await.get("NODE_STATE_READY") == Some(&2)).await;
}
