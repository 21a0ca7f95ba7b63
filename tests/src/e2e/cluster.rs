//! One cluster for one test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::traces::{self, Process};
use super::{Load, Said, Traces, wait_for};

/// Taken by the guardian of every cluster of these tests.
const LOCK: &str = "/run/lock/skep-end-to-end";
/// Until the test before has ended.
const LOCK_DEADLINE: Duration = Duration::from_secs(1800);
/// For anything that `deploy/cluster` does.
const CLUSTER_DEADLINE: Duration = Duration::from_secs(150);
/// For a `skep` command that does not wait for a service.
const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// Lines of each daemon's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 25;

/// Waits for its input to end, then removes the cluster; holds the machine's lock all the while.
const GUARDIAN: &str = r#"echo locked
read -r word
[[ $word == keep ]] || exec timeout --kill-after=5 60 "$1" down --dir "$2""#;

/// A running cluster. Going out of scope removes it, and fails the test if something stays.
pub struct Cluster {
    folder: TempDir,
    guardian: Child,
    leash: Option<ChildStdin>,
    voice: BufReader<ChildStdout>,
}

/// A row of `service ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The whole id.
    pub id: String,
    /// `service.slot`, or `service.node` for a global one; history rows keep the same name.
    pub name: String,
    /// The node's host name; empty while there is none.
    pub node: String,
    /// As `skep` writes it: `Running`, `Shutdown`…
    pub desired: String,
    /// As `skep` writes it, with its age: `Running 3 seconds ago`.
    pub current: String,
    /// Why it failed; mostly empty.
    pub error: String,
}

impl Task {
    /// Runs, and shall.
    pub fn runs(&self) -> bool {
        self.desired == "Running" && self.current.starts_with("Running")
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the project")
}

fn script() -> String {
    project().join("deploy/cluster").display().to_string()
}

/// Builds the binaries that the nodes run, once per test process, unless `SKEP_BIN_DIR` says that they are there: plain
/// `cargo test` builds the binaries of a package only for that package's own tests.
fn ensure_binaries() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        if given_binaries().is_some() {
            return;
        }
        let built =
            Command::new(env!("CARGO")).args(["build", "--quiet", "--workspace", "--bins"]).current_dir(project()).status();
        assert!(built.expect("cargo runs").success(), "cargo build --workspace --bins failed");
    });
}

/// Where a binary of the project is, after [`ensure_binaries`].
fn binary(name: &str) -> PathBuf {
    given_binaries().unwrap_or_else(|| project().join("target/debug")).join(name)
}

/// `SKEP_BIN_DIR`; empty is as good as unset, as `deploy/cluster` has it.
fn given_binaries() -> Option<PathBuf> {
    std::env::var_os("SKEP_BIN_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap_or_else(|error| panic!("kill {pid}: {error}"));
}

impl Cluster {
    /// Makes nodes `m1…` and `w1…` and joins them to one swarm.
    ///
    /// # Panics
    /// When that fails; nothing stays of it.
    pub fn up(managers: usize, workers: usize) -> Self {
        Self::make(managers, workers, &[])
    }

    /// Makes the nodes and starts their daemons, but leaves the swarm to the test.
    ///
    /// # Panics
    /// As [`Cluster::up`].
    pub fn bare(managers: usize, workers: usize) -> Self {
        Self::make(managers, workers, &["--bare"])
    }

    /// As [`Cluster::up`], on a network between the nodes that is not the usual one: more arguments of `deploy/cluster up`.
    ///
    /// # Panics
    /// As [`Cluster::up`].
    pub fn up_with(managers: usize, workers: usize, more: &[&str]) -> Self {
        Self::make(managers, workers, more)
    }

    /// As [`Cluster::up`], with faults that the daemons' debug builds know (`SKEP_TEST_PANIC`). A daemon that is started
    /// again has none.
    ///
    /// # Panics
    /// As [`Cluster::up`].
    pub fn planted(managers: usize, workers: usize, faults: &str) -> Self {
        Self::make_with(managers, workers, &[], faults)
    }

    fn make(managers: usize, workers: usize, more: &[&str]) -> Self {
        Self::make_with(managers, workers, more, "")
    }

    fn make_with(managers: usize, workers: usize, more: &[&str], faults: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the end-to-end tests make namespaces: run them as root");
        ensure_binaries();
        let folder = tempfile::Builder::new().prefix("skep-e2e-").tempdir().expect("a folder for the cluster");
        let dir = folder.path().join("cluster");
        let mut guardian = Command::new("flock")
            .args(["--timeout", &LOCK_DEADLINE.as_secs().to_string(), LOCK, "bash", "-c", GUARDIAN, "guardian", &script()])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A key at the terminal ends the test, not the guardian.
            .process_group(0)
            .spawn()
            .expect("flock of util-linux runs");
        let leash = guardian.stdin.take();
        let mut voice = BufReader::new(guardian.stdout.take().expect("a pipe was asked for"));
        let mut word = String::new();
        voice.read_line(&mut word).expect("the guardian answers");
        assert!(word.trim() == "locked", "another test has held {LOCK} for {LOCK_DEADLINE:?}");
        let cluster = Self { folder, guardian, leash, voice };
        let (managers, workers) = (managers.to_string(), workers.to_string());
        let args: Vec<&str> = ["--managers", &managers, "--workers", &workers].into_iter().chain(more.iter().copied()).collect();
        let (faults, dir, script) = (format!("SKEP_TEST_PANIC={faults}"), cluster.dir().display().to_string(), script());
        let mut command: Vec<&str> = vec![faults.as_str(), script.as_str(), "up", "--dir", dir.as_str()];
        command.extend(args);
        Said::by("env", &command, b"", CLUSTER_DEADLINE).ok();
        cluster
    }

    /// The folder that `deploy/cluster --dir` takes.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// A folder for the test's own files, which goes away with the cluster.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder of a node, from the machine's side.
    pub fn data(&self, node: &str) -> PathBuf {
        self.dir().join("nodes").join(node).join("data")
    }

    /// The run folder of a node that is on, from the machine's side.
    pub fn run_folder(&self, node: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/skep", self.init(node)))
    }

    /// Runs `deploy/cluster VERB --dir … ARGS`.
    pub fn verb(&self, verb: &str, args: &[&str]) -> Said {
        let dir = self.dir().display().to_string();
        Said::by(&script(), &[&[verb, "--dir", &dir], args].concat(), b"", CLUSTER_DEADLINE)
    }

    /// Adds a plain host to the nodes' network; returns its addresses, IPv4 first unless there is only IPv6.
    pub fn host(&self, name: &str) -> Vec<IpAddr> {
        let addresses = self.verb("host", &[name]).ok();
        addresses.lines().map(|line| line.parse().expect("deploy/cluster host prints addresses")).collect()
    }

    /// Runs any program on a node, or in a task on it: `NODE/ID`.
    pub fn on(&self, node: &str, command: &[&str]) -> Said {
        self.on_with(node, command, b"")
    }

    /// Runs any program on a node with something on its standard input.
    pub fn on_with(&self, node: &str, command: &[&str], input: &[u8]) -> Said {
        let dir = self.dir().display().to_string();
        Said::by(&script(), &[&["exec", "--dir", &dir, node], command].concat(), input, COMMAND_DEADLINE)
    }

    /// Runs `skep ARGS` on a node.
    pub fn skep(&self, node: &str, args: &[&str]) -> Said {
        self.skep_with(node, args, b"")
    }

    /// Runs `skep ARGS` on a node with something on its standard input.
    pub fn skep_with(&self, node: &str, args: &[&str], input: &[u8]) -> Said {
        self.on_with(node, &[&["skep"], args].concat(), input)
    }

    /// Starts a long-running command on a node, killed when the returned guard goes away; its output goes to `log`.
    pub fn background(&self, node: &str, command: &[&str], log: &Path) -> Background {
        let out = fs::File::create(log).expect("a log file");
        let dir = self.dir();
        let child = Command::new(script())
            .args(["exec", "--dir"])
            .arg(&dir)
            .arg(node)
            .args(command)
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .spawn()
            .expect("deploy/cluster runs");
        Background(child)
    }

    /// Makes busybox images known to every ready node; returns the image's name.
    pub fn load_busybox(&self) -> &'static str {
        let tar = self.busybox_archive();
        self.skep("m1", &["image", "load", "--all", "--input", &tar]).ok();
        "busybox:latest"
    }

    /// Makes the image of the tests' own servers and clients known to every ready node; returns its name.
    pub fn load_traffic(&self) -> &'static str {
        let tar = self.folder.path().join("traffic.tar").display().to_string();
        let script = project().join("tests/traffic-image").display().to_string();
        let binary = binary("traffic").display().to_string();
        Said::by(&script, &[&tar, &binary], b"", COMMAND_DEADLINE).ok();
        self.skep("m1", &["image", "load", "--all", "--input", &tar]).ok();
        "traffic:latest"
    }

    /// Starts `traffic load ARGS` on a node, or in a task on it: `NODE/ID`.
    pub fn load(&self, place: &str, args: &[&str]) -> Load {
        let mut command = Command::new(script());
        command.args(["exec", "--dir"]).arg(self.dir()).arg(place).args(["traffic", "load"]).args(args);
        Load::start(command)
    }

    /// Packs Debian's busybox as an image archive, once, and returns its path.
    pub fn busybox_archive(&self) -> String {
        let tar = self.folder.path().join("busybox.tar").display().to_string();
        if !Path::new(&tar).exists() {
            Said::by(&project().join("deploy/busybox-image").display().to_string(), &[&tar], b"", COMMAND_DEADLINE).ok();
        }
        tar
    }

    /// The address of a node on the cluster's bridge.
    pub fn address(&self, node: &str) -> String {
        fs::read_to_string(self.dir().join("nodes").join(node).join("address"))
            .expect("the node has an address")
            .trim()
            .to_owned()
    }

    /// All addresses of a node on the cluster's bridge, IPv4 first unless there is only IPv6.
    pub fn addresses(&self, node: &str) -> Vec<IpAddr> {
        let path = self.dir().join("nodes").join(node).join("addresses");
        let text = fs::read_to_string(path).expect("the node's addresses are written down");
        text.lines().map(|line| line.parse().expect("an address")).collect()
    }

    fn recorded(&self, node: &str, file: &str) -> i32 {
        let path = self.dir().join("nodes").join(node).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.split(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{}: {text:?}", path.display()))
    }

    /// The pid of a node's process 1, as the machine sees it.
    pub fn init(&self, node: &str) -> i32 {
        self.recorded(node, "init")
    }

    /// The pid of a node's daemon, as the machine sees it.
    pub fn daemon(&self, node: &str) -> i32 {
        self.recorded(node, "skepd")
    }

    /// SIGKILL to the process that programs a node's network.
    pub fn kill_netd(&self, node: &str) {
        kill(self.recorded(node, "netd"));
    }

    /// SIGKILL to a node's daemon, right now: no shell in between, for measuring.
    pub fn kill_daemon(&self, node: &str) {
        kill(self.daemon(node));
    }

    /// Every process on a node.
    pub fn processes(&self, node: &str) -> Vec<Process> {
        traces::processes_of(self.init(node))
    }

    /// The processes of a node that belong to tasks: their shims, and all below them.
    pub fn task_processes(&self, node: &str) -> Vec<Process> {
        traces::with_descendants(&self.processes(node), "skep-shim")
    }

    /// What a node holds: processes, mounts, cgroups, namespaces.
    pub fn traces(&self, node: &str) -> Traces {
        Traces::of(self.init(node), &self.cgroup(node))
    }

    fn cgroup(&self, node: &str) -> PathBuf {
        let path = self.dir().canonicalize().expect("the folder is there").display().to_string();
        let hash = Said::by("sha256sum", &[], path.as_bytes(), COMMAND_DEADLINE).ok();
        Path::new("/skep-cluster").join(&hash[..12]).join(node)
    }

    /// The host name of the leader, as `node` sees it.
    pub fn leader(&self, node: &str) -> String {
        wait_for("a leader", Duration::from_secs(30), || {
            let said = self.skep(node, &["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]);
            said.out.lines().find_map(|line| line.strip_suffix(" Leader").map(str::to_owned))
        })
    }

    /// The tasks of a service, history included, newest first within a slot.
    pub fn tasks(&self, node: &str, service: &str) -> Vec<Task> {
        let format = "{{.ID}}\t{{.Name}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}";
        let rows = self.skep(node, &["service", "ps", "--no-trunc", "--format", format, service]).ok();
        rows.lines()
            .map(|line| {
                let mut fields = line.split('\t').map(|field| field.trim().to_owned());
                let mut next = || fields.next().unwrap_or_else(|| panic!("service ps printed {line:?}"));
                Task {
                    id: next(),
                    name: next().trim_start_matches("\\_ ").to_owned(),
                    node: next(),
                    desired: next(),
                    current: next(),
                    error: next(),
                }
            })
            .collect()
    }

    /// The tasks of a service that run and shall.
    pub fn running(&self, node: &str, service: &str) -> Vec<Task> {
        self.tasks(node, service).into_iter().filter(Task::runs).collect()
    }

    fn show_logs(&self) {
        for node in fs::read_dir(self.dir().join("nodes")).into_iter().flatten().flatten() {
            for daemon in ["skepd", "netd"] {
                let log = fs::read_to_string(node.path().join(format!("{daemon}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- the end of the log of {daemon} on {}", node.file_name().display());
                lines.iter().skip(lines.len().saturating_sub(LOG_LINES_SHOWN)).for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// A command that runs beside the test.
pub struct Background(Child);

impl Background {
    /// Waits until it has ended by itself. It must have a deadline of its own.
    pub fn wait(mut self) {
        if let Err(error) = self.0.wait() {
            panic!("a background command cannot be waited for: {error}");
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // What it started on the node dies with it.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            eprintln!("a background command could not be ended: {error}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut leash = self.leash.take();
        if failed {
            self.show_logs();
            if std::env::var_os("SKEP_KEEP").is_some_and(|value| value == "1") {
                self.folder.disable_cleanup(true);
                let told = leash.as_mut().map(|leash| leash.write_all(b"keep\n"));
                eprintln!(
                    "kept ({told:?}): deploy/cluster status --dir {0}; remove with deploy/cluster down --dir {0}",
                    self.dir().display()
                );
            }
        }
        drop(leash);
        let mut rest = String::new();
        // Ends when the guardian does, and that has a deadline.
        let read = self.voice.read_to_string(&mut rest);
        let ended = self.guardian.wait();
        let good = read.is_ok() && ended.as_ref().is_ok_and(|status| status.success());
        assert!(good || failed, "deploy/cluster down left something: {ended:?} {rest}");
        if !good {
            eprintln!("deploy/cluster down left something: {ended:?} {rest}");
        }
    }
}
