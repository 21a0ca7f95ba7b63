//! Whole nodes of the one-machine cluster, and tasks on them.

use crate::Row;
use anyhow::Context as _;
use skep_tests::e2e::Cluster;
use std::time::Instant;

/// Seconds of each measurement.
const STREAM: &str = "1";
/// Streams at once. One alone leaves a processor idle now and then, and what is
/// measured then is how soon it wakes.
const CONNECTIONS: &str = "2";
/// Pairs of measurements, one of each kind right after the other, so that whatever
/// else the machine does meets both; many, since a single ratio is off by a tenth.
const ROUNDS: usize = 27;
/// Services that are made.
const SERVICES: usize = 10;

/// A network made by hand: one VXLAN device on each node, beside those of netd.
fn bare(cluster: &Cluster, node: &str, peer: &str, last: u8) {
    let (own, other) = (cluster.address(node), cluster.address(peer));
    let script = format!(
        "ip link add bare type vxlan id 77 local {own} remote {other} dstport 4790 && \
         ip link set bare mtu 1450 && ip address add 198.51.100.{last}/24 dev bare && ip link set bare up"
    );
    cluster.on(node, &["sh", "-c", &script]).ok();
}

/// Gbit/s, as `traffic stream` counts them.
fn stream(cluster: &Cluster, place: &str, target: &str) -> anyhow::Result<f64> {
    let line = cluster.on(place, &["traffic", "stream", "--seconds", STREAM, "--connections", CONNECTIONS, target]).ok();
    let bytes: f64 = line.trim().parse().with_context(|| format!("traffic stream said {line:?}"))?;
    Ok(bytes * 8.0 / 1e9)
}

/// The middle one of several values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn throughput() -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::up(1, 1);
    cluster.load_traffic();
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "front"]).ok();
    cluster.serve("peer", &["--mode", "global", "--network", "front"]).ok();
    bare(&cluster, "m1", "w1", 1);
    bare(&cluster, "w1", "m1", 2);
    let log = cluster.scratch().join("bare");
    let _server = cluster.traffic_beside("w1", &["serve", "--name", "bare", "--http", "8000"], &log);
    let place = cluster.place("peer", "m1");
    let other = cluster.task_on("peer", "w1").id;
    let tasks = cluster.resolve(&place, "tasks.peer");
    let targets = tasks.iter().map(|address| std::net::SocketAddr::new(*address, 80).to_string());
    let target = targets.into_iter().find(|target| cluster.ask(&place, target).0.contains(&other)).context("the other task")?;
    let (mut yardstick, mut overlay) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        yardstick.push(stream(&cluster, "m1", "198.51.100.2:8000")?);
        overlay.push(stream(&cluster, &place, &target)?);
    }
    let ratios = yardstick.iter().zip(&overlay).map(|(yardstick, overlay)| overlay / yardstick).collect();
    let (yardstick, overlay, ratio) = (median(yardstick), median(overlay), median(ratios));
    Ok(vec![
        Row::plain("between two nodes, over a bare VXLAN device", yardstick, "Gbit/s"),
        Row::plain("between tasks on two nodes, over an overlay network", overlay, "Gbit/s"),
        Row::at_least(format!("the second by the first, the median of {ROUNDS} pairs"), ratio, "", 0.9),
    ])
}

pub fn name_after_create() -> Vec<Row> {
    let cluster = Cluster::up(1, 1);
    cluster.load_traffic();
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "front"]).ok();
    cluster.serve("peer", &["--mode", "global", "--network", "front"]).ok();
    let places = ["m1", "w1"].map(|node| cluster.place("peer", node));
    let (mut created, mut answered, mut n_answered) = (Vec::new(), Vec::new(), 0);
    for number in 0..SERVICES {
        let name = format!("fresh{number}");
        let start = Instant::now();
        cluster.serve(&name, &["--network", "front"]).ok();
        created.push(start.elapsed().as_secs_f64() * 1e3);
        for place in &places {
            let said = cluster.on(place, &["traffic", "ask", &format!("{name}:80")]);
            n_answered += usize::from(said.code == 0);
            answered.push(said.took.as_secs_f64() * 1e3);
        }
    }
    vec![
        Row::plain("service create returns", median(created), "ms"),
        Row::plain("a first question by name from another task, process included", median(answered), "ms"),
        Row::at_least(
            format!("answered at once, of {} asked when create had returned", SERVICES * places.len()),
            n_answered as f64,
            "",
            (SERVICES * places.len()) as f64,
        ),
    ]
}
