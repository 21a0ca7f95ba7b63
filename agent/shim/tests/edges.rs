//! What the model lets a task have, this kernel gives it; just beyond, the kernel refuses, or the limit would be none. And what
//! only the node can refuse, it refuses with a sentence that names it.
//!
//! Needs root and `busybox-static`; every container has a pids limit.

mod harness;

use harness::{Task, secret};
use skep_model::resources::{MEMORY_MIN, NANO_CPUS_MIN, PIDS_MAX};
use skep_model::said::{MEMORY_MAX, NANO_CPUS_MAX};
use skep_model::text::{PATH_MAX, PATH_PART_MAX, TEXT_MAX};
use skep_shim::protocol::{Mount, Resources, TaskSpec, Ulimit};

type Change = Box<dyn FnOnce(&mut TaskSpec)>;

fn change(change: impl FnOnce(&mut TaskSpec) + 'static) -> Change {
    Box::new(change)
}

fn tmpfs(target: String, size_bytes: u64, mode: u32) -> Mount {
    Mount::Tmpfs { target, size_bytes, mode }
}

/// A path of that many bytes, of parts that are not too long.
fn path(n_bytes: usize) -> String {
    let parts = format!("/{}", "p".repeat(PATH_PART_MAX - 1)).repeat(n_bytes / PATH_PART_MAX + 1);
    let path = parts[..n_bytes].trim_end_matches('/').to_owned();
    path + &"p".repeat(n_bytes)[..n_bytes - parts[..n_bytes].trim_end_matches('/').len()]
}

#[test]
fn a_task_has_all_that_the_model_lets_it_have() {
    let resources = |nano_cpus: u64, memory_bytes: u64, pids| {
        change(move |s| s.resources = Resources { nano_cpus: nano_cpus as i64, memory_bytes: memory_bytes as i64, pids })
    };
    let table: Vec<(&str, Change, &str, &str)> = vec![
        ("most", resources(NANO_CPUS_MAX, MEMORY_MAX, PIDS_MAX), "echo ok", "ok"),
        ("least", resources(NANO_CPUS_MIN, MEMORY_MIN, 64), "echo ok", "ok"),
        (
            "tmpfs",
            change(|s| s.mounts = vec![tmpfs("/data".into(), MEMORY_MAX, 0o7777)]),
            "touch /data/x && stat -c %a /data",
            "7777",
        ),
        ("argument", change(|s| s.args.extend(["sh".into(), "a".repeat(TEXT_MAX)])), "echo ${#1}", "131071"),
        ("variable", change(|s| s.env = vec![format!("A={}", "a".repeat(TEXT_MAX - 2)).into()]), "echo ${#A}", "131069"),
        ("target", change(|s| s.mounts = vec![tmpfs(path(PATH_MAX), 1 << 20, 0)]), "grep -c ' /pppp.* tmpfs ' /proc/mounts", "1"),
        (
            "part",
            change(|s| s.mounts = vec![tmpfs(format!("/{}", "p".repeat(PATH_PART_MAX)), 1 << 20, 0)]),
            "cd /ppp* && touch x && echo ok",
            "ok",
        ),
        ("cwd", change(|s| s.cwd = path(PATH_MAX)), "echo ${#PWD}", "3072"),
        (
            "files",
            change(|s| {
                let deep = format!("{}f", "d/".repeat(1_000));
                s.secrets = vec![secret("a", 0, 0o400, "1"), secret("/run/secrets/b", u32::MAX - 1, 0o7777, "2")];
                s.secrets.push(secret(&deep, 0, 0o400, "3"));
                s.secrets.push(secret(&path(PATH_MAX), 0, 0o400, "x"));
                s.configs = vec![secret("/run/secrets/c", 0, 0o444, "4"), secret("run/secrets/e", 0, 0o444, "5")];
                s.configs.push(secret("/etc/f", 0, 0o444, "6"));
            }),
            "cd /run/secrets; echo $(cat a b c e /etc/f $(printf 'd/%.0s' $(seq 1000))f) $(stat -c %u b)",
            "124563 4294967294",
        ),
        ("ulimits", change(|s| s.ulimits = vec![Ulimit { name: "core".into(), soft: 0, hard: i64::MAX }]), "echo ok", "ok"),
        ("hostname", change(|s| s.hostname = "h".repeat(63)), "hostname | grep -c '^h*$'", "1"),
    ];
    for (name, change, script, expected) in table {
        let mut task = Task::new(&format!("edge-{name}"), &["sh", "-c", script], change);
        task.start().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(task.output(), [expected], "{name}");
    }
}

#[test]
fn what_only_the_node_can_refuse_is_named() {
    let table: Vec<(&str, Change, &[&str])> = vec![
        ("pids", change(|s| s.resources.pids = PIDS_MAX + 1), &["pids"]),
        ("cpus", change(|s| s.resources.nano_cpus = i64::MAX), &["cpu"]),
        ("argument", change(|s| s.args.push("a".repeat(TEXT_MAX + 1))), &["Argument list too long"]),
        ("variable", change(|s| s.env = vec![format!("A={}", "a".repeat(TEXT_MAX - 1)).into()]), &["Argument list too long"]),
        ("part", change(|s| s.cwd = format!("/{}", "p".repeat(PATH_PART_MAX + 1))), &["working directory", "File name too long"]),
        ("sysctl", change(|s| drop(s.sysctls.insert("net.nope".into(), "1".into()))), &["sysctl", "net.nope"]),
        (
            "sysctl-value",
            change(|s| drop(s.sysctls.insert("kernel.shmmni".into(), "many".into()))),
            &["sysctl", "kernel.shmmni", "many"],
        ),
        ("mount-proc", change(|s| s.mounts = vec![tmpfs("/proc/x".into(), 1 << 20, 0)]), &["/proc/x"]),
        ("below-file", change(|s| s.mounts = vec![tmpfs("/etc/passwd/x".into(), 1 << 20, 0)]), &["/etc/passwd/x"]),
        ("user", change(|s| s.user = "nobody".into()), &["nobody"]),
        ("ulimit", change(|s| s.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1, hard: i64::MAX }]), &["ulimit nofile"]),
    ];
    for (name, change, expected) in table {
        let mut task = Task::new(&format!("refused-{name}"), &["sh", "-c", "true"], change);
        let error = task.start().expect_err(name);
        assert!(expected.iter().all(|word| error.contains(word)), "{name}: {error}");
    }
}
