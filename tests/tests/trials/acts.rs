//! What is done to the cluster in each trial.

use std::time::Duration;

use skep_tests::e2e::{Cluster, is_full, wait_for};

const REFUSED: i32 = 1;
/// Idle TLS connections, and streams of garbage after a handshake.
const STRANGERS: [&str; 2] = ["1000", "100"];
/// Until a node is ready again after it suffered.
const BACK: Duration = Duration::from_secs(60);

/// Networks with each option, alone and with a task on them.
pub fn networks(cluster: &Cluster) {
    let options: [&[&str]; 9] = [
        &["--attachable"],
        &["--internal"],
        &["--ipv6", "--subnet", "fd00:9::/64"],
        &["--ipv4=false", "--ipv6", "--subnet", "fd00:a::/64"],
        &["--subnet", "10.91.0.0/29", "--gateway", "10.91.0.6"],
        &["--subnet", "10.92.0.0/24", "--ip-range", "10.92.0.128/25"],
        &["--opt", "com.docker.network.driver.mtu=1280"],
        &["--opt", "com.docker.network.driver.mtu=1200"],
        &["--opt", "com.docker.network.driver.mtu=68", "--label", "odd=mtu"],
    ];
    for (n, option) in options.iter().enumerate() {
        let name = format!("option{n}");
        let made = cluster.skep("m1", &[&["network", "create"], *option, &[&name]].concat());
        if made.code != 0 {
            made.refused(if made.code == 2 { 2 } else { REFUSED }, &[]);
            continue;
        }
        let on = ["--network", &name, "--constraint", "node.role==worker"];
        cluster.serve(&name, &on).ok();
        cluster.remove_services(&[&name]);
        wait_for(&format!("network {name} to be free"), BACK, || {
            (cluster.skep("m1", &["network", "rm", &name]).code == 0).then_some(())
        });
    }
}

/// A secret and a config are removed while their user starts, runs, is updated and goes: refused, or without effect.
pub fn values(cluster: &Cluster) {
    let user = |verb: &[&str]| cluster.skep("m1", verb);
    for n in 0..if is_full() { 20 } else { 4 } {
        cluster.skep_with("m1", &["secret", "create", "password", "-"], b"value").ok();
        cluster.skep_with("m1", &["config", "create", "settings", "-"], b"value").ok();
        let remove = || {
            for kind in ["secret", "config"] {
                let name = if kind == "secret" { "password" } else { "settings" };
                user(&[kind, "rm", name]).refused(REFUSED, &[name, "in use", "holder"]);
            }
        };
        let more =
            ["--detach", "--replicas", "2", "--secret", "password", "--config", "settings", "--constraint", "node.role==worker"];
        cluster.serve("holder", &more).ok();
        remove();
        wait_for("both to run", BACK, || (cluster.running("m1", "holder").len() == 2).then_some(()));
        remove();
        // The new version lets go of both, but tasks of the old one run until they have ended.
        let drop = ["service", "update", "--detach", "--quiet", "--secret-rm", "password", "--config-rm", "settings", "holder"];
        user(&drop).ok();
        if n % 2 == 0 {
            user(&["service", "rm", "holder"]).ok();
        }
        wait_for("secret and config to be let go", BACK, || {
            let gone = |kind: &str, name: &str| {
                let said = user(&[kind, "rm", name]);
                said.code == 0 || said.err.contains("not found")
            };
            (gone("secret", "password") && gone("config", "settings")).then_some(())
        });
        user(&["service", "rm", "holder"]);
        wait_for("its tasks to be gone", BACK, || (cluster.skep("m1", &["service", "ps", "holder"]).code != 0).then_some(()));
    }
}

/// A task that tries whatever a task can try, with the capabilities that it has by default and with some more.
pub fn hostile_task(cluster: &Cluster) {
    const ACTS: &str = r#"
        for target in 127.0.0.1 ::1 m1 m2 w1 10.77.0.11; do
            for port in 2377 4789 7946 22; do echo x | nc -w 1 $target $port; echo x | nc -u -w 1 $target $port; done
        done
        for file in /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/*/pids.max /sys/fs/cgroup/memory.max; do echo 999999999999 >$file; done
        mknod /tmp/disk b 8 0; dd if=/tmp/disk of=/dev/null count=1; mknod /tmp/mem c 1 1; dd if=/tmp/mem of=/dev/null count=1
        mount -t proc none /mnt; mount -o remount,rw /sys; echo b >/proc/sysrq-trigger; echo 1 >/proc/sys/net/ipv4/ip_forward
        ip link set eth0 down; ip link set eth0 up; ip addr add 10.0.0.1/8 dev eth0; ip route flush table main; ip neigh flush all
        arping -c 3 -U -I eth0 10.0.0.2; ping -c 20 -i 0.01 -s 60000 127.0.0.1
        (while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done | head -c 3000000)
        i=0; while [ $i -lt 60 ]; do sleep 30 & i=$((i+1)); done
        dd if=/dev/zero of=/tmp/fill bs=1M count=20; rm /tmp/fill
        kill -9 -1
    "#;
    for more in [&[][..], &["--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW"]] {
        let head =
            ["--detach", "--network", "front", "--publish", "8099:80", "--limit-memory", "64m", "--restart-max-attempts", "1"];
        let head = [&head[..], &["--constraint", "node.hostname==w1"], more].concat();
        cluster.serve_as("hostile", &head, &format!("{ACTS} exec sleep 1000000")).ok();
        wait_for("the hostile task to have done its acts", BACK, || {
            let tasks = cluster.tasks("m1", "hostile");
            tasks
                .iter()
                .any(|task| !task.error.is_empty() || task.current.starts_with("Failed") || task.current.starts_with("Running"))
                .then_some(())
        });
        let ended = |log: String| log.lines().count() > 10;
        wait_for("its output", BACK, || {
            ended(cluster.skep("m1", &["service", "logs", "--tail", "50", "hostile"]).out).then_some(())
        });
        cluster.remove_services(&["hostile"]);
    }
}

/// Connections that never say who they are, and streams of garbage, at a manager's port.
pub fn strangers(cluster: &Cluster) {
    let log = cluster.scratch().join("strangers");
    let [idle, garbage] = STRANGERS;
    let manager = format!("{}:2377", cluster.address("m2"));
    let _flood = cluster.traffic_beside("outside", &["strangers", "--idle", idle, "--garbage", garbage, &manager], &log);
    // While they are there, members are served, and a node can leave and come back.
    cluster.skep("m2", &["node", "ls"]).ok();
    let token = cluster.skep("m2", &["swarm", "join-token", "--quiet", "worker"]).ok();
    assert!(token.starts_with("SWMTKN-1-"), "{token}");
    cluster.skep("m1", &["config", "create", "noticed", "/etc/hostname"]).ok();
    cluster.skep("m1", &["config", "rm", "noticed"]).ok();
    println!("{}", std::fs::read_to_string(&log).unwrap_or_default().trim());
}

/// A node leaves, tries to come back under addresses that it cannot have, and then comes back as it was.
pub fn odd_addresses(cluster: &Cluster, node: &str) {
    let own = cluster.address(node);
    let manager = format!("{}:2377", cluster.address("m1"));
    let id = cluster.skep("m1", &["node", "inspect", "--format", "{{.ID}}", node]).ok();
    cluster.skep(node, &["swarm", "leave"]).ok();
    wait_for("the node that left to be down", BACK, || (cluster.skep("m1", &["node", "rm", id.trim()]).code == 0).then_some(()));
    let token = cluster.skep("m1", &["swarm", "join-token", "--quiet", "worker"]).ok();
    let join = |more: &[&str]| cluster.skep(node, &[&["swarm", "join", "--token", token.trim()], more, &[&manager]].concat());
    let odd =
        ["127.0.0.1", "0.0.0.0", "::1", "224.0.0.1", "255.255.255.255", "fe80::1", "nowhere", "10.77.0.11", "240.0.0.1", ""];
    for flag in ["--data-path-addr", "--advertise-addr"] {
        for address in odd {
            let said = join(&["--advertise-addr", &own, flag, address][if flag == "--advertise-addr" { 2 } else { 0 }..]);
            assert!(said.code != 0, "{flag} {address:?} was taken: {said}");
            said.refused(if said.code == 2 { 2 } else { REFUSED }, &[flag]);
        }
    }
    join(&["--advertise-addr", &own]).ok();
    remove_the_dead(cluster, node);
    cluster.skep("m1", &["image", "load", "--all", "--input", &cluster.scratch().join("traffic.tar").display().to_string()]).ok();
    cluster.skep("m1", &["image", "load", "--all", "--input", &cluster.busybox_archive()]).ok();
}

/// Removes the nodes that joined under an odd address and left again. The one that `node` is now stays, though it may not be
/// ready yet.
fn remove_the_dead(cluster: &Cluster, node: &str) {
    let own = cluster.skep(node, &["info", "--format", "{{.Swarm.NodeID}}"]).ok();
    wait_for("only nodes that are there to be listed", BACK, || {
        let listed = cluster.skep("m1", &["node", "ls", "--format", "{{.ID}} {{.Status}}"]).ok();
        let dead: Vec<&str> = listed
            .lines()
            .filter(|line| !line.ends_with(" Ready"))
            .filter_map(|line| line.split(' ').next())
            .filter(|id| *id != own.trim())
            .collect();
        if !dead.is_empty() {
            cluster.skep("m1", &[&["node", "rm", "--force"], &dead[..]].concat());
        }
        (dead.is_empty() && listed.lines().count() == 5).then_some(())
    });
}

/// A node's disk is filled to the last byte, work is asked of it, and it gets its room back.
pub fn full_disk(cluster: &Cluster, node: &str) {
    cluster.on(node, &["sh", "-c", "head -c 1000000000 /dev/zero >/var/lib/skep/fill 2>/dev/null; true"]).ok();
    let free = cluster.on(node, &["df", "--output=avail", "/var/lib/skep"]).ok();
    // Kibibytes; a log that goes on may have let go of a block meanwhile.
    let left = free.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
    assert!(left.is_some_and(|left| left <= 64), "the disk of {node} is full: {free}");
    let there = format!("node.hostname=={node}");
    cluster.serve("squeezed", &["--detach", "--network", "front", "--constraint", &there]).ok();
    cluster.skep_with("m1", &["secret", "create", "squeezed", "-"], b"value").ok();
    cluster.skep("m1", &["secret", "rm", "squeezed"]).ok();
    let listed = cluster.skep("m1", &["service", "ps", "--no-trunc", "squeezed"]).ok();
    println!("{node} without room: {}", listed.lines().nth(1).unwrap_or_default());
    cluster.on(node, &["rm", "/var/lib/skep/fill"]).ok();
    cluster.verb("start", &[node]).ok();
    wait_for("a task to run where there is room again", BACK, || (!cluster.running("m1", "squeezed").is_empty()).then_some(()));
    cluster.remove_services(&["squeezed"]);
}

/// Each daemon of a node is killed at moments all over a task's start, and comes back.
pub fn kills(cluster: &Cluster, node: &str) {
    let there = format!("node.hostname=={node}");
    cluster.serve("started", &["--network", "front", "--constraint", &there]).ok();
    for n in 0..if is_full() { 20 } else { 3 } {
        for daemon in ["skepd", "netd"] {
            cluster.skep("m1", &["service", "update", "--detach", "--quiet", "--force", "started"]).ok();
            // The moment is wherever the node is by now: further on from one round to the next.
            for _ in 0..n {
                cluster.skep("m1", &["service", "ps", "--quiet", "started"]).ok();
            }
            match daemon {
                "skepd" => cluster.kill_daemon(node),
                _ => cluster.kill_netd(node),
            }
            cluster.verb("start", &[node]).ok();
            wait_for(&format!("one task to run after a kill of {daemon}"), BACK, || {
                let shims = cluster.processes(node).iter().filter(|process| process.name == "skep-shim").count();
                (cluster.running("m1", "started").len() == 1 && shims == 1).then_some(())
            });
        }
    }
    cluster.remove_services(&["started"]);
}
