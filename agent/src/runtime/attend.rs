//! One attendant per container: it starts the shim or finds it, owns the connection,
//! turns what the shim says into events and passes commands on.
//!
//! A shim that is silent is left alone, and so is its container: only the end of the
//! process says that it is gone. A connection that breaks is made anew; what happened
//! meanwhile is in the status that the shim begins with.

use crate::drive::Inbox;
use crate::runtime::Runtime;
use crate::runtime::folders::TaskFolder;
use crate::runtime::records::Asked;
use skep_agent_core::{Event, Exit, Found};
use skep_host::process;
use skep_model::task::LOG_TAIL_LINES_MAX;
use skep_model::{TaskId, Time};
use skep_shim::protocol::{self, FromShim, HealthState, Phase, Request, Status, ToShim};
use skep_shim::state::ExitRecord;
use skep_shim::wire;
use skep_shim::{client, log};
use std::collections::VecDeque;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;

/// How long a shim may take to end once it was released.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// Between two looks for a shim that cannot be heard: the shortest and the longest time.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A shim that was not heard for that long is worth a word in the log.
const SILENCE: Duration = Duration::from_secs(10);
/// Characters of a log line that are kept for an error.
const TAIL_LINE_MAX: usize = 256;

/// What the attendant is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Run the container again.
    Restart { attempt: u64 },
    /// Ask it to stop.
    Stop { grace: Duration },
    /// Kill what runs and release the shim.
    Finish,
}

/// The handle of an attendant.
#[derive(Debug)]
pub(super) struct Attendant {
    commands: mpsc::UnboundedSender<Command>,
    join: JoinHandle<()>,
}

impl Attendant {
    /// Passes a command on; false if the shim is gone.
    pub(super) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }

    /// Has the shim end, for at most [`FINISH_MAX`]. One that cannot be heard is for
    /// whoever cleans up after it.
    pub(super) async fn finish(self) {
        let _ = self.commands.send(Command::Finish);
        let mut join = self.join;
        if tokio::time::timeout(FINISH_MAX, &mut join).await.is_err() {
            join.abort();
        }
    }
}

/// What an attendant works with.
struct Attendance {
    inbox: Inbox,
    task: TaskId,
    folder: TaskFolder,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Commands that came while the shim could not be heard.
    held: VecDeque<Command>,
    asked: Option<Asked>,
    has_check: bool,
    is_running: bool,
    is_finishing: bool,
    next_id: u64,
    /// The request whose refusal means that the container did not start.
    start_id: Option<u64>,
}

/// How a conversation with a shim ended.
enum Ended {
    /// The connection broke, or the shim ended.
    Broken,
    /// Nobody wants to hear more: the daemon is stopping, and the shim goes on.
    Dropped,
}

/// Starts a shim, hands it the task, and attends to it: when the task is on record,
/// and nothing is left of an earlier shim.
pub(super) fn start(runtime: &Arc<Runtime>, task: TaskId, attempt: u64) -> Attendant {
    let (commands, receiver) = mpsc::unbounded_channel();
    let asked = Some(Asked { attempt, is_of_this_boot: true });
    let mut attendance = Attendance::new(runtime, task, receiver, asked);
    let runtime = runtime.clone();
    let join = tokio::spawn(async move {
        match attendance.begin(&runtime).await {
            Ok(Some((stream, child, first))) => {
                attendance.attend(Some((stream, Some(first)))).await;
                // The shim ends right after its connections; it is this process's child.
                reap(child);
            }
            Ok(None) => {}
            Err(error) => attendance.inbox.put(Event::StartFailed { task, error }),
        }
    });
    Attendant { commands, join }
}

/// Looks for the shim of a task that a restarted daemon has on disk, says what it finds
/// and attends to it.
pub(super) fn find(runtime: &Arc<Runtime>, task: TaskId, asked: Option<Asked>) -> Attendant {
    let (commands, receiver) = mpsc::unbounded_channel();
    let attendance = Attendance::new(runtime, task, receiver, asked);
    Attendant { commands, join: tokio::spawn(attendance.attend(None)) }
}

/// Reaps a shim whenever it ends, without keeping the daemon.
fn reap(mut child: Child) {
    let reaping = std::thread::Builder::new().name("reap a shim".into()).spawn(move || child.wait());
    if let Err(error) = reaping {
        tracing::debug!(%error, "a shim that ended stays a zombie until the daemon ends");
    }
}

impl Attendance {
    fn new(runtime: &Arc<Runtime>, task: TaskId, commands: mpsc::UnboundedReceiver<Command>, asked: Option<Asked>) -> Self {
        Self {
            inbox: runtime.inbox.clone(),
            task,
            folder: runtime.folders.of(task),
            commands,
            held: VecDeque::new(),
            asked,
            has_check: false,
            is_running: false,
            is_finishing: false,
            next_id: 1,
            start_id: None,
        }
    }

    /// Everything up to the first request; `None` if it is not wanted any more.
    async fn begin(&mut self, runtime: &Arc<Runtime>) -> Result<Option<(UnixStream, Child, ToShim)>, String> {
        let task = self.task;
        runtime.records.settled(task).await?;
        match self.commands.try_recv() {
            Ok(Command::Finish) | Err(TryRecvError::Disconnected) => return Ok(None),
            Ok(command) => self.held.push_back(command),
            Err(TryRecvError::Empty) => {}
        }
        let (spec, image) = runtime.spec(task)?;
        self.has_check = spec.health.as_ref().is_some_and(|health| health.test.first().is_some_and(|kind| kind != "NONE"));
        let shim = tokio::task::spawn_blocking({
            let runtime = runtime.clone();
            move || {
                let making = |error| format!("could not make the task's folders: {error}");
                runtime.folders.destroy_container(task, &runtime.cgroup(task)).map_err(|error| super::text_of(&error))?;
                let folder = runtime.folders.make(task).map_err(making)?;
                folder.take_lease(&image).map_err(making)?;
                let spawned = client::spawn(&runtime.settings.shim, &folder.state(), &spec);
                let spawned = spawned.map_err(|error| super::text_of(&error))?;
                // Before it makes the container, which gets what it has.
                if let Err(error) = process::give_back_descriptor_limit(spawned.child.id()) {
                    tracing::warn!(%task, %error, "the container has this daemon's limit of open files");
                }
                Ok::<_, String>((spawned, spec))
            }
        });
        let (spawned, spec) = shim.await.map_err(|error| format!("the start was cut short: {error}"))??;
        let stream = spawned.stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(spawned.stream));
        let stream = stream.map_err(|error| format!("could not use the connection to the shim: {error}"))?;
        let first = self.request(Request::Start(Box::new(spec)));
        self.start_id = Some(first.id);
        Ok(Some((stream, spawned.child, first)))
    }

    /// Attends to a shim until it ends. Without a connection it looks for one first.
    async fn attend(mut self, mut connection: Option<(UnixStream, Option<ToShim>)>) {
        let mut pause = LOOK.0;
        loop {
            let (stream, first) = match connection.take() {
                Some(connection) => connection,
                None => match self.look().await {
                    Some(stream) => (stream, None),
                    None => return,
                },
            };
            let begun = Instant::now();
            if matches!(self.converse(stream, first).await, Ended::Dropped) {
                return;
            }
            if self.is_finishing {
                continue;
            }
            // A shim that ends a connection at once is not asked in a hurry.
            pause = if begun.elapsed() > LOOK.1 { LOOK.0 } else { (pause * 2).min(LOOK.1) };
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks for the shim until it is heard, and says what it says; or says that it is
    /// gone, and what it left. `None` if there is nothing more to attend to.
    async fn look(&mut self) -> Option<UnixStream> {
        let begun = Instant::now();
        let (mut pause, mut is_noted) = (LOOK.0, false);
        loop {
            let why = match self.left().await {
                Ok(Some(found)) => {
                    if !self.is_finishing {
                        self.inbox.put(Event::Found { task: self.task, found });
                    }
                    return None;
                }
                Ok(None) => match self.heard(&mut is_noted).await? {
                    Ok((stream, status)) => {
                        if let Some(found) = self.take(&status) {
                            self.inbox.put(Event::Found { task: self.task, found });
                            return Some(stream);
                        }
                        "it was asked for nothing yet".to_owned()
                    }
                    Err(why) => why,
                },
                Err(error) => error,
            };
            if begun.elapsed() > SILENCE {
                note(self.task, &why, &mut is_noted);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK.1),
                is_over = hold(&mut self.commands, &mut self.held) => {
                    self.is_finishing |= is_over;
                    return None;
                }
            }
        }
    }

    /// Connects and waits for the first word, however long that takes; `None` if it is
    /// not waited for any more.
    async fn heard(&mut self, is_noted: &mut bool) -> Option<Result<(UnixStream, Status), String>> {
        let mut reaching = std::pin::pin!(reach(&self.folder));
        loop {
            tokio::select! {
                heard = &mut reaching => return Some(heard),
                () = tokio::time::sleep(SILENCE), if !*is_noted => note(self.task, "it says nothing", is_noted),
                is_over = hold(&mut self.commands, &mut self.held) => {
                    self.is_finishing |= is_over;
                    return None;
                }
            }
        }
    }

    async fn left(&self) -> Result<Option<Found>, String> {
        let (folder, asked) = (self.folder.clone(), self.asked);
        let looked = tokio::task::spawn_blocking(move || folder.left(asked)).await;
        looked.map_err(|error| error.to_string())?.map_err(|error| super::text_of(&error))
    }

    /// Takes over what a shim is doing. `None` if it was asked for nothing yet.
    fn take(&mut self, status: &Status) -> Option<Found> {
        self.has_check = status.health.is_some();
        self.is_running = status.phase == Phase::Running;
        self.start_id = None;
        let attempt = from_shim(status.attempt);
        match (status.phase, &status.exit) {
            (Phase::Waiting, _) => None,
            (Phase::Running, _) => Some(Found::Running {
                pid: status.pid.unwrap_or_default(),
                attempt,
                healthy: status.health.as_ref().and_then(|health| match health.state {
                    HealthState::Starting => None,
                    HealthState::Healthy => Some(true),
                    HealthState::Unhealthy => Some(false),
                }),
                has_check: self.has_check,
            }),
            (Phase::Exited, Some(ExitRecord { error: Some(error), .. })) => {
                Some(Found::StartFailed { attempt, error: error.clone() })
            }
            (Phase::Exited, Some(record)) => Some(Found::Exited { exit: exit(record, &self.folder.log()), shim_lives: true }),
            (Phase::Exited, None) => Some(Found::StartFailed { attempt, error: "the shim does not know how it ended".into() }),
        }
    }

    /// Talks with the shim until one of the two is gone.
    async fn converse(&mut self, stream: UnixStream, first: Option<ToShim>) -> Ended {
        let (mut reader, mut writer) = stream.into_split();
        let (sender, mut frames) = mpsc::channel(64);
        let task = self.task;
        let reading = tokio::spawn(async move {
            loop {
                match read(&mut reader).await {
                    Ok(Some(frame)) => {
                        if sender.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(error) => return tracing::warn!(%task, %error, "the connection to a shim broke"),
                }
            }
        });
        let mut outgoing = first;
        let ended = loop {
            if let Some(message) = outgoing.take() {
                let Ok(frame) = wire::encode(&message) else { break Ended::Broken };
                if writer.write_all(&frame).await.is_err() {
                    break Ended::Broken;
                }
            }
            if let Some(command) = self.held.pop_front() {
                outgoing = Some(self.obey(command));
                continue;
            }
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => outgoing = self.hear(frame),
                    None => break Ended::Broken,
                },
                command = self.commands.recv() => match command {
                    Some(command) => outgoing = Some(self.obey(command)),
                    None => break Ended::Dropped,
                },
            }
        };
        reading.abort();
        ended
    }

    fn obey(&mut self, command: Command) -> ToShim {
        match command {
            Command::Restart { attempt } => {
                if let Some(asked) = &mut self.asked {
                    asked.attempt = asked.attempt.max(attempt);
                }
                let request = self.request(Request::Restart { attempt: to_shim(attempt) });
                self.start_id = Some(request.id);
                request
            }
            Command::Stop { grace } => {
                let grace_ms = Some(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
                self.request(Request::Stop { signal: None, grace_ms })
            }
            Command::Finish => {
                self.is_finishing = true;
                self.request(if self.is_running { Request::Kill } else { Request::Release })
            }
        }
    }

    /// Turns a frame into an event; returns what is to be said next.
    fn hear(&mut self, frame: Option<FromShim>) -> Option<ToShim> {
        let Some(frame) = frame else {
            tracing::debug!(task = %self.task, "skipped a message that a newer shim sent");
            return None;
        };
        match frame {
            FromShim::Status(_) | FromShim::Event(protocol::Event::Created { .. }) => None,
            FromShim::Event(protocol::Event::Started { attempt, pid, .. }) => {
                self.is_running = true;
                self.start_id = None;
                let (task, has_check) = (self.task, self.has_check);
                self.inbox.put(Event::Started { task, attempt: from_shim(attempt), pid, has_check });
                self.is_finishing.then(|| self.request(Request::Kill))
            }
            FromShim::Event(protocol::Event::Health { attempt, report }) => {
                let healthy = match report.state {
                    HealthState::Healthy => true,
                    HealthState::Unhealthy => false,
                    HealthState::Starting => return None,
                };
                let attempt = from_shim(attempt);
                self.inbox.put(Event::Health { task: self.task, attempt, healthy, output: report.output });
                None
            }
            FromShim::Event(protocol::Event::Exited(record)) => {
                self.is_running = false;
                self.inbox.put(Event::Exited { task: self.task, exit: exit(&record, &self.folder.log()) });
                self.is_finishing.then(|| self.request(Request::Release))
            }
            FromShim::Event(protocol::Event::StartFailed(record)) => {
                self.is_running = false;
                self.start_id = None;
                let error = record.error.unwrap_or_else(|| format!("the container could not be started ({})", record.code));
                self.inbox.put(Event::StartFailed { task: self.task, error });
                self.is_finishing.then(|| self.request(Request::Release))
            }
            FromShim::Reply(reply) => {
                if let Err(error) = reply.result {
                    if self.start_id == Some(reply.id) {
                        self.start_id = None;
                        self.inbox.put(Event::StartFailed { task: self.task, error });
                    } else {
                        tracing::warn!(task = %self.task, %error, "the shim refused a request");
                    }
                }
                None
            }
        }
    }

    fn request(&mut self, request: Request) -> ToShim {
        let id = self.next_id;
        self.next_id += 1;
        ToShim { id, request }
    }
}

/// The shim counts starts from 1, a task's attempts from 0.
pub(super) fn to_shim(attempt: u64) -> u32 {
    u32::try_from(attempt + 1).unwrap_or(u32::MAX)
}

/// See [`to_shim`].
pub(super) fn from_shim(attempt: u32) -> u64 {
    u64::from(attempt.saturating_sub(1))
}

/// How a container ended, with the last lines it wrote.
pub(super) fn exit(record: &ExitRecord, log: &std::path::Path) -> Exit {
    Exit {
        attempt: from_shim(record.attempt),
        code: record.code,
        oom_killed: record.oom_killed,
        at: Time(record.at_ns),
        log_tail: if record.code == 0 { Vec::new() } else { tail(log) },
    }
}

fn tail(folder: &std::path::Path) -> Vec<String> {
    match log::LogReader::new(folder).last_texts(LOG_TAIL_LINES_MAX) {
        Ok(texts) => {
            let text = |text: &Vec<u8>| String::from_utf8_lossy(text).chars().take(TAIL_LINE_MAX).collect();
            texts.iter().map(text).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "could not read the last lines of a log");
            Vec::new()
        }
    }
}

/// Takes what is told meanwhile; ends when the shim is not to be found any more. True if
/// that is because it is to end.
async fn hold(commands: &mut mpsc::UnboundedReceiver<Command>, held: &mut VecDeque<Command>) -> bool {
    loop {
        match commands.recv().await {
            Some(Command::Finish) => return true,
            Some(command) => held.push_back(command),
            None => return false,
        }
    }
}

/// Says once that a shim cannot be heard.
fn note(task: TaskId, why: &str, is_noted: &mut bool) {
    if !std::mem::replace(is_noted, true) {
        tracing::warn!(%task, %why, "a shim cannot be heard; its container is left alone");
    }
}

/// Connects to the shim of a folder and hears its status.
async fn reach(folder: &TaskFolder) -> Result<(UnixStream, Status), String> {
    let state = std::fs::File::open(folder.state()).map_err(|error| error.to_string())?;
    let mut stream = UnixStream::connect(client::short_path(&state)).await.map_err(|error| format!("cannot connect: {error}"))?;
    loop {
        match read(&mut stream).await {
            Ok(Some(Some(FromShim::Status(status)))) => {
                status.check_protocol()?;
                return Ok((stream, *status));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err("it ended the connection".into()),
            Err(error) => return Err(super::text_of(&error)),
        }
    }
}

/// The next frame; `None` at the end of the stream, and `Some(None)` for a message of a
/// kind that only a newer daemon knows.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Option<Option<FromShim>>, wire::WireError> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(wire::WireError::Stream(error)),
        Ok(_) => {}
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > wire::FRAME_MAX {
        return Err(wire::WireError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(wire::WireError::Stream)?;
    wire::decode_known(&body).map(Some)
}
