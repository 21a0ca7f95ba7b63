//! What a node has running and mounted: so that a test can say that nothing stayed behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// A multiset of lines, each a thing that a node holds: processes (zombies too), mounts of every mount namespace, cgroups,
/// namespaces. Threads and pids are left out, as they change without meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces(BTreeMap<String, usize>);

/// A process, seen from the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// In the machine's pid namespace.
    pub pid: i32,
    /// Clock ticks since boot; with the pid, this names a process for good.
    pub start: u64,
    /// The kernel's short name.
    pub name: String,
    /// One letter; Z is a zombie.
    pub state: char,
    /// The pid of its parent.
    pub parent: i32,
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // One that ends meanwhile is not there.
    pids.filter_map(read_process).collect()
}

fn read_process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    Some(Process {
        pid,
        name: head.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// All processes of the pid namespace whose process 1 is `init`, by pid; `init` itself comes first.
pub fn processes_of(init: i32) -> Vec<Process> {
    let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).ok();
    let all = processes();
    let mut inside: BTreeSet<i32> = all
        .iter()
        .filter(|process| namespace.is_some() && fs::read_link(format!("/proc/{}/ns/pid", process.pid)).ok() == namespace)
        .map(|process| process.pid)
        .collect();
    // A zombie has no namespaces any more, but it has a parent; and a task may have a pid namespace below the node's.
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|process| inside.contains(&process.parent) && !inside.contains(&process.pid))
            .map(|process| process.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        inside.extend(more);
    }
    all.into_iter().filter(|process| inside.contains(&process.pid)).collect()
}

/// Those of `processes` that have the name, and all below them.
pub fn with_descendants(processes: &[Process], name: &str) -> Vec<Process> {
    let mut inside: BTreeSet<i32> = processes.iter().filter(|process| process.name == name).map(|process| process.pid).collect();
    loop {
        let before = inside.len();
        inside.extend(
            processes.iter().filter(|process| inside.contains(&process.parent)).map(|process| process.pid).collect::<Vec<_>>(),
        );
        if inside.len() == before {
            break;
        }
    }
    processes.iter().filter(|process| inside.contains(&process.pid)).cloned().collect()
}

/// A folder under which a process sees a mount of its own, and the mount's type.
pub struct Mount {
    /// Where it is, as the process sees it.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
}

/// The mounts that a process sees; none if it is gone.
pub fn mounts_of(pid: i32) -> Vec<Mount> {
    let info = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    info.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            Some(Mount { point: left.split(' ').nth(4)?.into(), kind: right.split(' ').next()?.to_owned() })
        })
        .collect()
}

/// One process for each mount namespace among `processes`.
pub fn one_per_mount_namespace(processes: &[Process]) -> Vec<i32> {
    let mut seen = BTreeSet::new();
    processes
        .iter()
        .filter(|process| fs::read_link(format!("/proc/{}/ns/mnt", process.pid)).is_ok_and(|link| seen.insert(link)))
        .map(|process| process.pid)
        .collect()
}

fn folders_below(path: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            into.push(entry.path());
            folders_below(&entry.path(), into);
        }
    }
}

impl Traces {
    /// What the node holds whose process 1 is `init` and whose cgroups are below `…/cgroup` in every hierarchy.
    pub fn of(init: i32, cgroup: &Path) -> Self {
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        let mut add = |line: String| *lines.entry(line).or_default() += 1;
        let processes = processes_of(init);
        for process in &processes {
            add(match process.state {
                'Z' => format!("zombie {}", process.name),
                _ => format!("process {}", process.name),
            });
        }
        for kind in NAMESPACES {
            let links = processes.iter().filter_map(|process| fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).ok());
            links.collect::<BTreeSet<_>>().iter().for_each(|_| add(format!("namespace of kind {kind}")));
        }
        for pid in one_per_mount_namespace(&processes) {
            mounts_of(pid).into_iter().for_each(|mount| add(format!("mount {} {}", mount.kind, mount.point.display())));
        }
        for hierarchy in mounts_of(std::process::id().cast_signed()).into_iter().filter(|mount| mount.kind.starts_with("cgroup"))
        {
            let mut folders = Vec::new();
            folders_below(&hierarchy.point.join(cgroup.strip_prefix("/").unwrap_or(cgroup)), &mut folders);
            folders.iter().for_each(|folder| add(format!("cgroup {}", folder.display())));
        }
        Self(lines)
    }

    /// What is here and was not in `before`, one line each.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let more = |line: &str, n: usize| n.saturating_sub(before.0.get(line).copied().unwrap_or(0));
        self.0.iter().filter(|(line, n)| more(line, **n) > 0).map(|(line, n)| format!("{} × {line}", more(line, *n))).collect()
    }
}
