//! Killing the daemon touches no task and no line of its log.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, Figures, Process, is_full, wait_for};

/// Prints 1, 2, 3… at a thousand lines a second, in bursts of fifty.
const COUNTER: &str = "i=0; while :; do n=0; while [ $n -lt 50 ]; do i=$((i+1)); n=$((n+1)); echo $i; done; usleep 50000; done";
/// The longest wait before a kill; the shortest is nothing, while the daemon is still finding its tasks.
const MOMENT_MAX_MS: u64 = 3000;

fn kills() -> usize {
    if is_full() { 10 } else { 3 }
}

/// A different moment on each run: that is the point, and it is printed.
fn random_ms(max: u64) -> u64 {
    RandomState::new().hash_one(Instant::now()) % max
}

/// What names the processes of tasks for good.
fn task_processes(cluster: &Cluster, node: &str) -> Vec<String> {
    let found = cluster.task_processes(node);
    // The counter's own short-lived children are not the task's process; each is a
    // copy of the shell until it is a `usleep`.
    let is_of_counter = |process: &Process| found.iter().any(|other| other.pid == process.parent && other.name == "sh");
    let mut all: Vec<String> = found
        .iter()
        .filter(|process| !is_of_counter(process))
        .map(|process| format!("{} {} {}", process.pid, process.start, process.name))
        .collect();
    all.sort();
    all
}

#[test]
fn killing_the_daemon_at_any_moment_loses_no_task_and_no_line() {
    let mut figures = Figures::new("kill -9 skepd");
    let cluster = Cluster::up(1, 1);
    let image = cluster.load_busybox();
    let create = [
        "service",
        "create",
        "--quiet",
        "--update-monitor",
        "1s",
        "--name",
        "counter",
        "--network",
        "host",
        "--constraint",
        "node.role==worker",
        "--restart-delay",
        "0s",
        "--stop-grace-period",
        "1s",
        "--limit-pids",
        "50",
        image,
        "sh",
        "-c",
        COUNTER,
    ];
    cluster.skep("m1", &create).ok();
    let [task] = &cluster.running("m1", "counter")[..] else { panic!("one task runs") };
    let processes = task_processes(&cluster, "w1");
    assert!(processes.iter().any(|line| line.ends_with("skep-shim")), "{processes:?}");

    for kill in 0..kills() {
        let moment = random_ms(MOMENT_MAX_MS);
        println!("kill {kill} comes {moment} ms after the daemon listens");
        // No event marks a random moment.
        std::thread::sleep(Duration::from_millis(moment));
        let start = Instant::now();
        cluster.kill_daemon("w1");
        cluster.verb("start", &["w1"]).ok();
        figures.add("skepd killed: it listens again", start.elapsed(), Duration::from_secs(3));
        assert_eq!(task_processes(&cluster, "w1"), processes, "the same processes, after kill {kill}");
    }
    wait_for("the worker to be ready again", Duration::from_secs(20), || {
        let status = cluster.skep("m1", &["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]).out;
        status.lines().any(|line| line == "w1 Ready").then_some(())
    });

    let tasks = cluster.tasks("m1", "counter");
    assert_eq!(tasks.len(), 1, "the manager saw no restart: {tasks:?}");
    assert_eq!(tasks[0].id, task.id);
    assert!(tasks[0].runs(), "{tasks:?}");

    let lines = cluster.skep("m1", &["service", "logs", "--raw", "counter"]).ok();
    let numbers: Vec<u64> = lines.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("not a number: {line:?}"))).collect();
    assert!(numbers.len() > 1000, "the counter has printed for seconds: {} lines", numbers.len());
    let gap = numbers.iter().zip(1..).find(|(number, wanted)| *number != wanted);
    assert!(gap.is_none(), "the log has a gap or a repetition: (is, should be) {gap:?} of {} lines", numbers.len());
    println!("{} lines without a gap over {} kills", numbers.len(), kills());

    cluster.skep("m1", &["service", "rm", "counter"]).ok();
    wait_for("the counter to end", Duration::from_secs(30), || cluster.task_processes("w1").is_empty().then_some(()));
}
