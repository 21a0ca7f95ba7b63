//! Published ports as clients outside of the cluster meet them, and ports that a node has in use itself.

use super::*;

/// A host with a link to each node, and an address that both lead to.
async fn client(pins: &Pins, nodes: &[Node; 2]) -> OwnedFd {
    let id = skep_model::TaskId::from_random([77; 16]);
    pins.namespaces.make(id).unwrap();
    let namespace = pins.namespaces.get(id).unwrap();
    pins.namespaces.remove(id).unwrap();
    let handle = handle_in(&namespace);
    handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
    for address in CLIENT {
        add_address(&handle, 1, address.parse().unwrap(), if address.contains(':') { 128 } else { 32 }).await;
    }
    for node in nodes {
        let (number, name) = (node.number + 1, format!("node{}", node.number));
        let peer =
            LinkUnspec::new_with_name("out").append_extra_attribute(LinkAttribute::NetNsFd(node.namespace.as_raw_fd())).build();
        let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(name.clone())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        handle.link().add(pair.build()).execute().await.unwrap();
        let here = inside(namespace.as_fd(), || nix::net::if_::if_nametoindex(name.as_str()).unwrap()).unwrap();
        let there = node.index("out").await;
        for (handle, index, host) in [(&handle, here, 5), (&node.handle, there, 1)] {
            add_address(handle, index, format!("203.0.{number}.{host}").parse().unwrap(), 24).await;
            add_address(handle, index, format!("2001:db8:{number}::{host}").parse().unwrap(), 64).await;
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
        }
        for (to, via) in [(CLIENT[0], format!("203.0.{number}.5")), (CLIENT[1], format!("2001:db8:{number}::5"))] {
            let to: IpAddr = to.parse().unwrap();
            let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, if to.is_ipv4() { 32 } else { 128 }).unwrap();
            node.handle.route().add(route.gateway(via.parse().unwrap()).unwrap().build()).execute().await.unwrap();
        }
        for address in [format!("203.0.{number}.1"), format!("2001:db8:{number}::1")] {
            await_answer(&namespace, address.parse().unwrap());
        }
    }
    namespace
}

/// Waits until a node's address answers: the kernel readies those of IPv6 on a new link in a
/// queue of its own, and a neighbour that is asked for too early is given up after 3 s.
fn await_answer(from: &OwnedFd, to: IpAddr) {
    let begin = Instant::now();
    let nobody_listens = SocketAddr::new(to, 9);
    loop {
        let error = inside(from.as_fd(), || TcpStream::connect_timeout(&nobody_listens, DEADLINE)).unwrap().unwrap_err();
        if error.kind() == ErrorKind::ConnectionRefused {
            return;
        }
        assert!(begin.elapsed() < DEADLINE, "{to}: {error}");
    }
}

fn handle_in(namespace: &OwnedFd) -> Handle {
    let runtime = tokio::runtime::Handle::current();
    inside(namespace.as_fd(), || {
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        runtime.spawn(connection);
        handle
    })
    .unwrap()
}

async fn add_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) {
    let mut request = handle.address().add(index, address, prefix);
    request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    request.execute().await.unwrap();
}

/// A socket of the client with an address and port that others may have as well.
fn socket_from(from: SocketAddr, is_stream: bool) -> OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt};
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if is_stream { SockType::Stream } else { SockType::Datagram };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
    setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(5, 0)).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
    fd
}

fn connect_to(fd: &OwnedFd, to: SocketAddr) {
    use nix::sys::socket::{SockaddrStorage, connect};
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap_or_else(|error| panic!("{to}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_client_port_through_two_nodes_reaches_one_task_twice_with_its_own_address() {
    let v6 = Underlay { is_v6: true, mtu: 1500 };
    for (underlay, from, through) in
        [(PLAIN, CLIENT[0], ["203.0.1.1", "203.0.2.1"]), (v6, CLIENT[1], ["[2001:db8:1::1]", "[2001:db8:2::1]"])]
    {
        let pins = Pins::new();
        let mut nodes = serving(&pins, underlay).await;
        let outside = client(&pins, &nodes).await;
        for node in &mut nodes {
            node.send(published(0, false), 3).await;
        }
        assert_both_ways(&outside, from, through);
    }
}

/// Packets of a connection that its kernel sent again, the first one included.
fn n_repeated(stream: &TcpStream) -> u32 {
    // SAFETY: zeros are a valid value of this structure of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the structure lives across the call, and its length is given.
    let got =
        unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &mut length) };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}

/// Connections and datagrams from one address and port through both nodes at once.
fn assert_both_ways(outside: &OwnedFd, from: &str, through: [&str; 2]) {
    let from = SocketAddr::new(from.parse().unwrap(), 5000);
    let expected = format!("1 {}", from.ip());
    let mut kept = Vec::new();
    for node in through {
        let stream = inside(outside.as_fd(), || {
            let fd = socket_from(from, true);
            connect_to(&fd, format!("{node}:8080").parse().unwrap());
            TcpStream::from(fd)
        });
        let stream = stream.unwrap();
        assert_eq!(n_repeated(&stream), 0, "the way back through {node} was there before the first packet");
        assert_eq!(greeted(&stream).unwrap(), expected, "TCP through {node}");
        kept.push(stream);
    }
    kept.iter().for_each(|stream| ping(stream).expect("both stand at the same time"));
    for node in through {
        let socket = inside(outside.as_fd(), || {
            let fd = socket_from(from, false);
            connect_to(&fd, format!("{node}:9090").parse().unwrap());
            UdpSocket::from(fd)
        });
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send(b"?").unwrap();
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).unwrap_or_else(|error| panic!("UDP through {node}: {error}"));
        assert_eq!(String::from_utf8_lossy(&answer[..length]), expected, "UDP through {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_published_port_answers_its_own_node_and_its_tasks() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    for (serves, asks) in [(0, 0), (0, 1)] {
        for node in &mut nodes {
            let version = node.status().await.programmed_through + 1;
            node.send([published(serves, true), published(1 - serves, false)].concat(), version).await;
        }
        let node = &nodes[asks];
        let own = format!("192.0.2.{}:8080", asks + 1);
        for address in ["127.0.0.1:8080", &own] {
            let seen = node.in_node(|| open(address)).unwrap_or_else(|error| panic!("{address}: {error}")).1;
            assert!(seen.starts_with(&format!("{serves} ")), "{address}: {seen}");
        }
        let seen = node.in_task(|| open(&own)).unwrap_or_else(|error| panic!("the task of node {asks}: {error}")).1;
        assert!(seen.starts_with(&format!("{serves} ")), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_port_of_one_node_leads_to_its_task_and_closes_with_it() {
    let pins = Pins::new();
    let mut nodes = serving(&pins, PLAIN).await;
    let outside = client(&pins, &nodes).await;
    let mut local = local_task(0);
    local.host_ports = vec![
        PublishedPort { transport: Transport::Tcp, target_port: 80, published_port: 7000, publish_mode: PublishMode::Host },
        PublishedPort { transport: Transport::Udp, target_port: 90, published_port: 7001, publish_mode: PublishMode::Host },
    ];
    nodes[0].send(vec![Change::PutTask(v1::LocalTask::from(&local))], 3).await;
    let (stream, greeting) = inside(outside.as_fd(), || open("203.0.1.1:7000")).unwrap().unwrap();
    assert_eq!(greeting, "0 203.0.1.5", "the client's own address");
    let socket = inside(outside.as_fd(), || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect("203.0.1.1:7001").unwrap();
    socket.send(b"?").unwrap();
    socket.recv(&mut [0; 64]).expect("an answer to a datagram");
    assert!(nodes[0].in_node(|| open("127.0.0.1:7000")).unwrap().1.starts_with("0 "));
    let seen = nodes[0].in_task(|| open("192.0.2.1:7000")).expect("a task reaches a port of its own node").1;
    assert!(seen.starts_with("0 "), "{seen}");
    let closed = inside(outside.as_fd(), || open("203.0.2.1:7000")).unwrap().unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::ConnectionRefused, "the other node has no such task");
    nodes[0].send(vec![Change::PutTask(v1::LocalTask::from(&local_task(0)))], 4).await;
    let closed = inside(outside.as_fd(), || open("203.0.1.1:7000")).unwrap().unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ping(&stream).unwrap_err().kind(), ErrorKind::ConnectionReset, "who came by the port goes with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sender_that_is_older_than_a_port_or_a_service_reaches_it_when_it_comes() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    serve(&nodes[1]);
    let outside = client(&pins, &nodes).await;
    let sender = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.connect(to).unwrap();
        socket
    };
    let senders = [
        ("an ingress port", inside(outside.as_fd(), || sender("0.0.0.0:0", "203.0.1.1:9090")).unwrap()),
        ("a port of one node", inside(outside.as_fd(), || sender("0.0.0.0:0", "203.0.1.1:7001")).unwrap()),
        ("a virtual address", nodes[0].in_task(|| sender("0.0.0.0:0", &format!("{VIP}:90")))),
        ("a virtual address of v6", nodes[0].in_task(|| sender("[::]:0", &format!("[{VIP6}]:90")))),
    ];
    // Something hears them meanwhile, so that the kernel remembers where they went.
    let hears = nodes[0].in_node(|| [9090, 7001].map(|port| UdpSocket::bind(("::", port)).unwrap()));
    for (_, socket) in &senders {
        socket.send(b"early").unwrap();
    }
    for socket in &hears {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 5);
    }
    drop(hears);
    let mut own = local_task(0);
    own.host_ports =
        vec![PublishedPort { transport: Transport::Udp, target_port: 90, published_port: 7001, publish_mode: PublishMode::Host }];
    serve(&nodes[0]);
    let changes = vec![overlay(&web()), Change::PutTask(v1::LocalTask::from(&own))];
    nodes[0].send(changes, 2).await;
    for (what, socket) in &senders {
        // What the kernel said to the early one may still lie there.
        let _ = socket.take_error();
        socket.send(b"?").unwrap();
        socket.recv(&mut [0; 64]).unwrap_or_else(|error| panic!("{what} answers the same socket: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_port_in_use_on_a_node_stays_its_own_and_is_given_up_with_its_process() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let own = nodes[0].in_node(|| TcpListener::bind("[::]:8080").unwrap());
    let limit = nix::sys::time::TimeVal::new(5, 0);
    nix::sys::socket::setsockopt(&own, nix::sys::socket::sockopt::ReceiveTimeout, &limit).unwrap();
    for node in &mut nodes {
        node.send(vec![overlay(&web())], 2).await;
        serve(node);
    }
    let accepted = |from: &dyn Fn(&str) -> std::io::Result<TcpStream>, to: &str| {
        let _stream = from(to).unwrap();
        own.accept().unwrap_or_else(|error| panic!("{to} is the process's: {error}"));
    };
    let limit = Duration::from_secs(5);
    let connect = |to: &str| TcpStream::connect_timeout(&to.parse().unwrap(), limit);
    accepted(&|to| nodes[0].in_node(|| connect(to)), "127.0.0.1:8080");
    accepted(&|to| nodes[0].in_node(|| connect(to)), "192.0.2.1:8080");
    accepted(&|to| nodes[1].in_node(|| connect(to)), "192.0.2.1:8080");
    assert!(nodes[1].in_node(|| open("192.0.2.2:8080")).is_ok(), "the other node answers");
    let told = nodes[0].status().await.failures.join("; ");
    assert!(told.contains("port 8080/tcp of this node: a process of the node listens on it at all addresses"), "{told}");
    assert_eq!(nodes[1].status().await.failures, [] as [String; 0]);
    drop(own);
    // From elsewhere it is the service's at once, from the node itself when it was looked for.
    assert!(nodes[1].in_node(|| open("192.0.2.1:8080")).is_ok());
    let start = Instant::now();
    while let Err(error) = nodes[0].in_node(|| open("192.0.2.1:8080")) {
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < DEADLINE, "the port is given up");
        tokio::time::timeout(DEADLINE, nodes[0].status()).await.unwrap();
    }
}
