//! The rules as real traffic meets them.

use super::expression::Verdict;
use super::object::{Chain, Rule, Table};
use super::services::{self, Service};
use super::tables::forgetting::{Forgetting, Unwanted};
use super::testing::Namespace;
use super::*;
use skep_model::endpoint::{Transport, wire_port};
use skep_model::{ServiceId, TaskId};
use skep_netd_core::{
    EgressSubnet, HostPort, IngressNode, IngressPort, Mac, Name, Namespace as InKernel, Vanished, WirePort, ingress_mark,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);

/// A TCP server in a namespace that greets every connection with its name and then echoes one byte.
fn greet(namespace: &Namespace, address: &str, name: u8) {
    let listener = namespace.run(|| TcpListener::bind(address).expect("the address is free"));
    // The thread ends with the test's process; its listener keeps the namespace no longer than that.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let peer = stream.peer_addr().expect("a peer");
                let _ = stream.write_all(format!("{} {peer}\n", char::from(name)).as_bytes());
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    let _ = stream.write_all(&[name]);
                }
            });
        }
    });
}

/// A UDP server that answers every datagram with its name.
fn answer(namespace: &Namespace, address: &str, name: u8) {
    let socket = namespace.run(|| UdpSocket::bind(address).expect("the address is free"));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&[name], peer);
        }
    });
}

struct Client {
    stream: TcpStream,
    name: char,
    seen_as: SocketAddr,
}

fn connect(namespace: &Namespace, address: &str) -> std::io::Result<Client> {
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&address.parse().expect("an address"), DEADLINE))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).expect("a greeting");
    let (name, peer) = line.trim().split_once(' ').expect("name and peer");
    Ok(Client { stream, name: name.parse().expect("one letter"), seen_as: peer.parse().expect("an address") })
}

fn names(namespace: &Namespace, address: &str, n: usize) -> String {
    (0..n).map(|_| connect(namespace, address).expect("a connection").name).collect()
}

fn ask(socket: &UdpSocket, address: &str) -> char {
    socket.send_to(b"?", address).expect("it is sent");
    let mut buffer = [0; 64];
    socket.recv_from(&mut buffer).expect("an answer in time");
    buffer[0].into()
}

fn udp(namespace: &Namespace, address: &str) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(address).expect("the address is free"));
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket
}

fn link(name: &str) -> Name {
    Name::new(name).expect("the name of a link")
}

fn leads_to(wire_port: u16, backends: &[&str]) -> IngressPort {
    IngressPort { service: ServiceId::from_random([1; 16]), wire_port, backends: addresses(backends) }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().expect("an address")).collect()
}

fn web(backends: &[&str]) -> Service {
    Service { key: "web".to_owned(), addresses: addresses(&["10.7.0.100", "fd07::100"]), backends: addresses(backends) }
}

/// A client namespace that reaches three servers `a`, `b`, `c` over links of their own, v4 and v6.
fn cluster() -> (Namespace, Vec<Namespace>) {
    let client = Namespace::new();
    let servers: Vec<_> = (1..=3)
        .map(|n| {
            let server = Namespace::new();
            let (ours4, ours6) = (format!("10.7.{n}.1/24"), format!("fd07:{n}::1/64"));
            let (theirs4, theirs6) = (format!("10.7.{n}.2/24"), format!("fd07:{n}::2/64"));
            client.connect(&format!("v{n}"), &[&ours4, &ours6], &server, "eth0", &[&theirs4, &theirs6]);
            // The client's source address may be that of another link.
            server.default_route(&format!("10.7.{n}.1"));
            server.default_route(&format!("fd07:{n}::1"));
            let name = b'a' + u8::try_from(n - 1).expect("three servers");
            greet(&server, &format!("10.7.{n}.2:80"), name);
            greet(&server, &format!("[fd07:{n}::2]:80"), name);
            answer(&server, &format!("10.7.{n}.2:90"), name);
            server
        })
        .collect();
    client.default_route("10.7.1.2");
    client.default_route("fd07:1::2");
    (client, servers)
}

const ALL: [&str; 6] = ["10.7.1.2", "10.7.2.2", "10.7.3.2", "fd07:1::2", "fd07:2::2", "fd07:3::2"];

#[test]
fn a_virtual_address_gives_connections_to_its_backends_exactly_in_turn() {
    let (client, _servers) = cluster();
    let mut socket = Socket::open_in(client.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&ALL)])).expect("the rules are taken");
    for address in ["10.7.0.100:80", "[fd07::100]:80"] {
        let seen = names(&client, address, 9);
        let mut turn: Vec<char> = seen[..3].chars().collect();
        assert_eq!(seen, seen[..3].repeat(3), "the turn repeats itself");
        turn.sort_unstable();
        assert_eq!(turn, ['a', 'b', 'c'], "no backend is left out");
    }
    let source = connect(&client, "10.7.0.100:80").expect("a connection").seen_as.ip();
    assert!(source.to_string().starts_with("10.7."), "the task's own address is seen, not {source}");
}

#[test]
fn every_task_takes_the_backends_in_an_order_of_its_own_that_stays() {
    let backends = addresses(&ALL[..3]);
    let first = |n: usize| services::order(&format!("task{n}"), "web", Family::V4, &backends)[0];
    let n_first = |backend| (0..300).filter(|n| first(*n) == backend).count();
    for backend in &backends {
        assert!((70..=130).contains(&n_first(*backend)), "{backend} is first for {} of 300", n_first(*backend));
    }
    let whole = services::order("task1", "web", Family::V4, &backends);
    let fewer = services::order("task1", "web", Family::V4, &whole[1..]);
    assert_eq!(fewer, whole[1..], "who stays keeps its place");
}

#[test]
fn replaced_backends_take_new_connections_and_the_old_keep_theirs() {
    let (client, _servers) = cluster();
    let mut socket = Socket::open_in(client.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&ALL[..1])])).expect("the rules are taken");
    let mut old = connect(&client, "10.7.0.100:80").expect("a connection");
    assert_eq!(old.name, 'a');
    socket.commit(&services::replace_backends("task1", &web(&ALL[1..2]))).expect("the backends are replaced");
    assert_eq!(names(&client, "10.7.0.100:80", 4), "bbbb");
    old.stream.write_all(b"x").expect("the connection stands");
    let mut byte = [0];
    old.stream.read_exact(&mut byte).expect("its backend answers");
    assert_eq!(byte, [b'a']);
    // A whole table written anew does not cut it either.
    socket.commit(&services::replace_all("task1", &[web(&ALL[1..2])])).expect("the rules are taken");
    old.stream.write_all(b"x").expect("the connection stands");
    old.stream.read_exact(&mut byte).expect("its backend answers");
    assert_eq!(byte, [b'a']);
}

#[test]
fn a_connection_to_a_vanished_backend_is_reset_and_datagrams_move() {
    let (client, _servers) = cluster();
    let mut socket = Socket::open_in(client.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&ALL[..1])])).expect("the rules are taken");
    let mut gone = connect(&client, "10.7.0.100:80").expect("a connection");
    let mut direct = connect(&client, "10.7.1.2:80").expect("a connection past the rules");
    let datagrams = udp(&client, "0.0.0.0:0");
    assert_eq!(ask(&datagrams, "10.7.0.100:90"), 'a');
    socket.commit(&services::replace_backends("task1", &web(&ALL[1..2]))).expect("the backends are replaced");
    assert_eq!(ask(&datagrams, "10.7.0.100:90"), 'a', "conntrack still remembers");
    let mut empty = Socket::open_in(Namespace::new().fd()).expect("a socket");
    assert_eq!(conntrack::count(&mut empty).expect("there is nothing"), 0, "each namespace counts its own");
    let backend = ALL[0].parse().expect("an address");
    let others = [Vanished { backend: ALL[1].parse().expect("an address"), transport: None }];
    let vanished = [Some(Transport::Udp), None].map(|transport| Vanished { backend, transport });
    let to_it = |socket: &mut Socket| {
        let listed = conntrack::list(socket).expect("connections are listed");
        listed.into_iter().filter(|tracked| conntrack::was_given_to(&vanished[1], &tracked.connection)).collect::<Vec<_>>()
    };
    assert_eq!(to_it(&mut socket).len(), 2);
    for (gone, left) in [(others[0], 2), (vanished[0], 1), (vanished[1], 0)] {
        let start = Instant::now();
        assert!(conntrack::forget(&mut socket, &gone).expect("connections are forgotten"), "this kernel has filters");
        println!("{gone:?} forgotten in {:?}", start.elapsed());
        assert_eq!(to_it(&mut socket).len(), left, "{gone:?}");
    }
    assert_eq!(ask(&datagrams, "10.7.0.100:90"), 'b');
    let started = Instant::now();
    gone.stream.write_all(b"x").expect("it is sent");
    let error = gone.stream.read_exact(&mut [0]).expect_err("the connection is cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(started.elapsed() < Duration::from_secs(1));
    direct.stream.write_all(b"x").expect("it is sent");
    direct.stream.read_exact(&mut [0]).expect("what was not rewritten stands");
}

/// Orders something forgotten and waits until it is.
async fn forgotten(forgetting: &mut Forgetting) {
    forgetting.start();
    let ordered = forgetting.n_ordered();
    while forgetting.done_through() < ordered {
        assert_eq!(forgetting.failures().next(), None);
        tokio::time::timeout(DEADLINE, forgetting.progress()).await.expect("it is forgotten in time");
    }
    assert!(forgetting.is_idle());
}

fn is_cut(client: &mut Client) -> bool {
    client.stream.write_all(b"x").expect("it is sent");
    client.stream.read_exact(&mut [0]).is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_forgotten_everywhere_and_who_is_back_is_not() {
    let clusters = [(); 3].map(|()| cluster());
    let names = [7, 8, 9].map(|number| InKernel::Task(TaskId::from_random([number; 16])));
    let mut forgetting = Forgetting::default();
    let vanished = |backend: &str| Vanished { backend: backend.parse().expect("an address"), transport: None };
    // More than are looked for one by one, in the last namespace.
    let many = (0..300_u16).map(|n| vanished(&format!("10.9.{}.{}", n / 250, n % 250)));
    let many: std::collections::BTreeSet<Vanished> = many.chain([vanished(ALL[0])]).collect();
    let mut connections: Vec<[Client; 2]> = Vec::new();
    for ((client, _), name) in clusters.iter().zip(names) {
        let mut socket = Socket::open_in(client.fd()).expect("a socket");
        socket.commit(&services::replace_all("task1", &[web(&[ALL[0], ALL[3]])])).expect("the rules are taken");
        let open = |address| connect(client, address).expect("a connection");
        connections.push([open("10.7.0.100:80"), open("[fd07::100]:80")]);
        socket.commit(&services::replace_all("task1", &[web(&[ALL[1], ALL[4]])])).expect("the rules are taken");
        let gone = if name == names[2] { many.clone() } else { [vanished(ALL[0]), vanished(ALL[3])].into() };
        let descriptor = client.fd().try_clone_to_owned().expect("a descriptor");
        forgetting.order(name, Some(descriptor), Unwanted { vanished: gone, strangers: None });
    }
    assert_eq!((forgetting.n_ordered(), forgetting.done_through()), (3, 0));
    // In the second namespace one is back before anybody was at work.
    forgetting.welcome(names[1], ALL[0].parse().expect("an address"), true);
    forgotten(&mut forgetting).await;
    let cut = connections.iter_mut().map(|pair| pair.each_mut().map(is_cut)).collect::<Vec<_>>();
    assert_eq!(cut, [[true, true], [false, true], [true, false]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_let_go_holds_up_nothing() {
    let (client, _servers) = cluster();
    let (gone, other) = (InKernel::Task(TaskId::from_random([7; 16])), InKernel::Node);
    let mut forgetting = Forgetting::default();
    let unwanted =
        || Unwanted { vanished: [Vanished { backend: IpAddr::from([10, 7, 1, 2]), transport: None }].into(), strangers: None };
    // What is no namespace cannot be entered: it fails, and is tried again for ever.
    let broken = std::fs::File::open("/dev/null").expect("a file").into();
    forgetting.order(gone, Some(broken), unwanted());
    forgetting.order(other, Some(client.fd().try_clone_to_owned().expect("a descriptor")), unwanted());
    forgetting.start();
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, forgetting.progress()).await.expect("both are worked on");
    }
    let failures: Vec<String> = forgetting.failures().collect();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("connections could not be forgotten"), "{failures:?}");
    assert_eq!(forgetting.done_through(), 0, "the later one is done, and the first is not");
    forgetting.let_go(gone);
    assert_eq!(forgetting.done_through(), 2);
    assert!(forgetting.is_idle());
}

#[test]
fn a_listed_connection_is_forgotten_once_and_alone() {
    let (client, _servers) = cluster();
    let mut socket = Socket::open_in(client.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&ALL[..2])])).expect("the rules are taken");
    let mut connections = [(); 2].map(|()| connect(&client, "10.7.0.100:80").expect("a connection"));
    let start = Instant::now();
    let listed = conntrack::list(&mut socket).expect("connections are listed");
    println!("connections were listed in {:?}", start.elapsed());
    let backend: IpAddr = if connections[0].name == 'a' { ALL[0] } else { ALL[1] }.parse().expect("an address");
    let first = listed.iter().find(|tracked| tracked.connection.answers_from == backend).expect("it is listed");
    assert!(conntrack::forget_one(&mut socket, first).expect("it is forgotten"));
    assert!(!conntrack::forget_one(&mut socket, first).expect("it was forgotten"));
    let [first, second] = &mut connections;
    assert_ne!(first.name, second.name);
    second.stream.write_all(b"x").expect("it is sent");
    second.stream.read_exact(&mut [0]).expect("the other stands");
}

#[test]
fn a_service_without_a_backend_refuses_at_once_and_comes_back() {
    let (client, _servers) = cluster();
    let mut socket = Socket::open_in(client.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&[])])).expect("the rules are taken");
    for address in ["10.7.0.100:80", "[fd07::100]:80"] {
        let error = connect(&client, address).err().expect("nobody answers");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address}: {error}");
    }
    socket.commit(&services::replace_backends("task1", &web(&ALL))).expect("the backends are replaced");
    assert_eq!(names(&client, "10.7.0.100:80", 3).len(), 3);
    socket.commit(&services::remove(&web(&[]))).expect("the service is removed");
    socket.commit(&services::add("task1", &web(&ALL))).expect("it can be added again");
    assert_eq!(names(&client, "[fd07::100]:80", 3).len(), 3);
}

#[test]
fn a_task_reaches_itself_through_its_own_services_address() {
    let (client, _servers) = cluster();
    greet(&client, "10.7.1.1:80", b'h');
    let mut socket = Socket::open_in(client.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&["10.7.1.1"])])).expect("the rules are taken");
    assert_eq!(names(&client, "10.7.0.100:80", 3), "hhh");
}

#[test]
fn a_refused_message_undoes_its_transaction_and_is_named() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    let generation = socket.generation().expect("a generation");
    let mut transaction = Transaction::new();
    let table = Table::new("skep_test");
    transaction.push(Change::AddTable(table.clone()));
    transaction.push(Change::AddChain(table.clone(), Chain::plain("here")));
    let rule = Rule::new("nowhere", [vec![Expr::Verdict(Verdict::Accept)]]);
    transaction.push(Change::AddRule(table, rule));
    let error = socket.commit(&transaction).expect_err("there is no such chain");
    assert!(
        matches!(&error, Error::Refused { what, index: 3, n_messages: 3, errno: nix::errno::Errno::ENOENT, .. }
            if what == "add rule to skep_test nowhere"),
        "{error:?}"
    );
    assert_eq!(socket.fingerprint("skep_test").expect("a dump"), None, "nothing of it was done");
    assert_eq!(socket.generation().expect("a generation"), generation);
    // The socket is good for the next one.
    socket.commit(&services::replace_all("task1", &[web(&ALL)])).expect("the rules are taken");
    assert_eq!(socket.generation().expect("a generation"), generation + 1);
}

#[test]
fn a_fingerprint_tells_every_change_and_rests_otherwise() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[web(&ALL)])).expect("the rules are taken");
    let first = socket.fingerprint(services::TABLE).expect("a dump").expect("the table is there");
    assert_eq!(socket.fingerprint(services::TABLE).expect("a dump"), Some(first));
    let flush = |socket: &mut Socket, chain: &str| {
        let mut transaction = Transaction::new();
        transaction.push(Change::FlushChain(Table::new(services::TABLE), chain.to_owned()));
        socket.commit(&transaction).expect("the chain is emptied");
    };
    flush(&mut socket, "s4_web");
    let second = socket.fingerprint(services::TABLE).expect("a dump").expect("the table is there");
    assert_ne!(first, second);
    let mut transaction = Transaction::new();
    let entry = Element::Decision(Value::from(IpAddr::from([10, 7, 0, 9])), Verdict::Drop);
    transaction.push(Change::AddElements(Table::new(services::TABLE), "v4".to_owned(), vec![entry]));
    socket.commit(&transaction).expect("an element is added");
    assert_ne!(socket.fingerprint(services::TABLE).expect("a dump"), Some(second));
}

#[test]
fn the_monitor_tells_our_own_transactions_from_foreign_ones() {
    let namespace = Namespace::new();
    let mut monitor = monitor::Monitor::open_in(namespace.fd()).expect("a monitor");
    let mut own = Socket::open_in(namespace.fd()).expect("a socket");
    let mut foreign = Socket::open_in(namespace.fd()).expect("a socket");
    own.commit(&names::replace(20053, 20053)).expect("the rules are taken");
    foreign.commit(&egress::replace(&[])).expect("the rules are taken");
    for (socket, table) in [(&own, names::TABLE), (&foreign, egress::TABLE)] {
        let event = monitor.hear().expect("events are read").expect("it is there when its author was answered");
        let monitor::Event::Committed(committed) = event else { panic!("{event:?}") };
        assert_eq!(committed.port, socket.port());
        assert_eq!(committed.tables.into_iter().collect::<Vec<_>>(), [table]);
        assert!(committed.generation > 0 && !committed.process.is_empty());
    }
    assert_eq!(monitor.hear().expect("events are read"), None);
    assert_ne!(own.port(), foreign.port());
}

#[test]
fn many_backends_and_many_services_are_one_transaction() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    let backends: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([10, 8, 0, n])).collect();
    let service = Service { key: "big".to_owned(), addresses: addresses(&["10.8.1.1"]), backends };
    let created = Instant::now();
    socket.commit(&services::replace_all("task1", std::slice::from_ref(&service))).expect("the rules are taken");
    let created = created.elapsed();
    let replaced = Instant::now();
    for _ in 0..50 {
        socket.commit(&services::replace_backends("task1", &service)).expect("the backends are replaced");
    }
    println!("100 backends: created in {created:?}, replaced in {:?}", replaced.elapsed() / 50);
    let many: Vec<Service> = (0..600u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let address = IpAddr::from([10, 9, high, low]);
            Service { key: format!("{n}_{}", "k".repeat(90)), addresses: vec![address], backends: vec![address] }
        })
        .collect();
    socket.commit(&services::replace_all("task1", &many)).expect("600 services with long names are taken");
}

#[test]
fn name_queries_reach_the_listener_and_port_53_stays_free() {
    let namespace = Namespace::new();
    answer(&namespace, "127.0.0.11:20053", b'u');
    greet(&namespace, "127.0.0.11:20054", b't');
    answer(&namespace, "0.0.0.0:53", b'o');
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    socket.commit(&names::replace(20053, 20054)).expect("the rules are taken");
    assert_eq!(ask(&udp(&namespace, "0.0.0.0:0"), "127.0.0.11:53"), 'u');
    assert_eq!(names(&namespace, "127.0.0.11:53", 2), "tt");
    assert_eq!(ask(&udp(&namespace, "0.0.0.0:0"), "127.0.0.1:53"), 'o', "the task's own server is left alone");
    let connected = udp(&namespace, "0.0.0.0:0");
    connected.connect("127.0.0.11:53").expect("connected");
    connected.send(b"?").expect("it is sent");
    connected.recv(&mut [0; 8]).expect("the answer comes from the address that was asked");
}

#[test]
fn a_query_that_nobody_hears_is_not_refused() {
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    socket.commit(&names::replace(20053, 20054)).expect("the rules are taken");
    let outcome = |to: &str| {
        let connected = udp(&namespace, "0.0.0.0:0");
        connected.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        connected.connect(to).expect("connected");
        connected.send(b"?").expect("it is sent");
        connected.recv(&mut [0; 8]).expect_err("nobody answers").kind()
    };
    assert_eq!(outcome("127.0.0.11:53"), std::io::ErrorKind::WouldBlock);
    assert_eq!(outcome("127.0.0.1:54"), std::io::ErrorKind::ConnectionRefused, "any other is");
}

/// A task, a node that forwards, and a host outside; links `tasks` (task side) and `out` of the node.
fn behind_a_node() -> (Namespace, Namespace, Namespace) {
    let (task, node, outside) = (Namespace::new(), Namespace::new(), Namespace::new());
    node.connect("tasks", &["172.20.0.1/24", "fd20::1/64"], &task, "eth0", &["172.20.0.2/24", "fd20::2/64"]);
    node.connect("out", &["203.0.113.1/24", "fd99::1/64"], &outside, "eth0", &["203.0.113.9/24", "fd99::9/64"]);
    node.sysctl("ipv4/ip_forward", "1");
    node.sysctl("ipv6/conf/all/forwarding", "1");
    task.default_route("172.20.0.1");
    task.default_route("fd20::1");
    (task, node, outside)
}

#[test]
fn tasks_go_out_with_the_nodes_address() {
    let (task, node, outside) = behind_a_node();
    greet(&outside, "203.0.113.9:80", b'o');
    greet(&outside, "[fd99::9]:80", b'o');
    let subnet = |subnet: &str| EgressSubnet { bridge: link("tasks"), subnet: subnet.parse().expect("a subnet") };
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&egress::replace(&[subnet("172.20.0.0/24"), subnet("fd20::/64")])).expect("the rules are taken");
    let seen = |address| connect(&task, address).expect("a connection").seen_as.ip().to_string();
    assert_eq!(seen("203.0.113.9:80"), "203.0.113.1");
    assert_eq!(seen("[fd99::9]:80"), "fd99::1");
    // Another subnet is not the one: a host outside knows no way back to the task's own address.
    outside.default_route("203.0.113.1");
    socket.commit(&egress::replace(&[subnet("172.20.1.0/24")])).expect("the rules are taken");
    assert_eq!(seen("203.0.113.9:80"), "172.20.0.2");
}

#[test]
fn the_overlays_port_hears_members_only() {
    let (task, node, outside) = behind_a_node();
    for address in ["203.0.113.1:4789", "[fd99::1]:4789", "203.0.113.1:4790", "172.20.0.1:4789"] {
        answer(&node, address, b'n');
    }
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&underlay::replace(4789, &addresses(&["172.20.0.2"]))).expect("the rules are taken");
    // What is to be heard may take its time on a busy machine; silence is awaited briefly.
    let heard_within = |limit: Duration, from: &Namespace, address: &str| {
        let local = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let client = udp(from, local);
        client.set_read_timeout(Some(limit)).expect("a deadline");
        client.send_to(b"?", address).expect("it is sent");
        client.recv(&mut [0; 8]).is_ok()
    };
    let heard = |from: &Namespace, address: &str| heard_within(Duration::from_secs(10), from, address);
    let silent = |from: &Namespace, address: &str| !heard_within(Duration::from_millis(300), from, address);
    assert!(heard(&task, "172.20.0.1:4789"), "a member");
    assert!(heard(&outside, "203.0.113.1:4790"), "another port");
    assert!(silent(&outside, "203.0.113.1:4789") && silent(&outside, "[fd99::1]:4789"), "no members");
    socket.commit(&underlay::replace(4789, &addresses(&["203.0.113.9", "fd99::9"]))).expect("the rules are taken");
    assert!(heard(&outside, "203.0.113.1:4789") && heard(&outside, "[fd99::1]:4789"), "now members");
    assert!(silent(&task, "172.20.0.1:4789"), "no member any more");
    outside.default_route("203.0.113.1");
    answer(&outside, "203.0.113.9:4789", b'o');
    assert!(heard(&task, "203.0.113.9:4789"), "who passes through is let alone");
}

#[test]
fn the_overlays_packets_are_not_tracked() {
    let (_, node, outside) = behind_a_node();
    let subnet = EgressSubnet { bridge: link("tasks"), subnet: "172.20.0.0/24".parse().expect("a subnet") };
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    // Rewriting makes the kernel track connections here.
    socket.commit(&egress::replace(&[subnet])).expect("the rules are taken");
    socket.commit(&underlay::replace(4789, &addresses(&["203.0.113.9", "fd99::9"]))).expect("the rules are taken");
    let ends = [(&outside, &node, "203.0.113.1"), (&outside, &node, "[fd99::1]"), (&node, &outside, "203.0.113.9")];
    for (from, to, address) in ends {
        for (port, is_tracked) in [(4789, false), (4790, true)] {
            let before = conntrack::count(&mut socket).expect("a count");
            let address = format!("{address}:{port}");
            let receiver = udp(to, &address);
            receiver.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            let sender = udp(from, if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
            sender.send_to(b"?", &address).expect("it is sent");
            receiver.recv(&mut [0; 8]).expect("it comes");
            let more = conntrack::count(&mut socket).expect("a count") - before;
            assert_eq!(more, u32::from(is_tracked), "{address}");
        }
    }
}

/// A client, two ingress nodes, and a task (10.7.0.12) with a link to each; the rules of the mesh are in.
struct Mesh {
    client: Namespace,
    _nodes: [Namespace; 2],
    _task: Namespace,
}

fn mesh_of_two() -> Mesh {
    let (client, task) = (Namespace::new(), Namespace::new());
    let nodes = [Namespace::new(), Namespace::new()];
    task.address("lo", "10.7.0.12/32");
    task.sysctl("ipv4/tcp_fwmark_accept", "1");
    let mut senders = Vec::new();
    for (node, n) in nodes.iter().zip(1u16..) {
        let name = format!("n{n}");
        node.connect("out", &[&format!("203.0.{n}.1/24")], &client, &name, &[&format!("203.0.{n}.5/24")]);
        node.connect("tasks", &[&format!("10.{n}.0.1/24")], &task, &name, &[&format!("10.{n}.0.2/24")]);
        node.sysctl("ipv4/ip_forward", "1");
        node.default_route(&format!("203.0.{n}.5"));
        node.route_to("10.7.0.12/32", &format!("10.{n}.0.2"), 254);
        let number = u32::from(n);
        let mark = ingress_mark(number);
        task.route_to("0.0.0.0/0", &format!("10.{n}.0.1"), mark);
        task.route_mark(mark, mark);
        senders.push(IngressNode { hardware: Mac(node.hardware("tasks")), mark });
        let published = [(Transport::Tcp, 8080, 0), (Transport::Udp, 9090, 1)];
        let ports =
            published.map(|(transport, port, index)| ((transport, port), leads_to(wire_port(number, index), &["10.7.0.12"])));
        let mut socket = Socket::open_in(node.fd()).expect("a socket");
        socket.commit(&ingress::replace("node", link("tasks"), &ports.into())).expect("the node's rules are taken");
    }
    let wired = [(Transport::Tcp, 0, 80), (Transport::Udp, 1, 90)].map(|(transport, index, target_port)| WirePort {
        transport,
        index,
        target_port,
    });
    // UDP replies are routed before the hook that marks them: there must be a route for the first look.
    task.default_route("10.1.0.1");
    let mut socket = Socket::open_in(task.fd()).expect("a socket");
    socket.commit(&mesh::replace(&senders, &wired, &[], &[])).expect("the task's rules are taken");
    greet(&task, "10.7.0.12:80", b't');
    answer(&task, "10.7.0.12:90", b'u');
    Mesh { client, _nodes: nodes, _task: task }
}

/// A connection from a chosen address and port.
fn connect_from(namespace: &Namespace, from: &str, to: &str) -> String {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
    use std::os::fd::AsRawFd;
    let mut stream = namespace.run(|| {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        setsockopt(&fd, sockopt::ReuseAddr, &true).expect("the port may be shared");
        setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(5, 0)).expect("a deadline");
        let parse = |text: &str| SockaddrIn::from(text.parse::<std::net::SocketAddrV4>().expect("an address"));
        bind(fd.as_raw_fd(), &parse(from)).expect("the port is free");
        connect(fd.as_raw_fd(), &parse(to)).expect("a connection in time");
        TcpStream::from(fd)
    });
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut greeting = [0; 64];
    let n = stream.read(&mut greeting).expect("a greeting");
    // It stays open, so that the next connection meets it in the task's memory of connections.
    std::mem::forget(stream);
    String::from_utf8_lossy(&greeting[..n]).trim().to_owned()
}

#[test]
fn one_client_port_through_two_nodes_reaches_one_task_twice_with_its_own_address() {
    let mesh = mesh_of_two();
    assert_eq!(connect_from(&mesh.client, "203.0.1.5:5000", "203.0.1.1:8080"), "t 203.0.1.5:5000");
    let second = connect_from(&mesh.client, "203.0.1.5:5000", "203.0.2.1:8080");
    assert!(second.starts_with("t 203.0.1.5:"), "{second}");
}

#[test]
fn published_datagrams_return_through_the_node_they_came_by() {
    let mesh = mesh_of_two();
    for node in ["203.0.1.1:9090", "203.0.2.1:9090"] {
        let socket = udp(&mesh.client, "0.0.0.0:0");
        socket.connect(node).expect("connected");
        socket.send(b"?").expect("it is sent");
        let mut buffer = [0; 8];
        socket.recv(&mut buffer).expect("the answer comes from the node that was asked");
        assert_eq!(buffer[0], b'u');
    }
}

#[test]
fn a_published_port_without_a_task_refuses() {
    let node = Namespace::new();
    let port = ((Transport::Tcp, 8080), leads_to(8001, &[]));
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&ingress::replace("node", link("tasks"), &[port].into())).expect("the rules are taken");
    // Even a process of the node that listens there is not mistaken for the service.
    greet(&node, "0.0.0.0:8080", b'n');
    let error = connect(&node, "127.0.0.1:8080").err().expect("nobody answers");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn datagrams_that_came_too_early_reach_the_first_backend() {
    let (task, node, outside) = behind_a_node();
    answer(&task, "172.20.0.2:8001", b'u');
    let key = (Transport::Udp, 9090);
    let replace = |backends: &[&str]| ingress::replace_backends("node", key, &leads_to(8001, backends));
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&ingress::replace("node", link("tasks"), &[(key, leads_to(8001, &[]))].into())).expect("the rules are taken");
    for (from, to) in [(&outside, "203.0.113.1:9090"), (&node, "203.0.113.1:9090")] {
        let client = udp(from, "0.0.0.0:0");
        client.connect(to).expect("connected");
        // The node's own process is refused while it sends.
        let refused = client.send(b"?").and_then(|_| client.recv(&mut [0; 8])).expect_err("nobody is there").kind();
        let is_own = std::ptr::eq(from, &raw const node);
        assert_eq!(refused, if is_own { ErrorKind::PermissionDenied } else { ErrorKind::ConnectionRefused });
        socket.commit(&replace(&["172.20.0.2"])).expect("the backends are replaced");
        // The word on the first one may still lie there.
        client.take_error().expect("it is fetched");
        client.send(b"?").expect("it is sent");
        client.recv(&mut [0; 8]).expect("the same stream is answered now");
        socket.commit(&replace(&[])).expect("the backends are replaced");
    }
}

#[test]
fn nobody_is_routed_past_the_published_ports() {
    let (task, node, outside) = behind_a_node();
    for port in [8001, 8002] {
        greet(&task, &format!("172.20.0.2:{port}"), b't');
    }
    outside.default_route("203.0.113.1");
    let port = ((Transport::Tcp, 8080), leads_to(8001, &["172.20.0.2"]));
    assert_eq!(names(&outside, "172.20.0.2:8002", 1), "t", "without the table there is nothing in the way");
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&ingress::replace("node", link("tasks"), &[port].into())).expect("the rules are taken");
    assert_eq!(names(&outside, "203.0.113.1:8080", 1), "t", "the published port");
    for (from, to) in [(&outside, "172.20.0.2:8002"), (&outside, "172.20.0.2:8001"), (&task, "203.0.113.9:80")] {
        let limit = Duration::from_millis(300);
        let error = from.run(|| TcpStream::connect_timeout(&to.parse().expect("an address"), limit)).err();
        assert_eq!(error.map(|error| error.kind()), Some(std::io::ErrorKind::TimedOut), "{to}");
    }
}

#[test]
fn ports_of_a_node_reach_its_task_with_the_clients_address() {
    let (task, node, outside) = behind_a_node();
    node.sysctl("ipv4/conf/tasks/route_localnet", "1");
    for address in ["0.0.0.0:80", "[fd20::2]:80"] {
        greet(&task, address, b't');
    }
    answer(&task, "0.0.0.0:90", b'u');
    let port = |transport, port, target_port| {
        ((transport, port), HostPort { addresses: addresses(&["172.20.0.2", "fd20::2"]), target_port })
    };
    let subnets =
        ["172.20.0.0/24", "fd20::/64"].map(|net| EgressSubnet { bridge: link("tasks"), subnet: net.parse().expect("a subnet") });
    let ports = [port(Transport::Tcp, 8080, 80), port(Transport::Udp, 9090, 90)];
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&host_ports::replace(&subnets, &ports.into())).expect("the rules are taken");
    let seen = |from: &Namespace, to: &str| connect(from, to).expect("a connection").seen_as.ip().to_string();
    assert_eq!(seen(&outside, "203.0.113.1:8080"), "203.0.113.9");
    assert_eq!(seen(&outside, "[fd99::1]:8080"), "fd99::9");
    assert_eq!(seen(&node, "203.0.113.1:8080"), "203.0.113.1");
    assert_eq!(seen(&node, "127.0.0.1:8080"), "172.20.0.1", "a loopback address stays at home");
    assert_eq!(seen(&task, "203.0.113.1:8080"), "172.20.0.1", "the task itself, by its node's port");
    let refused = connect(&node, "[::1]:8080").err().expect("v6 has no way out for it");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "so that a client takes 127.0.0.1 at once");
    let client = udp(&outside, "0.0.0.0:0");
    client.connect("203.0.113.1:9090").expect("connected");
    client.send(b"?").expect("it is sent");
    client.recv(&mut [0; 8]).expect("an answer from the node");
}
