//! What a hostile task, or a careless daemon, must not achieve; each beside what is allowed.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Task, secret};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use skep_shim::protocol::{Health, HealthState, Mount, Request, Ulimit};
use skep_shim::{cgroup, client, devices};

/// A cgroup of the unified hierarchy, gone with its last process when dropped.
struct UnifiedCgroup(String);

impl UnifiedCgroup {
    fn make(name: &str) -> (Self, PathBuf) {
        let unified = cgroup::hierarchies().unwrap().into_iter().find(|hierarchy| hierarchy.unified).unwrap();
        let path = format!("/skep-shim-devices/{}-{name}", std::process::id());
        let folder = unified.mount_point.join(path.trim_start_matches('/'));
        fs::create_dir_all(&folder).unwrap();
        (Self(path), folder)
    }
}

impl Drop for UnifiedCgroup {
    fn drop(&mut self) {
        let _ = cgroup::kill_and_remove(&self.0, harness::DEADLINE);
        for folder in cgroup::folders("/skep-shim-devices").unwrap_or_default() {
            // Another test may still have its own in it.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The node's first disk: block devices there are everywhere, and nothing here opens it for writing.
fn a_disk() -> (u64, u64) {
    let name = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.file_name()).next().unwrap();
    let text = fs::read_to_string(Path::new("/sys/block").join(name).join("dev")).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn node(path: &Path, kind: SFlag, (major, minor): (u64, u64)) {
    mknod(path, kind, Mode::from_bits_truncate(0o666), makedev(major, minor)).unwrap();
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        path,
        Mode::from_bits_truncate(0o666),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
}

#[test]
fn the_program_for_version_2_lets_only_the_listed_devices_be_opened() {
    let (_held, folder) = UnifiedCgroup::make("program");
    assert_eq!(devices::attached(&folder).unwrap(), Vec::<u32>::new());
    let nodes = tempfile::tempdir().unwrap();
    let (disk, null, mem) = (nodes.path().join("disk"), nodes.path().join("null"), nodes.path().join("mem"));
    node(&disk, SFlag::S_IFBLK, a_disk());
    node(&null, SFlag::S_IFCHR, (1, 3));
    node(&mem, SFlag::S_IFCHR, (1, 1));
    // In the cgroup, the same shell asks before and after: what changes is the program alone.
    let ask = || {
        let script = format!(
            "echo $$ > {}/cgroup.procs; for n in {} {} {}; do (: < $n) 2>&1; done; mknod {}/made b 7 9 && echo made; \
             echo x > /dev/null && echo written",
            folder.display(),
            disk.display(),
            null.display(),
            mem.display(),
            nodes.path().display()
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let _ = fs::remove_file(nodes.path().join("made"));
        String::from_utf8(output.stdout).unwrap()
    };
    let before = ask();
    assert!(!before.contains("disk: Operation not permitted"), "{before}");
    devices::attach(&folder).unwrap();
    assert_eq!(devices::attached(&folder).unwrap().len(), 1);
    let after = ask();
    for expect in ["disk: Operation not permitted", "mem: Operation not permitted", "made", "written"] {
        assert!(after.contains(expect), "{expect} in {after}");
    }
    assert!(!after.contains("null: "), "{after}");
}

#[test]
fn a_device_in_a_layer_reaches_nothing_of_the_node() {
    let layer = tempfile::tempdir().unwrap();
    fs::set_permissions(layer.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    node(&layer.path().join("disk"), SFlag::S_IFBLK, a_disk());
    node(&layer.path().join("mem"), SFlag::S_IFCHR, (1, 1));
    node(&layer.path().join("nothing"), SFlag::S_IFCHR, (1, 3));
    let script = "for n in disk mem; do cat /$n 2>&1 > /dev/null; done; cat /nothing && echo null; echo x > /nothing && echo kept; \
                  for n in null zero full random urandom tty ptmx; do [ -c /dev/$n ] || echo no $n; done; \
                  echo x > /dev/null && echo written; echo ready; sleep 1000";
    for (name, user) in [("device-user", "1000:1000"), ("device-root", "")] {
        let mut task = Task::sh(name, script, |s| {
            s.lower_dirs.insert(0, layer.path().to_owned());
            s.user = user.into();
        });
        task.await_line("ready");
        let lines = task.log();
        let expect = [
            "cat: can't open '/disk': Operation not permitted",
            "cat: can't open '/mem': Operation not permitted",
            "null",
            "kept",
            "written",
            "ready",
        ];
        assert_eq!(lines, expect, "{name}");
        // Both ways of the kernel hold the task, and every process of it.
        let pid = task.status().pid.unwrap();
        for folder in cgroup::folders(&task.spec.cgroups_path).unwrap() {
            let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap();
            assert!(inside.lines().any(|line| line == pid.to_string()), "{} is not in {}", pid, folder.display());
            if folder.join("cgroup.controllers").exists() {
                assert_eq!(devices::attached(&folder).unwrap().len(), 1);
            }
            if let Ok(list) = fs::read_to_string(folder.join("devices.list")) {
                assert!(!list.contains("10:200") && list.contains("c 1:3 rwm"), "{list}");
            }
        }
        task.ask(Request::Kill).unwrap();
        task.exit(1);
        task.ask(Request::Release).unwrap();
        assert_eq!(cgroup::folders(&task.spec.cgroups_path).unwrap(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_task_cannot_make_a_node_that_it_may_open() {
    let (major, minor) = a_disk();
    let script = format!("mknod /d b {major} {minor} && cat /d 2>&1 > /dev/null; mknod /n c 1 3 && echo x > /n && echo null");
    let lines =
        Task::started("mknod", &["/bin/busybox", "sh", "-c", &script.replace("mknod", "/bin/busybox mknod")], |_| {}).output();
    assert_eq!(lines, ["cat: can't open '/d': Operation not permitted", "null"]);
}

#[test]
fn a_task_reads_its_cgroup_and_changes_nothing_of_it() {
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do touch $d/x 2>/dev/null && echo made $d/x; \
                  /bin/busybox mkdir $d/y 2>/dev/null && echo made $d/y; \
                  for f in cgroup.procs tasks memory.limit_in_bytes memory.max pids.max devices.allow cpu.cfs_quota_us; do \
                  [ -e $d/$f ] && (echo 0 > $d/$f) 2>/dev/null && echo wrote $d/$f; done; done; \
                  grep -E ' /sys/fs/cgroup' /proc/self/mounts | grep -v ' ro,' ; \
                  cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; echo done";
    assert_eq!(Task::sh("cgroup-write", script, |_| {}).output(), ["64", "done"]);
    // A probe sees the same mounts.
    let mut task = Task::sh("cgroup-probe", "sleep 1000", |s| {
        let line = "(echo 999 > /sys/fs/cgroup/pids/pids.max) 2>/dev/null && exit 1; exit 0";
        s.health = Some(Health { test: vec!["CMD-SHELL".into(), line.into()], interval_ms: 30, retries: 1, ..Health::default() });
    });
    task.health(HealthState::Healthy);
    // Who brings the node's own gets what was asked for.
    let own = Task::sh("cgroup-own", "touch /sys/fs/cgroup/x && echo mine", |s| {
        s.mounts = vec![Mount::Tmpfs { target: "/sys/fs/cgroup".into(), size_bytes: 0, mode: 0 }];
    });
    assert_eq!(own.output(), ["mine"]);
}

#[test]
fn limits_of_memory_swap_and_processes_are_dockers() {
    let read = |task: &Task, name: &str| {
        let folders = cgroup::folders(&task.spec.cgroups_path).unwrap();
        folders.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok()).map(|text| text.trim().to_owned())
    };
    let limited = Task::sh("limited", "echo ready; sleep 1000", |_| {});
    limited.await_line("ready");
    assert_eq!(read(&limited, "memory.limit_in_bytes").as_deref(), Some("67108864"));
    assert_eq!(read(&limited, "memory.memsw.limit_in_bytes").as_deref(), Some("134217728"));
    assert_eq!(read(&limited, "pids.max").as_deref(), Some("64"));
    let free = Task::sh("free", "echo ready; sleep 1000", |s| s.resources = Default::default());
    free.await_line("ready");
    assert_eq!(read(&free, "pids.max").as_deref(), Some("max"));
    assert_ne!(read(&free, "memory.memsw.limit_in_bytes").as_deref(), Some("0"));
    // All tasks of a node together leave it some processes.
    let above = cgroup::folders(free.spec.cgroups_path.rsplit_once('/').unwrap().0).unwrap();
    let most = above.iter().find_map(|folder| fs::read_to_string(folder.join("pids.max")).ok()).unwrap();
    let all: u64 = fs::read_to_string("/proc/sys/kernel/threads-max").unwrap().trim().parse().unwrap();
    assert!(most.trim().parse::<u64>().unwrap() < all, "{most}");
}

/// The shim as a daemon starts it that has an odd umask, limits and preference of its own.
fn under_an_odd_daemon(name: &str, script: &str, change: impl FnOnce(&mut skep_shim::protocol::TaskSpec)) -> Vec<String> {
    let mut task = Task::new(name, &["sh", "-c", script], change);
    // The first shim was started by this process, as it is: let it go and take one of another parent.
    let _ = task.child.kill();
    let _ = task.child.wait();
    let odd = task.folder.path().join("odd-shim");
    let shim = env!("CARGO_BIN_EXE_skep-shim");
    let text = format!(
        "#!/bin/sh\numask 0077\nulimit -c 0\nulimit -S -n 100\nulimit -S -l 16\necho 300 > /proc/self/oom_score_adj\nexec {shim} \"$@\"\n"
    );
    // Written by another process: one that a thread of this one forks meanwhile would have the script open for writing, and
    // the kernel executes no such file.
    let written =
        Command::new("sh").args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &text]).arg(&odd).status();
    assert!(written.unwrap().success());
    let spawned = client::spawn(&odd, &task.folder.path().join("state"), &task.spec).unwrap();
    spawned.stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
    (task.child, task.stream) = (spawned.child, spawned.stream);
    task.start().unwrap();
    task.output()
}

#[test]
fn nothing_of_a_task_is_inherited_from_the_daemon() {
    let script = "umask; cat /run/secrets/pw /run/secrets/deep/er/pw; echo; ulimit -S -n; ulimit -S -l; ulimit -S -s; \
                  cat /proc/self/oom_score_adj; stat -c '%a' /run/secrets /run/secrets/deep /run /made /made/here";
    let lines = under_an_odd_daemon("odd-daemon", script, |s| {
        s.user = "1000:1000".into();
        s.cwd = "/made/here".into();
        s.oom_score_adj = Some(400);
        s.secrets = vec![secret("pw", 1000, 0o400, "word"), secret("deep/er/pw", 0, 0o444, "deeper")];
    });
    let hard = |what: &str| {
        let output = Command::new("sh").args(["-c", &format!("ulimit -H {what}")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let most: u64 = hard("-n").parse().unwrap_or(u64::MAX);
    let files = most.min(1 << 20).to_string();
    assert_eq!(
        lines,
        ["0022", "worddeeper", &files, "8192", "8192", "400", "755", "755", "755", "755", "755"],
        "umask, secrets, limits, preference, folders"
    );
}

#[test]
fn a_limit_is_set_exactly_or_the_start_says_why() {
    let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
    let script = "ulimit -S -c; ulimit -H -c; ulimit -S -n; ulimit -H -n; ulimit -S -l";
    let lines = Task::sh("ulimit-exact", script, |s| {
        s.ulimits = vec![limit("core", -1, -1), limit("nofile", 1000, 2000), limit("memlock", 65536, 65536)];
    });
    assert_eq!(lines.output(), ["unlimited", "unlimited", "1000", "2000", "64"]);
    // No number of open files is unlimited on Linux, whatever the rights.
    for (name, ulimit) in [("nofile", limit("nofile", 5, -1)), ("nofile", limit("nofile", 1 << 40, 1 << 40))] {
        let mut task = Task::new("ulimit-refused", &["sh"], |s| s.ulimits = vec![ulimit]);
        let error = task.start().unwrap_err();
        assert!(error.starts_with(&format!("cannot set ulimit {name}=")), "{error}");
        assert!(error.contains("the hard limit of nofile on this node is"), "{error}");
        task.ask(Request::Release).unwrap();
    }
    // A health probe has the same.
    let mut task = Task::sh("ulimit-probe", "sleep 1000", |s| {
        s.ulimits = vec![limit("core", -1, -1), limit("nofile", 1000, 2000)];
        let line = "ulimit -S -n; ulimit -H -c; umask";
        s.health = Some(Health { test: vec!["CMD-SHELL".into(), line.into()], interval_ms: 30, ..Health::default() });
    });
    task.health(HealthState::Healthy);
    assert_eq!(task.status().health.unwrap().output, "1000\nunlimited\n0022\n");
}

#[test]
fn a_preference_below_the_daemons_own_is_set_or_the_start_says_why() {
    let may_lower = fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|set| set & 1 << 24 != 0);
    let mut task = Task::new("oom-score", &["cat", "/proc/self/oom_score_adj"], |s| s.oom_score_adj = Some(-700));
    match task.start() {
        Ok(()) => {
            assert!(may_lower);
            assert_eq!(task.output(), ["-700"]);
        }
        Err(error) => {
            assert!(!may_lower && error.starts_with("cannot set oom-score-adj -700"), "{error}");
            task.ask(Request::Release).unwrap();
        }
    }
}

#[test]
fn a_childs_death_for_lack_of_memory_is_said_and_the_exit_decides() {
    let script = "(x=x; while :; do x=$x$x; done); echo coped";
    let mut task = Task::sh("child-oom", script, |s| s.resources.memory_bytes = 16 << 20);
    let record = task.exit(1);
    assert_eq!((record.code, record.signal, record.oom_killed), (0, None, true), "{record:?}");
    assert!(task.log().contains(&"coped".to_owned()));
}

#[test]
fn mounts_of_a_task_stay_in_it_and_those_of_the_node_reach_it_when_asked() {
    for propagation in ["rshared", "shared"] {
        let source = tempfile::tempdir().unwrap();
        let mut task = Task::new("shared", &["sh"], |s| {
            s.mounts = vec![Mount::Bind {
                source: source.path().to_owned(),
                target: "/m".into(),
                read_only: false,
                propagation: propagation.into(),
            }];
        });
        let error = task.start().unwrap_err();
        assert!(error.contains(&format!("bind propagation {propagation:?} is not supported")), "{error}");
    }
    for (propagation, expect) in [("", ""), ("rprivate", ""), ("rslave", "master:")] {
        // The source is a mount of its own that shares its changes, whatever the machine's root does.
        let source = tempfile::tempdir().unwrap();
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), source.path(), Some("tmpfs"), flags, Some("size=1m")).unwrap();
        nix::mount::mount(none, source.path(), none, nix::mount::MsFlags::MS_SHARED, none).unwrap();
        let task = Task::sh(&format!("propagation-{propagation}"), "grep ' /m ' /proc/self/mountinfo", |s| {
            let bind = Mount::Bind {
                source: source.path().to_owned(),
                target: "/m".into(),
                read_only: false,
                propagation: propagation.into(),
            };
            s.mounts = vec![bind];
        });
        let lines = task.output();
        nix::mount::umount(source.path()).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains("shared:"), "{lines:?}");
        assert_eq!(lines[0].contains("master:"), expect == "master:", "{propagation:?}: {lines:?}");
    }
}

#[test]
fn what_the_shim_holds_of_a_task_is_not_swapped_out() {
    let mut task = Task::sh("locked", "grep VmLck: /proc/self/status; echo ready; sleep 1000", |_| {});
    task.await_line("ready");
    let status = fs::read_to_string(format!("/proc/{}/status", task.child.id())).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap().trim().trim_end_matches(" kB").to_owned();
    assert_eq!(locked.parse::<u64>().unwrap() > 0, skep_shim::process::may_lock_memory());
    // The task's own memory is its own affair.
    assert!(task.log()[0].ends_with(" 0 kB"), "{:?}", task.log());
    task.ask(Request::Kill).unwrap();
}
