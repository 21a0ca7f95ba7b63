//! Real containers under real shims: what the issue promises of a task, asked from inside it and from the node.
//!
//! Needs root and `busybox-static`; every container has a pids limit.

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{DEADLINE, Task, secret};
use skep_shim::protocol::{FromShim, Health, HealthState, Mount, Network, Phase, Request, TaskSpec};
use skep_shim::state::{ExitRecord, ShimState, cleanup_orphan};
use skep_shim::{cgroup, client, wire};

const STATUS: &str = "grep -E '^(CapPrm|CapEff|CapBnd|CapInh|CapAmb|NoNewPrivs|Seccomp|Uid|Groups):' /proc/1/status";

fn field(lines: &[String], name: &str) -> String {
    let line = lines.iter().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {lines:?}")).trim().to_owned()
}

#[test]
fn a_task_runs_and_its_exit_code_and_output_are_kept() {
    let mut task = Task::sh("runs", "echo out; echo err >&2; printf last; exit 7", |_| {});
    let record = task.exit(1);
    assert_eq!((record.code, record.signal, record.oom_killed, record.error.as_deref()), (7, None, false, None));
    assert_eq!(ExitRecord::read(&task.state()).unwrap(), Some(record));
    let lines: BTreeSet<_> = task.log().into_iter().collect();
    assert_eq!(lines, BTreeSet::from(["out", "err", "last"].map(String::from)));
    assert_eq!(task.status().phase, Phase::Exited);
}

#[test]
fn the_first_process_has_exactly_the_rights_of_the_spec() {
    for (name, change, caps, eff, nnp) in [
        ("root", Box::new(|_: &mut TaskSpec| {}) as Box<dyn FnOnce(&mut TaskSpec)>, "00000000a80425fb", None, "0"),
        ("user", Box::new(|s: &mut TaskSpec| s.user = "user".into()), "00000000a80425fb", Some("0000000000000000"), "0"),
        (
            "none",
            Box::new(|s: &mut TaskSpec| {
                s.cap_drop = vec!["ALL".into()];
                s.no_new_privileges = true;
            }),
            "0000000000000000",
            None,
            "1",
        ),
        (
            "some",
            Box::new(|s: &mut TaskSpec| {
                s.cap_drop = vec!["ALL".into()];
                s.cap_add = vec!["NET_BIND_SERVICE".into()];
            }),
            "0000000000000400",
            None,
            "0",
        ),
    ] {
        let lines = Task::sh(&format!("rights-{name}"), STATUS, change).output();
        assert_eq!(field(&lines, "CapBnd"), caps, "{name}");
        assert_eq!(field(&lines, "CapEff"), eff.unwrap_or(caps), "{name}");
        assert_eq!(field(&lines, "CapPrm"), eff.unwrap_or(caps), "{name}");
        assert_eq!(field(&lines, "CapInh"), "0000000000000000", "{name}");
        assert_eq!(field(&lines, "CapAmb"), "0000000000000000", "{name}");
        assert_eq!(field(&lines, "NoNewPrivs"), nnp, "{name}");
        assert_eq!(field(&lines, "Seccomp"), "2", "{name}");
        if name == "user" {
            assert_eq!(field(&lines, "Groups"), "77 1000");
        }
    }
}

#[test]
fn denied_calls_say_eperm_and_unknown_ones_enosys() {
    let lines =
        Task::sh("denied", "probe unshare-user; probe unknown-call; mount -t tmpfs x /tmp || echo refused", |_| {}).output();
    for expect in [libc::EPERM.to_string(), libc::ENOSYS.to_string(), "refused".to_owned()] {
        assert!(lines.contains(&expect), "{expect} in {lines:?}");
    }
    let lines = Task::sh("allowed", "probe unshare-user", |s| s.cap_add = vec!["SYS_ADMIN".into()]).output();
    assert_eq!(lines, ["ok"]);
}

#[test]
fn a_set_uid_program_works_unless_forbidden() {
    for (name, forbidden, expect) in [("suid", false, "0"), ("suid-nnp", true, "1000")] {
        let change = |s: &mut TaskSpec| {
            s.user = "1000:1000".into();
            s.no_new_privileges = forbidden;
        };
        assert_eq!(Task::sh(name, "probe-suid euid", change).output(), [expect], "{name}");
    }
}

#[test]
fn the_world_inside_is_the_specs() {
    let script = "hostname; cat /etc/hostname; echo $HOME $HOSTNAME $GREETING; pwd; cat /etc/hosts; id -u; \
                  cat /proc/self/oom_score_adj; ulimit -n; cat /proc/1/comm; echo x > /etc/new || echo ro; echo x > /dev/null; \
                  echo open > /dev/stdout; ls /sys/class/net; touch /data/x";
    let lines = Task::sh("world", script, |s| {
        s.hostname = "box".into();
        s.env = vec!["GREETING=hello there".into()];
        s.cwd = "/made/for/it".into();
        s.read_only = true;
        s.user = "user".into();
        s.oom_score_adj = Some(500);
        s.ulimits = vec![skep_shim::protocol::Ulimit { name: "nofile".into(), soft: 333, hard: 333 }];
        s.extra_hosts = vec![skep_shim::protocol::HostEntry { host: "db".into(), address: "10.1.2.3".into() }];
        s.mounts = vec![Mount::Tmpfs { target: "/data".into(), size_bytes: 1 << 20, mode: 0 }];
    })
    .output();
    for expect in
        ["box", "/home/user box hello there", "/made/for/it", "10.1.2.3\tdb", "1000", "500", "333", "sh", "ro", "open", "lo"]
    {
        assert!(lines.iter().any(|line| line == expect), "{expect} in {lines:?}");
    }
}

#[test]
fn secrets_are_files_of_the_task_alone() {
    let value = "canary-7d1f";
    let script = "stat -c '%a %u %g' /run/secrets/pw /etc/app/key /plain.conf; cat /run/secrets/pw /etc/app/key /plain.conf; \
                  echo; echo x > /run/secrets/pw || echo read-only; touch /run/secrets/new || echo read-only; \
                  echo x >> /etc/app/key || echo read-only; grep -c canary /proc/1/environ; echo ready; sleep 1000";
    let mut task = Task::sh("secrets", script, |s| {
        s.secrets = vec![secret("pw", 1000, 0o440, value), secret("/etc/app/key", 0, 0o400, "key!")];
        s.configs = vec![secret("plain.conf", 0, 0o444, "conf")];
        s.env = vec!["TOKEN=canary-env".into()];
    });
    task.await_line("ready");
    let lines = task.log();
    for expect in ["440 1000 1000", "400 0 0", "444 0 0", &format!("{value}key!conf"), "1"] {
        assert!(lines.iter().any(|line| line == expect), "{expect} in {lines:?}");
    }
    assert_eq!(lines.iter().filter(|line| *line == "read-only").count(), 3, "{lines:?}");
    let status = task.status();
    assert_eq!(status.secrets, [("pw".to_owned(), 3), ("/etc/app/key".to_owned(), 3)]);
    // The node: no file, no mount, no argument and no environment holds it.
    let found = |needle: &str| {
        let mut stack = vec![task.folder.path().to_owned()];
        while let Some(path) = stack.pop() {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if let Ok(bytes) = fs::read(&path)
                && bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
                && !path.starts_with(&task.spec.log.dir)
            {
                return Some(path);
            }
        }
        None
    };
    let planted = task.folder.path().join("planted");
    fs::write(&planted, value).unwrap();
    assert_eq!(found(value), Some(planted.clone()), "the search itself works");
    fs::remove_file(planted).unwrap();
    assert_eq!(found(value), None);
    assert_eq!(found("canary-env"), None);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(task.folder.path().to_str().unwrap()));
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", task.child.id())).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("canary"));
    }
    // Kill the shim, then the first process: the namespace that held the secrets is gone.
    let pid = status.pid.unwrap();
    let namespace = Namespace::of(task.child.id() as i32, "mnt");
    task.child.kill().unwrap();
    task.child.wait().unwrap();
    let root = format!("/proc/{pid}/root/run/secrets/pw");
    assert_eq!(fs::read_to_string(&root).unwrap(), value, "the task goes on without its shim");
    let state = ShimState::read(&task.state()).unwrap().unwrap();
    assert!(!state.shim_is_alive().unwrap());
    assert!(state.container.as_ref().unwrap().is_alive().unwrap());
    cleanup_orphan(&task.state(), &task.state(), &task.spec.cgroups_path, DEADLINE).unwrap();
    assert_gone(&task, pid, &[namespace]);
}

/// A namespace by name, held open: its number would otherwise be given to the next one at once.
struct Namespace {
    name: PathBuf,
    _held: fs::File,
}

impl Namespace {
    fn of(pid: i32, kind: &str) -> Self {
        let path = format!("/proc/{pid}/ns/{kind}");
        Self { name: fs::read_link(&path).unwrap(), _held: fs::File::open(&path).unwrap() }
    }
}

/// No process, mount, cgroup, namespace or file of a task.
fn assert_gone(task: &Task, pid: i32, namespaces: &[Namespace]) {
    assert!(!Path::new(&format!("/proc/{pid}/root")).exists() || is_zombie(pid));
    assert_eq!(cgroup::folders(&task.spec.cgroups_path).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(task.state()).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(task.folder.path().to_str().unwrap()));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for kind in ["mnt", "pid", "net"] {
            let held = fs::read_link(entry.path().join("ns").join(kind));
            assert!(
                !held.is_ok_and(|held| namespaces.iter().any(|one| one.name == held)),
                "{:?} holds a namespace",
                entry.path()
            );
        }
    }
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z"))
}

#[test]
fn release_leaves_nothing() {
    let mut task = Task::sh("release", "sleep 1000 & echo ready; wait", |s| {
        s.secrets = vec![secret("pw", 0, 0o400, "x")];
    });
    task.await_line("ready");
    assert_eq!(task.ask(Request::Release), Err("the container still runs".into()));
    let pid = task.status().pid.unwrap();
    let space = Namespace::of;
    let shim = task.child.id() as i32;
    let namespaces = [space(shim, "mnt"), space(pid, "mnt"), space(pid, "pid"), space(pid, "net")];
    assert!(!cgroup::folders(&task.spec.cgroups_path).unwrap().is_empty());
    task.ask(Request::Kill).unwrap();
    let record = task.exit(1);
    assert_eq!((record.code, record.signal), (137, Some(9)));
    task.ask(Request::Release).unwrap();
    assert!(task.child.wait().unwrap().success());
    assert_gone(&task, pid, &namespaces);
}

#[test]
fn a_stop_is_polite_first_and_final_at_the_grace() {
    let mut task = Task::sh("stop-polite", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done", |_| {});
    task.await_line("ready");
    task.ask(Request::Stop { signal: None, grace_ms: None }).unwrap();
    assert_eq!(task.exit(1).code, 3);
    assert_eq!(task.log().last().unwrap(), "bye");

    let mut task = Task::sh("stop-deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done", |_| {});
    task.await_line("ready");
    let begin = Instant::now();
    task.ask(Request::Stop { signal: None, grace_ms: Some(300) }).unwrap();
    let record = task.exit(1);
    assert_eq!((record.code, record.signal, record.oom_killed), (137, Some(9), false));
    assert!(begin.elapsed() >= Duration::from_millis(300));

    let mut task = Task::sh("stop-signal", "trap 'exit 4' USR1; echo ready; while :; do sleep 0.05; done", |s| {
        s.stop_signal = "SIGUSR1".into();
    });
    task.await_line("ready");
    task.ask(Request::Stop { signal: None, grace_ms: None }).unwrap();
    assert_eq!(task.exit(1).code, 4);
}

#[test]
fn a_restart_in_place_keeps_the_secrets_and_nothing_else() {
    let script = "cat /run/secrets/pw; echo; ls /left 2>/dev/null; touch /left; exit 1";
    let mut task = Task::sh("restart", script, |s| s.secrets = vec![secret("pw", 0, 0o400, "kept")]);
    assert_eq!(task.exit(1).code, 1);
    assert!(task.ask(Request::Restart { attempt: 1 }).unwrap_err().contains("not above"));
    for attempt in [2, 5] {
        task.ask(Request::Restart { attempt }).unwrap();
        assert_eq!(task.exit(attempt).code, 1);
    }
    assert_eq!(task.log(), ["kept", "kept", "kept"]);
    assert_eq!(ExitRecord::read(&task.state()).unwrap().unwrap().attempt, 5);
}

#[test]
fn what_cannot_start_says_why() {
    for (name, args, code, expect) in [
        ("no-program", "nosuch", 127, "exec: \"nosuch\": executable file not found in $PATH"),
        ("no-path", "/bin/nosuch", 127, "exec: \"/bin/nosuch\": no such file or directory"),
        ("no-right", "/etc/not-a-program", 126, "exec: \"/etc/not-a-program\": permission denied"),
    ] {
        let mut task = Task::new(name, &[args], |_| {});
        assert_eq!(task.start(), Err(expect.into()));
        let record = ExitRecord::read(&task.state()).unwrap().unwrap();
        assert_eq!((record.code, record.error.as_deref()), (code, Some(expect)));
        assert_eq!(cgroup::folders(&task.spec.cgroups_path).unwrap(), Vec::<PathBuf>::new());
        task.ask(Request::Release).unwrap();
    }
    let mut task = Task::new("no-user", &["sh"], |s| s.user = "nobody".into());
    assert_eq!(task.start(), Err("unable to find user nobody: no matching entries in passwd file".into()));
    let mut task = Task::new("refused", &["sh"], |s| s.tty = true);
    assert_eq!(task.start(), Err("tty is not supported yet".into()));
}

#[test]
fn health_is_dockers() {
    let health = |line: &str, timeout_ms| {
        Some(Health { test: vec!["CMD-SHELL".into(), line.into()], interval_ms: 30, timeout_ms, retries: 2, ..Health::default() })
    };
    let script = "echo ready; sleep 1000";
    let mut task = Task::sh("health", script, |s| {
        s.user = "user".into();
        s.env = vec!["SIGN=/tmp/bad".into()];
        s.mounts = vec![Mount::Tmpfs { target: "/tmp".into(), size_bytes: 0, mode: 0 }];
        s.health = health("id -u; grep -E '^(CapBnd|Seccomp):' /proc/self/status; [ ! -e $SIGN ]", 5000);
    });
    let report = task.health(HealthState::Healthy);
    assert_eq!(report.exit_code, 0);
    for expect in ["1000\n", "CapBnd:\t00000000a80425fb\n", "Seccomp:\t2\n"] {
        assert!(report.output.contains(expect), "{expect} in {}", report.output);
    }
    let pid = task.status().pid.unwrap();
    fs::write(format!("/proc/{pid}/root/tmp/bad"), "").unwrap();
    let report = task.health(HealthState::Unhealthy);
    assert_eq!((report.exit_code, report.failing_streak), (1, 2));

    let mut task = Task::sh("health-slow", script, |s| {
        s.health = health("sleep 1000 & sleep 1000", 100);
    });
    let report = task.health(HealthState::Unhealthy);
    assert_eq!((report.exit_code, report.output.as_str()), (-1, "Health check exceeded timeout (100ms)"));
    task.ask(Request::Kill).unwrap();
    task.exit(1);

    let mut task = Task::sh("health-loud", script, |s| s.health = health("seq 1 100000; exit 1", 5000));
    assert_eq!(task.health(HealthState::Unhealthy).output.len(), skep_shim::protocol::HEALTH_OUTPUT_MAX);
}

#[test]
fn a_client_that_dies_costs_nothing_and_another_adopts() {
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; echo end; sleep 1000";
    let mut task = Task::sh("adopt", script, |s| s.log.max_file_bytes = 40_000);
    let before = task.status();
    for _ in 0..10 {
        // What the death of an agent is to a shim: its end of the stream closes, and a new one comes by the socket.
        task.stream = client::connect(&task.state()).unwrap();
        task.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let FromShim::Status(status) = task.next() else { panic!("the status comes first") };
        assert_eq!((status.pid, status.attempt, status.phase), (before.pid, 1, Phase::Running));
    }
    task.await_line("end");
    let kept: Vec<u32> = task.log().iter().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(kept.last(), Some(&19_999));
    assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a gap");
    let state = ShimState::read(&task.state()).unwrap().unwrap();
    assert!(state.shim_is_alive().unwrap());
    assert_eq!(state.container.unwrap().pid, before.pid.unwrap());
    let socket = fs::metadata(task.state().join("shim.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, 0));
}

#[test]
fn mounts_and_networks_are_as_asked() {
    let shared = tempfile::tempdir().unwrap();
    fs::write(shared.path().join("seen"), "from the node").unwrap();
    let bind = |target: &str, read_only| Mount::Bind {
        source: shared.path().to_owned(),
        target: target.into(),
        read_only,
        propagation: String::new(),
    };
    let script = "cat /ro/seen; echo; touch /ro/x || echo ro; echo written > /rw/back; cat /proc/sys/net/core/somaxconn; \
                  ls -l /proc/self/ns/net; echo ready; sleep 1000";
    let mut task = Task::sh("mounts", script, |s| {
        s.mounts = vec![bind("/ro", true), bind("/rw", false)];
        s.sysctls.insert("net.core.somaxconn".into(), "77".into());
        s.network = Network::None;
    });
    task.await_line("ready");
    let lines = task.log();
    for expect in ["from the node", "ro", "77"] {
        assert!(lines.iter().any(|line| line == expect), "{expect} in {lines:?}");
    }
    assert_eq!(fs::read_to_string(shared.path().join("back")).unwrap(), "written\n");
    let network = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let of_node = network(std::process::id() as i32);
    let first = task.status().pid.unwrap();
    assert_ne!(network(first), of_node);

    let path = PathBuf::from(format!("/proc/{first}/ns/net"));
    let mut joined = Task::sh("joined", "echo ready; sleep 1000", |s| s.network = Network::Path(path));
    let second = joined.status().pid.unwrap();
    assert_eq!(network(second), network(first));

    let mut host = Task::sh("host", "echo ready; sleep 1000", |s| s.network = Network::Host);
    let third = host.status().pid.unwrap();
    assert_eq!(network(third), of_node);
}

#[test]
fn requests_out_of_turn_are_refused_and_change_nothing() {
    let mut task = Task::new("turn", &["sh", "-c", "sleep 1000"], |_| {});
    for early in [Request::Restart { attempt: 2 }, Request::Kill, Request::Stop { signal: None, grace_ms: None }] {
        assert!(task.ask(early).is_err());
    }
    task.start().unwrap();
    let before = task.status();
    assert_eq!(task.start(), Err("this shim was started already".into()));
    assert_eq!(task.ask(Request::Restart { attempt: 2 }), Err("the container still runs".into()));
    let bad = Request::Stop { signal: Some("NOPE".into()), grace_ms: None };
    assert_eq!(task.ask(bad), Err("invalid signal: NOPE".into()));
    let replace = Request::ReplaceSecret { name: "pw".into(), version: 2, bytes: "x".into() };
    assert!(task.ask(replace).unwrap_err().contains("secret pw"));
    let after = task.status();
    assert_eq!((before.pid, before.attempt), (after.pid, after.attempt));
}

#[test]
fn limits_hold() {
    let mut task = Task::sh("memory", "x=x; while :; do x=$x$x; done", |s| s.resources.memory_bytes = 16 << 20);
    let record = task.exit(1);
    assert!(record.oom_killed, "{record:?}");

    let lines = Task::sh("pids", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo no limit", |s| s.resources.pids = 5);
    let mut lines = lines;
    assert_ne!(lines.exit(1).code, 0, "{:?}", lines.log());
}

#[test]
fn a_shim_that_nobody_starts_goes_away() {
    let mut task = Task::new("unused", &["sh"], |_| {});
    let (ours, _) = UnixStream::pair().unwrap();
    task.stream = ours;
    assert!(task.child.wait().unwrap().success());
    assert_eq!(
        client::connect(&task.state()).err().map(|error| match error {
            client::ClientError::Connect { source, .. } => source.kind(),
            other => panic!("{other}"),
        }),
        Some(ErrorKind::NotFound)
    );
}

/// A tmpfs of so many bytes over the shim's state folder, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, n_bytes: u64) -> Self {
        let options = format!("size={n_bytes}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(at.to_owned())
    }

    /// Takes every byte that is left, from the next call on as well.
    fn fill(&self) {
        let mut file = fs::File::options().append(true).create(true).open(self.0.join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        assert!(fs::write(self.0.join("no-room"), "x").is_err(), "the disk is full");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_hides_no_death() {
    let mut task = Task::new("full-disk", &["sh", "-c", "echo ready; sleep 1000"], |_| {});
    // The shim has its own view of mounts: a disk that it is to see is there before it is.
    task.child.kill().unwrap();
    task.child.wait().unwrap();
    let disk = SmallDisk::mount(&task.state(), 256 << 10);
    let spawned = client::spawn(Path::new(env!("CARGO_BIN_EXE_skep-shim")), &task.state(), &task.spec).unwrap();
    spawned.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    (task.child, task.stream) = (spawned.child, spawned.stream);
    task.start().unwrap();
    task.await_line("ready");
    disk.fill();
    task.ask(Request::Kill).unwrap();
    let record = task.exit(1);
    assert_eq!(record.code, 137);
    assert_eq!(ExitRecord::read(&task.state()).unwrap(), Some(record), "its room was taken before");
    disk.fill();
    // Another attempt has no room for its exit, and says so instead of hiding it.
    let refused = task.ask(Request::Restart { attempt: 2 }).unwrap_err();
    assert!(refused.contains("exit.room"), "{refused}");
    assert_eq!(task.status().phase, Phase::Exited);
    fs::remove_file(task.state().join("filler")).unwrap();
    task.ask(Request::Restart { attempt: 2 }).unwrap();
    assert_eq!(ExitRecord::read(&task.state()).unwrap(), None, "the former exit says nothing of this attempt");
    // Also when the record cannot be written at all, whoever listens is told.
    for name in ["exit.room", "exit.json"] {
        let _ = fs::remove_file(task.state().join(name));
    }
    fs::create_dir(task.state().join("exit.json.new")).unwrap();
    task.ask(Request::Kill).unwrap();
    assert_eq!(task.exit(2).code, 137);
    assert!(ExitRecord::read(&task.state()).unwrap().is_none());
    fs::remove_dir(task.state().join("exit.json.new")).unwrap();
    let begin = Instant::now();
    while ExitRecord::read(&task.state()).unwrap().is_none() {
        assert!(begin.elapsed() < DEADLINE, "it is tried again");
        std::thread::yield_now();
    }
    task.ask(Request::Release).unwrap();
    assert!(task.child.wait().unwrap().success());
    drop(disk);
}

#[test]
fn a_folder_has_one_shim_and_says_who_before_anything_is_asked() {
    let mut task = Task::new("one", &["sh", "-c", "echo ready; sleep 1000"], |_| {});
    let identity = ShimState::read(&task.state()).unwrap().unwrap();
    assert_eq!((identity.attempt, identity.shim.pid), (0, task.child.id() as i32), "nothing was asked of it yet");
    let second = || client::spawn(Path::new(env!("CARGO_BIN_EXE_skep-shim")), &task.state(), &task.spec);
    assert!(matches!(second(), Err(client::ClientError::Held { .. })));
    // Nor by itself, with another standard output.
    let state = task.state();
    let by_hand = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_skep-shim"))
            .arg(&state)
            .stdin(std::os::fd::OwnedFd::from(theirs))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let ended = child.wait().unwrap();
        drop(ours);
        ended
    };
    assert!(!by_hand().success());
    assert!(matches!(
        cleanup_orphan(&state, &state, &task.spec.cgroups_path, DEADLINE),
        Err(skep_shim::state::StateError::StillRuns { .. })
    ));
    task.start().unwrap();
    task.await_line("ready");
    assert_eq!(ShimState::read(&task.state()).unwrap().unwrap().attempt, 1);
    // The task's own processes do not hold the lock when the shim is gone.
    task.child.kill().unwrap();
    task.child.wait().unwrap();
    assert!(!skep_shim::state::is_held(&task.state()).unwrap());
}

#[test]
fn an_unknown_request_is_refused_and_changes_nothing() {
    let mut task = Task::sh("unknown", "echo ready; sleep 1000", |_| {});
    task.await_line("ready");
    let before = task.status();
    assert_eq!(
        (before.protocol, before.protocol_min),
        (skep_shim::protocol::PROTOCOL_VERSION, skep_shim::protocol::PROTOCOL_MIN)
    );
    let request = serde_json::json!({ "id": 77, "request": { "Teleport": { "to": "the moon" } } });
    wire::send(&mut task.stream, &request).unwrap();
    let reply = loop {
        if let FromShim::Reply(reply) = task.next() {
            break reply;
        }
    };
    assert_eq!(reply.id, 77);
    assert!(reply.result.unwrap_err().contains("older than the request"));
    assert_eq!(task.status().pid, before.pid);
}
