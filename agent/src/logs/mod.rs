//! Logs of this node's tasks for whoever subscribed.
//!
//! A subscription reads the files that the shims write. What is there already leaves in the order of its time, whichever
//! task wrote it, then a mark, then what comes. Lines leave whole: a line of one task and stream is never between the parts
//! of another. One that follows waits for changes of the folders; nothing is polled. It ends with its tasks.

mod reading;
mod watch;

use crate::connect::Managers;
use crate::runtime::Folders;
use reading::{Item, Reading};
use skep_model::task::Task;
use skep_model::{NodeId, TaskId};
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{LogChunk, LogOptions, LogPublish, LogStream, LogSubscribe};
use skep_shim::log::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use watch::{Signal, Watches};

/// Lines, and bytes, of one message to the manager.
const BATCH_LINES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Batches that wait for the manager.
const QUEUE_MAX: usize = 4;

/// Looks up the tasks of the node.
pub type TaskOf = Arc<dyn Fn(TaskId) -> Option<Arc<Task>> + Send + Sync>;

/// Publishes logs.
#[derive(Clone)]
pub struct Publisher {
    logs: Arc<NodeLogs>,
    managers: Arc<Managers>,
    open: Arc<Mutex<BTreeMap<String, AbortHandle>>>,
}

/// The logs of the node's tasks.
struct NodeLogs {
    node: NodeId,
    folders: Folders,
    task_of: TaskOf,
    watches: Watches,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({} subscriptions)", self.lock().len())
    }
}

/// One subscription while it is served.
struct Subscription {
    id: String,
    options: LogOptions,
    readings: Vec<(TaskId, Reading)>,
    signal: Arc<Signal>,
    sender: mpsc::Sender<LogPublish>,
    batch: Vec<LogChunk>,
    batch_bytes: usize,
}

/// The manager hears no more.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

impl Publisher {
    /// Nobody has subscribed yet.
    pub fn new(node: NodeId, folders: Folders, managers: Arc<Managers>, task_of: TaskOf) -> Self {
        let logs = Arc::new(NodeLogs { node, folders, task_of, watches: Watches::default() });
        Self { logs, managers, open: Arc::default() }
    }

    /// Begins to publish the logs of some tasks.
    pub fn subscribe(&self, request: LogSubscribe) {
        let (id, publisher) = (request.subscription_id.clone(), self.clone());
        let mut open = self.lock();
        let join = tokio::spawn(async move {
            let id = request.subscription_id.clone();
            if let Err(error) = publisher.publish(request).await {
                tracing::debug!(subscription = %id, %error, "logs are not published any more");
            }
            publisher.lock().remove(&id);
        });
        open.insert(id, join.abort_handle());
    }

    /// Nobody reads them any more.
    pub fn unsubscribe(&self, id: &str) {
        if let Some(handle) = self.lock().remove(id) {
            handle.abort();
        }
    }

    async fn publish(&self, request: LogSubscribe) -> Result<(), String> {
        let address = self.managers.current().ok_or("no manager is known")?;
        let mut client = DispatcherClient::new(self.managers.channel(&address));
        let (sender, stream) = mpsc::channel(QUEUE_MAX);
        let mut subscription = self.logs.open(request, sender);
        // An empty message first: the manager learns which subscription this is even if nothing follows.
        let _ = subscription.send(false).await;
        let published = client.publish_logs(ReceiverStream::new(stream));
        tokio::pin!(published);
        let all = async {
            // Without a reader there is nothing to say.
            let _ = self.logs.serve(&mut subscription).await;
            drop(subscription);
        };
        let (result, ()) = tokio::join!(&mut published, all);
        result.map(drop).map_err(|status| status.message().to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, AbortHandle>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl NodeLogs {
    fn open(&self, request: LogSubscribe, sender: mpsc::Sender<LogPublish>) -> Subscription {
        let options = request.options.unwrap_or_default();
        let tasks: BTreeSet<TaskId> = request.task_ids.iter().filter_map(|id| id.parse().ok()).collect();
        let readings = tasks.into_iter().map(|task| (task, Reading::new(self.folders.of(task), options))).collect();
        let (id, signal) = (request.subscription_id, Arc::default());
        Subscription { id, options, readings, signal, sender, batch: Vec::new(), batch_bytes: 0 }
    }

    /// Says everything there is, in the order of time; then, for one that follows, what comes.
    async fn serve(&self, subscription: &mut Subscription) -> Result<(), Closed> {
        let mut dirty: BTreeSet<usize> = (0..subscription.readings.len()).collect();
        let mut is_backlog = true;
        loop {
            for reader in dirty {
                self.look(subscription, reader).await?;
            }
            self.drain(subscription).await?;
            if is_backlog || !subscription.batch.is_empty() {
                subscription.send(is_backlog).await?;
            }
            is_backlog = false;
            if !subscription.options.follow || subscription.readings.iter().all(|(_, reading)| reading.is_over) {
                return Ok(());
            }
            dirty = tokio::select! {
                dirty = subscription.signal.changed() => dirty,
                () = subscription.sender.closed() => return Err(Closed),
            };
        }
    }

    /// Has a reader look at its files, and before that at their changes, so that none falls between.
    async fn look(&self, subscription: &mut Subscription, reader: usize) -> Result<(), Closed> {
        let (task, reading) = &mut subscription.readings[reader];
        if reading.is_over {
            return Ok(());
        }
        let (task, mut failed) = (*task, None);
        if subscription.options.follow {
            failed = reading.watch(&self.watches, &subscription.signal, reader).err().map(|error| error.to_string());
        }
        if failed.is_none() {
            failed = self.refill(subscription, reader).await.err();
        }
        let Some(error) = failed else { return Ok(()) };
        subscription.readings[reader].1.is_over = true;
        let warning = format!("incomplete log stream of task {task} on node {}: {error}", self.node);
        subscription
            .push(LogChunk { task_id: task.to_string(), node_id: self.node.to_string(), warning, ..LogChunk::default() })
            .await
    }

    /// Reads on where it may block. A task whose folder is gone, or that is not known here and never had one, will not write.
    async fn refill(&self, subscription: &mut Subscription, reader: usize) -> Result<(), String> {
        let (task, reading) = &mut subscription.readings[reader];
        let folder = self.folders.of(*task);
        let empty = Reading::new(folder.clone(), subscription.options);
        let mut taken = std::mem::replace(reading, empty);
        if !folder.path().exists() {
            taken.is_at_end = true;
            taken.is_over = !subscription.options.follow || taken.has_begun() || (self.task_of)(*task).is_none();
            *reading = taken;
            return Ok(());
        }
        let refilled = tokio::task::spawn_blocking(move || {
            let result = taken.refill();
            (taken, result)
        });
        let (taken, result) = refilled.await.map_err(|error| error.to_string())?;
        *reading = taken;
        result.map_err(|error| crate::runtime::text_of(&error))
    }

    /// Says what the readers have, the oldest first, until all are at their end.
    async fn drain(&self, subscription: &mut Subscription) -> Result<(), Closed> {
        loop {
            for reader in 0..subscription.readings.len() {
                let reading = &subscription.readings[reader].1;
                if reading.head().is_none() && !reading.is_at_end && !reading.is_over {
                    self.look(subscription, reader).await?;
                }
            }
            let heads = subscription.readings.iter().enumerate();
            let Some((_, next)) = heads.filter_map(|(reader, (_, reading))| Some((reading.head()?, reader))).min() else {
                return Ok(());
            };
            let (task, reading) = &mut subscription.readings[next];
            let (task, item) = (*task, reading.pop());
            if let Some(item) = item {
                let chunk = self.chunk(task, item, subscription.options);
                subscription.push(chunk).await?;
            }
            // The last item of a batch: the next one of this reader may be older than the others' heads.
            let reading = &subscription.readings[next].1;
            if reading.head().is_none() && !reading.is_over {
                self.look(subscription, next).await?;
            }
        }
    }

    fn chunk(&self, id: TaskId, item: Item, options: LogOptions) -> LogChunk {
        let task = (self.task_of)(id);
        let mut chunk = LogChunk { task_id: id.to_string(), node_id: self.node.to_string(), ..LogChunk::default() };
        match item {
            Item::Warning(reason) => {
                chunk.warning = format!("incomplete log stream of task {id} on node {}: {reason}", self.node)
            }
            Item::Line(line) => {
                let stream = if line.stream == Stream::Stdout { LogStream::Stdout } else { LogStream::Stderr };
                chunk.set_stream(stream);
                (chunk.timestamp, chunk.data, chunk.partial) = (line.at_ns, line.text, line.partial);
                if let Some(task) = &task {
                    (chunk.service_name, chunk.slot) = (task.service_name.clone(), task.slot);
                    if options.details {
                        let ids =
                            [("node", self.node.to_string()), ("service", task.service_id.to_string()), ("task", id.to_string())];
                        chunk.details = ids.into_iter().map(|(kind, id)| (format!("com.docker.swarm.{kind}.id"), id)).collect();
                    }
                }
            }
        }
        chunk
    }
}

impl Subscription {
    async fn push(&mut self, chunk: LogChunk) -> Result<(), Closed> {
        self.batch_bytes += chunk.data.len();
        self.batch.push(chunk);
        if self.batch.len() >= BATCH_LINES_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            return self.send(false).await;
        }
        Ok(())
    }

    async fn send(&mut self, caught_up: bool) -> Result<(), Closed> {
        self.batch_bytes = 0;
        let chunks = std::mem::take(&mut self.batch);
        let message = LogPublish { subscription_id: self.id.clone(), chunks, caught_up };
        self.sender.send(message).await.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests;
