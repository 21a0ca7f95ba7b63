//! Published ports: of every node, and of one.

use super::*;

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
        let ports = published.map(|(transport, port, index)| ((transport, port), wire_port(number, index, 2)));
        let mut socket = Socket::open_in(node.fd()).expect("a socket");
        socket.commit(&answers_on(&leads_to(&ports, &["10.7.0.12"]))).expect("the node's rules are taken");
    }
    let wired = [(Transport::Tcp, 0, 80), (Transport::Udp, 1, 90)].map(|(transport, index, target_port)| WirePort {
        transport,
        index,
        target_port,
    });
    // UDP replies are routed before the hook that marks them: there must be a route for the first look.
    task.default_route("10.1.0.1");
    let mut socket = Socket::open_in(task.fd()).expect("a socket");
    socket.commit(&mesh::replace(&senders, &wired, 63, &[], &[])).expect("the task's rules are taken");
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
    let (_task, node, outside) = behind_a_node();
    let services = leads_to(&[((Transport::Tcp, 8080), 8001)], &[]);
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&answers_on(&services)).expect("the rules are taken");
    for (from, to) in [(&node, "127.0.0.1:8080"), (&node, "203.0.113.1:8080"), (&outside, "203.0.113.1:8080")] {
        let error = connect(from, to).err().expect("nobody answers");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    }
}

#[test]
fn a_port_that_a_process_of_the_node_listens_on_stays_its_own() {
    let (task, node, outside) = behind_a_node();
    for port in 8001..8005 {
        greet(&task, &format!("172.20.0.2:{port}"), b't');
        greet(&task, &format!("[fd20::2]:{port}"), b't');
    }
    greet(&node, "[::]:22", b'n');
    greet(&node, "203.0.113.1:23", b'n');
    answer(&node, "0.0.0.0:53", b'n');
    answer(&task, "172.20.0.2:8004", b't');
    let (tcp, udp_key) = (|port| (Transport::Tcp, port), (Transport::Udp, 53));
    let ports = [(tcp(22), 8001), (tcp(23), 8002), (tcp(24), 8003), (udp_key, 8004)];
    let both = leads_to(&ports, &["172.20.0.2", "fd20::2"]);
    let own = IpAddr::from([203, 0, 113, 1]);
    let listening = [(tcp(22), None), (tcp(23), Some(own)), (udp_key, None)].map(|(key, address)| ListeningPort { key, address });
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    let empty = leads_to(&ports, &[]);
    for services in [&both, &empty] {
        socket.commit(&ingress::replace("node", services, &listening.into())).expect("the rules are taken");
        for (from, to) in [
            (&outside, "203.0.113.1:22"),
            (&outside, "[fd99::1]:22"),
            (&outside, "203.0.113.1:23"),
            (&node, "203.0.113.1:22"),
            (&node, "127.0.0.1:22"),
            (&node, "[fd99::1]:22"),
            (&node, "203.0.113.1:23"),
            (&task, "172.20.0.1:22"),
        ] {
            assert_eq!(names(from, to, 1), "n", "{to}");
        }
        for from in [&outside, &node] {
            assert_eq!(ask(&udp(from, "0.0.0.0:0"), "203.0.113.1:53"), 'n');
        }
    }
    socket.commit(&ingress::difference("node", &empty, &both)).expect("the backends are replaced");
    // What it listens on at one address is the service's at the others, and so is every other port.
    for (from, to) in [(&outside, "[fd99::1]:23"), (&outside, "203.0.113.1:24"), (&node, "203.0.113.1:24")] {
        let seen = connect(from, to).map(|client| client.name);
        assert!(matches!(seen, Ok('t')), "{to}: {seen:?}");
    }
    // When the process of the node goes, its port is the service's.
    socket.commit(&ingress::listening_difference(&listening.into(), &BTreeSet::new())).expect("the ports are given up");
    assert_eq!(names(&node, "203.0.113.1:22", 1), "t");
}

#[test]
fn datagrams_that_came_too_early_reach_the_first_backend() {
    let (task, node, outside) = behind_a_node();
    answer(&task, "172.20.0.2:8001", b'u');
    let ports = [((Transport::Udp, 9090), 8001)];
    let (empty, led) = (leads_to(&ports, &[]), leads_to(&ports, &["172.20.0.2"]));
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&answers_on(&empty)).expect("the rules are taken");
    for (from, to) in [(&outside, "203.0.113.1:9090"), (&node, "203.0.113.1:9090")] {
        let client = udp(from, "0.0.0.0:0");
        client.connect(to).expect("connected");
        // The node's own process is refused while it sends.
        let refused = client.send(b"?").and_then(|_| client.recv(&mut [0; 8])).expect_err("nobody is there").kind();
        let is_own = std::ptr::eq(from, &raw const node);
        assert_eq!(refused, if is_own { ErrorKind::PermissionDenied } else { ErrorKind::ConnectionRefused });
        socket.commit(&ingress::difference("node", &empty, &led)).expect("the backends are replaced");
        // The word on the first one may still lie there.
        client.take_error().expect("it is fetched");
        client.send(b"?").expect("it is sent");
        client.recv(&mut [0; 8]).expect("the same stream is answered now");
        socket.commit(&ingress::difference("node", &led, &empty)).expect("the backends are replaced");
    }
}

#[test]
fn thousands_of_ports_are_published_and_changed_one_by_one() {
    let (task, node, outside) = behind_a_node();
    for port in [1024, 2024] {
        greet(&task, &format!("172.20.0.2:{port}"), b't');
    }
    let service = |first: u16, n: u16| {
        let ports = (0..n).map(|index| ((Transport::Tcp, first + index), 1024 + index)).collect();
        IngressService { ports, backends: addresses(&["172.20.0.2", "fd20::2"]) }
    };
    let id = |number: u16| {
        let [high, low] = number.to_be_bytes();
        ServiceId::from_random([high, low, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7])
    };
    // One with a range as passive FTP has it, and thousands with a port each.
    let mut all: ingress::Services = (0..5_000).map(|number| (id(number), service(20_000 + number, 1))).collect();
    all.insert(id(5_000), service(40_000, 5_000));
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    let start = Instant::now();
    socket.commit(&answers_on(&all)).expect("the rules are taken");
    let whole = start.elapsed();
    for to in ["203.0.113.1:20000", "203.0.113.1:24999", "203.0.113.1:40000", "203.0.113.1:41000"] {
        assert_eq!(names(&outside, to, 1), "t", "{to}");
    }
    let start = Instant::now();
    let (held, wanted) = (all.clone(), [(id(6_000), service(50_000, 1))]);
    all.remove(&id(0));
    all.extend(wanted);
    let changes = ingress::difference("node", &held, &all);
    socket.commit(&changes).expect("one goes and one comes");
    println!("10,000 ports of 5,001 services in {whole:?}, one more and one less in {:?}", start.elapsed());
    assert!(changes.edits().len() < 20, "{}", changes.edits().len());
    assert_eq!(names(&outside, "203.0.113.1:50000", 1), "t");
    let error = connect(&outside, "203.0.113.1:20000").err().expect("it is not published any more");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
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
