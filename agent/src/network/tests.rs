//! The set that is kept, as a network daemon is told of it, and the stream to one
//! that comes and goes.

use super::*;
use skep_model::container::DnsConfig;
use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use skep_model::network::Attachment;
use skep_model::overlay::{NodeNetwork, Peer};
use skep_model::service::{NetworkMode, TaskSpec};
use skep_model::task::{TaskPlan, TaskStatus};
use skep_model::{Meta, NetworkId, Section, ServiceId, TaskState, Time};
use skep_proto::v1::netd_change::Change;
use skep_proto::v1::netd_server::{Netd, NetdServer};
use std::pin::Pin;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

/// For anything that a test waits for.
const WAIT_MAX: Duration = Duration::from_secs(10);

fn place(socket: &Path) -> Place {
    Place { socket: socket.into(), node: NodeId::from_random([1; 16]), address: IpAddr::from([10, 0, 0, 1]) }
}

fn network(number: u8) -> NetworkId {
    NetworkId::from_random([number; 16])
}

fn task_id(number: u8) -> TaskId {
    TaskId::from_random([number; 16])
}

fn peer(number: u8) -> OverlayChange {
    let address = IpAddr::from([10, 0, 0, number]);
    OverlayChange::PutPeer(Peer { node: NodeId::from_random([number; 16]), address, ingress: None })
}

fn put_network(number: u8, internal: bool, ingress: bool) -> OverlayChange {
    let (id, name) = (network(number), format!("n{number}"));
    OverlayChange::PutNetwork(NodeNetwork { id, name, vni: number.into(), pools: Vec::new(), mtu: None, internal, ingress })
}

fn task(number: u8, networks: &[u8]) -> Arc<Task> {
    let place = |number: &u8| Attachment {
        network: network(*number),
        addresses: vec![IpAddr::from([10, *number, 0, 9])],
        aliases: Vec::new(),
        any_source: false,
    };
    Arc::new(Task {
        id: task_id(number),
        meta: Meta::default(),
        service_id: ServiceId::from_random([9; 16]),
        service_name: "web".into(),
        service_labels: Default::default(),
        slot: 1,
        spec: Arc::new(TaskSpec { network: NetworkMode::Bridge, ..TaskSpec::default() }),
        spec_version: 1,
        networks: networks.iter().map(place).collect(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan::new(TaskState::Running, Time::ZERO)),
        status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
    })
}

fn local(task: &Arc<Task>) -> Local {
    Local { task: task.clone(), hostname: "web".into(), host_ports: Vec::new() }
}

fn host_port() -> PublishedPort {
    PublishedPort { transport: Transport::Tcp, target_port: 80, published_port: 8080, publish_mode: PublishMode::Host }
}

fn link(chain: u64, version: u64) -> Link {
    Link { chain, version }
}

/// What was said, one word each.
fn words(changes: &[v1::NetdChange]) -> Vec<String> {
    use v1::overlay_change::Change as Overlay;
    let word = |change: &v1::NetdChange| match change.change.as_ref().expect("there is a change") {
        Change::Reset(_) => "reset".to_owned(),
        Change::Node(node) => format!("node port {}", node.port),
        Change::PutTask(task) => format!("task gateway {}", task.has_gateway),
        Change::RemoveTask(_) => "no task".to_owned(),
        Change::Commit(version) => format!("commit {version}"),
        Change::Overlay(change) => match change.change.as_ref().expect("there is a change") {
            Overlay::PutPeer(peer) => format!("peer {}", peer.address),
            Overlay::PutNetwork(network) => format!("network {}", network.name),
            Overlay::RemovePeer(_) => "no peer".to_owned(),
            Overlay::RemoveNetwork(_) => "no network".to_owned(),
            other => format!("{other:?}"),
        },
    };
    changes.iter().map(word).collect()
}

fn desired() -> Desired {
    Desired::new(NodeId::from_random([1; 16]), IpAddr::from([10, 0, 0, 1]), 100)
}

#[test]
fn a_stream_begins_with_everything_and_goes_on_with_what_is_new() {
    let mut desired = desired();
    desired.put_task(local(&task(1, &[])));
    desired.learn(4789, false);
    // Nothing was told: what would not be named would be taken for gone.
    assert!(desired.everything().is_none());
    desired.tell(link(1, 1), true, vec![peer(1), peer(2), put_network(5, false, false)]);
    let all = ["reset", "node port 4789", "peer 10.0.0.1", "peer 10.0.0.2", "network n5", "task gateway true", "commit 103"];
    assert_eq!(words(&desired.everything().unwrap()), all);
    assert_eq!(words(&desired.news(103)), [""; 0]);
    desired.tell(link(1, 2), false, vec![OverlayChange::RemoveNetwork(network(5))]);
    desired.tell(link(1, 3), false, Vec::new());
    assert!(desired.remove_task(task_id(1)) && !desired.remove_task(task_id(1)));
    assert_eq!(words(&desired.news(103)), ["no network", "no task", "commit 106"]);
    // A link without anything still moves the version.
    desired.tell(link(1, 4), false, Vec::new());
    assert_eq!(words(&desired.news(106)), ["commit 107"]);
    desired.stream_ended();
    desired.tell(link(1, 5), false, vec![peer(3)]);
    let all = ["reset", "node port 4789", "peer 10.0.0.1", "peer 10.0.0.2", "peer 10.0.0.3", "commit 108"];
    assert_eq!(words(&desired.everything().unwrap()), all);
}

#[test]
fn what_a_complete_set_does_not_name_is_gone() {
    let mut desired = desired();
    desired.learn(4789, false);
    desired.tell(link(1, 1), true, vec![peer(1), peer(2), put_network(5, false, false)]);
    desired.everything().unwrap();
    desired.tell(link(2, 1), true, vec![peer(2)]);
    assert_eq!(words(&desired.news(0)), ["peer 10.0.0.2", "no network", "no peer", "commit 103"]);
}

#[test]
fn progress_is_the_newest_link_of_the_newest_chain() {
    let mut desired = desired();
    desired.learn(4789, false);
    for version in 1..=3 {
        desired.tell(link(1, version), version == 1, Vec::new());
    }
    assert_eq!(desired.programmed(101), None);
    assert_eq!(desired.programmed(103), Some(link(1, 2)));
    assert_eq!(desired.programmed(103), None);
    desired.tell(link(2, 1), true, Vec::new());
    assert_eq!(desired.programmed(104), None);
    assert_eq!(desired.programmed(105), Some(link(2, 1)));
}

#[test]
fn a_task_has_a_gateway_unless_every_network_of_it_is_internal() {
    let mut desired = desired();
    let networks = vec![put_network(1, true, false), put_network(2, false, false), put_network(3, true, true)];
    desired.tell(link(1, 1), true, networks);
    let table: [(&[u8], bool, bool); 6] = [
        (&[], false, true),
        (&[1], false, false),
        (&[1], true, true),
        (&[2], false, true),
        (&[1, 2], false, true),
        (&[1, 3], false, true),
    ];
    for (networks, has_port, expected) in table {
        let host_ports = if has_port { vec![host_port()] } else { Vec::new() };
        let made = desired.local_task(&Local { host_ports, ..local(&task(1, networks)) });
        assert_eq!(made.has_gateway, expected, "{networks:?} {has_port}");
        assert_eq!((made.hostname.as_str(), made.dns, made.attachments.len()), ("web", DnsConfig::default(), networks.len()));
    }
}

/// A network daemon that says what it was told.
struct Told(mpsc::UnboundedSender<String>);

#[tonic::async_trait]
impl Netd for Told {
    type ApplyStream = Pin<Box<dyn Stream<Item = Result<v1::NetdProgress, Status>> + Send>>;

    async fn apply(&self, request: Request<Streaming<v1::NetdChange>>) -> Result<Response<Self::ApplyStream>, Status> {
        let told = self.0.clone();
        let progress = request.into_inner().filter_map(move |change| {
            let change = change.ok()?;
            let word = words(std::slice::from_ref(&change)).remove(0);
            // The version of a commit follows from the clock.
            let word = if word.starts_with("commit ") { "commit" } else { word.split(" 1").next().unwrap_or_default() };
            let _ = told.send(word.to_owned());
            match change.change {
                Some(Change::Commit(programmed_through)) => Some(Ok(v1::NetdProgress { programmed_through, faults: None })),
                _ => None,
            }
        });
        Ok(Response::new(Box::pin(progress)))
    }

    async fn status(&self, _: Request<v1::NetdStatusRequest>) -> Result<Response<v1::NetdStatus>, Status> {
        let tasks = vec![task_id(1).to_string(), task_id(7).to_string()];
        Ok(Response::new(v1::NetdStatus { tasks, ..v1::NetdStatus::default() }))
    }

    async fn make_namespace(&self, request: Request<v1::NetdNamespace>) -> Result<Response<v1::NetdNamespacePath>, Status> {
        let task = request.into_inner().task.unwrap_or_default();
        if task.has_gateway {
            return Ok(Response::new(v1::NetdNamespacePath { path: format!("/run/{}", task.hostname) }));
        }
        Err(Status::internal("no bridge can be made"))
    }

    async fn remove_namespace(&self, request: Request<v1::NetdTask>) -> Result<Response<v1::NetdRemoved>, Status> {
        let _ = self.0.send(format!("removes {}", request.into_inner().task));
        Ok(Response::new(v1::NetdRemoved {}))
    }

    async fn drain(&self, _: Request<v1::NetdDrain>) -> Result<Response<v1::NetdDrained>, Status> {
        Ok(Response::new(v1::NetdDrained { busy: 0 }))
    }

    async fn probe(&self, _: Request<v1::NetdProbe>) -> Result<Response<v1::NetdProbed>, Status> {
        Err(Status::unimplemented("nothing is probed here"))
    }
}

/// A network daemon at a socket, until it is killed.
fn serve(socket: &Path) -> (Runtime, mpsc::UnboundedReceiver<String>) {
    let (sender, told) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = {
        let _entered = runtime.enter();
        skep_host::unix::bind(socket, None).unwrap()
    };
    let incoming = skep_host::unix::LocalIncoming(listener);
    let server = skep_host::unix::local_server().add_service(NetdServer::new(Told(sender)));
    runtime.spawn(server.serve_with_incoming(incoming));
    (runtime, told)
}

/// Ends a network daemon as a kill of its process would: once this returns, nothing of it listens or is connected any more.
async fn kill(daemon: Runtime) {
    tokio::task::spawn_blocking(move || daemon.shutdown_timeout(WAIT_MAX)).await.unwrap();
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    let next = tokio::time::timeout(WAIT_MAX, receiver.recv()).await;
    next.expect("it comes in time").expect("it goes on")
}

/// The next words up to a commit.
async fn until_commit(told: &mut mpsc::UnboundedReceiver<String>) -> Vec<String> {
    let mut words = Vec::new();
    while words.last().is_none_or(|word| word != "commit") {
        words.push(next(told).await);
    }
    words
}

#[tokio::test]
async fn a_network_daemon_that_comes_late_or_again_is_told_everything() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let (inbox, mut events) = Inbox::new();
    let place = place(&socket);
    let network = Network::new(place, folder.path(), "this".into(), inbox);
    let stop = CancellationToken::new();
    tokio::spawn(network.clone().run(stop.clone()));
    network.learn(4789, false);
    network.tell(1, 1, true, vec![peer(2)]);
    let mut standing = network.standing();
    assert!(!standing.borrow().has_answered);
    // The task waits for the network daemon, which is not there yet.
    let making = tokio::spawn({
        let network = network.clone();
        let mut task = task(7, &[]);
        Arc::make_mut(&mut task).ports = vec![PublishedPort { published_port: 0, ..host_port() }];
        let folder = folder.path().to_owned();
        async move { network.make_namespace(&task, "web".into(), &folder).await }
    });
    let (daemon, mut told) = serve(&socket);
    let made = making.await.unwrap().unwrap();
    assert_eq!(made.path, Path::new("/run/web"));
    assert!(matches!(&made.host_ports[..], [port] if port.published_port != 0 && port.target_port == 80), "{made:?}");
    standing.wait_for(|standing| standing.has_answered && standing.trouble.is_none()).await.unwrap();
    let mut words = until_commit(&mut told).await;
    words.retain(|word| word != &format!("removes {}", task_id(1)));
    assert_eq!(words, ["reset", "node port 4789", "peer", "task gateway true", "commit"]);
    let event = next(&mut events).await;
    assert!(matches!(event, Event::NetworkProgrammed { chain: 1, version: 1 }), "{event:?}");
    kill(daemon).await;
    let lost = standing.wait_for(|standing| standing.trouble.is_some());
    tokio::time::timeout(WAIT_MAX, lost).await.expect("the loss is seen in time").unwrap();
    network.tell(1, 2, false, vec![peer(3)]);
    let (daemon, mut told) = serve(&socket);
    let mut words = until_commit(&mut told).await;
    words.retain(|word| !word.starts_with("removes"));
    assert_eq!(words, ["reset", "node port 4789", "peer", "peer", "task gateway true", "commit"].map(str::to_owned));
    let event = next(&mut events).await;
    assert!(matches!(event, Event::NetworkProgrammed { chain: 1, version: 2 }), "{event:?}");
    network.drain(task_id(7), Duration::from_secs(1));
    let event = next(&mut events).await;
    assert!(matches!(event, Event::Drained { task } if task == task_id(7)), "{event:?}");
    network.remove_namespace(task_id(7)).await;
    let mut words = until_commit(&mut told).await;
    words.retain(|word| word != &format!("removes {}", task_id(1)) && word != &format!("removes {}", task_id(7)));
    assert_eq!(words, ["no task", "commit"]);
    network.clear().await;
    let mut words = until_commit(&mut told).await;
    words.retain(|word| !word.starts_with("removes"));
    assert_eq!(words, ["reset", "commit"]);
    stop.cancel();
    kill(daemon).await;
}

#[tokio::test]
async fn what_keeps_a_task_from_its_network_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let (inbox, _events) = Inbox::new();
    let place = place(&socket);
    let network = Network::new(place, folder.path(), "this".into(), inbox);
    network.tell(1, 1, true, vec![put_network(1, true, false)]);
    let nobody = network.call(Duration::from_millis(300), |mut client| async move {
        client.remove_namespace(v1::NetdTask { task: String::new() }).await
    });
    let error = nobody.await.unwrap_err();
    let expected = format!("skep-netd at {} did not answer within 0.3 s: ", socket.display());
    assert!(error.starts_with(&expected), "{error}");
    let (daemon, _told) = serve(&socket);
    let made = network.make_namespace(&task(7, &[1]), "web".into(), folder.path()).await;
    assert_eq!(made, Err("no bridge can be made".to_owned()));
    kill(daemon).await;
}

/// What a network daemon is told first by a daemon that starts with this data folder.
async fn told_at_start(folder: &Path, boot: &str) -> Option<Vec<String>> {
    let socket = folder.join("netd.sock");
    let (inbox, _events) = Inbox::new();
    let network = Network::new(place(&socket), folder, boot.into(), inbox);
    if !network.is_known() {
        return None;
    }
    let (daemon, mut told) = serve(&socket);
    let stop = CancellationToken::new();
    let running = tokio::spawn(network.clone().run(stop.clone()));
    let words = until_commit(&mut told).await;
    stop.cancel();
    running.await.unwrap();
    kill(daemon).await;
    Some(words.into_iter().filter(|word| !word.starts_with("removes")).collect())
}

#[tokio::test]
async fn after_a_reboot_the_networks_are_as_they_were_last_told() {
    let folder = tempfile::tempdir().unwrap();
    let tell = async |boot: &str, change: &dyn Fn(&Network)| {
        let (inbox, _events) = Inbox::new();
        let network = Network::new(place(&folder.path().join("none.sock")), folder.path(), boot.into(), inbox);
        change(&network);
        let stop = CancellationToken::new();
        let running = tokio::spawn(network.clone().run(stop.clone()));
        // What was told is kept at the end at the latest.
        tokio::task::yield_now().await;
        stop.cancel();
        running.await.unwrap();
        network
    };
    tell("first", &|network| {
        network.learn(4789, false);
        network.tell(1, 1, true, vec![peer(2), put_network(1, false, false)]);
        network.tell(1, 2, false, vec![peer(3)]);
    })
    .await;
    assert_eq!(told_at_start(folder.path(), "first").await, None, "the kernel of this boot has something newer");
    let expected = ["reset", "node port 4789", "peer", "peer", "network n1", "commit"].map(str::to_owned);
    assert_eq!(told_at_start(folder.path(), "second").await, Some(expected.into()));
    // A manager's complete set takes away what is not there any more.
    let network = tell("third", &|network| network.tell(1, 1, true, vec![peer(2)])).await;
    assert_eq!(network.lock().to_keep().unwrap().objects, [peer(2)]);
    assert_eq!(
        told_at_start(folder.path(), "fourth").await,
        Some(["reset", "node port 4789", "peer", "commit"].map(str::to_owned).into())
    );
}

#[tokio::test]
async fn what_was_kept_and_is_damaged_or_of_another_node_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |node: u8| Kept { path: folder.path().join("overlay"), node: NodeId::from_random([node; 16]), boot: "a".into() };
    let overlay = kept::Overlay { port: 4789, isolate_nodes: true, objects: vec![peer(2)] };
    kept(1).save(&overlay);
    assert_eq!(kept(1).load(), Some((overlay.clone(), true)));
    assert!(kept(2).load().is_none());
    assert!(!folder.path().join("overlay").exists(), "it is dropped");
    kept(1).save(&overlay);
    let mut bytes = std::fs::read(folder.path().join("overlay")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(folder.path().join("overlay"), bytes).unwrap();
    assert!(kept(1).load().is_none());
    assert!(kept(1).load().is_none(), "and nothing is there");
}
