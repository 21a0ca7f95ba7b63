//! One attendant per container: it owns the connection to the shim, turns what
//! the shim says into events and passes commands on.

use crate::drive::Inbox;
use crate::runtime::Runtime;
use crate::runtime::folders::TaskFolder;
use skep_agent_core::{Event, Exit};
use skep_identity::process;
use skep_model::task::LOG_TAIL_LINES_MAX;
use skep_model::{TaskId, Time};
use skep_shim::protocol::{self, FromShim, HealthState, Phase, Request, ToShim};
use skep_shim::state::ExitRecord;
use skep_shim::wire;
use skep_shim::{client, log};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a shim may take to end once it was released.
const FINISH_MAX: Duration = Duration::from_secs(30);
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

    /// Has the shim end, for at most [`FINISH_MAX`].
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
    log: PathBuf,
    has_check: bool,
    is_running: bool,
    is_finishing: bool,
    next_id: u64,
    /// The request whose refusal means that the container did not start.
    start_id: Option<u64>,
}

/// Spawns a shim, hands it the spec, and attends to it.
pub(super) fn spawn(
    runtime: &Arc<Runtime>,
    task: TaskId,
    folder: &TaskFolder,
    spec: protocol::TaskSpec,
) -> Result<Attendant, String> {
    let spawned = client::spawn(&runtime.settings.shim, &folder.state()).map_err(|error| super::text_of(&error))?;
    // Before it makes the container, which gets what it has.
    if let Err(error) = process::give_back_descriptor_limit(spawned.child.id()) {
        tracing::warn!(%task, %error, "the container has this daemon's limit of open files");
    }
    let has_check = spec.health.as_ref().is_some_and(|health| health.test.first().is_some_and(|kind| kind != "NONE"));
    let mut child = spawned.child;
    let stream = into_async(spawned.stream).map_err(|error| format!("could not use the connection to the shim: {error}"))?;
    let mut attendance = Attendance::new(runtime.inbox.clone(), task, folder.log(), has_check);
    let first = attendance.request(Request::Start(Box::new(spec)));
    attendance.start_id = Some(first.id);
    let (commands, receiver) = mpsc::unbounded_channel();
    let join = tokio::spawn(async move {
        attendance.attend(stream, receiver, Some(first)).await;
        // The shim ends right after its connections; it is this process's child.
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    });
    Ok(Attendant { commands, join })
}

/// Attends to a shim that outlived the daemon. Returns what it is doing.
pub(super) async fn adopt(
    runtime: &Arc<Runtime>,
    task: TaskId,
    folder: &TaskFolder,
) -> Result<(Attendant, protocol::Status), String> {
    let stream = client::connect(&folder.state()).map_err(|error| super::text_of(&error))?;
    let mut stream = into_async(stream).map_err(|error| format!("could not use the connection to the shim: {error}"))?;
    let first = read_frame(&mut stream);
    let first = tokio::time::timeout(Duration::from_secs(10), first).await.map_err(|_| "the shim did not answer within 10 s")?;
    let Some(FromShim::Status(status)) = first.map_err(|error| super::text_of(&error))? else {
        return Err("the shim did not begin with its status".into());
    };
    let mut attendance = Attendance::new(runtime.inbox.clone(), task, folder.log(), status.health.is_some());
    attendance.is_running = status.phase == Phase::Running;
    let (commands, receiver) = mpsc::unbounded_channel();
    let join = tokio::spawn(attendance.attend(stream, receiver, None));
    Ok((Attendant { commands, join }, *status))
}

impl Attendance {
    fn new(inbox: Inbox, task: TaskId, log: PathBuf, has_check: bool) -> Self {
        Self { inbox, task, log, has_check, is_running: false, is_finishing: false, next_id: 1, start_id: None }
    }

    async fn attend(mut self, stream: UnixStream, mut commands: mpsc::UnboundedReceiver<Command>, first: Option<ToShim>) {
        let (mut reader, mut writer) = stream.into_split();
        let (sender, mut frames) = mpsc::channel(64);
        let reading = tokio::spawn(async move {
            while let Ok(Some(frame)) = read_frame_half(&mut reader).await {
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let mut outgoing = first;
        loop {
            if let Some(message) = outgoing.take() {
                let Ok(frame) = wire::encode(&message) else { break };
                if writer.write_all(&frame).await.is_err() {
                    break;
                }
            }
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => outgoing = self.hear(frame),
                    None => break,
                },
                command = commands.recv() => match command {
                    Some(command) => outgoing = Some(self.obey(command)),
                    // The runtime dropped the task; the daemon is stopping. The shim goes on.
                    None => break,
                },
            }
        }
        reading.abort();
        if !self.is_finishing && !commands.is_closed() {
            self.inbox.put(Event::ShimLost { task: self.task });
        }
    }

    fn obey(&mut self, command: Command) -> ToShim {
        match command {
            Command::Restart { attempt } => {
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
    fn hear(&mut self, frame: FromShim) -> Option<ToShim> {
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
                self.inbox.put(Event::Exited { task: self.task, exit: exit(&record, &self.log) });
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
    let reader = log::LogReader::new(folder);
    let read = reader.tail(LOG_TAIL_LINES_MAX).and_then(|from| reader.read(from, LOG_TAIL_LINES_MAX));
    match read {
        Ok(batch) => {
            let text = |record: &log::Record| String::from_utf8_lossy(&record.text).chars().take(TAIL_LINE_MAX).collect();
            batch.records.iter().map(text).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "could not read the last lines of a log");
            Vec::new()
        }
    }
}

fn into_async(stream: std::os::unix::net::UnixStream) -> std::io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn read_frame(stream: &mut UnixStream) -> Result<Option<FromShim>, wire::WireError> {
    read(stream).await
}

async fn read_frame_half(stream: &mut OwnedReadHalf) -> Result<Option<FromShim>, wire::WireError> {
    read(stream).await
}

/// The next frame; `None` at the end of the stream.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Option<FromShim>, wire::WireError> {
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
    wire::decode(&body).map(Some)
}
