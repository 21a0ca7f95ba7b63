//! Beside the firewalls that Debian has: Docker, ufw, firewalld and a FORWARD that drops by default, each on a node of
//! one cluster. An overlay service with a published port works on all of them, or the node says what is blocked, and
//! what it says lifts that.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skep_tests::e2e::{Background, Cluster, read_answer, wait_for};

/// Runs a program whose writes to /etc stay on its node.
const WITH_OWN_ETC: &str = include_str!("firewalls/etc.bash");
const READY: Duration = Duration::from_secs(20);
/// Until netd has heard of other rules, and the node has said what it makes of them.
const TOLD: Duration = Duration::from_secs(10);

const DOCKER: &str = "w1";
const UFW: &str = "w2";
const FIREWALLD: &str = "w3";
const STRICT: &str = "w4";
const NODES: [&str; 4] = [DOCKER, UFW, FIREWALLD, STRICT];

#[test]
fn a_service_works_beside_every_firewall_or_its_node_says_what_is_blocked() {
    let cluster = Cluster::up(1, 4);
    let mut docker = start_firewalls(&cluster);
    cluster.load_traffic();
    let outside = Outside::new(&cluster);
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "--ipv6", "front"]).ok();
    let flags = ["--mode", "global", "--constraint", "node.role==worker", "--network", "front", "--publish", "8080:80"];
    cluster.serve("web", &flags).ok();

    for node in [DOCKER, UFW] {
        assert_eq!(blocked(&cluster, node), [] as [String; 0], "{node}");
        works(&cluster, &outside, node);
    }
    for node in [FIREWALLD, STRICT] {
        let said = wait_for(&format!("{node} to say what is blocked"), TOLD, || {
            Some(blocked(&cluster, node)).filter(|said| !said.is_empty())
        });
        // What is bridged meets no firewall, what it passes by itself is not named, and what is named is blocked.
        members_meet(&cluster, node);
        for text in &said {
            assert_eq!(text.contains("published ports"), node == STRICT, "{node}: {text}");
            assert!(text.contains("way out"), "{node}: {text}");
        }
        assert_eq!(is_answered_from_outside(&cluster, node, &outside, "2"), node == FIREWALLD, "{node}");
        assert!(!finds_the_way_out(&cluster, &outside, node, "2"), "{node}");
        assert!(!verified_forward(&cluster, node), "{node}: network verify sees it");
        for text in &said {
            let fix = text.split_once("of tasks: ").unwrap_or_else(|| panic!("no fix: {text}")).1;
            cluster.on(node, &["sh", "-c", fix]).ok();
        }
        wait_for(&format!("nothing to be blocked on {node}"), TOLD, || blocked(&cluster, node).is_empty().then_some(()));
        works(&cluster, &outside, node);
    }

    // They start again, and write all their rules anew.
    cluster.on(DOCKER, &["sh", "-c", "kill $(cat /run/docker.pid)"]).ok();
    wait_for("dockerd to end", READY, || (cluster.on(DOCKER, &["test", "-e", "/run/docker.pid"]).code == 1).then_some(()));
    drop(docker);
    docker = start_docker(&cluster);
    own_etc(&cluster, UFW, &["ufw", "reload"]);
    cluster.on(FIREWALLD, &["firewall-cmd", "--reload"]).ok();
    for node in [DOCKER, UFW, FIREWALLD] {
        wait_for(&format!("{node} to be as it was"), TOLD, || {
            let is_out = finds_the_way_out(&cluster, &outside, node, "1");
            (is_out && blocked(&cluster, node).is_empty()).then_some(())
        });
        works(&cluster, &outside, node);
    }
    drop(docker);
}

fn own_etc(cluster: &Cluster, node: &str, command: &[&str]) -> String {
    cluster.on(node, &[&["unshare", "--mount", "bash", "-c", WITH_OWN_ETC, "etc"], command].concat()).ok()
}

fn beside(cluster: &Cluster, node: &str, command: &[&str]) -> Background {
    let log = cluster.scratch().join(format!("{}.log", command[0]));
    cluster.background(node, &[&["unshare", "--mount", "bash", "-c", WITH_OWN_ETC, "etc"], command].concat(), &log)
}

fn start_docker(cluster: &Cluster) -> Background {
    let places = ["--data-root", "/run/docker-data", "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"];
    let more = ["--host", "unix:///run/docker.sock", "--storage-driver", "vfs"];
    let running = beside(cluster, DOCKER, &[&["dockerd"], &places[..], &more].concat());
    wait_for("dockerd to answer", READY, || (cluster.on(DOCKER, &["docker", "version"]).code == 0).then_some(()));
    running
}

/// Each on its node, with the ports open that nodes of a cluster have for each other. The bus and firewalld live as long
/// as their node.
fn start_firewalls(cluster: &Cluster) -> Background {
    std::thread::scope(|scope| {
        let docker = scope.spawn(|| start_docker(cluster));
        scope.spawn(|| {
            own_etc(cluster, UFW, &["ufw", "--force", "enable"]);
            for port in ["4789/udp", "22/tcp"] {
                own_etc(cluster, UFW, &["ufw", "allow", port]);
            }
        });
        scope.spawn(|| {
            cluster.on(FIREWALLD, &["bash", "-c", "mkdir /run/dbus && exec dbus-daemon --system --fork --nopidfile"]).ok();
            let start = "setsid firewalld --nofork --nopid --log-target=console > /run/firewalld.log 2>&1 < /dev/null &";
            own_etc(cluster, FIREWALLD, &["bash", "-c", start]);
            let state = || (cluster.on(FIREWALLD, &["firewall-cmd", "--state"]).code == 0).then_some(());
            wait_for("firewalld to run", READY, state);
            cluster.on(FIREWALLD, &["firewall-cmd", "--permanent", "--add-port=4789/udp"]).ok();
            cluster.on(FIREWALLD, &["firewall-cmd", "--reload"]).ok();
        });
        for family in ["iptables", "ip6tables"] {
            cluster.on(STRICT, &[family, "-P", "FORWARD", "DROP"]).ok();
        }
        docker.join().expect("docker is started")
    })
}

/// What a node says is blocked.
fn blocked(cluster: &Cluster, node: &str) -> Vec<String> {
    let template = "{{range .Status.Faults}}{{.Reason}}\n{{end}}";
    let said = cluster.skep("m1", &["node", "inspect", "--format", template, node]).ok();
    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// A host beside the cluster, with a server of its own.
struct Outside {
    addresses: Vec<IpAddr>,
    _server: Background,
}

const HOST: &str = "c1";

impl Outside {
    fn new(cluster: &Cluster) -> Self {
        let addresses = cluster.host(HOST);
        let server = ["serve", "--name", HOST, "--http", "80"];
        let server = cluster.traffic_beside(HOST, &server, &cluster.scratch().join("outside.log"));
        Self { addresses, _server: server }
    }
}

fn at(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn works(cluster: &Cluster, outside: &Outside, node: &str) {
    members_meet(cluster, node);
    assert!(is_answered_from_outside(cluster, node, outside, "5"), "{node}: from outside");
    assert!(finds_the_way_out(cluster, outside, node, "5"), "{node}: the way out");
    assert!(verified_forward(cluster, node), "{node}: network verify");
}

/// By its name, the task on the node reaches those on all nodes.
fn members_meet(cluster: &Cluster, node: &str) {
    let place = cluster.place("web", node);
    let answers = cluster.on(&place, &["traffic", "ask", "--times", "8", "web:80"]).ok();
    assert_eq!(servers(&answers).len(), NODES.len(), "from {node}: {answers}");
}

/// By all addresses of a node the tasks of all nodes answer.
fn is_answered_from_outside(cluster: &Cluster, node: &str, outside: &Outside, limit_s: &str) -> bool {
    cluster.addresses(node).into_iter().all(|address| {
        let ask = ["traffic", "ask", "--timeout", limit_s, "--times", "8", &at(address, 8080)];
        let said = cluster.on(HOST, &ask);
        if said.code != 0 {
            return false;
        }
        let answers = said.ok();
        assert_eq!(servers(&answers).len(), NODES.len(), "through {node}: {answers}");
        let seen = answers.lines().map(|line| read_answer(line).1);
        assert!(seen.into_iter().all(|seen| outside.addresses.contains(&seen)), "through {node}: {answers}");
        true
    })
}

/// Whether `network verify` finds that a node forwards.
fn verified_forward(cluster: &Cluster, node: &str) -> bool {
    let said = cluster.skep("m1", &["network", "verify", "--timeout", "4s", "front"]);
    let rows: Vec<&str> = said.out.lines().filter(|line| line.contains("forward") && line.starts_with(node)).collect();
    assert!(!rows.is_empty(), "{node}: {said}");
    let n_good = rows.iter().filter(|row| row.split_whitespace().any(|word| word == "ok")).count();
    assert!(n_good == 0 || n_good == rows.len(), "{node}: {said}");
    n_good > 0
}

fn servers(answers: &str) -> BTreeSet<String> {
    answers.lines().map(|line| read_answer(line).0).collect()
}

/// The node's task reaches the host.
fn finds_the_way_out(cluster: &Cluster, outside: &Outside, node: &str, limit_s: &str) -> bool {
    let place = cluster.place("web", node);
    let target = at(outside.addresses[0], 80);
    cluster.on(&place, &["traffic", "ask", "--timeout", limit_s, &target]).code == 0
}
