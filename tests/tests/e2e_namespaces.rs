//! Tasks in network namespaces of their own: their ways out and to each other, what daemons that die mean to them, and
//! in which order they are stopped.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, Figures, wait_for};

/// Ends at once when it is told to.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done";
/// As [`IDLE`], and gives back what it is sent; it goes on listening meanwhile.
const SERVER: &str = "trap 'exit 0' TERM; nc -ll -p 80 -e cat & while :; do sleep 60 & wait $!; done";
/// Writes a line ten times a second for three seconds, and shows what comes back.
const CLIENT: &str = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo $i; usleep 100000; done | nc $0 80";
/// Until a daemon is there again, or a task has ended.
const SOON: Duration = Duration::from_secs(20);

fn create(cluster: &Cluster, name: &str, more: &[&str], image: &str, command: &str) {
    let head =
        ["service", "create", "--quiet", "--update-monitor", "1s", "--name", name, "--network", "n1", "--limit-pids", "50"];
    cluster.skep("m1", &[&head[..], more, &[image, "sh", "-c", command]].concat()).ok();
}

/// The address of the first interface of a task: that on the overlay.
fn overlay_address(cluster: &Cluster, place: &str) -> IpAddr {
    let text = cluster.on(place, &["ip", "-4", "-o", "addr", "show", "dev", "eth0"]).ok();
    let address = text.split_whitespace().skip_while(|word| *word != "inet").nth(1).and_then(|word| word.split('/').next());
    address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("eth0 has no address at {place}: {text}"))
}

/// Every link of the node and of the task, by number and name, and the task's process.
fn standing(cluster: &Cluster, node: &str, place: &str) -> Vec<String> {
    let names = |text: String| {
        let name = |line: &str| line.split(": ").take(2).collect::<Vec<_>>().join(" ");
        text.lines().map(name).collect::<Vec<_>>()
    };
    let mut all = names(cluster.on(node, &["ip", "-o", "link"]).ok());
    all.extend(names(cluster.on(place, &["ip", "-o", "link"]).ok()));
    all.push(cluster.on(place, &["cut", "-d", " ", "-f", "22", "/proc/1/stat"]).ok());
    all
}

#[test]
fn a_task_reaches_out_and_its_peers_and_outlives_both_daemons() {
    let cluster = Cluster::up(1, 1);
    let image = cluster.load_busybox();
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "n1"]).ok();
    create(&cluster, "web", &["--mode", "global"], image, IDLE);
    let places = ["m1", "w1"].map(|node| cluster.place("web", node));
    let addresses = [&places[0], &places[1]].map(|place| overlay_address(&cluster, place).to_string());
    let reach_each_other = || {
        for (place, address) in places.iter().zip(addresses.iter().rev()) {
            cluster.on(place, &["ping", "-c", "1", "-W", "2", address]).ok();
        }
    };
    reach_each_other();
    for place in &places {
        let routes = cluster.on(place, &["ip", "route"]).ok();
        assert!(routes.contains("default via") && routes.contains("dev eth1"), "{place}: {routes}");
        assert!(cluster.on(place, &["cat", "/etc/resolv.conf"]).ok().starts_with("nameserver 127.0.0.11\n"));
        // What lies behind the node is reached by way of the node.
        cluster.on(place, &["ping", "-c", "1", "-W", "2", &cluster.address("m1")]).ok();
    }
    let before = standing(&cluster, "w1", &places[1]);
    for kill in [Cluster::kill_netd, Cluster::kill_daemon] {
        kill(&cluster, "w1");
        reach_each_other();
        cluster.verb("start", &["w1"]).ok();
        reach_each_other();
        let netd = || cluster.on("w1", &["skep-netd", "status"]).ok();
        wait_for("netd is told everything again", SOON, || {
            (!netd().contains("programmed 0") && cluster.skep("m1", &["node", "ls"]).ok().matches("Ready").count() == 2)
                .then_some(())
        });
        assert_eq!(standing(&cluster, "w1", &places[1]), before);
        reach_each_other();
    }
    cluster.remove_services(&["web"]);
    wait_for("every namespace is gone", SOON, || {
        let is_gone = |node| !cluster.on(node, &["skep-netd", "status"]).ok().contains("task ");
        (is_gone("m1") && is_gone("w1")).then_some(())
    });
}

#[test]
fn a_busy_connection_ends_before_its_server_does_and_an_idle_server_ends_at_once() {
    let mut figures = Figures::new("stopping a task");
    let cluster = Cluster::up(1, 1);
    let image = cluster.load_busybox();
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "n1"]).ok();
    create(&cluster, "client", &["--constraint", "node.role==manager"], image, IDLE);
    create(&cluster, "server", &["--constraint", "node.role==worker", "--stop-drain", "10s"], image, SERVER);
    create(&cluster, "idle", &["--constraint", "node.role==worker", "--stop-drain", "10s"], image, IDLE);
    let is_gone = |count: usize| cluster.on("w1", &["skep-netd", "status"]).ok().matches("task ").count() == count;
    let begun = Instant::now();
    cluster.remove_services(&["idle"]);
    wait_for("the idle task is gone", SOON, || is_gone(1).then_some(()));
    let idle = begun.elapsed();
    let server = overlay_address(&cluster, &cluster.place("server", "w1")).to_string();
    let log = cluster.scratch().join("client");
    let client = cluster.place("client", "m1");
    let _client = cluster.background(&client, &["sh", "-c", CLIENT, &server], &log);
    let answers = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_for("the server answers", SOON, || answers().contains('3').then_some(()));
    let begun = Instant::now();
    cluster.remove_services(&["server"]);
    wait_for("the busy task is gone", SOON, || is_gone(0).then_some(()));
    let busy = begun.elapsed();
    assert!(answers().lines().any(|line| line == "30"), "the last line was not answered: {}", answers());
    figures.add("an idle task is stopped and its namespace gone", idle, Duration::from_secs(1));
    figures.add("a task that is busy for 3 s is", busy, Duration::from_secs(4));
    assert!(idle < Duration::from_secs(2), "an idle task took {idle:?} to stop");
    assert!(busy > Duration::from_millis(1500) && busy < Duration::from_secs(8), "a task that was busy for 3 s took {busy:?}");
}
