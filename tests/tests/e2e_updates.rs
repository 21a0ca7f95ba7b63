//! Deployments: rolled one by one, gated by health, rolled back when they fail; a secret's change is one of them.

use std::time::{Duration, SystemTime};

use skep_tests::e2e::{Cluster, Said, Task, wait_for};

const FAILED: i32 = 3;
const ROLLED_BACK: i32 = 4;
const DEADLINE: i32 = 5;

/// Says what it holds, then waits for its end.
const SHOW: &str =
    "echo \"V=$V secret=$(cat /run/secrets/word 2>/dev/null)\"; trap 'exit 0' TERM; while :; do sleep 1000000 & wait; done";

/// A healthy service of `replicas` that obeys its stop signal at once.
fn create(cluster: &Cluster, name: &str, replicas: usize, more: &[&str]) -> Said {
    let replicas = replicas.to_string();
    let head = [
        "service",
        "create",
        "--quiet",
        "--name",
        name,
        "--replicas",
        &replicas,
        "--network",
        "none",
        "--limit-pids",
        "20",
        "--restart-delay",
        "0s",
        "--update-monitor",
        "1s",
        "--rollback-monitor",
        "1s",
        "--entrypoint",
        "sh",
    ];
    let tail = ["busybox:latest", "-c", SHOW];
    cluster.skep("m1", &[&head, more, &tail].concat())
}

fn update(cluster: &Cluster, name: &str, more: &[&str]) -> Said {
    cluster.skep("m1", &[&["service", "update", "--quiet"], more, &[name]].concat())
}

fn image_of(cluster: &Cluster, service: &str, template: &str) -> String {
    cluster.skep("m1", &["service", "inspect", "--format", template, service]).ok().trim().to_owned()
}

fn environment(cluster: &Cluster, service: &str) -> String {
    image_of(cluster, service, "{{.Spec.TaskTemplate.ContainerSpec.Env}}")
}

/// The last line that each running task of the service has printed, sorted.
fn said(cluster: &Cluster, service: &str) -> Vec<String> {
    let mut lines: Vec<String> = cluster
        .running("m1", service)
        .iter()
        .map(|task| {
            cluster.skep("m1", &["service", "logs", "--raw", &task.id]).ok().lines().last().unwrap_or_default().to_owned()
        })
        .collect();
    lines.sort();
    lines
}

fn ids(tasks: &[Task]) -> Vec<&str> {
    let mut ids: Vec<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn updates_roll_and_fail_and_come_back() {
    let cluster = Cluster::up(1, 2);
    cluster.load_busybox();

    events_between_two_times_are_what_happened_then(&cluster);
    only_what_changed_restarts(&cluster);
    a_failing_update_is_rolled_back(&cluster);
    a_failing_update_pauses_by_default(&cluster);
    health_decides(&cluster);
    a_secret_update_is_a_rolling_update(&cluster);
    drain_moves_tasks_and_global_follows_nodes(&cluster);
    a_wait_ends_with_a_verdict(&cluster);
    a_verdict_is_what_is_there(&cluster);
}

/// The cluster is new, so that its managers have forgotten nothing, however far back the question goes.
fn events_between_two_times_are_what_happened_then(cluster: &Cluster) {
    let config = |words: &[&str]| cluster.skep_with("m1", &[&["config"], words].concat(), b"text").ok();
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
    };
    config(&["create", "before", "-"]);
    let since = now();
    config(&["create", "then", "-"]);
    config(&["update", "--label", "tier=front", "then"]);
    config(&["rm", "then"]);
    let until = now();
    config(&["create", "after", "-"]);
    let happened = ["create then", "update then", "remove then"];
    let all = [&["create before"][..], &happened].concat();
    for (since, expected) in [(since.as_str(), &happened[..]), ("1h", &all)] {
        let format = "{{.Action}} {{.Actor.Attributes.name}}";
        let words = ["events", "--since", since, "--until", &until, "--filter", "type=config", "--format", format];
        let said = cluster.skep("m1", &words);
        assert!(said.code == 0 && said.err.is_empty(), "{said}");
        assert_eq!(said.out.lines().collect::<Vec<_>>(), expected, "since {since}");
    }
    config(&["rm", "before", "after"]);
}

fn only_what_changed_restarts(cluster: &Cluster) {
    create(cluster, "web", 3, &["--env", "V=1"]).ok();
    assert_eq!(said(cluster, "web"), ["V=1 secret="; 3]);
    let first = cluster.running("m1", "web");

    update(cluster, "web", &["--label-add", "colour=red"]).ok();
    assert_eq!(ids(&cluster.running("m1", "web")), ids(&first), "a label of the service is no business of its tasks");
    cluster.skep("m1", &["service", "scale", "web=4"]).ok();
    let four = cluster.running("m1", "web");
    assert!(ids(&first).iter().all(|id| ids(&four).contains(id)) && four.len() == 4, "scaling up adds: {four:?}");

    update(cluster, "web", &["--env-add", "V=2"]).ok();
    assert_eq!(said(cluster, "web"), ["V=2 secret="; 4]);
    let second = cluster.running("m1", "web");
    assert!(ids(&second).iter().all(|id| !ids(&four).contains(id)), "all tasks were replaced");

    update(cluster, "web", &["--force"]).ok();
    assert!(ids(&cluster.running("m1", "web")).iter().all(|id| !ids(&second).contains(id)), "--force replaces all");
    cluster.skep("m1", &["service", "rollback", "--quiet", "web"]).ok();
    cluster.skep("m1", &["service", "scale", "web=1"]).ok();
    assert_eq!(cluster.running("m1", "web").len(), 1);
    cluster.skep("m1", &["service", "rm", "web"]).ok();
}

fn a_failing_update_is_rolled_back(cluster: &Cluster) {
    create(cluster, "back", 3, &["--env", "V=1", "--update-failure-action", "rollback"]).ok();
    let failed = update(cluster, "back", &["--env-add", "V=2", "--args", "-c 'echo i cannot start >&2; exit 7'"]);
    assert_eq!(failed.code, ROLLED_BACK, "{failed}");
    let told = format!("{}{}", failed.out, failed.err);
    assert!(told.contains('7'), "the failed task's cause is shown: {failed}");
    assert!(told.contains("i cannot start"), "and its last log lines: {failed}");
    assert_eq!(environment(cluster, "back"), "[V=1]", "the spec is the old one again");
    assert_eq!(said(cluster, "back"), ["V=1 secret="; 3]);
    cluster.skep("m1", &["service", "rm", "back"]).ok();
}

fn a_failing_update_pauses_by_default(cluster: &Cluster) {
    // A task that ends at once has run for a moment: the pause between slots lets its end be seen before the next.
    create(cluster, "pause", 3, &["--env", "V=1", "--update-delay", "2s"]).ok();
    let old = cluster.running("m1", "pause");
    let failed = update(cluster, "pause", &["--env-add", "V=2", "--args", "-c 'exit 7'"]);
    assert_eq!(failed.code, FAILED, "{failed}");
    // What replaces the failed one is started again and again, and runs for a moment each time.
    let running = cluster.running("m1", "pause");
    let n_left = ids(&running).iter().filter(|id| ids(&old).contains(id)).count();
    assert_eq!(n_left, 2, "one by one: the first failed, so the others were left alone: {running:?}");
    assert_eq!(environment(cluster, "pause"), "[V=2]", "a paused update keeps what was asked for");
    update(cluster, "pause", &["--args", &format!("-c '{}'", SHOW.replace('\'', "'\\''"))]).ok();
    assert_eq!(said(cluster, "pause"), ["V=2 secret="; 3], "the next update goes through");
    cluster.skep("m1", &["service", "rm", "pause"]).ok();
}

fn health_decides(cluster: &Cluster) {
    let health =
        ["--health-interval", "200ms", "--health-timeout", "2s", "--health-retries", "2", "--update-failure-action", "rollback"];
    create(cluster, "health", 2, &[&health[..], &["--health-cmd", "test ! -e /sick"]].concat()).ok();
    let before = cluster.running("m1", "health");
    let failed = update(cluster, "health", &["--health-cmd", "echo i am sick; exit 1"]);
    assert_eq!(failed.code, ROLLED_BACK, "{failed}");
    let after = cluster.running("m1", "health");
    assert_eq!(after.len(), 2);
    let kept = ids(&after).iter().filter(|id| ids(&before).contains(id)).count();
    assert_eq!(kept, 1, "the second task was never touched, as the first did not get healthy");
    cluster.skep("m1", &["service", "rm", "health"]).ok();
}

fn a_secret_update_is_a_rolling_update(cluster: &Cluster) {
    cluster.skep_with("m1", &["secret", "create", "word", "-"], b"first").ok();
    create(cluster, "reader", 3, &["--secret", "word"]).ok();
    create(cluster, "bystander", 1, &[]).ok();
    let bystander = cluster.running("m1", "bystander");
    assert_eq!(said(cluster, "reader"), ["V= secret=first"; 3]);

    cluster.skep_with("m1", &["secret", "update", "word", "-"], b"second").ok();
    let mut fewest = 3;
    wait_for("all readers to hold the second version", Duration::from_secs(60), || {
        let running = cluster.running("m1", "reader");
        fewest = fewest.min(running.len());
        (running.len() == 3 && said(cluster, "reader") == ["V= secret=second"; 3]).then_some(())
    });
    assert!(fewest >= 2, "one by one: {fewest} of 3 ran at the worst moment seen");
    assert_eq!(ids(&cluster.running("m1", "bystander")), ids(&bystander), "who does not use it is not touched");

    cluster.skep("m1", &["service", "rollback", "--quiet", "reader"]).ok();
    assert_eq!(said(cluster, "reader"), ["V= secret=first"; 3], "a rollback restores the versions' numbers");
    cluster.skep("m1", &["service", "rm", "reader", "bystander"]).ok();
    cluster.skep("m1", &["secret", "rm", "word"]).ok();
}

fn drain_moves_tasks_and_global_follows_nodes(cluster: &Cluster) {
    create(cluster, "moved", 4, &["--constraint", "node.role==worker"]).ok();
    let everywhere = [
        "service",
        "create",
        "--quiet",
        "--update-monitor",
        "1s",
        "--name",
        "everywhere",
        "--mode",
        "global",
        "--network",
        "none",
        "--limit-pids",
        "20",
        "busybox:latest",
    ];
    cluster.skep("m1", &[&everywhere[..], &["sleep", "1000000"]].concat()).ok();
    let nodes = |service: &str| {
        let mut nodes: Vec<String> = cluster.running("m1", service).into_iter().map(|task| task.node).collect();
        nodes.sort();
        nodes
    };
    assert_eq!(nodes("moved"), ["w1", "w1", "w2", "w2"]);
    assert_eq!(nodes("everywhere"), ["m1", "w1", "w2"]);

    cluster.skep("m1", &["node", "update", "--availability", "drain", "w1"]).ok();
    wait_for("the drained node's tasks to run elsewhere", Duration::from_secs(40), || {
        (nodes("moved") == ["w2"; 4]).then_some(())
    });
    wait_for("the global service to leave it", Duration::from_secs(40), || (nodes("everywhere") == ["m1", "w2"]).then_some(()));
    wait_for("no process of a task on it", Duration::from_secs(40), || cluster.task_processes("w1").is_empty().then_some(()));
    cluster.skep("m1", &["node", "update", "--availability", "active", "w1"]).ok();
    wait_for("the global service to come back", Duration::from_secs(40), || {
        (nodes("everywhere") == ["m1", "w1", "w2"]).then_some(())
    });
    assert_eq!(nodes("moved"), ["w2"; 4], "tasks are not moved back without need");
    cluster.skep("m1", &["node", "update", "--availability", "pause", "w2"]).ok();
    cluster.skep("m1", &["service", "scale", "moved=5"]).ok();
    assert_eq!(nodes("moved"), ["w1", "w2", "w2", "w2", "w2"], "a paused node keeps its tasks and gets no new one");
    cluster.skep("m1", &["node", "update", "--availability", "active", "w2"]).ok();
    cluster.skep("m1", &["service", "rm", "moved", "everywhere"]).ok();
}

fn a_wait_ends_with_a_verdict(cluster: &Cluster) {
    let nowhere = create(cluster, "nowhere", 1, &["--constraint", "node.labels.none==such", "--timeout", "3s"]);
    assert_eq!(nowhere.code, DEADLINE, "{nowhere}");
    let told = format!("{}{}", nowhere.out, nowhere.err);
    assert!(told.contains("constraints"), "it says why the task is pending: {nowhere}");
    let [task] = &cluster.tasks("m1", "nowhere")[..] else { panic!("one task") };
    assert!(task.error.contains("no suitable node"), "{task:?}");
    assert!(task.error.contains("on 3 nodes"), "with counts: {task:?}");
    cluster.skep("m1", &["service", "rm", "nowhere"]).ok();

    let crash = cluster.skep(
        "m1",
        &[
            "service",
            "create",
            "--quiet",
            "--update-monitor",
            "1s",
            "--name",
            "crash",
            "--restart-condition",
            "none",
            "--limit-pids",
            "20",
            "busybox:latest",
            "sh",
            "-c",
            "echo no luck; exit 3",
        ],
    );
    assert_eq!(crash.code, FAILED, "{crash}");
    assert!(format!("{}{}", crash.out, crash.err).contains("no luck"), "{crash}");
    cluster.skep("m1", &["service", "rm", "crash"]).ok();

    let missing = cluster.skep(
        "m1",
        &["service", "create", "--quiet", "--name", "missing", "--restart-condition", "none", "nowhere.invalid/missing:1"],
    );
    assert_eq!(missing.code, FAILED, "{missing}");
    assert!(format!("{}{}", missing.out, missing.err).contains("missing"), "{missing}");
    cluster.skep("m1", &["service", "rm", "missing"]).ok();
}

/// A created service is watched as an update is, what completes is a success, and what is
/// scaled away is gone.
fn a_verdict_is_what_is_there(cluster: &Cluster) {
    let once = |name: &str, more: &[&str]| {
        let head = ["service", "create", "--quiet", "--name", name, "--restart-condition", "none", "--network", "none"];
        cluster.skep("m1", &[&head, more, &["--limit-pids", "20", "busybox:latest", "true"]].concat())
    };
    once("once", &["--replicas", "2"]).ok();
    once("each", &["--mode", "global"]).ok();
    update(cluster, "once", &["--env-add", "V=2"]).ok();
    update(cluster, "each", &["--env-add", "V=2"]).ok();
    cluster.skep("m1", &["service", "rm", "once", "each"]).ok();

    let head = ["service", "create", "--quiet", "--name", "loop", "--restart-delay", "0s", "--network", "none"];
    let tail = ["--limit-pids", "20", "busybox:latest", "sh", "-c", "sleep 1; echo no luck; exit 3"];
    let crash = cluster.skep("m1", &[&head[..], &tail].concat());
    assert_eq!(crash.code, FAILED, "{crash}");
    let told = format!("{}{}", crash.out, crash.err);
    assert!(told.contains("ended early") && told.contains("no luck"), "{crash}");
    cluster.skep("m1", &["service", "rm", "loop"]).ok();

    // It runs for two seconds after its stop signal.
    let slow = "trap 'sleep 2; exit 0' TERM; while :; do sleep 1000000 & wait; done";
    let head = ["service", "create", "--quiet", "--update-monitor", "0s", "--name", "slow", "--network", "none"];
    cluster.skep("m1", &[&head[..], &["--limit-pids", "20", "busybox:latest", "sh", "-c", slow]].concat()).ok();
    let scaled = cluster.skep("m1", &["service", "scale", "slow=0"]);
    assert!(scaled.took >= Duration::from_secs(2), "{scaled}");
    scaled.ok();
    assert!(cluster.running("m1", "slow").is_empty());

    // All at once: each is made of what the others left.
    std::thread::scope(|scope| {
        for n in 0..20 {
            let label = format!("l{n}=x");
            scope.spawn(move || cluster.skep("m1", &["service", "update", "--detach", "--label-add", &label, "slow"]).ok());
        }
    });
    let labels = image_of(cluster, "slow", "{{len .Spec.Labels}}");
    assert_eq!(labels, "20", "no update was lost");
    cluster.skep("m1", &["service", "rm", "slow"]).ok();
}
