//! A shim with its task, for every file of tests here: made in a folder and a cgroup of its own, and removed with
//! everything of it, also when a test fails. Needs root and `busybox-static`.

// Every file of tests is a program of its own and uses a part.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use skep_shim::client;
use skep_shim::log::{LogReader, Position};
use skep_shim::protocol::{
    Event, FileSpec, FromShim, HealthReport, HealthState, LogSpec, Request, Resources, Status, TaskSpec, ToShim,
};
use skep_shim::state::{ExitRecord, StateError, cleanup_orphan};
use skep_shim::{cgroup, wire};

pub const DEADLINE: Duration = Duration::from_secs(30);

/// One image for all tests: busybox, passwd and group, a set-uid program.
pub struct Image {
    _folder: tempfile::TempDir,
    pub root: PathBuf,
}

pub static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    for name in ["bin", "etc", "tmp", "root"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("these tests need Debian's busybox-static: apt-get install busybox-static");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "sleep", "id", "ls", "stat", "touch", "seq", "grep", "echo", "ulimit", "hostname", "mount", "ip"]
    {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:77:user\n").unwrap();
    fs::write(root.join("etc/not-a-program"), "x").unwrap();
    let probe = root.join("bin/probe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inside/probe.rs");
    let built = Command::new("rustc")
        .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"])
        .arg(&probe)
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success(), "the program to run inside cannot be compiled");
    fs::copy(&probe, root.join("bin/probe-suid")).unwrap();
    fs::set_permissions(root.join("bin/probe-suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    Image { root, _folder: folder }
});

/// A shim and its task; ends both, and everything of them, when dropped.
pub struct Task {
    pub folder: tempfile::TempDir,
    pub spec: TaskSpec,
    pub child: Child,
    pub stream: UnixStream,
    next_id: u64,
    events: Vec<Event>,
    status: Option<Status>,
}

impl Task {
    pub fn new(name: &str, args: &[&str], change: impl FnOnce(&mut TaskSpec)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("state")).unwrap();
        let mut spec = TaskSpec {
            task_id: name.into(),
            attempt: 1,
            args: args.iter().map(|arg| arg.to_string()).collect(),
            lower_dirs: vec![IMAGE.root.clone()],
            upper_dir: at("upper"),
            work_dir: at("work"),
            log: LogSpec { dir: at("log"), ..LogSpec::default() },
            cgroups_path: format!("/skep-shim-test/{}/{name}", std::process::id()),
            resources: Resources { pids: 64, memory_bytes: 64 << 20, nano_cpus: 0 },
            stop_grace_ms: 10_000,
            ..TaskSpec::default()
        };
        change(&mut spec);
        let spawned = client::spawn(Path::new(env!("CARGO_BIN_EXE_skep-shim")), &at("state"), &spec).unwrap();
        spawned.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { folder, spec, child: spawned.child, stream: spawned.stream, next_id: 0, events: Vec::new(), status: None }
    }

    pub fn started(name: &str, args: &[&str], change: impl FnOnce(&mut TaskSpec)) -> Self {
        let mut task = Self::new(name, args, change);
        task.start().unwrap();
        task
    }

    pub fn sh(name: &str, script: &str, change: impl FnOnce(&mut TaskSpec)) -> Self {
        Self::started(name, &["sh", "-c", script], change)
    }

    pub fn start(&mut self) -> Result<(), String> {
        self.ask(Request::Start(Box::new(self.spec.clone())))
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn next(&mut self) -> FromShim {
        let message = wire::receive(&mut self.stream).unwrap();
        match &message {
            FromShim::Event(event) => self.events.push(event.clone()),
            FromShim::Status(status) => self.status = Some((**status).clone()),
            FromShim::Reply(_) => {}
        }
        message
    }

    pub fn ask(&mut self, request: Request) -> Result<(), String> {
        self.next_id += 1;
        let id = self.next_id;
        wire::send(&mut self.stream, &ToShim { id, request }).unwrap();
        loop {
            if let FromShim::Reply(reply) = self.next() {
                assert_eq!(reply.id, id);
                return reply.result;
            }
        }
    }

    pub fn status(&mut self) -> Status {
        self.ask(Request::Status).unwrap();
        self.status.clone().unwrap()
    }

    /// The first event, past or to come, that the question has an answer to.
    pub fn await_event<T>(&mut self, question: impl Fn(&Event) -> Option<T>) -> T {
        let mut seen = 0;
        loop {
            if let Some(answer) = self.events[seen..].iter().find_map(&question) {
                return answer;
            }
            seen = self.events.len();
            self.next();
        }
    }

    pub fn exit(&mut self, attempt: u32) -> ExitRecord {
        self.await_event(|event| match event {
            Event::Exited(record) if record.attempt == attempt => Some(record.clone()),
            _ => None,
        })
    }

    pub fn health(&mut self, state: HealthState) -> HealthReport {
        self.await_event(|event| match event {
            Event::Health { report, .. } if report.state == state => Some(report.clone()),
            _ => None,
        })
    }

    pub fn log(&self) -> Vec<String> {
        let reader = LogReader::new(&self.spec.log.dir);
        let (mut at, mut lines) = (Position::default(), Vec::new());
        loop {
            let batch = reader.read(at, 10_000).unwrap();
            assert_eq!(batch.n_damaged, 0);
            if batch.next == at {
                return lines;
            }
            at = batch.next;
            lines.extend(batch.records.iter().map(|r| String::from_utf8(r.text.clone()).unwrap()));
        }
    }

    /// Waits for a line that the task prints; the task's word is the only clock.
    pub fn await_line(&self, wanted: &str) {
        let begin = Instant::now();
        while !self.log().iter().any(|line| line == wanted) {
            assert!(begin.elapsed() < DEADLINE, "no line {wanted:?} in {:?}", self.log());
            std::thread::yield_now();
        }
    }

    /// The output of a script that ends.
    pub fn output(mut self) -> Vec<String> {
        let record = self.exit(1);
        let log = self.log();
        assert_eq!(record.code, 0, "{log:?}");
        log
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let begin = Instant::now();
        let cleaned = loop {
            match cleanup_orphan(&self.state(), &self.state(), &self.spec.cgroups_path, DEADLINE) {
                // A probe that its shim forked and that is not executed yet has the shim's lock, as the agent knows as well.
                Err(StateError::StillRuns { .. }) if begin.elapsed() < DEADLINE => std::thread::yield_now(),
                result => break result,
            }
        };
        if let Err(error) = cleaned
            && !std::thread::panicking()
        {
            panic!("cleanup: {error}");
        }
        let parent = format!("/skep-shim-test/{}", std::process::id());
        for folder in cgroup::folders(&parent).unwrap_or_default() {
            // Other tests of this process may still have theirs in it.
            let _ = fs::remove_dir(folder);
        }
        let root = "/skep-shim-test";
        for folder in cgroup::folders(root).unwrap_or_default() {
            let _ = fs::remove_dir(folder);
        }
    }
}

pub fn secret(target: &str, uid: u32, mode: u32, value: &str) -> FileSpec {
    FileSpec { name: target.into(), version: 3, target: target.into(), uid, gid: uid, mode, bytes: value.into() }
}
