//! Deployments, scale-downs and crashes of the daemons under load: no request is lost.
//!
//! Clients never ask twice. Servers answer with `Connection: close` once they were told to stop, and leave on their own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, Figures, Load, is_full, wait_for};

const NODES: [&str; 3] = ["m1", "w1", "w2"];

fn updates() -> usize {
    if is_full() { 20 } else { 3 }
}

/// Requests a second, of all clients together.
fn rate() -> u32 {
    if is_full() { 500 } else { 100 }
}

/// Milliseconds that a long request takes.
fn long_request() -> u64 {
    if is_full() { 10_000 } else { 4_000 }
}

#[test]
fn no_request_is_lost() {
    let mut figures = Figures::new("stopping tasks");
    let cluster = Cluster::up(1, 2);
    cluster.load_traffic();
    cluster.host("outside");
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "front"]).ok();
    let web =
        ["--replicas", "3", "--network", "front", "--publish", "8080:80", "--stop-grace-period", "20s", "--stop-drain", "1s"];
    // Without a check a task is published as soon as it runs, which may be before it listens.
    let check = ["--health-cmd", "traffic ask 127.0.0.1:80", "--health-interval", "200ms", "--health-timeout", "2s"];
    cluster.serve("web", &[&web[..], &check].concat()).ok();
    cluster.serve("client", &["--network", "front"]).ok();

    rolling_updates(&cluster);
    scaling_down_and_up(&cluster);
    killing_netd(&cluster);
    killing_the_daemon(&cluster);
    cluster.remove_services(&["web", "client"]);

    a_long_request_is_waited_for(&cluster);
    without_a_drain_it_is_not(&cluster);
    an_idle_task_stops_at_once(&cluster, &mut figures);
}

/// Half of the load comes from outside through every node, over connections that are kept; half from a task, over a new
/// connection for each request: by the service's name, or by its virtual address.
fn start(cluster: &Cluster, service: &str) -> [Load; 2] {
    let rate = (rate() / 2).to_string();
    let client = cluster.running("m1", "client").remove(0);
    let targets = NODES.map(|node| format!("{node}:8080"));
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    [
        cluster.load("outside", &[&["--rate", &rate], &targets[..]].concat()),
        cluster.load(&format!("{}/{}", client.node, client.id), &["--fresh", "--rate", &rate, &format!("{service}:80")]),
    ]
}

fn finish(load: [Load; 2], during: &str) {
    let reports = load.map(Load::finish);
    for (report, from) in reports.iter().zip(["outside", "a task"]) {
        report.lost_nothing(&format!("{during}, from {from}"));
    }
}

fn rolling_updates(cluster: &Cluster) {
    let load = start(cluster, "web");
    let before = cluster.running("m1", "web");
    for _ in 0..updates() {
        cluster.skep("m1", &["service", "update", "--quiet", "--force", "web"]).ok();
    }
    let after = cluster.running("m1", "web");
    finish(load, &format!("{} rolling updates", updates()));
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|task| before.iter().all(|old| old.id != task.id)), "every task was replaced: {after:?}");
}

fn scaling_down_and_up(cluster: &Cluster) {
    let load = start(cluster, "web");
    for replicas in ["1", "3"] {
        cluster.skep("m1", &["service", "scale", &format!("web={replicas}")]).ok();
    }
    finish(load, "scaling to 1 and back to 3");
}

/// The kernel tells of what a new link came to up to a second later.
const LINKS_QUIET: Duration = Duration::from_secs(2);

/// What changes of links in the node's own namespace and in those of its tasks.
struct Watched {
    node: &'static str,
    /// Each with the length that it had when the watch began in earnest.
    logs: Vec<(PathBuf, usize)>,
    _monitors: Vec<skep_tests::e2e::Background>,
}

impl Watched {
    fn new(cluster: &Cluster, node: &'static str) -> Self {
        let tasks: Vec<String> = ["web", "client"]
            .into_iter()
            .flat_map(|service| cluster.running("m1", service))
            .filter(|task| task.node == node)
            .map(|task| format!("--net=/run/skep/netns/{}", task.id))
            .collect();
        let mut watched = Self { node, logs: Vec::new(), _monitors: Vec::new() };
        for namespace in std::iter::once("--net=/proc/self/ns/net".to_owned()).chain(tasks) {
            let log = cluster.scratch().join(format!("links-{node}-{}", watched.logs.len()));
            watched._monitors.push(cluster.background(node, &["nsenter", &namespace, "ip", "monitor", "link"], &log));
            watched.logs.push((log, 0));
        }
        watched.prove(cluster);
        watched.settle();
        watched
    }

    /// A monitor that hears nothing would prove nothing.
    fn prove(&self, cluster: &Cluster) {
        wait_for("the monitor to hear of a link", Duration::from_secs(20), || {
            cluster.on(self.node, &["ip", "link", "add", "proof", "type", "bridge"]).ok();
            cluster.on(self.node, &["ip", "link", "del", "proof"]).ok();
            std::fs::read_to_string(&self.logs[0].0).is_ok_and(|text| text.contains("proof")).then_some(())
        });
    }

    /// Lets what the links of new tasks came to be told.
    fn settle(&mut self) {
        let mut since = Instant::now();
        wait_for("links to be quiet", Duration::from_secs(30), || {
            for (log, length) in &mut self.logs {
                let now = std::fs::read_to_string(log).expect("a log").len();
                if now != *length {
                    (*length, since) = (now, Instant::now());
                }
            }
            (since.elapsed() >= LINKS_QUIET).then_some(())
        });
    }

    fn heard_nothing(&self, during: &str) {
        for (log, length) in &self.logs {
            let text = std::fs::read_to_string(log).expect("a log").split_off(*length);
            assert!(text.is_empty(), "{during} on {} changed links:\n{text}", self.node);
        }
    }
}

fn programmed(cluster: &Cluster, node: &str) -> Option<u64> {
    let said = cluster.on(node, &["skep-netd", "status"]);
    said.out.lines().find_map(|line| line.strip_prefix("programmed ")?.parse().ok()).filter(|version| *version > 0)
}

/// The virtual address. Names are netd's to answer: while it is away, whoever asks waits for the resolver's timeout.
fn address(cluster: &Cluster) -> String {
    let client = cluster.running("m1", "client").remove(0);
    cluster.resolve(&format!("{}/{}", client.node, client.id), "web").remove(0).to_string()
}

fn killing_netd(cluster: &Cluster) {
    let web = address(cluster);
    for node in NODES {
        let watched = Watched::new(cluster, node);
        let load = start(cluster, &web);
        cluster.kill_netd(node);
        cluster.verb("start", &[node]).ok();
        wait_for("netd to be given everything again", Duration::from_secs(20), || programmed(cluster, node));
        finish(load, &format!("kill -9 of netd on {node}"));
        watched.heard_nothing("kill -9 of netd");
    }
    names_are_asked_again(cluster);
}

/// A name that is asked for while netd is away is found all the same, only later.
fn names_are_asked_again(cluster: &Cluster) {
    let client = cluster.running("m1", "client").remove(0);
    let place = format!("{}/{}", client.node, client.id);
    cluster.kill_netd(&client.node);
    let load = cluster.load(&place, &["--fresh", "--rate", "10", "--timeout", "30", "web:80"]);
    cluster.verb("start", &[&client.node]).ok();
    wait_for("netd to be given everything again", Duration::from_secs(20), || programmed(cluster, &client.node));
    load.finish().lost_nothing("names while netd is away");
}

fn killing_the_daemon(cluster: &Cluster) {
    let web = address(cluster);
    for node in ["w1", "m1"] {
        let watched = Watched::new(cluster, node);
        let load = start(cluster, &web);
        cluster.kill_daemon(node);
        cluster.verb("start", &[node]).ok();
        wait_for("every node to be ready", Duration::from_secs(30), || {
            let status = cluster.skep("m1", &["node", "ls", "--format", "{{.Status}}"]).out;
            (status.lines().filter(|line| *line == "Ready").count() == NODES.len()).then_some(())
        });
        finish(load, &format!("kill -9 of skepd on {node}"));
        watched.heard_nothing("kill -9 of skepd");
    }
}

/// A server that ends at its stop signal, whatever it is doing: only the drain can save its requests.
const ABRUPT: &str = "exec traffic serve --name $NAME --http 80 --linger 0";

/// Asks both tasks of a service for something long, scales it to one, and returns how many were answered.
fn answered_over_a_scale_down(cluster: &Cluster, service: &str, drain: &str) -> usize {
    let more = ["--replicas", "2", "--network", "front", "--publish", "8082:80", "--stop-drain", drain];
    cluster.serve_as(service, &more, ABRUPT).ok();
    let logs = [0, 1].map(|n| cluster.scratch().join(format!("{service}-{n}")));
    let path = format!("/slow?ms={}", long_request());
    let asking = logs
        .each_ref()
        .map(|log| cluster.background("outside", &["traffic", "ask", "--timeout", "30", "--path", &path, "w1:8082"], log));
    wait_for("both to be under way", Duration::from_secs(20), || {
        let listed = cluster.on("outside", &["ss", "--tcp", "--no-header", "state", "established"]).ok();
        (listed.lines().filter(|line| line.contains(":8082")).count() == 2).then_some(())
    });
    cluster.skep("m1", &["service", "scale", &format!("{service}=1")]).ok();
    let answered = asking.into_iter().zip(&logs).filter_map(|(asking, log)| {
        asking.wait();
        let text = std::fs::read_to_string(log).expect("a log");
        println!("{service}: {}", text.trim());
        text.starts_with(service).then_some(())
    });
    let n = answered.count();
    cluster.remove_services(&[service]);
    n
}

fn a_long_request_is_waited_for(cluster: &Cluster) {
    assert_eq!(answered_over_a_scale_down(cluster, "patient", "30s"), 2, "a request of {} ms survives", long_request());
}

fn without_a_drain_it_is_not(cluster: &Cluster) {
    assert_eq!(answered_over_a_scale_down(cluster, "hasty", "0s"), 1, "it was the drain that saved it");
}

fn an_idle_task_stops_at_once(cluster: &Cluster, figures: &mut Figures) {
    for _ in 0..if is_full() { 5 } else { 1 } {
        let more = ["--network", "front", "--publish", "8083:80", "--stop-drain", "10s", "--constraint", "node.hostname==w1"];
        cluster.serve("idle", &more).ok();
        let served = |cluster: &Cluster| cluster.task_processes("w1").iter().any(|process| process.name == "traffic");
        assert!(served(cluster));
        let start = Instant::now();
        cluster.skep("m1", &["service", "rm", "idle"]).ok();
        wait_for("the task to stop", Duration::from_secs(20), || (!served(cluster)).then_some(()));
        figures.add("an idle task stops", start.elapsed(), Duration::from_secs(1));
    }
}
