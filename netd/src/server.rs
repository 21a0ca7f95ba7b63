//! The calls of the node daemon, turned into commands of the engine.
//!
//! One stream of changes is in charge at a time: the newest. An older one, left by
//! a daemon that was killed, can change nothing any more.

use crate::engine::{Command, ObjectChange, Programmed, Status};
use crate::parse::{self, Step};
use crate::probe;
use skep_host::unix::LocalPeer;
use skep_model::place::PlaceFaults;
use skep_proto::v1;
use skep_proto::v1::netd_server::{Netd, NetdServer};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status as Refusal, Streaming, service::interceptor::InterceptedService};

/// Changes of one commit.
const CHANGES_MAX: usize = 500_000;
/// The longest that a call may wait for the version that it names.
const VERSION_DEADLINE: Duration = Duration::from_secs(15);
/// The longest that a call may wait for the engine.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// The service.
#[derive(Debug)]
pub struct Service {
    commands: mpsc::Sender<Command>,
    programmed: watch::Receiver<Programmed>,
    taken: watch::Receiver<Programmed>,
    faults: watch::Receiver<Arc<PlaceFaults>>,
    streams: AtomicU64,
}

type Checked = fn(Request<()>) -> Result<Request<()>, Refusal>;

/// The service behind the check of who is calling.
pub fn service(
    commands: mpsc::Sender<Command>,
    programmed: watch::Receiver<Programmed>,
    taken: watch::Receiver<Programmed>,
    faults: watch::Receiver<Arc<PlaceFaults>>,
) -> InterceptedService<NetdServer<Service>, Checked> {
    let service = Service { commands, programmed, taken, faults, streams: AtomicU64::new(0) };
    InterceptedService::new(NetdServer::new(service).max_decoding_message_size(skep_proto::MESSAGE_MAX), only_root as Checked)
}

/// Whoever is root here could do all of it anyway; nobody else may.
fn only_root(request: Request<()>) -> Result<Request<()>, Refusal> {
    match request.extensions().get::<LocalPeer>() {
        Some(peer) if peer.uid == 0 => Ok(request),
        Some(peer) => Err(Refusal::permission_denied(format!("only root may program the network, not uid {}", peer.uid))),
        None => Err(Refusal::permission_denied("the caller is unknown")),
    }
}

impl Service {
    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refusal> {
        self.call_within(CALL_DEADLINE, command).await
    }

    async fn call_within<T>(&self, limit: Duration, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let call = async {
            self.commands.send(command(reply)).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())
        };
        tokio::time::timeout(limit, call).await.map_err(|_| Refusal::deadline_exceeded("netd is busy"))?
    }

    /// Waits until a version was taken, and if `after` is 0, until any was: before
    /// the first, nobody knows what is to be in a namespace.
    async fn wait_for(&self, after: u64) -> Result<(), Refusal> {
        let mut taken = self.taken.clone();
        let wait = taken.wait_for(|taken| taken.stream != 0 && taken.version >= after);
        match tokio::time::timeout(VERSION_DEADLINE, wait).await {
            Ok(taken) => taken.map(drop).map_err(|_| ended()),
            Err(_) => Err(Refusal::deadline_exceeded(format!("version {after} did not come within {VERSION_DEADLINE:?}"))),
        }
    }
}

fn ended() -> Refusal {
    Refusal::unavailable("netd is ending")
}

fn unfit(error: &parse::Unfit) -> Refusal {
    Refusal::invalid_argument(error.to_string())
}

type Progress = Pin<Box<dyn Stream<Item = Result<v1::NetdProgress, Refusal>> + Send>>;

#[tonic::async_trait]
impl Netd for Service {
    type ApplyStream = Progress;

    async fn apply(&self, request: Request<Streaming<v1::NetdChange>>) -> Result<Response<Progress>, Refusal> {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = mpsc::channel(16);
        let (commands, programmed, faults) = (self.commands.clone(), self.programmed.clone(), self.faults.clone());
        let changes = request.into_inner();
        tokio::spawn(async move {
            let result = tokio::select! {
                result = feed(stream, changes, commands) => result,
                result = tell(stream, programmed, faults, &sender) => result,
            };
            if let Err(refusal) = result {
                // The other side may have gone, and then needs no reason.
                let _ = sender.send(Err(refusal)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn make_namespace(&self, request: Request<v1::NetdNamespace>) -> Result<Response<v1::NetdNamespacePath>, Refusal> {
        let v1::NetdNamespace { task, after } = request.into_inner();
        let task = task.ok_or_else(|| Refusal::invalid_argument("task: it is missing"))?;
        let task = parse::task(task).map_err(|error| unfit(&error))?;
        skep_host::process::panic_if_planted("netd-call", &task.hostname);
        self.wait_for(after).await?;
        let path = self.call(|reply| Command::MakeNamespace(Box::new(task), reply)).await?.map_err(Refusal::internal)?;
        Ok(Response::new(v1::NetdNamespacePath { path: path.to_string_lossy().into_owned() }))
    }

    async fn remove_namespace(&self, request: Request<v1::NetdTask>) -> Result<Response<v1::NetdRemoved>, Refusal> {
        let task = parse::task_id(&request.get_ref().task).map_err(|error| unfit(&error))?;
        self.call(|reply| Command::RemoveNamespace(task, reply)).await?.map_err(Refusal::internal)?;
        Ok(Response::new(v1::NetdRemoved {}))
    }

    async fn drain(&self, request: Request<v1::NetdDrain>) -> Result<Response<v1::NetdDrained>, Refusal> {
        let v1::NetdDrain { task, limit_ms } = request.into_inner();
        let task = parse::task_id(&task).map_err(|error| unfit(&error))?;
        let limit = Duration::from_millis(limit_ms);
        let drained = self.call_within(CALL_DEADLINE.saturating_add(limit), |reply| Command::Drain(task, limit, reply));
        let busy = drained.await?.map_err(Refusal::internal)?;
        Ok(Response::new(v1::NetdDrained { busy }))
    }

    async fn probe(&self, request: Request<v1::NetdProbe>) -> Result<Response<v1::NetdProbed>, Refusal> {
        let v1::NetdProbe { timeout_ms, networks } = request.into_inner();
        let networks =
            networks.iter().map(|id| parse::network_id(id)).collect::<Result<_, _>>().map_err(|error| unfit(&error))?;
        let timeout = Duration::from_millis(timeout_ms).min(CALL_DEADLINE);
        let plan = self.call(|reply| Command::Probe(networks, reply)).await?.map_err(Refusal::unavailable)?;
        Ok(Response::new(v1::NetdProbed { rows: probe::run(plan, timeout).await }))
    }

    async fn status(&self, _: Request<v1::NetdStatusRequest>) -> Result<Response<v1::NetdStatus>, Refusal> {
        self.call(Command::Status).await.map(|status| Response::new(message(status)))
    }
}

fn message(status: Status) -> v1::NetdStatus {
    v1::NetdStatus {
        programmed_through: status.programmed_through,
        tasks: status.tasks.iter().map(ToString::to_string).collect(),
        repaired: status.repaired,
        repaired_by_audit: status.repaired_by_audit,
        repairs: status.repairs.into(),
        operations: status.operations,
        overruns: status.overruns,
        failures: status.failures,
        faults: Some((&*status.faults).into()),
    }
}

/// Collects changes up to each commit, and hands them on as one. An object that cannot
/// be taken is left out and named; the stream ends only for a breach of its order.
async fn feed(stream: u64, mut messages: Streaming<v1::NetdChange>, commands: mpsc::Sender<Command>) -> Result<(), Refusal> {
    let (mut changes, mut is_complete, mut last) = (Vec::<ObjectChange>::new(), false, 0);
    while let Some(message) = messages.next().await {
        match parse::step(message?) {
            Step::Reset if last == 0 && changes.is_empty() => is_complete = true,
            Step::Reset => return Err(Refusal::invalid_argument("a reset comes first on its stream")),
            _ if last == 0 && !is_complete => return Err(Refusal::failed_precondition("a stream begins with a reset")),
            Step::Change(_) if changes.len() == CHANGES_MAX => {
                return Err(Refusal::resource_exhausted("too many changes in one commit"));
            }
            Step::Change(change) => changes.push(change),
            Step::Commit(version) if version <= last => {
                return Err(Refusal::invalid_argument(format!("version {version} comes after {last}")));
            }
            Step::Commit(version) => {
                last = version;
                let commit = Command::Commit {
                    stream,
                    version,
                    is_complete: std::mem::take(&mut is_complete),
                    changes: std::mem::take(&mut changes),
                };
                commands.send(commit).await.map_err(|_| ended())?;
            }
        }
    }
    Ok(())
}

/// Says how far the kernel is and what does not work, for this stream only.
async fn tell(
    stream: u64,
    mut programmed: watch::Receiver<Programmed>,
    mut faults: watch::Receiver<Arc<PlaceFaults>>,
    sender: &mpsc::Sender<Result<v1::NetdProgress, Refusal>>,
) -> Result<(), Refusal> {
    let (mut last, mut said) = (0, None);
    loop {
        // In this order: faults are published before the version that they hold for.
        let current = *programmed.borrow_and_update();
        if current.stream > stream {
            return Err(Refusal::aborted("another stream is in charge now"));
        }
        let current_faults = faults.borrow_and_update().clone();
        let is_news = current.version > last || said.as_ref() != Some(&current_faults);
        if current.stream == stream && is_news {
            last = current.version;
            let message = v1::NetdProgress { programmed_through: last, faults: Some((&*current_faults).into()) };
            said = Some(current_faults);
            if sender.send(Ok(message)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            changed = programmed.changed() => changed.map_err(|_| ended())?,
            changed = faults.changed() => changed.map_err(|_| ended())?,
        }
    }
}
