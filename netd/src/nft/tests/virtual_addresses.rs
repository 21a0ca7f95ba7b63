//! In a task: virtual addresses, the conntrack flush after them, and names.

use super::*;

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
    socket.commit(&services::replace_backends("task1", &web(&ALL[..1]), &web(&ALL[1..2]))).expect("the backends are replaced");
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
    socket.commit(&services::replace_backends("task1", &web(&ALL[..1]), &web(&ALL[1..2]))).expect("the backends are replaced");
    assert_eq!(ask(&datagrams, "10.7.0.100:90"), 'a', "conntrack still remembers");
    let mut empty = Socket::open_in(Namespace::new().fd()).expect("a socket");
    assert_eq!(conntrack::count(&mut empty).expect("there is nothing"), 0, "each namespace counts its own");
    let backend = ALL[0].parse().expect("an address");
    let others = [Vanished { backend: ALL[1].parse().expect("an address"), transport: None }];
    let vanished = [Some(Transport::Udp), None].map(|transport| Vanished { backend, transport });
    let to_it = |socket: &mut Socket| {
        let listed = conntrack::list(socket).expect("connections are listed");
        listed.into_iter().filter(|tracked| conntrack::is_dnat_to(&vanished[1], &tracked.flow)).collect::<Vec<_>>()
    };
    assert_eq!(to_it(&mut socket).len(), 2);
    for (gone, left) in [(others[0], 2), (vanished[0], 1), (vanished[1], 0)] {
        let start = Instant::now();
        assert!(conntrack::flush(&mut socket, &gone).expect("connections are forgotten"), "this kernel has filters");
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
async fn forgotten(flush: &mut ConntrackFlush) {
    flush.start();
    let ordered = flush.n_ordered();
    while flush.done_through() < ordered {
        assert_eq!(flush.failures().next(), None);
        tokio::time::timeout(DEADLINE, flush.progress()).await.expect("it is forgotten in time");
    }
    assert!(flush.is_idle());
}

fn is_cut(client: &mut Client) -> bool {
    client.stream.write_all(b"x").expect("it is sent");
    client.stream.read_exact(&mut [0]).is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_forgotten_everywhere_and_who_is_back_is_not() {
    let clusters = [(); 3].map(|()| cluster());
    let names = [7, 8, 9].map(|number| InKernel::Task(TaskId::from_random([number; 16])));
    let mut flush = ConntrackFlush::default();
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
        flush.order(name, Some(descriptor), FlushOrder { vanished: gone, unknown: None });
    }
    assert_eq!((flush.n_ordered(), flush.done_through()), (3, 0));
    // In the second namespace one is back before anybody was at work.
    flush.spare(names[1], ALL[0].parse().expect("an address"), true);
    forgotten(&mut flush).await;
    let cut = connections.iter_mut().map(|pair| pair.each_mut().map(is_cut)).collect::<Vec<_>>();
    assert_eq!(cut, [[true, true], [false, true], [true, false]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_let_go_holds_up_nothing() {
    let (client, _servers) = cluster();
    let (gone, other) = (InKernel::Task(TaskId::from_random([7; 16])), InKernel::Node);
    let mut flush = ConntrackFlush::default();
    let unwanted =
        || FlushOrder { vanished: [Vanished { backend: IpAddr::from([10, 7, 1, 2]), transport: None }].into(), unknown: None };
    // What is no namespace cannot be entered: it fails, and is tried again for ever.
    let broken = std::fs::File::open("/dev/null").expect("a file").into();
    flush.order(gone, Some(broken), unwanted());
    flush.order(other, Some(client.fd().try_clone_to_owned().expect("a descriptor")), unwanted());
    flush.start();
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, flush.progress()).await.expect("both are worked on");
    }
    let failures: Vec<String> = flush.failures().map(|(_, failure)| failure).collect();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("connections could not be forgotten"), "{failures:?}");
    assert_eq!(flush.done_through(), 2, "what failed is named, and holds nobody up");
    flush.close(gone);
    assert_eq!(flush.done_through(), 2);
    assert!(flush.is_idle());
}

#[test]
fn datagrams_that_went_elsewhere_are_forgotten_by_port_and_by_address() {
    use conntrack::DnatMatch;
    let namespace = Namespace::new();
    let mut socket = Socket::open_in(namespace.fd()).expect("a socket");
    socket.commit(&services::replace_all("task1", &[])).expect("the rules are taken");
    for address in ["127.0.0.1:9090", "[::1]:9090", "127.0.0.2:9091", "[::1]:9091"] {
        answer(&namespace, address, b'a');
        assert_eq!(ask(&udp(&namespace, if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }), address), 'a');
    }
    let v6: IpAddr = "::1".parse().expect("an address");
    for (appeared, left) in [
        (DnatMatch::Port(9092), 4),
        (DnatMatch::Port(9090), 2),
        (DnatMatch::Address(IpAddr::from([127, 0, 0, 3])), 2),
        (DnatMatch::Address(IpAddr::from([127, 0, 0, 2])), 1),
        (DnatMatch::Address(v6), 0),
    ] {
        conntrack::flush_bypassing(&mut socket, &[appeared].into()).expect("it is forgotten");
        assert_eq!(conntrack::count(&mut socket).expect("a number"), left, "{appeared:?}");
    }
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
    let first = listed.iter().find(|tracked| tracked.flow.answers_from == backend).expect("it is listed");
    assert!(conntrack::delete(&mut socket, first).expect("it is forgotten"));
    assert!(!conntrack::delete(&mut socket, first).expect("it was forgotten"));
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
    socket.commit(&services::replace_backends("task1", &web(&[]), &web(&ALL))).expect("the backends are replaced");
    assert_eq!(names(&client, "10.7.0.100:80", 3).len(), 3);
    socket.commit(&services::remove_all("task1", &[web(&ALL)])).expect("the service is removed");
    socket.commit(&services::add_all("task1", &[web(&ALL)])).expect("it can be added again");
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
