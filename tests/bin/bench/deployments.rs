//! What a user waits for: services, updates, rotations, and a cluster whose leader is gone.
//!
//! Containers only sleep and networks are left out, so that the figures are those of the orchestrator. To compare with an
//! older build, `SKEP_BIN_DIR` names the folder of its binaries.

use crate::Row;
use crate::nodes::median;
use skep_tests::e2e::{Cluster, wait_for};
use std::time::{Duration, Instant};

/// Until something that should take seconds is given up.
const DEADLINE: Duration = Duration::from_secs(120);
/// Every figure is the median of as many.
const ROUNDS: usize = 3;

fn create(cluster: &Cluster, name: &str, replicas: &str, more: &[&str]) {
    let head = ["service", "create", "--detach", "--quiet", "--name", name, "--replicas", replicas, "--network", "host"];
    let pace = ["--update-monitor", "0s", "--stop-signal", "SIGKILL", "--restart-delay", "0s"];
    cluster.skep("m1", &[&head[..], &pace, more, &["busybox:latest", "sleep", "1000000"]].concat()).ok();
}

/// The ids of the tasks that run, once there are `count` of them, and none in `before`.
fn await_running(cluster: &Cluster, service: &str, count: usize, before: &[String]) -> Vec<String> {
    wait_for("the tasks to run", DEADLINE, || {
        let ids: Vec<String> = cluster.running("m1", service).into_iter().map(|task| task.id).collect();
        (ids.len() == count && ids.iter().all(|id| !before.contains(id))).then_some(ids)
    })
}

/// The median of the seconds that `measure` says, of one call a round.
fn rounds(mut measure: impl FnMut(usize) -> f64) -> f64 {
    median((0..ROUNDS).map(&mut measure).collect())
}

fn creations(cluster: &Cluster, replicas: usize) -> Row {
    let seconds = rounds(|_| {
        let start = Instant::now();
        create(cluster, "some", &replicas.to_string(), &[]);
        await_running(cluster, "some", replicas, &[]);
        let took = start.elapsed().as_secs_f64();
        cluster.remove_services(&["some"]);
        took
    });
    Row::plain(format!("service create --replicas {replicas}, until all run"), seconds, "s")
}

fn updates(cluster: &Cluster) -> Row {
    create(cluster, "updated", "20", &["--update-parallelism", "5"]);
    let mut ids = await_running(cluster, "updated", 20, &[]);
    let seconds = rounds(|_| {
        let start = Instant::now();
        cluster.skep("m1", &["service", "update", "--detach", "--quiet", "--force", "updated"]).ok();
        ids = await_running(cluster, "updated", 20, &ids);
        start.elapsed().as_secs_f64()
    });
    cluster.remove_services(&["updated"]);
    Row::plain("service update --force of 20, parallelism 5, until all run", seconds, "s")
}

fn rotations(cluster: &Cluster, parallelism: &str) -> Row {
    // One of its own: a secret cannot be removed before the last task that has it has ended.
    let secret = format!("word-{parallelism}");
    cluster.skep_with("m1", &["secret", "create", &secret, "-"], b"word").ok();
    create(cluster, "reader", "10", &["--secret", &secret, "--update-parallelism", parallelism]);
    let mut ids = await_running(cluster, "reader", 10, &[]);
    let seconds = rounds(|round| {
        let start = Instant::now();
        cluster.skep_with("m1", &["secret", "update", &secret, "-"], format!("word {round}").as_bytes()).ok();
        ids = await_running(cluster, "reader", 10, &ids);
        start.elapsed().as_secs_f64()
    });
    cluster.remove_services(&["reader"]);
    Row::plain(format!("secret update with 10 readers, parallelism {parallelism}, until all run"), seconds, "s")
}

fn failovers(cluster: &Cluster) -> Row {
    let seconds = rounds(|round| {
        let leader = cluster.leader("m1");
        let other = if leader == "m1" { "m2" } else { "m1" };
        let start = Instant::now();
        cluster.kill_daemon(&leader);
        cluster.skep_with(other, &["config", "create", &format!("after{round}"), "-"], b"x").ok();
        let took = start.elapsed().as_secs_f64();
        cluster.verb("start", &[&leader]).ok();
        wait_for("all managers to be ready", DEADLINE, || {
            let said = cluster.skep(other, &["node", "ls", "--format", "{{.Status}}"]);
            (said.out.lines().filter(|line| *line == "Ready").count() == 3).then_some(())
        });
        took
    });
    Row::at_most("leader killed, until a write is accepted", seconds, "s", 1.5)
}

pub fn deployments() -> Vec<Row> {
    let cluster = Cluster::up(3, 0);
    cluster.load_busybox();
    vec![
        creations(&cluster, 1),
        creations(&cluster, 10),
        creations(&cluster, 100),
        updates(&cluster),
        rotations(&cluster, "1"),
        rotations(&cluster, "10"),
        failovers(&cluster),
    ]
}
