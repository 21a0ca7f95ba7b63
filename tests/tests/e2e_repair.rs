//! Whatever is taken from the kernel, or put wrong, is put right by netd and named; and nothing is repaired that was well.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, is_full, wait_for};

/// Breaks something ten times a second, at random, and prints what: on the node, or in a task of it.
const HARM: &str = include_str!("repair/harm.bash");
/// Prints all that netd answers for, one thing a line, so that two moments can be compared.
const STATE: &str = include_str!("repair/state.bash");

/// Until everything is back after the last harm.
const BACK_DEADLINE: Duration = Duration::from_secs(45);
/// The kinds of rows that a run of harm always meets.
const KINDS: [&str; 6] = ["fdb", "neighbour", "route", "address", "link", "table"];

fn harmed() -> Duration {
    Duration::from_secs(if is_full() { 30 } else { 8 })
}

fn quiet() -> Duration {
    Duration::from_secs(if is_full() { 60 } else { 6 })
}

fn state(cluster: &Cluster, node: &str) -> Vec<String> {
    let text = cluster.on(node, &["bash", "-c", STATE]).ok();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What netd has repaired so far, by kind.
fn repaired(cluster: &Cluster, node: &str) -> BTreeMap<String, u64> {
    let status = cluster.on(node, &["skep-netd", "status"]).ok();
    let rows = status.lines().filter_map(|line| line.strip_prefix("repaired ")?.rsplit_once(' '));
    rows.map(|(kind, n)| (kind.to_owned(), n.parse().expect("a count"))).collect()
}

fn difference(before: &[String], now: &[String]) -> Vec<String> {
    let lost = before.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
    let new = now.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    lost.chain(new).collect()
}

#[test]
fn every_row_comes_back_and_is_named() {
    let cluster = Cluster::up(1, 2);
    cluster.load_traffic();
    cluster.host("outside");
    cluster.skep("m1", &["network", "create", "--driver", "overlay", "--ipv6", "front"]).ok();
    cluster.serve("web", &["--mode", "global", "--network", "front", "--publish", "8080:80"]).ok();
    cluster.serve("client", &["--network", "front", "--constraint", "node.hostname==w1"]).ok();
    let place = cluster.place("client", "w1");

    let before = state(&cluster, "w1");
    assert!(before.len() > 40, "there is much to break: {before:?}");
    let loads = [cluster.load("outside", &["--rate", "50", "w1:8080"]), cluster.load(&place, &["--rate", "50", "web:80"])];
    let seconds = harmed().as_secs().to_string();
    let harms = cluster.on("w1", &["bash", "-c", HARM, "harm", &seconds]).ok();
    let start = Instant::now();
    println!("{} harms in {seconds} s", harms.lines().count());
    assert!(harms.lines().count() as u64 >= harmed().as_secs() * 5, "harm was done:\n{harms}");

    let mut left = Vec::new();
    let back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("every row to be back", BACK_DEADLINE, || {
            left = difference(&before, &state(&cluster, "w1"));
            left.is_empty().then_some(())
        });
    }));
    assert!(back.is_ok(), "not back after {BACK_DEADLINE:?}:\n{}\nafter:\n{harms}", left.join("\n"));
    println!("all was back {:.1} s after the last harm", start.elapsed().as_secs_f64());
    for load in loads {
        let report = load.finish();
        println!("meanwhile {} of {} requests failed", report.failed, report.sent);
    }

    let named = repaired(&cluster, "w1");
    println!("repaired: {named:?}");
    for kind in KINDS {
        assert!(named.keys().any(|name| name.contains(kind)), "no {kind} was repaired, or not by that name: {named:?}");
    }
    nothing_is_repaired_that_was_well(&cluster, &place);
}

fn nothing_is_repaired_that_was_well(cluster: &Cluster, place: &str) {
    let before = ["m1", "w1", "w2"].map(|node| repaired(cluster, node));
    let loads = [cluster.load("outside", &["--rate", "50", "w1:8080"]), cluster.load(place, &["--rate", "50", "web:80"])];
    // Nothing happens in this time: that is what is looked at.
    std::thread::sleep(quiet());
    for load in loads {
        load.finish().lost_nothing("a quiet time");
    }
    let after = ["m1", "w1", "w2"].map(|node| repaired(cluster, node));
    assert_eq!(before, after, "what was repaired though nobody broke it");
}
