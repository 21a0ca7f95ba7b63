//! The canary: a secret's value is where a task asked for it, and nowhere else.
//!
//! Three managers and two workers; only w1 runs tasks that reference the secret. The test plants the value first and must
//! find it, so that finding nothing later means something.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_tests::e2e::{Cluster, Find, Hunt, Range, wait_for};

const NODES: [&str; 5] = ["m1", "m2", "m3", "w1", "w2"];
/// The file's name in the tasks that reference the secret.
const TARGET: &str = "canary.conf";

/// Long, new on each run, and with characters that base64, URLs and shells treat each in their own way.
fn canary() -> String {
    let random = || format!("{:016x}", RandomState::new().hash_one(0u8));
    format!("canary/{}+&?={}~{}", random(), random(), random())
}

/// Everything of the cluster that outlives a process, or can be read of one without its help.
fn everywhere(cluster: &Cluster, hunt: &Hunt) -> Vec<Find> {
    let mut finds = Vec::new();
    // Data folders with their containers' files, daemons' and tasks' logs, and core files, as the nodes' folder is there.
    hunt.in_folder(&cluster.dir(), "the cluster's folder", &mut finds);
    for node in NODES {
        let processes = cluster.processes(node);
        hunt.in_processes(node, &processes, &mut finds);
        hunt.in_memory_mounts(node, &processes, &mut finds);
    }
    for core in cores() {
        hunt.in_file(&core, &core.display().to_string(), &mut finds);
    }
    finds
}

/// Core files in the machine's root folder, which is the daemons' working folder.
fn cores() -> Vec<PathBuf> {
    let names = fs::read_dir("/").expect("a root folder").flatten().map(|entry| entry.path());
    names.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"))).collect()
}

/// Whether a find is the one place where the value belongs: the tmpfs of a task on w1.
fn belongs(find: &Find) -> bool {
    find.form == "raw" && find.place.starts_with("w1: tmpfs as ") && find.place.contains(TARGET)
}

fn nowhere_else(cluster: &Cluster, hunt: &Hunt, when: &str) -> Vec<Find> {
    let (right, wrong): (Vec<Find>, Vec<Find>) = everywhere(cluster, hunt).into_iter().partition(belongs);
    assert!(wrong.is_empty(), "{when}, the secret's value is where it must not be:\n{wrong:#?}");
    right
}

/// Plants the value in each kind of place, finds it there, and takes it away again.
fn prove_that_the_hunt_finds(cluster: &Cluster, hunt: &Hunt, value: &str) {
    let data = cluster.data("m2").join("planted");
    let log = cluster.dir().join("nodes/w2/skepd.log");
    fs::write(&data, format!("garbage{value}garbage")).expect("a planted file");
    let before = fs::read(&log).expect("the daemon's log");
    fs::write(&log, [&before[..], value.as_bytes()].concat()).expect("a planted line");
    let core = core_with(cluster, value);

    let finds = everywhere(cluster, hunt);
    for place in [&data, &log, &core] {
        let path = place.strip_prefix(cluster.dir()).expect("below the cluster's folder").display().to_string();
        assert!(
            finds.iter().any(|find| find.form == "raw" && find.place.ends_with(&path)),
            "planted in {path}, not found: {finds:#?}"
        );
    }
    cluster.on_with("m3", &["sh", "-c", "mkdir /run/planted && cat > /run/planted/file"], value.as_bytes()).ok();
    let finds = everywhere(cluster, hunt);
    assert!(finds.iter().any(|find| find.place.starts_with("m3: tmpfs") && find.place.ends_with("/planted/file")), "{finds:#?}");

    fs::write(&log, &before).expect("the log as it was");
    fs::remove_file(&data).expect("the planted file goes");
    fs::remove_file(&core).expect("the planted core goes");
    cluster.on("m3", &["rm", "-r", "/run/planted"]).ok();
    assert_eq!(everywhere(cluster, hunt), [], "what was planted has been taken away");
}

/// The core file of a process that held the value, in w1's data folder. Where this machine hands cores to a program
/// instead, its content is stood in for by the value between other bytes.
fn core_with(cluster: &Cluster, value: &str) -> PathBuf {
    let folder = cluster.data("w1").join("cores");
    fs::create_dir(&folder).expect("a folder for the core");
    let script = "cd /var/lib/skep/cores && ulimit -c unlimited && read -r value; kill -ABRT $$";
    let said = cluster.on_with("w1", &["sh", "-c", script], value.as_bytes());
    assert_ne!(said.code, 0, "the process should have died: {said}");
    let core = fs::read_dir(&folder).expect("the folder").flatten().map(|entry| entry.path()).next();
    core.unwrap_or_else(|| {
        let path = folder.join("core");
        fs::write(&path, [&[0x7f, b'E', b'L', b'F', 0, 255][..], value.as_bytes(), &[0, 1, 2]].concat()).expect("a stand-in");
        path
    })
}

fn create(cluster: &Cluster, name: &str, node: &str, more: &[&str], script: &str) {
    let constraint = format!("node.hostname=={node}");
    let head = [
        "service",
        "create",
        "--quiet",
        "--update-monitor",
        "1s",
        "--name",
        name,
        "--network",
        "none",
        "--restart-delay",
        "0s",
        "--constraint",
        &constraint,
    ];
    let tail = ["--stop-grace-period", "1s", "--limit-pids", "20", "busybox:latest", "sh", "-c", script];
    cluster.skep("m1", &[&head, more, &tail].concat()).ok();
}

fn sha256(cluster: &Cluster, value: &str) -> String {
    let said = cluster.on_with("m1", &["sha256sum"], value.as_bytes()).ok();
    said.split(' ').next().unwrap_or_default().to_owned()
}

fn last_log_line(cluster: &Cluster, service: &str) -> Option<String> {
    cluster.skep("m1", &["service", "logs", "--raw", service]).out.lines().last().map(str::to_owned)
}

#[test]
fn a_secret_is_in_the_tmpfs_of_its_tasks_and_nowhere_else() {
    let cluster = Cluster::up(3, 2);
    cluster.load_busybox();
    let cores_before = cores();
    let value = canary();
    let hunt = Hunt::new(value.as_bytes());
    prove_that_the_hunt_finds(&cluster, &hunt, &value);

    cluster.skep_with("m2", &["secret", "create", "canary", "-"], value.as_bytes()).ok();
    assert_eq!(nowhere_else(&cluster, &hunt, "with no task"), [], "nobody references it yet");

    // It proves by its digest that it has the value, and prints nothing of it.
    let secret = format!("source=canary,target={TARGET},mode=0400");
    let script = format!("sha256sum < /run/secrets/{TARGET}; exec sleep 1000000");
    create(&cluster, "with", "w1", &["--secret", &secret, "--replicas", "2"], &script);
    create(&cluster, "without", "w2", &[], "echo here; exec sleep 1000000");
    wait_for("the digest in the log", Duration::from_secs(20), || {
        last_log_line(&cluster, "with").filter(|line| line.starts_with(&sha256(&cluster, &value)))
    });

    let right = nowhere_else(&cluster, &hunt, "with tasks on w1");
    assert!(!right.is_empty(), "w1 holds it on the tmpfs of its tasks");
    never_received(&cluster, &hunt, "w2");
    held_in_memory_alone(&cluster, &hunt);

    die_and_leave_no_core(&cluster);
    let right = nowhere_else(&cluster, &hunt, "after a daemon that held it was aborted");
    assert!(!right.is_empty(), "the tasks outlived their daemon, and so did their secret");

    one_dies_and_its_tmpfs_with_it(&cluster);
    nowhere_else(&cluster, &hunt, "after a shim and its task were killed");
    let inspected = ["secret inspect canary", "service inspect with", "service ps --no-trunc with"];
    for line in inspected {
        let said = cluster.skep("m3", &line.split(' ').collect::<Vec<_>>());
        let mut finds = Vec::new();
        let file = cluster.scratch().join("said");
        fs::write(&file, said.ok()).expect("a file");
        hunt.in_file(&file, line, &mut finds);
        assert_eq!(finds, [], "the API gives no value back");
    }

    cluster.skep("m1", &["service", "rm", "with"]).ok();
    wait_for("the tasks of w1 to end", Duration::from_secs(30), || cluster.task_processes("w1").is_empty().then_some(()));
    assert_eq!(nowhere_else(&cluster, &hunt, "after its tasks ended"), []);
    cluster.skep("m1", &["secret", "rm", "canary"]).ok();
    assert_eq!(nowhere_else(&cluster, &hunt, "after it was removed"), []);
    assert_eq!(cores(), cores_before);
}

/// The daemon and all shims of a node hold it in no memory.
fn never_received(cluster: &Cluster, hunt: &Hunt, node: &str) {
    let mut finds = Vec::new();
    for process in cluster.processes(node).iter().filter(|process| process.name.starts_with("skep") && process.state != 'Z') {
        hunt.in_memory(process.pid, &format!("{node}: the memory of {}", process.name), &mut finds);
    }
    assert_eq!(finds, [], "{node} has no task that references it");
}

/// Where processes hold it, it is in no swap; the daemon of the node with the tasks keeps it in locked memory, as it does
/// until they end.
fn held_in_memory_alone(cluster: &Cluster, hunt: &Hunt) {
    for node in ["m1", "m2", "m3", "w1"] {
        for process in cluster.processes(node).iter().filter(|process| process.name.starts_with("skep") && process.state != 'Z') {
            for (range, forms) in hunt.ranges_with(process.pid) {
                assert!(range.is_in_memory_alone(), "{node}: {} has the value in swap as {forms:?}: {range:?}", process.name);
            }
        }
    }
    let held = hunt.ranges_with(cluster.daemon("w1"));
    let is_kept = |(range, forms): &(Range, std::collections::BTreeSet<&str>)| range.is_locked && forms.contains("raw");
    assert!(held.iter().any(is_kept), "the daemon of w1 keeps the value in locked memory: {held:?}");
}

/// Aborts w1's daemon as a bug would, with core files allowed as far as anybody outside can allow them.
fn die_and_leave_no_core(cluster: &Cluster) {
    let daemon = cluster.daemon("w1");
    let limits = fs::read_to_string(format!("/proc/{daemon}/limits")).expect("the daemon runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit for cores").to_owned();
    // The hard limit stays, as a task may ask for cores of its own.
    assert_eq!(core.split_whitespace().rev().nth(2), Some("0"), "no core files: {core}");
    let pid = nix::unistd::Pid::from_raw(daemon);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).expect("the daemon can be signalled");
    wait_for("the daemon to die", Duration::from_secs(10), || (!Path::new(&format!("/proc/{daemon}")).exists()).then_some(()));
    cluster.verb("start", &["w1"]).ok();
}

fn one_dies_and_its_tmpfs_with_it(cluster: &Cluster) {
    let shims = || cluster.task_processes("w1").into_iter().filter(|process| process.name == "skep-shim").collect::<Vec<_>>();
    let before = shims();
    assert_eq!(before.len(), 2, "two tasks on w1");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before[0].pid), nix::sys::signal::Signal::SIGKILL)
        .expect("a shim can be killed");
    wait_for("another task to take the place", Duration::from_secs(30), || {
        let now = shims();
        (now.len() == 2 && now.iter().all(|shim| shim.pid != before[0].pid)).then_some(())
    });
}
