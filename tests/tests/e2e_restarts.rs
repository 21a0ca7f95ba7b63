//! What a node does when its daemon dies at any step of a task's start, and when its machine is restarted while no
//! manager can be reached. One cluster for all of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use skep_tests::e2e::{Cluster, Process, is_full, wait_for};

/// For tasks to come and to go.
const SETTLED: Duration = Duration::from_secs(60);
/// A change of the overlay that is not on disk after this time would have been written before.
const KEPT: Duration = Duration::from_secs(3);
/// For one step of a start to be seen.
const STEP: Duration = Duration::from_secs(20);
/// Every start of a container adds its task's id to a file of the node.
const COUNTED: &str = "echo $TASK >> /starts/log; exec sleep 10000";
/// The file, in the node's data folder, and its folder as the node has it.
const STARTS: (&str, &str) = ("starts/log", "/var/lib/skep/starts");

/// Where the folders of tasks are.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the data folder.
    Kept,
    /// In the run folder.
    OfOneBoot,
}

/// What is there of a task, one after the other, while it starts. The daemon is killed as soon as one is seen.
const STEPS: [(Place, &str); 9] = [
    (Place::Kept, ""),
    (Place::Kept, "task"),
    (Place::Kept, "upper"),
    (Place::OfOneBoot, "lease"),
    (Place::OfOneBoot, "lock"),
    (Place::OfOneBoot, "shim.json"),
    (Place::Kept, "exit.room"),
    (Place::OfOneBoot, "shim.sock"),
    (Place::OfOneBoot, "mnt"),
];

fn n_kills() -> usize {
    if is_full() { 100 } else { STEPS.len() }
}

/// The folders of the tasks of w1 in one place.
fn folders(cluster: &Cluster, place: Place) -> BTreeSet<PathBuf> {
    let folder = match place {
        Place::Kept => cluster.data("w1").join("tasks"),
        Place::OfOneBoot => cluster.run_folder("w1").join("shims"),
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn has_folders(cluster: &Cluster) -> bool {
    [Place::Kept, Place::OfOneBoot].into_iter().any(|place| !folders(cluster, place).is_empty())
}

fn create(cluster: &Cluster, name: &str, more: &[&str], image: &str, command: &str) {
    let mount = format!("type=bind,source={},target=/starts", STARTS.1);
    let head = ["service", "create", "--detach", "--name", name, "--constraint", "node.hostname==w1", "--limit-pids", "50"];
    let rest = ["--env", "TASK={{.Task.ID}}", "--mount", &mount, "--stop-grace-period", "1s", "--restart-delay", "200ms"];
    cluster.skep("m1", &[&head[..], &rest, more, &[image, "sh", "-c", command]].concat()).ok();
}

fn start_again(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        cluster.verb("start", &[node]).ok();
    }
}

/// The ids that containers wrote when they started, in order.
fn starts(cluster: &Cluster) -> Vec<String> {
    let text = fs::read_to_string(cluster.data("w1").join(STARTS.0)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Shims of a node, and what runs below them.
fn shims(cluster: &Cluster, node: &str) -> (usize, usize) {
    let found = cluster.task_processes(node);
    let is_shim = |name: &str| name == "skep-shim";
    (
        found.iter().filter(|process| is_shim(&process.name)).count(),
        found.iter().filter(|process| !is_shim(&process.name)).count(),
    )
}

/// What names processes for good; a shim gets another parent when its daemon dies.
fn named(processes: &[Process]) -> BTreeSet<(i32, u64)> {
    processes.iter().map(|process| (process.pid, process.start)).collect()
}

fn gone(cluster: &Cluster, services: &[&str]) {
    cluster.skep("m1", &[&["service", "rm"], services].concat()).ok();
    wait_for("every task to be gone", SETTLED, || (shims(cluster, "w1") == (0, 0) && !has_folders(cluster)).then_some(()));
}

/// Kills the daemon of w1 as soon as a task that was not there before has got as far as a step.
fn kill_at(cluster: &Cluster, before: &BTreeSet<PathBuf>, (place, step): (Place, &str)) {
    let begun = Instant::now();
    // A step may be over in less than a millisecond: whoever looks must look all the time.
    loop {
        let is_there = folders(cluster, place).difference(before).any(|folder| folder.join(step).exists());
        if is_there {
            return cluster.kill_daemon("w1");
        }
        assert!(begun.elapsed() < STEP, "no start got as far as {step:?}");
        std::thread::yield_now();
    }
}

fn a_daemon_killed_at_any_step_of_a_start(cluster: &Cluster, image: &str) {
    let traces = cluster.traces("w1");
    for (n, step) in STEPS.iter().cycle().take(n_kills()).enumerate() {
        let name = format!("start{n}");
        let (before, there) = (starts(cluster).len(), folders(cluster, step.0));
        // The command returns when the first task may be running already.
        std::thread::scope(|scope| {
            scope.spawn(|| create(cluster, &name, &["--replicas", "2"], image, COUNTED));
            kill_at(cluster, &there, *step);
        });
        start_again(cluster, &["w1"]);
        let running = wait_for(&format!("both tasks, killed at {step:?}"), SETTLED, || {
            let running = cluster.running("m1", &name);
            (running.len() == 2 && starts(cluster).len() >= before + 2).then_some(running)
        });
        assert_eq!(shims(cluster, "w1"), (2, 2), "one container each, killed at {step:?}");
        let began = starts(cluster).split_off(before);
        let each: BTreeSet<&String> = began.iter().collect();
        assert_eq!(each.len(), began.len(), "a task was started twice, killed at {step:?}: {began:?}");
        assert!(running.iter().all(|task| each.contains(&task.id)), "{running:?} {began:?}");
        gone(cluster, &[&name]);
    }
    wait_for("nothing to be left", SETTLED, || (cluster.traces("w1") == traces).then_some(()));
}

/// A record that cannot be read costs nobody its container.
fn a_lost_record_ends_nothing(cluster: &Cluster, image: &str) {
    create(cluster, "kept", &[], image, COUNTED);
    let [task] = &wait_for("the task", SETTLED, || Some(cluster.running("m1", "kept")).filter(|tasks| tasks.len() == 1))[..]
    else {
        panic!("one task");
    };
    let processes = cluster.task_processes("w1");
    cluster.kill_daemon("w1");
    fs::write(cluster.data("w1").join("tasks").join(&task.id).join("task"), "rot").unwrap();
    start_again(cluster, &["w1"]);
    wait_for("a record again", SETTLED, || {
        let record = fs::read(cluster.data("w1").join("tasks").join(&task.id).join("task")).unwrap_or_default();
        (record.len() > 100).then_some(())
    });
    assert_eq!(named(&cluster.task_processes("w1")), named(&processes), "the same container");
    assert_eq!(cluster.running("m1", "kept").first().map(|task| &task.id), Some(&task.id));
    gone(cluster, &["kept"]);
}

/// A shim that says nothing costs nobody its container, and what it says late counts.
fn a_silent_shim_is_left_alone(cluster: &Cluster, image: &str) {
    create(cluster, "quiet", &["--replicas", "2"], image, COUNTED);
    wait_for("the tasks", SETTLED, || (cluster.running("m1", "quiet").len() == 2).then_some(()));
    let processes = cluster.task_processes("w1");
    let signal = |name: &str| {
        let shim = processes.iter().find(|process| process.name == "skep-shim").expect("there is a shim");
        let signal = if name == "stop" { nix::sys::signal::Signal::SIGSTOP } else { nix::sys::signal::Signal::SIGCONT };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim.pid), signal).unwrap();
    };
    signal("stop");
    let log = cluster.dir().join("nodes/w1/skepd.log");
    let is_noted = || fs::read_to_string(&log).unwrap_or_default().contains("a shim cannot be heard");
    cluster.kill_daemon("w1");
    start_again(cluster, &["w1"]);
    // For ten seconds it says nothing; then the daemon notes that, and does nothing.
    wait_for("the silence to be noted", SETTLED, || is_noted().then_some(()));
    assert_eq!(named(&cluster.task_processes("w1")), named(&processes));
    assert_eq!(cluster.running("m1", "quiet").len(), 2);
    signal("go on");
    gone(cluster, &["quiet"]);
}

/// The machines of the cluster are restarted, and the manager's stays off.
fn a_machine_that_restarts_without_managers(cluster: &Cluster, image: &str) {
    cluster.skep("m1", &["network", "create", "-d", "overlay", "back"]).ok();
    create(cluster, "early", &["--start-offline", "--network", "back"], image, COUNTED);
    create(cluster, "late", &["--network", "back"], image, COUNTED);
    let id = |service: &str| {
        let running = wait_for(service, SETTLED, || Some(cluster.running("m1", service)).filter(|tasks| tasks.len() == 1));
        running[0].id.clone()
    };
    let (early, late) = (id("early"), id("late"));
    let inspected = cluster.skep("m1", &["service", "inspect", "--format", "{{.Spec.TaskTemplate.StartOffline}}", "early"]).ok();
    assert_eq!(inspected.trim(), "true");
    let place = format!("w1/{early}");
    let lookup = || cluster.on(&place, &["busybox", "nslookup", "tasks.late", "127.0.0.11"]).out;
    let answer = wait_for("a name", SETTLED, || Some(lookup()).filter(|out| out.contains("10.")));
    // What changes is kept within some seconds: a file that knows both tasks and stands still holds all of it.
    let kept = cluster.data("w1").join("overlay");
    let age = || fs::metadata(&kept).and_then(|file| file.modified()).ok()?.elapsed().ok();
    let is_known = || {
        let bytes = fs::read(&kept).unwrap_or_default();
        [&early, &late].iter().all(|id| bytes.windows(id.len()).any(|window| window == id.as_bytes()))
    };
    wait_for("the overlay to be kept", SETTLED, || age().filter(|age| *age > KEPT && is_known()));
    let before = starts(cluster).len();
    for node in ["m1", "w1"] {
        cluster.verb("off", &[node]).ok();
    }
    start_again(cluster, &["w1"]);
    wait_for("the task that may start early", SETTLED, || (starts(cluster).len() > before).then_some(()));
    assert_eq!(starts(cluster).split_off(before), *std::slice::from_ref(&early));
    // It has its network and its names; they are as they were last told.
    assert_eq!(wait_for("a name", SETTLED, || Some(lookup()).filter(|out| out.contains("10."))), answer);
    let info = cluster.skep("w1", &["info"]);
    assert!(info.err.contains("does not say --start-offline"), "{info:?}");
    assert_eq!(shims(cluster, "w1"), (1, 1), "the other waits for a manager");
    let processes = cluster.task_processes("w1");
    start_again(cluster, &["m1"]);
    let again = wait_for("the other task", SETTLED, || {
        Some(cluster.running("m1", "late")).filter(|tasks| tasks.len() == 1 && tasks[0].id != late)
    });
    assert_eq!(again[0].node, "w1");
    assert_eq!(cluster.running("m1", "early").first().map(|task| &task.id), Some(&early), "nothing to replace");
    assert!(named(&cluster.task_processes("w1")).is_superset(&named(&processes)), "and not restarted");
    cluster.skep("m1", &["service", "update", "--detach", "--start-offline=false", "early"]).ok();
    let inspected = cluster.skep("m1", &["service", "inspect", "--format", "{{json .Spec.TaskTemplate}}", "early"]).ok();
    assert!(!inspected.contains("StartOffline"), "{inspected}");
    gone(cluster, &["early", "late"]);
}

#[test]
fn restarts_start_nothing_twice_and_end_nothing() {
    let cluster = Cluster::up(1, 1);
    let image = cluster.load_busybox();
    fs::create_dir_all(cluster.data("w1").join("starts")).unwrap();
    a_daemon_killed_at_any_step_of_a_start(&cluster, image);
    a_lost_record_ends_nothing(&cluster, image);
    a_silent_shim_is_left_alone(&cluster, image);
    a_machine_that_restarts_without_managers(&cluster, image);
}
