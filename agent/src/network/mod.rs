//! The agent's side of the node's network: what the manager told is handed on to
//! the network daemon, `skep-netd`, which does everything else.
//!
//! The whole desired set is kept in memory, so that a network daemon that was
//! restarted gets it again; what it has programmed meanwhile stays in the kernel.
//! While it does not answer nothing is lost: changes wait, tasks that need a
//! namespace wait for a limited time, those that run go on.

mod desired;
mod kept;
mod ports;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use desired::Local;

use crate::drive::Inbox;
use desired::{Desired, Link};
use kept::Kept;
use skep_agent_core::Event;
use skep_host::clock;
use skep_model::endpoint::PublishedPort;
use skep_model::overlay::OverlayChange;
use skep_model::place::PlaceFaults;
use skep_model::task::Task;
use skep_model::{NodeId, TaskId};
use skep_proto::v1;
use skep_proto::v1::netd_client::NetdClient;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

/// How long a task may wait for its namespace.
const NAMESPACE_MAX: Duration = Duration::from_secs(20);
/// How long the removal of one is tried; afterwards the next stream tells of it.
const REMOVE_MAX: Duration = Duration::from_secs(5);
/// Between two attempts at a call, while the network daemon is away.
const AGAIN: Duration = Duration::from_millis(100);

/// The node's place in the network, and where its network daemon is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The network daemon's socket.
    pub socket: PathBuf,
    /// The node.
    pub node: NodeId,
    /// Its address on the underlay.
    pub address: IpAddr,
}

/// A task's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Where it is pinned.
    pub path: PathBuf,
    /// The node's ports that lead to it, each with its number.
    pub host_ports: Vec<PublishedPort>,
}

/// How it stands with the network daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It has answered once.
    pub has_answered: bool,
    /// What is waited for; `None` while it answers.
    pub trouble: Option<String>,
}

/// The node's network.
#[derive(Debug)]
pub(crate) struct Network {
    socket: PathBuf,
    channel: Channel,
    inbox: Inbox,
    desired: Mutex<Desired>,
    /// The ports of mode `host` of every task with a namespace.
    bound: Mutex<BTreeMap<TaskId, Vec<ports::Bound>>>,
    /// Something is new in `desired`.
    changed: Notify,
    /// A manager told something that is to be kept.
    told: Notify,
    kept: Kept,
    /// Tasks of which nothing is known but that there is something: their namespaces stay.
    unknown: Mutex<BTreeSet<TaskId>>,
    standing: watch::Sender<Standing>,
    /// What of the network does not work, as the network daemon said last; `None`
    /// until it said it once.
    faults: watch::Sender<Option<PlaceFaults>>,
}

impl Network {
    /// Knows what was kept, if anything was; [`Network::run`] begins to talk. Blocks.
    pub fn new(place: Place, data: &Path, boot: String, inbox: Inbox) -> Arc<Self> {
        let begin = clock::boot().0;
        let kept = Kept { path: data.join("overlay"), node: place.node, boot };
        let mut desired = Desired::new(place.node, place.address, begin);
        if let Some((overlay, is_of_this_boot)) = kept.load() {
            desired.restore(overlay);
            // On the same boot the kernel still holds all of it, and newer than it was kept.
            if !is_of_this_boot {
                desired.use_restored();
            }
        }
        let trouble = Some(format!("waits for skep-netd at {}", place.socket.display()));
        Arc::new(Self {
            channel: skep_host::unix::local_channel(&place.socket),
            desired: Mutex::new(desired),
            bound: Mutex::default(),
            socket: place.socket,
            inbox,
            changed: Notify::new(),
            told: Notify::new(),
            kept,
            unknown: Mutex::default(),
            standing: watch::Sender::new(Standing { has_answered: false, trouble }),
            faults: watch::Sender::new(None),
        })
    }

    /// Whether the overlay networks are known.
    pub fn is_known(&self) -> bool {
        self.lock().is_told()
    }

    /// There is something of a task that is not known.
    pub fn keep_unknown(&self, task: TaskId) {
        self.unknown().insert(task);
    }

    /// How it stands with the network daemon.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What of the network does not work.
    pub fn faults(&self) -> watch::Receiver<Option<PlaceFaults>> {
        self.faults.subscribe()
    }

    /// The manager said which UDP port overlay traffic has, and whether tasks are kept
    /// from their node.
    pub fn learn(&self, port: u16, isolate_nodes: bool) {
        self.lock().learn(port, isolate_nodes);
        self.changed.notify_one();
        self.told.notify_one();
    }

    /// One more link of the chain of assignments.
    pub fn tell(&self, chain: u64, version: u64, is_complete: bool, changes: Vec<OverlayChange>) {
        let is_news = is_complete || !changes.is_empty();
        self.lock().tell(Link { chain, version }, is_complete, changes);
        self.changed.notify_one();
        if is_news {
            self.told.notify_one();
        }
    }

    /// A task that runs, as a restarted daemon found it.
    pub fn adopt(&self, task: &Arc<Task>, hostname: String, folder: &Path) {
        self.unknown().remove(&task.id);
        let host_ports = ports::load(folder);
        let mut bound = Vec::new();
        for port in &host_ports {
            match ports::Bound::new(port.clone()) {
                Ok(held) => bound.push(held),
                Err(error) => {
                    let (number, protocol) = (port.published_port, port.transport.name());
                    tracing::warn!(task = %task.id, number, protocol, %error, "a process of the node has taken a task's port");
                }
            }
        }
        self.held().insert(task.id, bound);
        self.lock().put_task(Local { task: task.clone(), hostname, host_ports });
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<TaskId, Vec<ports::Bound>>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the task's namespace, with its interfaces and what it needs to know of
    /// its networks, and settles the node's ports that lead there. What came of it, or
    /// a sentence for the user.
    pub async fn make_namespace(&self, task: &Arc<Task>, hostname: String, folder: &Path) -> Result<Made, String> {
        let (message, after, host_ports) = {
            let mut desired = self.lock();
            let is_others = |port: &_| desired.holder(port).is_some_and(|holder| holder.id != task.id);
            let own = self.held().remove(&task.id).unwrap_or_default();
            let bound = ports::settle(desired::host_ports(task), is_others, own)?;
            let host_ports = ports::numbers(&bound);
            self.held().insert(task.id, bound);
            if !host_ports.is_empty() {
                ports::save(folder, &host_ports).map_err(|error| format!("its ports could not be noted: {error}"))?;
            }
            let local = Local { task: task.clone(), hostname, host_ports: host_ports.clone() };
            let after = desired.put_task(local.clone());
            (v1::LocalTask::from(&desired.local_task(&local)), after, host_ports)
        };
        self.changed.notify_one();
        let request = v1::NetdNamespace { task: Some(message), after };
        let made = self.call(NAMESPACE_MAX, move |mut client| {
            let request = request.clone();
            async move { client.make_namespace(request).await }
        });
        let made = made.await;
        made.map(|made| Made { path: made.path.into(), host_ports })
    }

    /// Removes the task's namespace, if it has one. What cannot be removed now goes
    /// when the network daemon is next told everything.
    pub async fn remove_namespace(&self, task: TaskId) {
        self.held().remove(&task);
        if !self.lock().remove_task(task) & !self.unknown().remove(&task) {
            return;
        }
        self.changed.notify_one();
        self.remove(task).await;
    }

    async fn remove(&self, task: TaskId) {
        let request = v1::NetdTask { task: task.to_string() };
        let removed = self.call(REMOVE_MAX, move |mut client| {
            let request = request.clone();
            async move { client.remove_namespace(request).await }
        });
        if let Err(error) = removed.await {
            tracing::warn!(%task, %error, "a network namespace could not be removed yet");
        }
    }

    /// Has the task's connections drained; the answer is an event.
    pub fn drain(self: &Arc<Self>, task: TaskId, limit: Duration) {
        let network = self.clone();
        tokio::spawn(async move {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            let request = v1::NetdDrain { task: task.to_string(), limit_ms };
            let drained = network.call(limit + AGAIN * 5, move |mut client| {
                let request = request.clone();
                async move { client.drain(request).await }
            });
            match drained.await {
                Ok(v1::NetdDrained { busy: 0 }) => tracing::debug!(%task, "no connection is busy"),
                Ok(v1::NetdDrained { busy }) => tracing::info!(%task, busy, "connections are busy at the end of their time"),
                Err(error) => tracing::warn!(%task, %error, "connections could not be drained"),
            }
            network.inbox.put(Event::Drained { task });
        });
    }

    /// A call, again and again while nobody answers, until the deadline.
    async fn call<T, Answer>(&self, deadline: Duration, call: impl Fn(NetdClient<Channel>) -> Answer) -> Result<T, String>
    where
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let ends = tokio::time::Instant::now() + deadline;
        loop {
            let why = match tokio::time::timeout_at(ends, call(self.client())).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) if status.code() == Code::Unavailable => status.message().to_owned(),
                Ok(Err(status)) => return Err(status.message().to_owned()),
                Err(_) => "it is busy".to_owned(),
            };
            if ends.saturating_duration_since(tokio::time::Instant::now()) <= AGAIN {
                let (socket, limit) = (self.socket.display(), deadline.as_secs_f32());
                return Err(format!("skep-netd at {socket} did not answer within {limit} s: {why}"));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn client(&self) -> NetdClient<Channel> {
        NetdClient::new(self.channel.clone())
            .max_encoding_message_size(skep_proto::MESSAGE_MAX)
            .max_decoding_message_size(skep_proto::MESSAGE_MAX)
    }

    fn unknown(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Desired> {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
