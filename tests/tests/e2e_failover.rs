//! Three managers and two workers: services converge, leaders and workers die, work goes on, nothing stays behind.

use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, Figures, Traces, is_full, wait_for};

const REPLICAS: usize = 10;
const WORKERS: [&str; 2] = ["w1", "w2"];
const MANAGERS: [&str; 3] = ["m1", "m2", "m3"];
const NODES: [&str; 5] = ["m1", "m2", "m3", "w1", "w2"];
const WRITE_AFTER_LEADER: Duration = Duration::from_millis(1500);
const TASKS_ELSEWHERE: Duration = Duration::from_secs(5);

/// How often each way of losing the leader is tried.
fn rounds() -> usize {
    if is_full() { 5 } else { 1 }
}

fn other_than(leader: &str) -> &'static str {
    MANAGERS.into_iter().find(|name| *name != leader).expect("there are three")
}

fn ready_nodes(cluster: &Cluster, node: &str) -> usize {
    cluster.skep(node, &["node", "ls", "--format", "{{.Status}}"]).out.lines().filter(|line| *line == "Ready").count()
}

fn await_ready(cluster: &Cluster, node: &str) {
    wait_for("all five nodes to be ready", Duration::from_secs(30), || (ready_nodes(cluster, node) == 5).then_some(()));
}

/// The time until a write that starts now is accepted by another manager, which the CLI retries by itself.
fn write_accepted(cluster: &Cluster, node: &str, name: &str, since: Instant) -> Duration {
    cluster.skep_with(node, &["config", "create", name, "-"], name.as_bytes()).ok();
    since.elapsed()
}

#[test]
fn a_cluster_survives_its_leader_and_a_worker_and_removal_leaves_nothing() {
    let mut figures = Figures::new("three managers, two workers");
    let start = Instant::now();
    let cluster = Cluster::up(3, 2);
    await_ready(&cluster, "m1");
    figures.add("deploy/cluster up, five nodes ready", start.elapsed(), Duration::from_secs(10));
    let image = cluster.load_busybox();

    let before: Vec<Traces> = NODES.iter().map(|node| cluster.traces(node)).collect();

    let replicas = REPLICAS.to_string();
    let create = [
        "service",
        "create",
        "--quiet",
        "--update-monitor",
        "1s",
        "--name",
        "ten",
        "--replicas",
        &replicas,
        "--network",
        "host",
        "--restart-delay",
        "0s",
        "--constraint",
        "node.role==worker",
        "--stop-grace-period",
        "1s",
        "--limit-pids",
        "20",
        image,
        "sleep",
        "1000000",
    ];
    let created = cluster.skep("m1", &create);
    figures.add("service create --replicas 10 converges", created.took, Duration::from_secs(5));
    created.ok();
    let tasks = cluster.running("m1", "ten");
    assert_eq!(tasks.len(), REPLICAS, "{tasks:?}");
    for worker in WORKERS {
        let here = tasks.iter().filter(|task| task.node == worker).count();
        assert_eq!(here, REPLICAS / 2, "ten tasks spread evenly over two workers: {tasks:?}");
    }

    for round in 0..rounds() {
        lose_leader_by_kill(&cluster, &mut figures, round);
        lose_leader_by_link(&cluster, &mut figures, round);
    }
    let still = cluster.running("m1", "ten");
    let ids = |tasks: &[skep_tests::e2e::Task]| {
        let mut ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&still), ids(&tasks), "no task noticed that leaders came and went");

    lose_worker(&cluster, &mut figures, "w2", "w1");

    cluster.skep("m1", &["service", "rm", "ten"]).ok();
    cluster.verb("start", &["w2"]).ok();
    await_ready(&cluster, "m1");
    for (node, before) in NODES.iter().zip(&before) {
        nothing_beyond(&cluster, node, before);
    }
}

fn lose_leader_by_kill(cluster: &Cluster, figures: &mut Figures, round: usize) {
    let leader = cluster.leader("m1");
    let other = other_than(&leader);
    let start = Instant::now();
    cluster.kill_daemon(&leader);
    let took = write_accepted(cluster, other, &format!("killed-{round}"), start);
    figures.add("leader killed: a write is accepted", took, WRITE_AFTER_LEADER);
    assert_ne!(cluster.leader(other), leader, "a dead manager cannot lead");
    cluster.verb("start", &[&leader]).ok();
    await_ready(cluster, other);
}

fn lose_leader_by_link(cluster: &Cluster, figures: &mut Figures, round: usize) {
    let leader = cluster.leader("m1");
    let other = other_than(&leader);
    let start = Instant::now();
    cluster.verb("cut", &[&leader]).ok();
    let took = write_accepted(cluster, other, &format!("cut-{round}"), start);
    figures.add("leader's link cut: a write is accepted", took, WRITE_AFTER_LEADER);
    // The old leader knows that it lost its followers and takes no write either.
    let alone = cluster.skep_with(&leader, &["config", "create", &format!("alone-{round}"), "-"], b"x");
    assert_ne!(alone.code, 0, "a leader without a quorum must not accept: {alone}");
    cluster.verb("heal", &[&leader]).ok();
    await_ready(cluster, other);
    let configs = cluster.skep(&leader, &["config", "ls", "--format", "{{.Name}}"]).ok();
    assert!(configs.contains(&format!("cut-{round}")), "the healed manager has what it missed: {configs}");
    assert!(!configs.contains(&format!("alone-{round}")), "what was refused is nowhere: {configs}");
}

fn lose_worker(cluster: &Cluster, figures: &mut Figures, lost: &str, left: &str) {
    let start = Instant::now();
    cluster.verb("off", &[lost]).ok();
    wait_for("the dead worker's tasks to run elsewhere", Duration::from_secs(60), || {
        let running = cluster.running("m1", "ten");
        let here = running.iter().filter(|task| task.node == left).count();
        (here == REPLICAS).then_some(())
    });
    figures.add("worker dead: its tasks run elsewhere", start.elapsed(), TASKS_ELSEWHERE);
}

fn nothing_beyond(cluster: &Cluster, node: &str, before: &Traces) {
    let start = Instant::now();
    let left = || cluster.traces(node).beyond(before);
    // The daemon answers before the last shim has ended, so there is a moment to wait.
    while start.elapsed() < Duration::from_secs(30) && !left().is_empty() {}
    assert_eq!(left(), Vec::<String>::new(), "{node} still holds something of the removed service");
}

#[test]
fn what_the_traces_compare_can_be_seen() {
    let cluster = Cluster::up(1, 0);
    let image = cluster.load_busybox();
    let before = cluster.traces("m1");
    cluster
        .skep(
            "m1",
            &[
                "service",
                "create",
                "--quiet",
                "--update-monitor",
                "1s",
                "--name",
                "one",
                "--stop-grace-period",
                "1s",
                "--limit-pids",
                "20",
                image,
                "sleep",
                "1000000",
            ],
        )
        .ok();
    let with = cluster.traces("m1").beyond(&before);
    for wanted in [
        "process skep-shim",
        "process sleep",
        "namespace of kind mnt",
        "namespace of kind net",
        "mount overlay",
        "mount tmpfs",
        "cgroup ",
    ] {
        assert!(with.iter().any(|line| line.contains(wanted)), "a running task shows as {wanted:?}: {with:#?}");
    }
    cluster.skep("m1", &["service", "rm", "one"]).ok();
    nothing_beyond(&cluster, "m1", &before);
}
