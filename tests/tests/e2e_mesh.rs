//! Published ports: on every node, for every client, with the client's own address at the task.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skep_tests::e2e::{Cluster, read_answer, wait_for};

/// Until a changed setting of the cluster is in force on every node.
const SOON: Duration = Duration::from_secs(20);

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const NODES: [&str; 3] = ["m1", "w1", "w2"];
const CLIENTS: [&str; 3] = ["c1", "c2", "c3"];

#[test]
fn published_ports_keep_the_clients_address() {
    the_suite(&Cluster::up(1, 2));
}

#[test]
fn published_ports_keep_the_clients_address_over_ipv6_only() {
    the_suite(&Cluster::up_with(1, 2, &["--v6"]));
}

fn the_suite(cluster: &Cluster) {
    cluster.load_traffic();
    let clients = CLIENTS.map(|name| (name, cluster.host(name)));
    // The manager has no task: whoever asks it is led to a worker.
    let publish = ["--publish", "8080:80", "--publish", "8081:81/udp", "--constraint", "node.role==worker"];
    cluster.serve("web", &[&["--replicas", "2"], &publish[..]].concat()).ok();

    every_node_answers_and_the_task_sees_the_client(cluster, &clients);
    all_backends_answer(cluster);
    one_port_of_a_client_works_through_two_nodes(cluster);
    a_node_reaches_its_own_published_port(cluster);
    a_task_reaches_the_published_port_of_its_node(cluster);
    an_isolated_node_is_closed_to_its_own_tasks(cluster);
    a_removed_port_does_not_answer(cluster);
    ports_of_the_host_are_those_of_its_tasks(cluster);
    bad_ports_are_refused(cluster);
}

fn at(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn every_node_answers_and_the_task_sees_the_client(cluster: &Cluster, clients: &[(&str, Vec<IpAddr>)]) {
    for (client, own) in clients {
        for node in NODES {
            for address in cluster.addresses(node) {
                let wanted = own.iter().find(|own| own.is_ipv4() == address.is_ipv4()).expect("a client has what nodes have");
                let over_tcp = cluster.ask(client, &at(address, 8080));
                assert_eq!(over_tcp.1, *wanted, "TCP from {client} through {node}");
                assert!(over_tcp.0.starts_with("web."));
                let line = cluster.on(client, &["traffic", "datagram", "--bytes", "1000", &at(address, 8081)]).ok();
                assert_eq!(read_answer(&line).1, *wanted, "UDP from {client} through {node}");
            }
        }
    }
}

fn all_backends_answer(cluster: &Cluster) {
    for node in NODES {
        let answers = cluster.on("c1", &["traffic", "ask", "--times", "10", &at(cluster.addresses(node)[0], 8080)]).ok();
        let servers: std::collections::BTreeSet<String> = answers.lines().map(|line| read_answer(line).0).collect();
        assert_eq!(servers.len(), 2, "through {node}, from whichever node the tasks are on: {answers}");
    }
}

/// Both connections end at one task, have one client address and one client port, and are open at the same time.
fn one_port_of_a_client_works_through_two_nodes(cluster: &Cluster) {
    cluster.skep("m1", &["service", "scale", "web=1"]).ok();
    for family in 0..cluster.addresses("m1").len() {
        let targets = ["m1", "w1", "w2"].map(|node| at(cluster.addresses(node)[family], 8080));
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let answers = cluster.on("c2", &[&["traffic", "ask", "--from-port", "40123"], &targets[..]].concat()).ok();
        assert_eq!(answers.lines().count(), 3, "{answers}");
        let targets = ["m1", "w1", "w2"].map(|node| at(cluster.addresses(node)[family], 8081));
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        cluster.on("c2", &[&["traffic", "datagram", "--from-port", "40124"], &targets[..]].concat()).ok();
    }
    cluster.skep("m1", &["service", "scale", "web=2"]).ok();
}

fn a_node_reaches_its_own_published_port(cluster: &Cluster) {
    for node in NODES {
        for address in [vec!["127.0.0.1".parse().expect("an address")], cluster.addresses(node)].concat() {
            assert!(cluster.ask(node, &at(address, 8080)).0.starts_with("web."), "{address} on {node}");
            cluster.on(node, &["traffic", "datagram", &at(address, 8081)]).ok();
        }
    }
}

fn a_task_reaches_the_published_port_of_its_node(cluster: &Cluster) {
    for node in ["w1", "w2"] {
        let place = cluster.place("web", node);
        let answers = cluster.on(&place, &["traffic", "ask", "--times", "4", &at(cluster.addresses(node)[0], 8080)]).ok();
        let servers: std::collections::BTreeSet<String> = answers.lines().map(|line| read_answer(line).0).collect();
        assert_eq!(servers.len(), 2, "itself and the other: {answers}");
    }
}

/// The setting is the whole cluster's. Published ports, and other nodes' addresses, stay open to every task.
fn an_isolated_node_is_closed_to_its_own_tasks(cluster: &Cluster) {
    let log = cluster.scratch().join("isolated.log");
    let _server = cluster.traffic_beside("w1", &["serve", "--name", "node", "--http", "9000"], &log);
    let (own, other) = (cluster.place("web", "w1"), cluster.place("web", "w2"));
    let reaches = |place: &str, target: &str| cluster.on(place, &["traffic", "ask", "--timeout", "1", target]).code == 0;
    for address in cluster.addresses("w1") {
        let (closable, published) = (at(address, 9000), at(address, 8080));
        cluster.ask(&own, &closable);
        cluster.skep("m1", &["swarm", "update", "--isolate-nodes"]).ok();
        wait_for("a task does not reach its node", SOON, || (!reaches(&own, &closable)).then_some(()));
        cluster.ask(&own, &published);
        cluster.ask(&other, &closable);
        cluster.skep("m1", &["swarm", "update", "--isolate-nodes=false"]).ok();
        wait_for("a task reaches its node again", SOON, || reaches(&own, &closable).then_some(()));
    }
}

fn a_removed_port_does_not_answer(cluster: &Cluster) {
    let target = at(cluster.addresses("m1")[0], 8080);
    cluster.ask("c1", &target);
    cluster.skep("m1", &["service", "update", "--quiet", "--publish-rm", "8080:80", "web"]).ok();
    let said = cluster.on("c1", &["traffic", "ask", "--timeout", "2", &target]);
    assert_eq!(said.code, 1, "{said}");
    cluster.skep("m1", &["service", "update", "--quiet", "--publish-add", "8080:80", "web"]).ok();
    cluster.ask("c1", &target);
}

fn ports_of_the_host_are_those_of_its_tasks(cluster: &Cluster) {
    let publish = ["--publish", "mode=host,target=80,published=8090", "--constraint", "node.hostname==w1"];
    cluster.serve("local", &publish).ok();
    let (server, seen) = cluster.ask("c3", &at(cluster.addresses("w1")[0], 8090));
    assert!(server.starts_with("local."));
    assert_eq!(seen, cluster.addresses("c3")[0]);
    let said = cluster.on("c3", &["traffic", "ask", "--timeout", "2", &at(cluster.addresses("w2")[0], 8090)]);
    assert_eq!(said.code, 1, "only on the task's node: {said}");
    cluster.remove_services(&["local"]);
}

fn bad_ports_are_refused(cluster: &Cluster) {
    let create = |publish: &str| cluster.serve("other", &["--publish", publish]);
    create("8080:80").refused(REFUSED, &["8080", "already in use"]);
    create("8082:80/sctp").refused(USAGE, &["sctp"]);
    create("eighty").refused(USAGE, &["eighty"]);
    create("80").ok();
    let template = "{{range .Endpoint.Ports}}{{.PublishedPort}}{{end}}";
    let port: u16 =
        cluster.skep("m1", &["service", "inspect", "--format", template, "other"]).ok().trim().parse().expect("a port");
    assert!((30_000..=32_767).contains(&port), "chosen: {port}");
    assert!(cluster.ask("c1", &at(cluster.addresses("w2")[0], port)).0.starts_with("other."));
    cluster.remove_services(&["other"]);
}
