//! Services whose flags are drawn by chance: each is taken, or refused in one line.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use skep_tests::e2e::Cluster;
use std::time::{SystemTime, UNIX_EPOCH};

/// Flags with the values that are drawn; odd ones among usual ones.
const FLAGS: [(&str, &[&str]); 28] = [
    ("--replicas", &["0", "1", "2", "5", "-1", "x"]),
    ("--limit-memory", &["4m", "6m", "64m", "1g", "1k", "-1"]),
    ("--limit-cpu", &["0.001", "0.5", "2", "64", "1e3"]),
    ("--reserve-memory", &["4m", "1g", "1t"]),
    ("--limit-pids", &["1", "2", "20", "-7"]),
    ("--env", &["A=b", "A", "=", "PATH=", "A={{.Task.Name}}", "A={{.Nothing}}", "A={{"]),
    ("--hostname", &["x", "{{.Node.Hostname}}", "-x", "x.y", "{{.Task.Name}}"]),
    ("--user", &["0", "1000", "nobody", "1000:1000", "4294967295", "nobody:nothing"]),
    ("--workdir", &["/", "/tmp", "/missing/folder", "/bin/sh"]),
    (
        "--mount",
        &["type=tmpfs,target=/t", "type=bind,source=/missing,target=/m", "type=tmpfs,target=/proc", "type=tmpfs,target=/"],
    ),
    ("--health-cmd", &["true", "false", "exit 7", "sleep 100", ""]),
    ("--health-interval", &["1ms", "50ms", "1h"]),
    ("--health-timeout", &["1ms", "1s"]),
    ("--health-retries", &["1", "3"]),
    ("--restart-condition", &["none", "any", "on-failure", "never"]),
    ("--restart-delay", &["0s", "10ms", "1h"]),
    ("--restart-max-attempts", &["0", "1", "3"]),
    ("--stop-signal", &["SIGTERM", "9", "0", "64"]),
    ("--stop-grace-period", &["0s", "1s", "1h"]),
    ("--network", &["front", "none", "host", "missing", "name=front,alias=a", "name=front,alias=a,alias=a"]),
    ("--publish", &["9100:80", "9101-9120:80-99", "9130:80/udp", "published=9131,target=80,mode=host", "2377:80", "8080:80"]),
    ("--constraint", &["node.role==worker", "node.role!=worker", "node.hostname==nowhere", "node.labels.a==b"]),
    ("--sysctl", &["net.ipv6.conf.all.disable_ipv6=1", "net.ipv4.ip_forward=1", "net.core.somaxconn=-1", "net.no.such=1"]),
    ("--cap-add", &["ALL", "NET_ADMIN", "SYS_ADMIN", "NOTHING"]),
    ("--cap-drop", &["ALL", "CHOWN"]),
    ("--ulimit", &["nofile=10:10", "core=-1", "nproc=1:1", "stack=1:1"]),
    ("--update-order", &["start-first", "stop-first", "first"]),
    ("--dns", &["127.0.0.1", "10.255.255.1", "::1", "x"]),
];

/// What the services run; some end at once, some never listen to a signal, some eat what they can.
const COMMANDS: [&[&str]; 7] = [
    &["sleep", "1000000"],
    &["true"],
    &["false"],
    &["no-such-program"],
    &["sh", "-c", "trap '' TERM INT; while :; do sleep 1; done"],
    &[
        "sh",
        "-c",
        "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done | head -c 200000; kill -9 1",
    ],
    &["sh", "-c", "kill -SEGV $$"],
];

/// The seed of this run: `SKEP_SEED`, or the time of day.
pub fn seed() -> u64 {
    let given = std::env::var("SKEP_SEED").ok().map(|text| text.parse().expect("SKEP_SEED is a number"));
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

fn one_of<'a, T: ?Sized>(chance: &mut ChaCha8Rng, values: &[&'a T]) -> &'a T {
    values[chance.next_u32() as usize % values.len()]
}

/// Creates `n` services of a seed, and removes them.
///
/// # Panics
/// When one is neither taken nor refused in one line.
pub fn try_some(cluster: &Cluster, seed: u64, n: usize) {
    println!("random services of SKEP_SEED={seed}");
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut made: Vec<String> = Vec::new();
    let (mut n_taken, mut n_refused) = (0, 0);
    for i in 0..n {
        let name = format!("random{i}");
        let mut flags = vec!["--name".to_owned(), name.clone()];
        for _ in 0..1 + chance.next_u32() % 6 {
            let (flag, values) = FLAGS[chance.next_u32() as usize % FLAGS.len()];
            flags.push(format!("{flag}={}", one_of(&mut chance, values)));
        }
        // Whatever is drawn, one service shall not take the whole machine.
        let head = ["service", "create", "--detach", "--quiet", "--no-resolve-image"];
        let head = if flags.iter().any(|flag| flag.starts_with("--limit-pids")) {
            head.to_vec()
        } else {
            [&head[..], &["--limit-pids", "30"]].concat()
        };
        let command = COMMANDS[chance.next_u32() as usize % COMMANDS.len()];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let said = cluster.skep("m1", &[&head[..], &flags, &["busybox:latest"], command].concat());
        if said.code == 0 {
            n_taken += 1;
            made.push(name);
        } else {
            n_refused += 1;
            said.refused(if said.code == 2 { 2 } else { 1 }, &[]);
        }
        // A few of them at a time are there together.
        if made.len() == 6 {
            remove(cluster, &mut made);
        }
    }
    remove(cluster, &mut made);
    println!("{n_taken} taken, {n_refused} refused");
    assert!(n_taken > 0, "nothing was tried");
}

fn remove(cluster: &Cluster, made: &mut Vec<String>) {
    let names: Vec<&str> = made.iter().map(String::as_str).collect();
    if !names.is_empty() {
        cluster.remove_services(&names);
    }
    made.clear();
}
