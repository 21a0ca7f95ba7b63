//! A panic over one value, on every node at once: all others go on, and no daemon is half alive.

use std::fs;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, Figures, Said, wait_for};

/// A service that every manager panics over, and one that every network daemon does.
const FAULTS: &str = "draft=boom,netd=netboom";
const DEPLOYED: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_panic_costs_the_service_that_it_is_over_and_a_daemon_ends_whole() {
    let cluster = Cluster::planted(3, 0, FAULTS);
    let image = cluster.load_busybox();
    let mut figures = Figures::new("panics");
    cluster.skep("m1", &["network", "create", "net"]).ok();
    let create = |name: &str, more: &[&str]| {
        let mut words =
            vec!["service", "create", "--quiet", "--name", name, "--stop-grace-period", "1s", "--update-monitor", "0s"];
        words.extend_from_slice(more);
        words.extend_from_slice(&[image, "sleep", "1000000"]);
        cluster.skep("m1", &words)
    };
    set_aside(&cluster, &create, &mut figures);
    lose_network_daemons(&cluster, &create);
}

type Create<'a> = dyn Fn(&str, &[&str]) -> Said + 'a;

fn set_aside(cluster: &Cluster, create: &Create<'_>, figures: &mut Figures) {
    create("boom", &["--detach"]).ok();
    for n in 0..3 {
        let start = Instant::now();
        create(&format!("web{n}"), &["--replicas", "3", "--network", "net"]).ok();
        figures.add("beside a service that is set aside: another is deployed", start.elapsed(), DEPLOYED);
    }
    // It is named where a user looks, and by whoever waits for it.
    let ps = cluster.skep("m1", &["service", "ps", "boom"]);
    assert!(ps.err.contains("service boom: the service is set aside") && ps.err.contains("planted"), "{ps}");
    let inspect = cluster.skep("m1", &["service", "inspect", "boom"]).ok();
    assert!(inspect.contains("the service is set aside"), "{inspect}");
    let update = cluster.skep("m1", &["service", "update", "--quiet", "--label-add", "a=b", "boom"]);
    assert!(update.code != 0 && update.err.contains("the service is set aside"), "{update}");
    // Another leader comes to the same.
    let leader = cluster.leader("m1");
    let other = ["m1", "m2", "m3"].into_iter().find(|node| *node != leader).expect("there are three");
    cluster.kill_daemon(&leader);
    wait_for("another leader", SOON, || (cluster.leader(other) != leader).then_some(()));
    cluster.verb("start", &[&leader]).ok();
    cluster.skep(other, &["service", "scale", "--detach", "web0=6"]).ok();
    wait_for("what was not touched goes on", SOON, || (cluster.running(other, "web0").len() == 6).then_some(()));
    cluster.skep(other, &["service", "rm", "boom"]).ok();
    let left = cluster.skep(other, &["service", "ls", "--format", "{{.Name}}"]).ok();
    assert!(!left.contains("boom"), "{left}");
}

fn lose_network_daemons(cluster: &Cluster, create: &Create<'_>) {
    let pids = |node: &str| {
        let processes = cluster.task_processes(node);
        processes.into_iter().map(|process| process.pid).collect::<Vec<_>>()
    };
    let before = ["m1", "m2", "m3"].map(pids);
    create("netboom", &["--detach", "--replicas", "3", "--network", "net"]).ok();
    for node in ["m1", "m2", "m3"] {
        let log = cluster.dir().join("nodes").join(node).join("netd.log");
        wait_for("the network daemon ends with its sentence", SOON, || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            said.contains("the network daemon's loop panicked: planted in netd for netboom; this process ends").then_some(())
        });
        // The keeper of names is a process of its own, made to outlive the daemon.
        let is_daemon = |pid: i32| !fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("keep-names");
        // The sentence is said a moment before the process is gone; half a daemon would stay.
        wait_for(&format!("no half of a network daemon to be left on {node}"), SOON, || {
            let processes = cluster.processes(node);
            let is_half = processes.iter().any(|process| process.name == "skep-netd" && is_daemon(process.pid));
            (!is_half).then_some(())
        });
    }
    for (node, before) in ["m1", "m2", "m3"].into_iter().zip(before) {
        let after = pids(node);
        assert!(before.iter().all(|pid| after.contains(pid)), "the containers of {node} live on: {before:?}, {after:?}");
        // Whoever supervises it starts it again, here without the fault.
        cluster.verb("start", &[node]).ok();
    }
    wait_for("what no network daemon could take is taken", Duration::from_secs(60), || {
        (cluster.running("m1", "netboom").len() == 3).then_some(())
    });
}
