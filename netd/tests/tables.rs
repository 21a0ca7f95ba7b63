//! The tables of two nodes with real netds, as real traffic meets them.

#[expect(dead_code, reason = "the tests of rows need more of it")]
mod cluster;
mod published;

use cluster::*;
use futures_util::StreamExt as _;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use skep_model::network::Attachment;
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeService, OverlayChange, ServiceNetwork};
use skep_model::{ServiceId, TaskId};
use skep_netd::netlink::namespace::inside;
use skep_netd::nft::{Edit, Element, Socket, Table, Transaction};
use skep_proto::v1;
use skep_proto::v1::netd_change::Change;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::str::FromStr as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VIP: &str = "10.77.0.200";
const VIP6: &str = "fd77::200";
/// A client outside of the cluster, in both families.
const CLIENT: [&str; 2] = ["198.51.100.9", "2001:db8:f::9"];

/// The service on both networks, with a port each for TCP and UDP.
fn web() -> OverlayChange {
    let on = |network, addresses: &[&str]| ServiceNetwork {
        network: network_id(network),
        virtual_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        aliases: Vec::new(),
    };
    let port = |transport, target_port, published_port| PublishedPort {
        transport,
        target_port,
        published_port,
        publish_mode: PublishMode::Ingress,
    };
    OverlayChange::PutService(NodeService {
        id: service(),
        name: "web".to_owned(),
        networks: vec![on(0, &[VIP, VIP6]), on(1, &[])],
        ingress_ports: vec![port(Transport::Tcp, 80, 8080), port(Transport::Udp, 90, 9090)],
    })
}

fn published(node: usize, is_published: bool) -> Vec<Change> {
    let endpoint = |network| {
        overlay(&OverlayChange::PutEndpoint(Endpoint {
            id: EndpointId { network: network_id(network), task: task(node) },
            service: service(),
            node: node_id(node),
            addresses: addresses(network, node),
            names: Vec::new(),
            is_published,
        }))
    };
    vec![endpoint(0), endpoint(1)]
}

fn removed(node: usize) -> Vec<Change> {
    let gone = |network| overlay(&OverlayChange::RemoveEndpoint(EndpointId { network: network_id(network), task: task(node) }));
    vec![gone(0), gone(1)]
}

/// Two nodes that know the service; each task serves.
async fn serving(pins: &Pins, underlay: Underlay) -> [Node; 2] {
    let mut nodes = cluster(pins, underlay).await;
    for node in &mut nodes {
        node.send(vec![overlay(&web())], 2).await;
        serve(node);
    }
    nodes
}

/// The task of a node greets every connection with its number and the client's
/// address, and then echoes bytes; datagrams are answered the same way.
fn serve(node: &Node) {
    let name = node.number;
    let (listener, datagrams) = node.in_task(|| (TcpListener::bind("[::]:80").unwrap(), UdpSocket::bind("[::]:90").unwrap()));
    // The threads end with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let Ok(peer) = stream.peer_addr() else { return };
                let _ = stream.write_all(format!("{name} {}\n", peer.ip().to_canonical()).as_bytes());
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(&byte);
                }
            });
        }
    });
    std::thread::spawn(move || {
        while let Ok((_, peer)) = datagrams.recv_from(&mut [0; 64]) {
            let _ = datagrams.send_to(format!("{name} {}", peer.ip().to_canonical()).as_bytes(), peer);
        }
    });
}

/// Reads a greeting.
fn greeted(mut stream: &TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.extend(byte);
    }
}

fn open(to: &str) -> std::io::Result<(TcpStream, String)> {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(5))?;
    let greeting = greeted(&stream)?;
    Ok((stream, greeting))
}

/// A byte there and back.
fn ping(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_virtual_address_leads_to_the_tasks_of_all_nodes_and_refuses_without() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    for vip in [format!("{VIP}:80"), format!("[{VIP6}]:80")] {
        let seen: Vec<String> = (0..4).map(|_| nodes[0].in_task(|| open(&vip).unwrap().1)).collect();
        for number in 0..2 {
            let greeting = format!("{number} ");
            assert_eq!(seen.iter().filter(|line| line.starts_with(&greeting)).count(), 2, "{vip}: {seen:?}");
        }
    }
    for node in &mut nodes {
        node.send([published(0, false), published(1, false)].concat(), 3).await;
        let start = Instant::now();
        let error = node.in_task(|| open(&format!("{VIP}:80"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error = node.in_node(|| open("127.0.0.1:8080")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < within(Duration::from_secs(1)), "at once");
        node.send(published(1, true), 4).await;
        assert!(node.in_task(|| open(&format!("{VIP}:80"))).unwrap().1.starts_with("1 "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backends_are_swapped_under_traffic_without_a_failed_connection() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    let pin = std::fs::File::open(nodes[0].run.join("netns").join(task(0).as_str())).unwrap();
    let is_over = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let calls = || {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let (stream, _) = open(&format!("{VIP}:80")).unwrap_or_else(|error| panic!("call {count}: {error}"));
                    ping(&stream).unwrap_or_else(|error| panic!("call {count}: {error}"));
                    count += 1;
                }
                count
            };
            inside(pin.as_fd(), calls).unwrap()
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for round in 0..50 {
                    let (up, down) = (round % 2, 1 - round % 2);
                    let changes = [published(up as usize, true), published(down as usize, false)].concat();
                    nodes[0].send(changes, 3 + round).await;
                }
            });
        });
        is_over.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    println!("50 swaps under {count} connections");
    assert!(count > 50, "there was traffic: {count}");
    assert_eq!(nodes[0].status().await.repaired, Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_outlives_withdrawal_and_is_reset_when_its_task_is_gone() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    nodes[0].send(published(0, false), 3).await;
    let (by_vip, _) = nodes[0].in_task(|| open(&format!("{VIP}:80"))).unwrap();
    let (by_port, _) = nodes[0].in_node(|| open("192.0.2.1:8080")).unwrap();
    let datagrams = nodes[0].in_task(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    datagrams.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(ask(&datagrams).starts_with("1 "));
    nodes[0].send([published(0, true), published(1, false)].concat(), 4).await;
    for stream in [&by_vip, &by_port] {
        ping(stream).expect("streams are drained, not cut");
    }
    assert!(ask(&datagrams).starts_with("0 "), "datagrams move at once");
    nodes[0].send(removed(1), 5).await;
    for stream in [&by_vip, &by_port] {
        let start = Instant::now();
        let error = ping(stream).expect_err("the task is gone");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(start.elapsed() < within(Duration::from_secs(1)), "{:?}", start.elapsed());
    }
}

/// One of many tasks of the first node, of a service of their own.
fn one_of_many(number: u8) -> LocalTask {
    let address = IpAddr::from([10, 77, 1, number]);
    LocalTask {
        id: TaskId::from_random([100 + number; 16]),
        service: ServiceId::from_random([8; 16]),
        attachments: vec![Attachment {
            network: network_id(0),
            addresses: vec![address],
            aliases: Vec::new(),
            any_source: false,
        }],
        has_gateway: false,
        host_ports: Vec::new(),
        hostname: String::new(),
        dns: Default::default(),
    }
}

/// The endpoint of a task with one attachment.
fn endpoint_of(task: &LocalTask, node: usize) -> Change {
    overlay(&OverlayChange::PutEndpoint(Endpoint {
        id: EndpointId { network: network_id(0), task: task.id },
        service: task.service,
        node: node_id(node),
        addresses: task.attachments[0].addresses.clone(),
        names: Vec::new(),
        is_published: true,
    }))
}

/// Every one of many tasks has a connection to a backend, and asks it by datagrams:
/// when it vanishes, all of them notice within a second, and what else changes does
/// not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_vanished_backend_is_forgotten_by_many_tasks_while_rows_are_programmed() {
    let n_tasks = if std::env::var_os("SKEP_FULL").is_some() { 100 } else { 20 };
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    let tasks: Vec<LocalTask> = (1..=n_tasks).map(one_of_many).collect();
    let endpoints: Vec<Change> = tasks.iter().map(|task| endpoint_of(task, 0)).collect();
    nodes[1].send(endpoints.clone(), 3).await;
    let own = tasks.iter().map(|task| Change::PutTask(v1::LocalTask::from(task)));
    nodes[0].send(published(0, false).into_iter().chain(endpoints).chain(own).collect(), 3).await;
    let mut busy = Vec::new();
    for task in &tasks {
        let message = v1::NetdNamespace { task: Some(v1::LocalTask::from(task)), after: 1 };
        let path = nodes[0].client.make_namespace(message).await.unwrap().into_inner().path;
        let pin = std::fs::File::open(path).unwrap();
        let opened = inside(pin.as_fd(), || (open(&format!("{VIP}:80")).unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap()));
        let ((stream, greeting), datagrams) = opened.unwrap();
        assert!(greeting.starts_with("1 "), "{greeting}");
        datagrams.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(ask(&datagrams).starts_with("1 "));
        busy.push((stream, datagrams));
    }
    // A new row, to be seen in the kernel: a task of the other node.
    let newcomer = one_of_many(n_tasks + 1);
    let mut told = nodes[0].events(MulticastGroup::Neigh);
    let start = Instant::now();
    nodes[0].begin([published(0, true), removed(1)].concat(), 4).await;
    nodes[0].begin(vec![endpoint_of(&newcomer, 1)], 5).await;
    let programmed = async {
        while let Some((message, _)) = told.next().await {
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(new)) = message.payload else { continue };
            let IpAddr::V4(address) = newcomer.attachments[0].addresses[0] else { continue };
            if new.attributes.contains(&NeighbourAttribute::Destination(NeighbourAddress::Inet(address))) {
                return start.elapsed();
            }
        }
        panic!("the events ended");
    };
    let (row, ()) = tokio::join!(tokio::time::timeout(DEADLINE, programmed), nodes[0].reach(5));
    let (row, forgotten) = (row.expect("the row is made"), start.elapsed());
    for (stream, datagrams) in &busy {
        assert!(ask(datagrams).starts_with("0 "), "datagrams move at once");
        assert_eq!(ping(stream).expect_err("the task is gone").kind(), ErrorKind::ConnectionReset);
    }
    println!(
        "{n_tasks} tasks: a new row after {row:?}, everything forgotten after {forgotten:?}, seen after {:?}",
        start.elapsed()
    );
    let limit = within(Duration::from_secs(1));
    assert!(row < limit && forgotten < limit, "{row:?}, {forgotten:?}");
    let status = nodes[0].status().await;
    assert_eq!((status.repaired, status.failures), (Default::default(), Vec::new()));
}

/// Asks a virtual address by a datagram.
fn ask(datagrams: &UdpSocket) -> String {
    datagrams.send_to(b"?", format!("{VIP}:90")).unwrap();
    let mut answer = [0; 64];
    let (length, _) = datagrams.recv_from(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_goes_while_netd_is_down_leaves_no_connection_into_nowhere() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    nodes[0].send(published(0, false), 3).await;
    let (stays, greeting) = nodes[0].in_task(|| open(&format!("{VIP}:80"))).unwrap();
    assert!(greeting.starts_with("1 "));
    nodes[0].process.kill().unwrap();
    nodes[0].process.wait().unwrap();
    ping(&stays).expect("nobody needs netd for it");
    nodes[0].restart().await;
    nodes[0].apply_all().await;
    nodes[0].send(vec![overlay(&web())], 2).await;
    ping(&stays).expect("its tables were written anew, and it did not notice");
    nodes[0].process.kill().unwrap();
    nodes[0].process.wait().unwrap();
    nodes[0].restart().await;
    // This time the set is complete without the other task.
    nodes[0].apply_all_but(1).await;
    nodes[0].send(vec![overlay(&web())], 2).await;
    assert_eq!(ping(&stays).expect_err("the task is gone").kind(), ErrorKind::ConnectionReset);
    assert_eq!(nodes[0].status().await.repaired, Default::default());
}

/// Asks for the address of `web`, as RFC 1035 writes it.
const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_that_is_asked_for_while_netd_restarts_is_answered_by_the_next_one() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    let resolver = nodes[0].in_task(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    resolver.connect("127.0.0.11:53").unwrap();
    resolver.set_read_timeout(Some(DEADLINE)).unwrap();
    let ask = || resolver.send(QUESTION).unwrap();
    let answered = || {
        let mut reply = [0; 512];
        let length = resolver.recv(&mut reply).expect("an answer");
        assert!(reply[..length].ends_with(&[10, 77, 0, 200]), "the virtual address: {:?}", &reply[..length]);
    };
    ask();
    answered();
    for _ in 0..2 {
        nodes[0].process.kill().unwrap();
        nodes[0].process.wait().unwrap();
        ask();
        nodes[0].restart().await;
        nodes[0].apply_set(usize::MAX, vec![overlay(&web())]).await;
        // Once is enough.
        answered();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changed_tables_are_written_anew_within_a_second_and_named() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    nodes[0].send(published(0, false), 3).await;
    let mut in_task = nodes[0].in_task(Socket::open).unwrap();
    let mut in_node = nodes[0].in_node(Socket::open).unwrap();
    let delete = |table: &str| Edit::DeleteTable(Table::new(table));
    let flush = |table: &str, chain: &str| Edit::FlushChain(Table::new(table), chain.to_owned());
    let vip = Element::Member(IpAddr::from_str(VIP).unwrap().into());
    let damages = [
        (true, "skep_services", Edit::DeleteElements(Table::new("skep_services"), "v4".to_owned(), vec![vip])),
        (true, "skep_services", delete("skep_services")),
        (true, "skep_services", flush("skep_services", "output")),
        (true, "skep_mesh", flush("skep_mesh", "back")),
        (false, "skep_ingress", delete("skep_ingress")),
        (false, "skep_ingress", flush("skep_ingress", &format!("service_{}", service()))),
        (false, "skep_guard", flush("skep_guard", "arrive")),
        (false, "skep_senders", Edit::DeleteTable(Table::bridge("skep_senders"))),
        (false, "skep_egress", flush("skep_egress", "postrouting")),
        (false, "skep_underlay", delete("skep_underlay")),
    ];
    for (count, (is_in_task, table, damage)) in damages.into_iter().enumerate() {
        let socket = if is_in_task { &mut in_task } else { &mut in_node };
        let mut transaction = Transaction::new();
        transaction.push(damage.clone());
        let start = Instant::now();
        socket.commit(&transaction).unwrap();
        let repaired = async {
            loop {
                let status = nodes[0].status().await;
                if status.repaired.get("table").copied() == Some(count as u64 + 1) {
                    return status;
                }
            }
        };
        let status =
            tokio::time::timeout(within(Duration::from_secs(1)), repaired).await.unwrap_or_else(|_| panic!("{damage:?}"));
        println!("{table} after {:?}", start.elapsed());
        let last = status.repairs.last().unwrap();
        assert!(last.ends_with(&format!("table {table}")), "{last}");
        let (_, greeting) = nodes[0].in_task(|| open(&format!("{VIP}:80"))).unwrap();
        assert!(greeting.starts_with("1 "));
        assert!(nodes[0].in_node(|| open("192.0.2.1:8080")).unwrap().1.starts_with("1 "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drain_ends_with_the_last_busy_connection_and_not_before() {
    let pins = Pins::new();
    let nodes = serving(&pins, PLAIN).await;
    let drain = |limit_ms| {
        let mut client = nodes[0].client.clone();
        let request = v1::NetdDrain { task: task(0).to_string(), limit_ms };
        async move { client.drain(request).await.unwrap().into_inner().busy }
    };
    let start = Instant::now();
    assert_eq!(drain(30_000).await, 0);
    assert!(start.elapsed() < within(Duration::from_millis(500)), "nobody is there: {:?}", start.elapsed());
    let (stream, _) = nodes[1].in_task(|| open(&format!("{}:80", addresses(0, 0)[0]))).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if ping(&stream).is_err() {
                    return;
                }
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                assert_eq!(drain(300).await, 1, "the limit ends it");
                let mut waits = Box::pin(drain(30_000));
                assert!(tokio::time::timeout(Duration::from_millis(1500), &mut waits).await.is_err(), "it is busy");
                is_over.store(true, Ordering::Relaxed);
                stream.shutdown(std::net::Shutdown::Both).unwrap();
                let start = Instant::now();
                assert_eq!(waits.await, 0);
                assert!(start.elapsed() < within(Duration::from_secs(1)), "{:?}", start.elapsed());
            });
        });
    });
}
