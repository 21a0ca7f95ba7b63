//! Every field that a user can set, at each of its bounds and one beyond.

use skep_model::config::CONFIG_MAX;
use skep_model::name::{NAME_MAX, SECRET_NAME_MAX};
use skep_model::secret::SECRET_MAX;
use skep_tests::e2e::{Cluster, Said};
use std::collections::BTreeMap;

/// What may be said of one field: values at its bounds, and values beyond them with a word of the refusal.
struct Bound {
    object: &'static str,
    field: &'static str,
    within: Vec<String>,
    beyond: Vec<(String, &'static str)>,
}

fn bound(object: &'static str, field: &'static str, within: &[&str], beyond: &[(&str, &'static str)]) -> Bound {
    let within = within.iter().map(ToString::to_string).collect();
    Bound { object, field, within, beyond: beyond.iter().map(|(value, word)| (value.to_string(), *word)).collect() }
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

/// The values of flags of `service create`.
fn service_flags() -> Vec<Bound> {
    let flag = |field, within: &[&str], beyond: &[(&str, &'static str)]| bound("service", field, within, beyond);
    vec![
        flag("--replicas", &["0", "3"], &[("-1", "replicas"), ("100001", "replicas"), ("18446744073709551616", "replicas")]),
        flag("--limit-cpu", &["0.001", "0"], &[("0.0009", "cpu"), ("-1", "cpu"), ("many", "cpu")]),
        flag("--limit-memory", &["4194304", "0"], &[("4194303", "memory"), ("-5m", "memory"), ("9e99", "memory")]),
        flag("--reserve-cpu", &["0.001"], &[("0.0009", "cpu")]),
        flag("--reserve-memory", &["4194304"], &[("4194303", "memory")]),
        flag("--limit-pids", &["1", "0"], &[("-2", "pids")]),
        flag("--stop-grace-period", &["0s", "1h"], &[("-1s", "stop-grace-period"), ("soon", "stop-grace-period")]),
        flag("--stop-signal", &["SIGTERM", "64"], &[("65", "signal"), ("SIGNONE", "signal")]),
        flag("--hostname", &["x", &text(63)], &[(&text(64), "hostname"), ("a_b", "hostname")]),
        flag("--workdir", &["/"], &[("here", "working directory")]),
        flag("--update-parallelism", &["0", "1"], &[("-1", "update-parallelism")]),
        flag("--update-delay", &["0s"], &[("-1s", "update-delay")]),
        flag("--update-max-failure-ratio", &["0", "1"], &[("1.1", "ratio"), ("-0.1", "ratio")]),
        flag("--restart-max-attempts", &["0"], &[("-1", "restart-max-attempts")]),
        flag("--restart-delay", &["0s"], &[("-1s", "restart-delay")]),
        flag("--health-interval", &["1ms"], &[("1us", "health-interval"), ("-1s", "health-interval")]),
        flag("--health-retries", &["1"], &[("-1", "retries")]),
        flag("--publish", &["9001:1", "65535:65535"], &[("65536:80", "65536"), ("9002:0", "port"), ("9003:65536", "65536")]),
        flag("--mount", &["type=tmpfs,target=/x"], &[("type=tmpfs,target=x", "x"), ("type=tmpfs", "target")]),
        flag("--env", &["A=", "A"], &[("=x", "env"), ("", "env")]),
        flag("--label", &["a=", "a=b"], &[("=b", "label")]),
        flag("--ulimit", &["nofile=1024:1024"], &[("nofile=2048:1024", "nofile"), ("files=1", "files")]),
        flag("--sysctl", &["net.ipv4.ip_unprivileged_port_start=0"], &[("kernel.panic=1", "kernel.panic")]),
        flag("--cap-add", &["CAP_NET_ADMIN"], &[("CAP_NOTHING", "CAP_NOTHING")]),
        flag("--dns", &["127.0.0.1", "::1"], &[("nobody", "nobody")]),
        flag("--host", &["a:10.0.0.1"], &[("a:b", "b")]),
        flag("--constraint", &["node.role==worker"], &[("node.rol==worker", "node.rol"), ("x", "constraint")]),
        flag("--placement-pref", &["spread=node.labels.x"], &[("stack=node.labels.x", "stack")]),
        flag("--endpoint-mode", &["dnsrr", "vip"], &[("any", "any")]),
        flag("--replicas-max-per-node", &["0", "1"], &[("-1", "replicas-max-per-node")]),
        flag("--user", &["0", "65534:65534"], &[]),
    ]
}

/// Creates what is within, detached, and removes it; what is beyond is refused in one line that names it.
fn try_service_flags(cluster: &Cluster, wrong: &mut Vec<String>) -> Vec<Bound> {
    let create = |name: &str, flag: &str, value: &str| {
        let head = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", name, "--network", "front"];
        let value = format!("{flag}={value}");
        cluster.skep("m1", &[&head[..], &[&value, "busybox:latest", "sleep", "1000000"]].concat())
    };
    let bounds = service_flags();
    for bound in &bounds {
        let mut made = Vec::new();
        for (n, value) in bound.within.iter().enumerate() {
            let name = format!("{}{n}", bound.field.trim_start_matches('-'));
            accepted(&create(&name, bound.field, value), wrong);
            made.push(name);
        }
        for (value, word) in &bound.beyond {
            refused(&create("beyond", bound.field, value), word, wrong);
        }
        let made: Vec<&str> = made.iter().map(String::as_str).collect();
        accepted(&cluster.skep("m1", &[&["service", "rm"], &made[..]].concat()), wrong);
    }
    bounds
}

/// Objects that are made by a command of their own: the command of each row, its input, and how to remove what it made.
fn try_others(cluster: &Cluster, wrong: &mut Vec<String>) -> Vec<Bound> {
    let (name, long) = (text(NAME_MAX), text(NAME_MAX + 1));
    let (value_name, value_long) = (text(SECRET_NAME_MAX), text(SECRET_NAME_MAX + 1));
    let mut tried = Vec::new();
    let mut row = |object, field, input: &[u8], command: &[&str], undo: Option<&[&str]>, word: Option<&'static str>| {
        let said = cluster.skep_with("m1", command, input);
        let line = command.join(" ");
        match word {
            None => {
                accepted(&said, wrong);
                tried.push(bound(object, field, &[&line], &[]));
            }
            Some(word) => {
                refused(&said, word, wrong);
                tried.push(bound(object, field, &[], &[(&line, word)]));
            }
        }
        if let Some(undo) = undo {
            accepted(&cluster.skep("m1", undo), wrong);
        }
    };
    row("network", "name", b"", &["network", "create", &name], Some(&["network", "rm", &name]), None);
    row("network", "name", b"", &["network", "create", &long], None, Some("name"));
    let subnet = |subnet: &'static str| ["network", "create", "--subnet", subnet, "edge"];
    row("network", "subnet", b"", &subnet("10.90.0.0/30"), Some(&["network", "rm", "edge"]), None);
    row("network", "subnet", b"", &subnet("10.90.0.0/31"), None, Some("subnet"));
    row("network", "subnet", b"", &subnet("10.90.0.1/24"), None, Some("10.90.0.0/24"));
    row("network", "subnet", b"", &subnet("127.0.0.0/24"), None, Some("127.0.0.0/24"));
    row("network", "subnet", b"", &subnet("224.0.0.0/24"), None, Some("224.0.0.0/24"));
    let mtu = |mtu: &'static str| ["network", "create", "--opt", mtu, "edge"];
    for within in ["com.docker.network.driver.mtu=1280", "com.docker.network.driver.mtu=1500"] {
        row("network", "mtu", b"", &mtu(within), Some(&["network", "rm", "edge"]), None);
    }
    row("network", "mtu", b"", &mtu("com.docker.network.driver.mtu=67"), None, Some("mtu"));
    row("network", "mtu", b"", &mtu("com.docker.network.driver.mtu=65536"), None, Some("mtu"));
    row("network", "mtu", b"", &mtu("com.docker.network.driver.mtu=many"), None, Some("mtu"));
    for (kind, max) in [("secret", SECRET_MAX), ("config", CONFIG_MAX)] {
        let create = |name: &str| [kind.to_owned(), "create".to_owned(), name.to_owned(), "-".to_owned()];
        let mut value = |field, input: &[u8], name: &str, word: Option<&'static str>| {
            let command = create(name);
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let undo = [kind, "rm", name];
            row(kind, field, input, &command, word.is_none().then_some(&undo[..]), word);
        };
        value("name", b"v", &value_name, None);
        value("name", b"v", &value_long, Some("name"));
        value("value", &vec![b'x'; max - 1], "edge", None);
        value("value", &vec![b'x'; max], "edge", Some(if kind == "secret" { "500" } else { "1000" }));
        value("value", b"x", "edge", None);
    }
    row("service", "name", b"", &service(&name), Some(&["service", "rm", &name]), None);
    row("service", "name", b"", &service(&long), None, Some("name"));
    let update = |flag: &'static str| ["swarm", "update", flag];
    row("cluster", "heartbeat", b"", &update("--dispatcher-heartbeat=99ms"), None, Some("heartbeat"));
    row("cluster", "cert-expiry", b"", &update("--cert-expiry=59m"), None, Some("cert"));
    row("cluster", "task-history-limit", b"", &update("--task-history-limit=0"), Some(&update("--task-history-limit=5")), None);
    row("cluster", "task-history-limit", b"", &update("--task-history-limit=many"), None, Some("task-history-limit"));
    row(
        "node",
        "label",
        b"",
        &["node", "update", "--label-add", "a=", "w1"],
        Some(&["node", "update", "--label-rm", "a", "w1"]),
        None,
    );
    row("node", "label", b"", &["node", "update", "--label-add", "=b", "w1"], None, Some("label"));
    row("node", "availability", b"", &["node", "update", "--availability", "asleep", "w1"], None, Some("availability"));
    tried
}

fn service(name: &str) -> [&str; 9] {
    ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", name, "busybox:latest", "true"]
}

fn accepted(said: &Said, wrong: &mut Vec<String>) {
    if said.code != 0 {
        wrong.push(format!("should have been accepted: {said}"));
    }
}

fn refused(said: &Said, word: &str, wrong: &mut Vec<String>) {
    let word = word.to_lowercase();
    let judged = std::panic::catch_unwind(|| said.refused(if said.code == 2 { 2 } else { 1 }, &[&word]));
    if let Err(reason) = judged {
        wrong.push(reason.downcast_ref::<String>().cloned().unwrap_or_default());
    }
}

/// Tries every row, and prints what was tried of which field.
///
/// # Panics
/// When a row does not hold; all that do not are named.
pub fn try_all(cluster: &Cluster) {
    let mut wrong = Vec::new();
    let mut tried = try_service_flags(cluster, &mut wrong);
    tried.extend(try_others(cluster, &mut wrong));
    println!("\n{:<10} {:<28} {:>6} {:>6}", "object", "field", "within", "beyond");
    let mut counts = BTreeMap::<_, (usize, usize)>::new();
    for bound in &tried {
        let count = counts.entry((bound.object, bound.field)).or_default();
        *count = (count.0 + bound.within.len(), count.1 + bound.beyond.len());
    }
    for ((object, field), (within, beyond)) in counts {
        println!("{object:<10} {field:<28} {within:>6} {beyond:>6}");
    }
    assert!(wrong.is_empty(), "{} rows do not hold:\n{}", wrong.len(), wrong.join("\n"));
}
