//! What a hostile task tries against its node, each beside what it may do; and what its output must not do to that of
//! others. One cluster of one manager and one worker for all.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use skep_tests::e2e::{Cluster, Said, wait_for};

/// Until a task has said its last word.
const SOON: Duration = Duration::from_secs(20);

fn create(cluster: &Cluster, name: &str, more: &[&str], image: &str, script: &str) -> Said {
    let head = ["service", "create", "--quiet", "--detach", "--name", name, "--limit-pids", "50", "--restart-condition", "none"];
    cluster.skep("m1", &[&head[..], more, &[image, "sh", "-c", script]].concat())
}

/// The lines of a service whose tasks say `end` as their last word, which is left out.
fn lines(cluster: &Cluster, name: &str) -> Vec<String> {
    let said = wait_for(&format!("the end of {name}"), SOON, || {
        let said = cluster.skep("m1", &["service", "logs", "--raw", name]).ok();
        said.lines().any(|line| line == "end").then_some(said)
    });
    said.lines().filter(|line| *line != "end").map(str::to_owned).collect()
}

fn final_state(cluster: &Cluster, name: &str) -> (String, String) {
    wait_for(&format!("the end of {name}"), SOON, || {
        let task = cluster.tasks("m1", name).into_iter().next()?;
        let state = task.current.split(' ').next().unwrap_or_default().to_owned();
        ["Complete", "Failed", "Rejected"].contains(&state.as_str()).then_some((state, task.error))
    })
}

/// Service, flags, script, and what it says.
type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a [&'a str]);

fn rights(cluster: &Cluster) {
    let busybox = cluster.load_busybox();
    let tar = cluster.scratch().join("hostile.tar").display().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hostile-image");
    Said::by(script, &[&tar], b"", Duration::from_secs(60)).ok();
    cluster.skep("m1", &["image", "load", "--all", "--input", &tar]).ok();
    cluster.skep_with("m1", &["secret", "create", "pw", "-"], b"word").ok();
    let denied = "cat: can't open '/d': Operation not permitted";
    let cases: [Case<'_>; 7] = [
        (
            "layer",
            &["--user", "1000"],
            "for n in disk mem; do cat /$n > /dev/null 2>&1 && echo read; done; cat /nothing && echo null",
            &["null"],
        ),
        ("mknod", &[], "mknod /d b 8 0; cat /d 2>&1 > /dev/null; mknod /n c 1 3 && echo x > /n && echo null", &[denied, "null"]),
        (
            "cgroup",
            &["--limit-memory", "32m"],
            "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do for f in memory.limit_in_bytes memory.max pids.max devices.allow; do \
             [ -e $d/$f ] && (echo 999999999 > $d/$f) 2> /dev/null && echo wrote $d/$f; done; done; \
             cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2> /dev/null",
            &["33554432"],
        ),
        (
            "limits",
            &["--ulimit", "core=-1", "--ulimit", "nofile=1000:2000"],
            "ulimit -S -c; ulimit -H -c; ulimit -S -n; ulimit -H -n; umask; cat /proc/self/oom_score_adj",
            &["unlimited", "unlimited", "1000", "2000", "0022", "0"],
        ),
        (
            "secret",
            &["--user", "1000", "--secret", "source=pw,target=deep/pw,uid=1000,mode=400"],
            "stat -c '%a %u' /run/secrets/deep/pw; cat /run/secrets/deep/pw; echo; echo x > /run/secrets/deep/pw 2> /dev/null && echo wrote",
            &["400 1000", "word"],
        ),
        (
            "labels",
            &["--label", "tier=front", "--container-label", "tier=container", "--env", "T={{.Service.Labels.tier}}"],
            "echo $T",
            &["front"],
        ),
        ("memory", &["--limit-memory", "24m"], "(x=x; while :; do x=$x$x; done); echo coped", &["coped"]),
    ];
    for (name, more, script, _) in cases {
        let image = if name == "layer" { "hostile:latest" } else { busybox };
        create(cluster, name, more, image, &format!("{script}; echo end")).ok();
    }
    for (name, _, _, expected) in cases {
        assert_eq!(lines(cluster, name), expected, "{name}");
    }
    // The death of a child for lack of memory is not the task's.
    assert_eq!(final_state(cluster, "memory").0, "Complete");
    create(cluster, "refused", &["--ulimit", "nofile=-1"], busybox, "echo end").ok();
    let (state, error) = final_state(cluster, "refused");
    assert!(["Failed", "Rejected"].contains(&state.as_str()), "{state}");
    assert!(error.contains("cannot set ulimit nofile=unlimited:unlimited"), "{error}");
    let odd = create(cluster, "odd", &["--secret", "source=pw,mode=256"], busybox, "echo end");
    assert!(odd.code != 0 && odd.err.contains("write 0400"), "{odd}");
    let mount = "type=bind,source=/tmp,target=/m,bind-propagation=rshared";
    let odd = create(cluster, "odd", &["--mount", mount], busybox, "echo end");
    assert!(odd.code != 0 && odd.err.contains("do not reach its node"), "{odd}");
}

fn output(cluster: &Cluster) {
    let script = "l=$(head -c 70000 /dev/zero | tr '\\0' $SLOT); i=0; while [ $i -lt 30 ]; do echo $l; i=$((i+1)); done";
    let more = ["--replicas", "4", "--env", "SLOT={{.Task.Slot}}"];
    create(cluster, "writers", &more, "busybox:latest", script).ok();
    wait_for("the end of the writers", SOON, || {
        let done = cluster.tasks("m1", "writers").iter().filter(|task| task.current.starts_with("Complete")).count();
        (done == 4).then_some(())
    });
    // Whole lines, one writer each, also for who follows; and following what has ended ends.
    let task = cluster.tasks("m1", "writers")[0].id.clone();
    for (args, n_lines) in [
        (&["service", "logs", "--raw", "writers"][..], 120),
        (&["service", "logs", "--raw", "--tail", "3", "writers"], 12),
        (&["service", "logs", "--raw", "--follow", &task], 30),
    ] {
        let said = cluster.skep("m1", args).ok();
        assert_eq!(said.lines().count(), n_lines, "{args:?}");
        for line in said.lines() {
            let first = line.chars().next().unwrap_or(' ');
            assert!(line.len() == 70_000 && line.chars().all(|letter| letter == first), "{args:?}: {} {first}", line.len());
        }
    }
    // In the order of time over all tasks, the same each time.
    let stamps = |tail: &str| {
        let said = cluster.skep("m1", &["service", "logs", "--raw", "--timestamps", "--tail", tail, "writers"]).ok();
        said.lines().map(|line| line[..50].to_owned()).collect::<Vec<String>>()
    };
    let (all, some) = (stamps("all"), stamps("2"));
    assert!(all.is_sorted(), "{all:?}");
    for _ in 0..3 {
        assert_eq!(stamps("2"), some);
    }
    // A node that is gone is named, and the others' lines come.
    cluster.kill_daemon("w1");
    let said = wait_for("the loss of w1 is noticed", SOON, || {
        let said = cluster.skep("m1", &["service", "logs", "--raw", "writers"]);
        said.err.contains("cannot be reached").then_some(said)
    });
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("incomplete log stream") && !said.err.contains("warning: warning:"), "{}", said.err);
    let n_lines = said.out.lines().count();
    assert!(n_lines > 0 && n_lines < 120 && n_lines.is_multiple_of(30), "{n_lines}");
    cluster.verb("start", &["w1"]).ok();
}

/// A command runs in a task whose program has written its title over its environment, as
/// redis does. What is written here is written from outside, where no shell can do it.
fn title(cluster: &Cluster) {
    create(cluster, "titled", &["--constraint", "node.hostname==m1", "--env", "A=kept"], "busybox:latest", "exec sleep 1000000")
        .ok();
    let asked = || cluster.on("m1/titled", &["sh", "-c", "echo \"$A in $HOSTNAME\"; hostname; id -u"]);
    let said = wait_for("a command in the task", SOON, || Some(asked()).filter(|said| said.code == 0)).out;
    assert!(said.starts_with("kept in "), "{said}");
    let sleeps = || cluster.task_processes("m1").into_iter().find(|process| process.name == "sleep");
    let pid = wait_for("the task's program", SOON, sleeps).pid;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split_whitespace().collect();
    // `env_start` and `env_end` of proc(5), which counts from pid and name on.
    let [start, end] = [50, 51].map(|field| fields[field - 3].parse::<u64>().expect("an address"));
    let mut title = b"sleep 1000000 *:6379".to_vec();
    title.resize(usize::try_from(end - start).expect("a length"), 0);
    let memory = fs::File::options().write(true).open(format!("/proc/{pid}/mem")).expect("its memory");
    memory.write_all_at(&title, start).expect("it may be written");
    let left = fs::read(format!("/proc/{pid}/environ")).expect("it runs");
    assert_eq!(left, title, "nothing is left of its environment");
    let said = asked();
    assert_eq!((said.code, said.out.lines().last()), (0, Some("0")), "{said}");
    cluster.skep("m1", &["service", "rm", "titled"]).ok();
}

#[test]
fn a_hostile_task_harms_nobody() {
    let cluster = Cluster::up(1, 1);
    rights(&cluster);
    title(&cluster);
    output(&cluster);
}
