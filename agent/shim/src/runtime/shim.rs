//! The loop: everything that can happen to one task, one thing at a time.
//!
//! Invariants:
//! - An exit is durable on disk before any client hears of it, in room that was taken before the attempt began. A disk
//!   that refuses all the same delays the record, not the word.
//! - That an attempt was asked for is written down before anything of it is made.
//! - The secrets' tmpfs is made once and outlives every attempt; the rest of an attempt is new each time.
//! - Without clients the shim goes on. Without a `Start` it goes when its starter does, or after a deadline.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use skep_shim::client::short_path;
use skep_shim::log::{LogWriter, now_ns};
use skep_shim::process::ProcessId;
use skep_shim::protocol::{Event, FromShim, PROTOCOL_MIN, PROTOCOL_VERSION, Phase, Reply, Request, Status, TaskSpec, ToShim};
use skep_shim::spec as bundle;
use skep_shim::state::{self, ExitRecord, MOUNT_POINT, SOCKET, ShimState};

use super::container::{self, Running};
use super::health::{Monitor, Outcome};
use super::peers::Peers;
use super::poll;
use super::probe::Probe;
use super::rootfs::{self, Layout};

/// The longest a shim waits for its first request.
const START_NS: u64 = 60_000_000_000;
/// Between two tries to write an exit record that the disk did not take.
const RETRY_NS: u64 = 1_000_000_000;

/// The task, once there was a `Start`.
struct Task {
    spec: TaskSpec,
    layout: Layout,
    log: LogWriter,
    own: ProcessId,
}

/// The exit of an attempt, and when the disk is tried again.
type Unwritten = (ExitRecord, u64);

/// One shim.
pub struct Shim {
    state: PathBuf,
    /// Where exits are put down; the state folder unless the task says another.
    exits: PathBuf,
    peers: Peers,
    status: Status,
    task: Option<Task>,
    running: Option<Running>,
    monitor: Option<Monitor>,
    probe: Option<Probe>,
    kill_at_ns: Option<u64>,
    /// An exit that is not on disk yet, and when to try again.
    unwritten: Option<Unwritten>,
    released: bool,
}

impl Shim {
    /// A shim of a state folder whose starter is at the other end of `stream`.
    pub fn new(state: PathBuf, stream: UnixStream) -> io::Result<Self> {
        container::guard_folder(&state)?;
        let shim_pid = std::process::id() as i32;
        let status = Status { protocol: PROTOCOL_VERSION, protocol_min: PROTOCOL_MIN, shim_pid, ..Status::default() };
        let mut peers = Peers::default();
        peers.add(stream, &FromShim::Status(Box::new(status.clone())))?;
        Ok(Self {
            exits: state.clone(),
            state,
            peers,
            status,
            task: None,
            running: None,
            monitor: None,
            probe: None,
            kill_at_ns: None,
            unwritten: None,
            released: false,
        })
    }

    /// Runs until the release.
    pub fn run(mut self) -> io::Result<()> {
        let start_by = poll::boot_ns() + START_NS;
        while !self.released {
            if self.task.is_none() && (self.peers.is_empty() || poll::boot_ns() >= start_by) {
                return Ok(());
            }
            let deadline = match self.task {
                None => Some(start_by),
                Some(_) => self.next_deadline(),
            };
            poll::wait(&self.watched(), deadline)?;
            self.turn()?;
        }
        self.peers.flush();
        Ok(())
    }

    fn watched(&self) -> Vec<(i32, bool)> {
        let mut watched = self.peers.watched();
        watched.extend(self.running.iter().flat_map(Running::watched).map(|fd| (fd, false)));
        watched.extend(self.probe.iter().flat_map(Probe::watched).map(|fd| (fd, false)));
        watched
    }

    fn next_deadline(&self) -> Option<u64> {
        let due = self.monitor.as_ref().and_then(|monitor| monitor.due_ns);
        let probe = self.probe.as_ref().map(|probe| probe.deadline_ns);
        let retry = self.unwritten.as_ref().map(|(_, at)| *at);
        [self.kill_at_ns, due, probe, retry].into_iter().flatten().min()
    }

    fn turn(&mut self) -> io::Result<()> {
        if let (Some(running), Some(task)) = (&mut self.running, &mut self.task) {
            running.pump(&mut task.log);
        }
        self.check_health();
        self.check_kill();
        self.check_exit()?;
        self.check_unwritten();
        let status = &self.status;
        self.peers.accept(|| FromShim::Status(Box::new(status.clone())));
        for (key, message) in self.peers.receive() {
            self.answer(key, message);
        }
        self.peers.flush();
        Ok(())
    }

    fn check_kill(&mut self) {
        if self.kill_at_ns.is_some_and(|at| poll::boot_ns() >= at) {
            self.kill_at_ns = None;
            if let Some(running) = &self.running {
                running.signal(libc::SIGKILL);
            }
        }
    }

    fn check_health(&mut self) {
        let (Some(running), Some(task), Some(monitor)) = (&self.running, &self.task, &mut self.monitor) else {
            return;
        };
        let now = poll::boot_ns();
        let mut told = false;
        if let Some(probe) = &mut self.probe {
            let timeout = format!("{:?}", std::time::Duration::from_nanos(monitor.timeout_ns));
            if let Some(outcome) = probe.turn(&timeout) {
                told = monitor.take(outcome, probe.began_ns, now, now_ns());
                self.probe = None;
            }
        } else if monitor.due_ns.is_some_and(|due| now >= due) {
            monitor.due_ns = None;
            match running.probe(&task.spec, &monitor.command, monitor.timeout_ns) {
                Ok(probe) => self.probe = Some(probe),
                Err(error) => {
                    let output = format!("cannot start the health check: {error}");
                    told = monitor.take(Outcome { code: None, output }, now, now, now_ns());
                }
            }
        }
        self.status.health = Some(monitor.report.clone());
        if told {
            let event = Event::Health { attempt: task.spec.attempt, report: monitor.report.clone() };
            self.peers.broadcast(&FromShim::Event(event));
        }
    }

    fn check_exit(&mut self) -> io::Result<()> {
        let (Some(running), Some(task)) = (&mut self.running, &mut self.task) else { return Ok(()) };
        let Some(ended) = running.reap(&mut task.log, &task.spec.cgroups_path) else { return Ok(()) };
        self.running = None;
        self.monitor = None;
        self.kill_at_ns = None;
        if let Some(mut probe) = self.probe.take() {
            // It died with the pid namespace; reap it, which is immediate or a matter of the kernel's next steps.
            probe.kill();
            let deadline = poll::boot_ns() + 1_000_000_000;
            while probe.turn("").is_none() && poll::boot_ns() < deadline {
                poll::wait(&[(probe.watched()[0], false)], Some(deadline))?;
            }
        }
        let record = ExitRecord {
            task_id: task.spec.task_id.clone(),
            attempt: task.spec.attempt,
            code: ended.code,
            signal: ended.signal,
            oom_killed: ended.oom_killed,
            at_ns: now_ns(),
            error: None,
        };
        self.finish(record, Event::Exited);
        Ok(())
    }

    /// An attempt is over: first the disk, then the clients, then the cgroup. A disk that refuses is tried again, and
    /// nobody waits for it: the clients are told at once.
    fn finish(&mut self, record: ExitRecord, event: fn(ExitRecord) -> Event) {
        self.status.pid = None;
        if record.write(&self.exits).is_err() {
            self.unwritten = Some((record.clone(), poll::boot_ns() + RETRY_NS));
        }
        self.status.phase = Phase::Exited;
        self.status.exit = Some(record.clone());
        self.peers.broadcast(&FromShim::Event(event(record)));
        if let Some(task) = &self.task {
            // What stays busy now is tried again, and reported, by a restart or the release.
            let _ = container::remove_cgroup(&task.spec);
        }
        // A stale container in it is harmless: its start time tells that it is dead.
        let _ = self.write_state(None);
    }

    fn check_unwritten(&mut self) {
        if self.unwritten.as_ref().is_some_and(|(_, at)| poll::boot_ns() >= *at)
            && let Some((record, _)) = self.unwritten.take()
            && record.write(&self.exits).is_err()
        {
            self.unwritten = Some((record, poll::boot_ns() + RETRY_NS));
        }
    }

    /// Whether a new attempt or the release may come: the last one must have ended.
    fn check_idle(&self) -> Result<(), String> {
        if self.running.is_some() {
            return Err("the container still runs".into());
        }
        Ok(())
    }

    fn write_state(&self, container: Option<ProcessId>) -> Result<(), state::StateError> {
        let Some(task) = &self.task else { return Ok(()) };
        let state = ShimState {
            task_id: task.spec.task_id.clone(),
            attempt: task.spec.attempt,
            shim: task.own.clone(),
            container,
            started_at_ns: self.status.started_at_ns,
            cgroups_path: task.spec.cgroups_path.clone(),
            log_dir: task.spec.log.dir.clone(),
        };
        state.write(&self.state)
    }

    fn answer(&mut self, key: u64, message: ToShim) {
        let result = match message.request {
            Request::Start(spec) => self.start(*spec),
            Request::Restart { attempt } => self.restart(attempt),
            Request::Stop { signal, grace_ms } => self.stop(signal.as_deref(), grace_ms),
            Request::Kill => self.with_running(|running| running.signal(libc::SIGKILL)),
            Request::Status => {
                self.peers.send(key, &FromShim::Status(Box::new(self.status.clone())));
                Ok(())
            }
            Request::ReplaceSecret { name, .. } => Err(format!("replacing secret {name} in a running task is not supported yet")),
            Request::Release => self.release(),
        };
        self.peers.send(key, &FromShim::Reply(Reply { id: message.id, result }));
    }

    fn with_running(&self, act: impl FnOnce(&Running)) -> Result<(), String> {
        self.running.as_ref().map(act).ok_or_else(|| "the container is not running".to_owned())
    }

    fn start(&mut self, mut spec: TaskSpec) -> Result<(), String> {
        if self.task.is_some() {
            return Err("this shim was started already".into());
        }
        spec.attempt = spec.attempt.max(1);
        bundle::check(&spec)?;
        let own = ProcessId::of(std::process::id() as i32).map_err(|error| error.to_string())?;
        let log = LogWriter::open(&spec.log.dir, spec.log.max_file_bytes, spec.log.max_files)
            .map_err(|error| format!("{error}: {}", error.source))?;
        if !spec.exit_dir.as_os_str().is_empty() {
            self.exits.clone_from(&spec.exit_dir);
        }
        ExitRecord::reserve(&self.exits).map_err(|error| text_of(&error))?;
        let listener = listen(&self.state).map_err(|error| format!("cannot listen in the state folder: {error}"))?;
        self.peers.listen(listener).map_err(|error| error.to_string())?;
        let layout = Layout::build(&self.state.join(MOUNT_POINT), &spec).map_err(|error| error.to_string())?;
        let versions =
            |files: &[skep_shim::protocol::FileSpec]| files.iter().map(|file| (file.name.clone(), file.version)).collect();
        self.status.secrets = versions(&spec.secrets);
        self.status.configs = versions(&spec.configs);
        self.status.task_id = spec.task_id.clone();
        self.status.labels = spec.labels.clone();
        // On the tmpfs now; the copies in this process are wiped.
        for file in spec.secrets.iter_mut().chain(&mut spec.configs) {
            file.bytes = Vec::new().into();
        }
        self.task = Some(Task { spec, layout, log, own });
        self.launch()
    }

    fn restart(&mut self, attempt: u32) -> Result<(), String> {
        self.check_idle()?;
        let Some(task) = &mut self.task else { return Err("this shim was not started yet".into()) };
        if attempt <= task.spec.attempt {
            return Err(format!("attempt {attempt} is not above {}", task.spec.attempt));
        }
        container::remove_cgroup(&task.spec).map_err(|error| error.to_string())?;
        ExitRecord::reserve(&self.exits).map_err(|error| text_of(&error))?;
        task.spec.attempt = attempt;
        // What the former left to be written says nothing any more.
        self.unwritten = None;
        self.launch()
    }

    fn launch(&mut self) -> Result<(), String> {
        let Some(task) = &self.task else { return Err("this shim was not started yet".into()) };
        let attempt = task.spec.attempt;
        self.status.attempt = attempt;
        self.status.health = None;
        self.status.started_at_ns = None;
        self.write_state(None).map_err(|error| text_of(&error))?;
        ExitRecord::remove(&self.exits).map_err(|error| text_of(&error))?;
        let peers = &mut self.peers;
        let created = || peers.broadcast(&FromShim::Event(Event::Created { attempt }));
        match container::start(&task.spec, &task.layout, created) {
            Ok(running) => self.started(running),
            Err(failure) => {
                let record = ExitRecord {
                    task_id: task.spec.task_id.clone(),
                    attempt,
                    code: failure.code,
                    signal: None,
                    oom_killed: false,
                    at_ns: now_ns(),
                    error: Some(failure.message.clone()),
                };
                self.finish(record, Event::StartFailed);
                Err(failure.message)
            }
        }
    }

    fn started(&mut self, running: Running) -> Result<(), String> {
        let Some(task) = &self.task else { return Ok(()) };
        let at_ns = now_ns();
        let (pid, attempt) = (running.process.pid, task.spec.attempt);
        let process = running.process.clone();
        self.status.phase = Phase::Running;
        self.status.pid = Some(pid);
        self.status.started_at_ns = Some(at_ns);
        self.status.exit = None;
        if let Some(health) = &task.spec.health {
            self.monitor = Monitor::new(health, poll::boot_ns(), at_ns)?;
            self.status.health = self.monitor.as_ref().map(|monitor| monitor.report.clone());
        }
        self.running = Some(running);
        self.peers.broadcast(&FromShim::Event(Event::Started { attempt, pid, at_ns }));
        // The shim itself is in the state already; that is what adoption needs. The task runs, so this is no refusal.
        let _ = self.write_state(Some(process));
        Ok(())
    }

    fn stop(&mut self, signal: Option<&str>, grace_ms: Option<u64>) -> Result<(), String> {
        let Some(task) = &self.task else { return Err("this shim was not started yet".into()) };
        let signal = bundle::signal(signal.unwrap_or(&task.spec.stop_signal))?;
        let grace_ns = grace_ms.unwrap_or(task.spec.stop_grace_ms).saturating_mul(1_000_000);
        self.with_running(|running| running.signal(signal))?;
        let kill_at = poll::boot_ns().saturating_add(grace_ns);
        // A second stop may shorten the wait, never lengthen it.
        self.kill_at_ns = Some(self.kill_at_ns.map_or(kill_at, |at| at.min(kill_at)));
        Ok(())
    }

    fn release(&mut self) -> Result<(), String> {
        self.check_idle()?;
        if let Some(task) = &self.task {
            container::remove_cgroup(&task.spec).map_err(|error| error.to_string())?;
        }
        rootfs::tear_down(&self.state.join(MOUNT_POINT)).map_err(|error| error.to_string())?;
        state::remove_files(&self.state, &self.exits).map_err(|error| error.to_string())?;
        self.released = true;
        Ok(())
    }
}

/// An error with what caused it.
fn text_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// The socket, 0600 from its first moment.
fn listen(state: &std::path::Path) -> io::Result<UnixListener> {
    skep_shim::file::remove_if_there(&state.join(SOCKET))?;
    let folder = File::open(state)?;
    // SAFETY: a call on a number, in a process with one thread.
    let mask = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(short_path(&folder));
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    listener
}
