//! Tasks on overlay networks: names, virtual addresses, isolation, and packets of every size, on every kind of underlay.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use skep_tests::e2e::{Cluster, is_full, read_answer, wait_for};

/// Bytes of the large transfer.
fn transfer() -> u64 {
    if is_full() { 1 << 30 } else { 64 << 20 }
}

/// One node name for each running task of `peer`, a global service.
const NODES: [&str; 3] = ["m1", "w1", "w2"];

#[test]
fn tasks_find_and_reach_each_other() {
    let cluster = Cluster::up(1, 2);
    let outside = Outside::new(&cluster);
    cluster.load_traffic();
    the_suite(&cluster, &outside);
    packets_of_every_size_pass(&cluster);
}

#[test]
fn tasks_find_and_reach_each_other_over_ipv6_only() {
    let cluster = Cluster::up_with(1, 2, &["--v6"]);
    let outside = Outside::new(&cluster);
    cluster.load_traffic();
    the_suite(&cluster, &outside);
    packets_of_every_size_pass(&cluster);
}

#[test]
fn packets_of_every_size_pass_whatever_the_underlay_takes() {
    for mtu in ["1450", "9000"] {
        let cluster = Cluster::up_with(1, 1, &["--mtu", mtu]);
        cluster.load_traffic();
        network(&cluster, "front", &[]);
        cluster.serve("peer", &["--mode", "global", "--network", "front"]).ok();
        packets_of_every_size_pass(&cluster);
    }
}

/// A host outside the swarm: a server, and a name server that the nodes are told of.
struct Outside {
    server: String,
    queries: std::path::PathBuf,
    _running: [skep_tests::e2e::Background; 2],
}

impl Outside {
    fn new(cluster: &Cluster) -> Self {
        let address = cluster.host("outside")[0];
        let queries = cluster.scratch().join("queries");
        let resolver = match address {
            IpAddr::V4(address) => format!("{address}:53"),
            IpAddr::V6(address) => format!("[{address}]:53"),
        };
        let server = resolver.replace(":53", ":80");
        let running = [
            cluster.traffic_beside("outside", &["resolver", &resolver], &queries),
            cluster.traffic_beside(
                "outside",
                &["serve", "--name", "outside", "--http", "80"],
                &cluster.scratch().join("outside"),
            ),
        ];
        // All nodes share this file, as they share the machine's own in a real cluster.
        fs::write(cluster.dir().join("resolv.conf"), format!("nameserver {address}\n")).expect("the nodes' resolv.conf");
        Self { server, queries, _running: running }
    }

    fn was_asked(&self, name: &str) -> bool {
        fs::read_to_string(&self.queries).expect("the resolver writes a log").contains(name)
    }
}

fn network(cluster: &Cluster, name: &str, more: &[&str]) {
    cluster.skep("m1", &[&["network", "create", "--driver", "overlay"], more, &[name]].concat()).ok();
}

fn the_suite(cluster: &Cluster, outside: &Outside) {
    network(cluster, "front", &[]);
    cluster.serve("peer", &["--mode", "global", "--network", "front"]).ok();
    cluster.serve("web", &["--replicas", "5", "--network", "name=front,alias=site"]).ok();

    names_and_addresses_answer(cluster);
    requests_are_spread(cluster);
    a_virtual_address_stays(cluster);
    many_clients_do_not_herd(cluster);
    a_service_without_virtual_address_has_all_of_its_tasks(cluster);
    a_task_reaches_itself_by_its_service(cluster);
    networks_are_apart(cluster);
    an_internal_network_has_no_way_out(cluster, outside);
    tasks_have_ipv6_where_asked_for(cluster);
}

/// The addresses of the tasks of a service.
fn tasks_of(cluster: &Cluster, place: &str, service: &str) -> Vec<IpAddr> {
    cluster.resolve(place, &format!("tasks.{service}"))
}

fn names_and_addresses_answer(cluster: &Cluster) {
    for node in NODES {
        let place = cluster.place("peer", node);
        let [address] = cluster.resolve(&place, "web")[..] else { panic!("one virtual address") };
        assert_eq!(cluster.resolve(&place, "site"), [address], "an alias is the same");
        let tasks = tasks_of(cluster, &place, "web");
        assert_eq!(tasks.len(), 5, "tasks.web on {node}: {tasks:?}");
        assert!(!tasks.contains(&address), "the virtual address is no task's: {address} of {tasks:?}");
        let targets: Vec<String> = ["web", "site"]
            .map(str::to_owned)
            .into_iter()
            .chain(tasks.iter().map(IpAddr::to_string))
            .map(|host| format!("{host}:80"))
            .collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let answers = cluster.on(&place, &[&["traffic", "ask"], &targets[..]].concat()).ok();
        let mut servers: Vec<String> = answers.lines().skip(2).map(|line| read_answer(line).0).collect();
        servers.sort();
        servers.dedup();
        assert_eq!(servers.len(), 5, "each address of tasks.web is another task, on whichever node: {answers}");
        // A peer's own address is what the others see: no address is rewritten on the way.
        let seen = read_answer(answers.lines().next().expect("an answer")).1;
        assert!(tasks_of(cluster, &place, "peer").contains(&seen), "the server saw {seen}, which is no task's address");
    }
    let unknown = cluster.on(&cluster.place("peer", "w1"), &["traffic", "resolve", "nobody"]);
    assert_eq!(unknown.code, 1, "a name that nobody has: {unknown}");
}

fn requests_are_spread(cluster: &Cluster) {
    let answers = cluster.on(&cluster.place("peer", "w1"), &["traffic", "ask", "--times", "10", "web:80"]).ok();
    let servers: std::collections::BTreeSet<String> = answers.lines().map(|line| read_answer(line).0).collect();
    assert_eq!(servers.len(), 5, "ten requests reach all five: {answers}");
}

fn a_virtual_address_stays(cluster: &Cluster) {
    let place = cluster.place("peer", "w2");
    let before = cluster.resolve(&place, "web");
    cluster.skep("m1", &["service", "scale", "web=2"]).ok();
    assert_eq!(cluster.resolve(&place, "web"), before);
    wait_for("the names of two tasks", Duration::from_secs(20), || (tasks_of(cluster, &place, "web").len() == 2).then_some(()));
    let answers = cluster.on(&place, &["traffic", "ask", "--times", "10", "web:80"]).ok();
    let servers: std::collections::BTreeSet<String> = answers.lines().map(|line| read_answer(line).0).collect();
    assert_eq!(servers.len(), 2, "all ten are answered, by the two that are left: {answers}");
    cluster.skep("m1", &["service", "scale", "web=5"]).ok();
    assert_eq!(cluster.resolve(&place, "web"), before);
    assert_eq!(tasks_of(cluster, &place, "web").len(), 5, "scale has converged, so the names are there");
}

/// Fifty tasks open one connection each, to one service of five: if each took its backends in the same order, all would
/// meet at the first.
fn many_clients_do_not_herd(cluster: &Cluster) {
    let ask = "traffic ask web:80; while :; do sleep 1000000; done";
    cluster.serve_as("client", &["--replicas", "50", "--network", "front", "--stop-grace-period", "1s"], ask).ok();
    let mut servers: BTreeMap<String, usize> = BTreeMap::new();
    wait_for("fifty answers", Duration::from_secs(60), || {
        let logs = cluster.skep("m1", &["service", "logs", "--raw", "client"]).ok();
        servers.clear();
        logs.lines().for_each(|line| *servers.entry(read_answer(line).0).or_default() += 1);
        (servers.values().sum::<usize>() >= 50).then_some(())
    });
    println!("one connection of each of 50 clients: {servers:?}");
    assert_eq!(servers.len(), 5, "no backend is left empty: {servers:?}");
    assert!(servers.values().all(|n| *n <= 25), "none has more than half: {servers:?}");
    cluster.remove_services(&["client"]);
}

fn a_service_without_virtual_address_has_all_of_its_tasks(cluster: &Cluster) {
    cluster.serve("round", &["--replicas", "3", "--network", "front", "--endpoint-mode", "dnsrr"]).ok();
    let place = cluster.place("peer", "m1");
    let addresses = cluster.resolve(&place, "round");
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    assert_eq!(addresses, tasks_of(cluster, &place, "round"));
    for address in &addresses {
        assert!(cluster.ask(&place, &host_port(*address, 80)).0.starts_with("round."));
    }
    cluster.remove_services(&["round"]);
}

fn host_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn a_task_reaches_itself_by_its_service(cluster: &Cluster) {
    cluster.serve("alone", &["--network", "front"]).ok();
    let task = cluster.running("m1", "alone").remove(0);
    let place = format!("{}/{}", task.node, task.id);
    let (server, seen) = cluster.ask(&place, "alone:80");
    assert!(server.starts_with("alone.1."), "{server}");
    assert_eq!([seen], tasks_of(cluster, &place, "alone")[..], "it sees its own address");
    cluster.remove_services(&["alone"]);
}

fn networks_are_apart(cluster: &Cluster) {
    network(cluster, "back", &[]);
    cluster.serve("vault", &["--network", "back"]).ok();
    cluster.serve("both", &["--network", "front", "--network", "back"]).ok();
    let vault = cluster.running("m1", "vault").remove(0);
    let both = cluster.running("m1", "both").remove(0);
    let [vault, both] = [vault, both].map(|task| format!("{}/{}", task.node, task.id));
    let peer = cluster.place("peer", "w1");
    let [address] = tasks_of(cluster, &both, "vault")[..] else { panic!("one task") };

    assert!(cluster.ask(&both, "vault:80").0.starts_with("vault."), "who is on both networks reaches both");
    assert!(cluster.ask(&both, "web:80").0.starts_with("web."));
    assert!(cluster.ask(&vault, "both:80").0.starts_with("both."));
    assert!(cluster.ask(&peer, "both:80").0.starts_with("both."));
    for (place, name) in [(&peer, "vault"), (&vault, "web")] {
        let said = cluster.on(place, &["traffic", "resolve", name]);
        // The name server outside knows every name, but not by an address of the overlay.
        assert!(said.code != 0 || !said.out.contains(&address.to_string()), "{said}");
    }
    let said = cluster.on(&peer, &["traffic", "ask", "--timeout", "2", &host_port(address, 80)]);
    assert_eq!(said.code, 1, "the address is not reached from another network either: {said}");
    cluster.remove_services(&["vault", "both"]);
}

fn an_internal_network_has_no_way_out(cluster: &Cluster, outside: &Outside) {
    network(cluster, "inner", &["--internal"]);
    cluster.serve("inside", &["--mode", "global", "--network", "inner"]).ok();
    let open = cluster.place("peer", "w1");
    let closed = cluster.place("inside", "w1");

    let (server, seen) = cluster.ask(&open, &outside.server);
    assert_eq!(server, "outside", "a task of another network gets out");
    assert_eq!(seen.to_string(), cluster.address("w1"), "with its node's address");
    cluster.on(&open, &["traffic", "resolve", "open.example"]).ok();
    assert!(outside.was_asked("open.example"), "and its questions are forwarded");

    assert!(cluster.ask(&closed, "inside:80").0.starts_with("inside."), "within the network all is well");
    let said = cluster.on(&closed, &["traffic", "ask", "--timeout", "2", &outside.server]);
    assert_eq!(said.code, 1, "no way out: {said}");
    let said = cluster.on(&closed, &["traffic", "resolve", "closed.example"]);
    assert_eq!(said.code, 1, "no answer from outside: {said}");
    assert!(!outside.was_asked("closed.example"), "nor was the question heard there");
    cluster.remove_services(&["inside"]);
}

fn tasks_have_ipv6_where_asked_for(cluster: &Cluster) {
    network(cluster, "six", &["--ipv6"]);
    cluster.serve("sixth", &["--mode", "global", "--network", "six"]).ok();
    let place = cluster.place("sixth", "w1");
    let addresses = cluster.resolve(&place, "sixth");
    assert!(addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6), "both families: {addresses:?}");
    for address in addresses {
        let (server, seen) = cluster.ask(&place, &host_port(address, 80));
        assert!(server.starts_with("sixth."), "{server}");
        assert_eq!(seen.is_ipv6(), address.is_ipv6());
    }
    let tasks = tasks_of(cluster, &place, "sixth");
    assert_eq!(tasks.iter().filter(|address| address.is_ipv6()).count(), 3, "{tasks:?}");
    for address in tasks {
        cluster.ask(&place, &host_port(address, 80));
    }
    cluster.remove_services(&["sixth"]);
}

fn packets_of_every_size_pass(cluster: &Cluster) {
    let place = cluster.place("peer", "m1");
    let ours = cluster.task_on("peer", "m1").id;
    let across: Vec<IpAddr> = tasks_of(cluster, &place, "peer")
        .into_iter()
        .filter(|address| !cluster.ask(&place, &host_port(*address, 80)).0.contains(&ours))
        .collect();
    assert!(!across.is_empty(), "there is a task on another node");
    for address in across {
        for bytes in ["1", "1372", "1402", "1403", "1430", "1472", "8192", "32000"] {
            cluster.on(&place, &["traffic", "datagram", "--bytes", bytes, &host_port(address, 81)]).ok();
        }
        cluster.on(&place, &["traffic", "send", "--bytes", "8192", &host_port(address, 80)]).ok();
    }
    let bytes = transfer().to_string();
    let said = cluster.on(&place, &["traffic", "send", "--bytes", &bytes, "--timeout", "100", &far(cluster, &place, &ours)]);
    println!("{bytes} bytes across nodes in {:.1} s", said.took.as_secs_f64());
    said.ok();
}

fn far(cluster: &Cluster, place: &str, ours: &str) -> String {
    let mut addresses = tasks_of(cluster, place, "peer").into_iter().map(|address| host_port(address, 80));
    addresses.find(|target| !cluster.ask(place, target).0.contains(ours)).expect("a task on another node")
}
