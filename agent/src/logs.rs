//! Logs of this node's tasks for whoever subscribed.
//!
//! A subscription reads the files that the shims write. One that follows waits
//! for changes of their folders; nothing is polled.

use crate::connect::Managers;
use crate::runtime::Folders;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use skep_model::task::Task;
use skep_model::{NodeId, TaskId};
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{LogChunk, LogOptions, LogPublish, LogStream, LogSubscribe};
use skep_shim::log::{LogReader, Position, Record, Stream};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Records read at once.
const RECORDS_MAX: usize = 512;
/// Batches that wait for the manager.
const QUEUE_MAX: usize = 8;

/// Looks up the tasks of the node.
pub type TaskOf = Arc<dyn Fn(TaskId) -> Option<Arc<Task>> + Send + Sync>;

/// Publishes logs.
#[derive(Clone)]
pub struct Publisher {
    node: NodeId,
    folders: Folders,
    managers: Arc<Managers>,
    task_of: TaskOf,
    open: Arc<Mutex<BTreeMap<String, AbortHandle>>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({} subscriptions)", self.lock().len())
    }
}

impl Publisher {
    /// Nobody has subscribed yet.
    pub fn new(node: NodeId, folders: Folders, managers: Arc<Managers>, task_of: TaskOf) -> Self {
        Self { node, folders, managers, task_of, open: Arc::default() }
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
        // An empty message first: the manager learns which subscription this is even if nothing follows.
        let hello = LogPublish { subscription_id: request.subscription_id.clone(), chunks: Vec::new() };
        sender.send(hello).await.map_err(|_| "the stream is closed")?;
        let options = request.options.unwrap_or_default();
        let tasks: Vec<TaskId> = request.task_ids.iter().filter_map(|id| id.parse().ok()).collect();
        let reading: Vec<_> = tasks
            .into_iter()
            .map(|task| self.clone().read(task, options, request.subscription_id.clone(), sender.clone()))
            .collect();
        drop(sender);
        let published = client.publish_logs(ReceiverStream::new(stream));
        let all = futures_util::future::join_all(reading);
        tokio::pin!(all, published);
        tokio::select! {
            result = &mut published => result.map(drop).map_err(|status| status.message().to_owned()),
            _ = &mut all => published.await.map(drop).map_err(|status| status.message().to_owned()),
        }
    }

    async fn read(self, task: TaskId, options: LogOptions, subscription: String, sender: mpsc::Sender<LogPublish>) {
        if let Err(error) = self.read_task(task, options, &subscription, &sender).await {
            let warning = format!("warning: incomplete log stream. node {}: {error}", self.node);
            let chunk = LogChunk { task_id: task.to_string(), node_id: self.node.to_string(), warning, ..LogChunk::default() };
            let _ = sender.send(LogPublish { subscription_id: subscription, chunks: vec![chunk] }).await;
        }
    }

    async fn read_task(
        &self,
        task: TaskId,
        options: LogOptions,
        subscription: &str,
        sender: &mpsc::Sender<LogPublish>,
    ) -> Result<(), String> {
        let known = (self.task_of)(task);
        let folder = self.folders.of(task).log();
        if !folder.exists() {
            return Ok(());
        }
        // Watch before reading, so that no change falls between.
        let watch = if options.follow { Some(watch(&folder).map_err(|error| error.to_string())?) } else { None };
        let mut position = start(&folder, options).await?;
        loop {
            let reader = LogReader::new(&folder);
            let batch = blocking(move || reader.read(position, RECORDS_MAX)).await?;
            let is_new = batch.next != position;
            position = batch.next;
            let chunks: Vec<LogChunk> = batch
                .records
                .iter()
                .filter(|record| is_wanted(record, options))
                .map(|record| self.chunk(task, known.as_deref(), record))
                .collect();
            if !chunks.is_empty() {
                let message = LogPublish { subscription_id: subscription.into(), chunks };
                sender.send(message).await.map_err(|_| "the stream is closed")?;
            }
            if is_new {
                continue;
            }
            let Some(watch) = &watch else { return Ok(()) };
            changed(watch).await.map_err(|error| error.to_string())?;
            if !folder.exists() {
                return Ok(());
            }
        }
    }

    fn chunk(&self, id: TaskId, task: Option<&Task>, record: &Record) -> LogChunk {
        let stream = if record.stream == Stream::Stdout { LogStream::Stdout } else { LogStream::Stderr };
        LogChunk {
            task_id: id.to_string(),
            service_name: task.map(|task| task.service_name.clone()).unwrap_or_default(),
            slot: task.map_or(0, |task| task.slot),
            node_id: self.node.to_string(),
            stream: stream.into(),
            timestamp: record.at_ns,
            data: record.text.clone(),
            partial: record.partial,
            ..LogChunk::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, AbortHandle>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn is_wanted(record: &Record, options: LogOptions) -> bool {
    let all = !options.stdout && !options.stderr;
    let is_stream = all || if record.stream == Stream::Stdout { options.stdout } else { options.stderr };
    is_stream
        && options.since.is_none_or(|since| record.at_ns >= since)
        && options.until.is_none_or(|until| record.at_ns <= until)
}

async fn start(folder: &Path, options: LogOptions) -> Result<Position, String> {
    let reader = LogReader::new(folder);
    match (usize::try_from(options.tail), options.since) {
        (Ok(tail), _) => blocking(move || reader.tail(tail)).await,
        (Err(_), Some(since)) => blocking(move || reader.since(since)).await,
        (Err(_), None) => Ok(Position::default()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, skep_shim::log::LogError> + Send + 'static,
) -> Result<T, String> {
    let result = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    result.map_err(|error| crate::runtime::text_of(&error))
}

/// The kernel's word on changes of a folder, as something that can be awaited.
struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn watch(folder: &Path) -> std::io::Result<AsyncFd<Watch>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(folder, flags)?;
    // SAFETY: the descriptor is the inotify instance's own and stays the same until it is dropped.
    Ok(unsafe { AsyncFd::register(Watch(inotify)) }?)
}

/// Waits until something changed, and takes all that is known of it.
async fn changed(watch: &AsyncFd<Watch>) -> std::io::Result<()> {
    let mut guard = watch.readable().await?;
    loop {
        match guard.get_inner().0.read_events() {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    guard.clear_ready();
    Ok(())
}
