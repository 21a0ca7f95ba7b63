//! The thread that owns the log: everything that waits becomes one batch with one sync (group commit).
//!
//! Changes are answered in the order in which they were queued. The thread ends when it is told to, when all
//! handles are gone, or with the process when the disk fails.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use raft_engine::env::{DefaultFileSystem, FileSystem};
use skep_model::guard;

use super::log::{Change, Log};
use super::{DiskError, FileCounts};

/// Changes that may wait at once.
pub const QUEUE_MAX: usize = 4096;
/// Changes in one batch.
pub const GROUP_CHANGES_MAX: usize = 512;
/// A batch takes no further change beyond about this many bytes.
pub const GROUP_BYTES_MAX: usize = 16 << 20;

type Answer = Box<dyn FnOnce(Result<(), DiskError>) + Send>;
type Report = Box<dyn FnOnce(BTreeSet<u32>, FileCounts) + Send>;

enum Message {
    Change(Change, Answer),
    Report(Report),
    Stop,
}

/// Queues changes for the log; cheap to clone, usable from async code because it never blocks.
#[derive(Clone)]
pub struct LogHandle {
    queue: SyncSender<Message>,
}

impl LogHandle {
    /// Queues a change; `answer` is called on the log's thread once it is durable or refused, so it must not
    /// block. The answers come in the order of the submissions.
    ///
    /// # Errors
    /// [`DiskError::Busy`], [`DiskError::Stopped`]: nothing was queued and `answer` is dropped.
    pub fn submit(&self, change: Change, answer: impl FnOnce(Result<(), DiskError>) + Send + 'static) -> Result<(), DiskError> {
        self.send(Message::Change(change, Box::new(answer)))
    }

    /// Asks which key generations are in use and what was done to the files, behind all changes queued so far.
    ///
    /// # Errors
    /// As [`LogHandle::submit`].
    pub fn report(&self, answer: impl FnOnce(BTreeSet<u32>, FileCounts) + Send + 'static) -> Result<(), DiskError> {
        self.send(Message::Report(Box::new(answer)))
    }

    fn send(&self, message: Message) -> Result<(), DiskError> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => DiskError::Busy,
            TrySendError::Disconnected(_) => DiskError::Stopped,
        })
    }
}

/// The running thread.
pub struct LogThread<F: FileSystem = DefaultFileSystem> {
    handle: Option<LogHandle>,
    thread: Option<JoinHandle<Option<Log<F>>>>,
}

impl<F: FileSystem + 'static> LogThread<F> {
    /// Gives the log to a thread of its own.
    ///
    /// # Errors
    /// [`DiskError::Stopped`] if the system has no thread left.
    pub fn start(log: Log<F>) -> Result<Self, DiskError> {
        let (queue, changes) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("skep-log".to_owned())
            .spawn(move || keep(log, &changes))
            .map_err(|_| DiskError::Stopped)?;
        Ok(Self { handle: Some(LogHandle { queue }), thread: Some(thread) })
    }

    /// A handle to queue changes with.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone().expect("present until the thread is stopped")
    }

    /// Finishes what is queued and gives the log back.
    ///
    /// # Errors
    /// [`DiskError::Stopped`] if the thread ended by itself.
    pub fn stop(mut self) -> Result<Log<F>, DiskError> {
        self.join().ok_or(DiskError::Stopped)
    }

    fn join(&mut self) -> Option<Log<F>> {
        let handle = self.handle.take()?;
        // Blocking is right here: the queue drains, or the thread has gone and this fails at once.
        let _gone = handle.queue.send(Message::Stop);
        drop(handle);
        self.thread.take()?.join().ok().flatten()
    }
}

impl<F: FileSystem> Drop for LogThread<F> {
    fn drop(&mut self) {
        if let (Some(handle), Some(thread)) = (self.handle.take(), self.thread.take()) {
            let _gone = handle.queue.send(Message::Stop);
            drop(handle);
            if thread.join().is_err() {
                tracing::error!("the log's thread had panicked");
            }
        }
    }
}

fn keep<F: FileSystem>(mut log: Log<F>, messages: &Receiver<Message>) -> Option<Log<F>> {
    let watch = log.watch().clone();
    let kept = guard::catch(|| {
        while let Ok(first) = messages.recv() {
            if !take_turn(&mut log, messages, first) {
                break;
            }
        }
    });
    if kept.is_err() {
        watch.end("the log's thread panicked, so this manager stops".to_owned());
        return None;
    }
    Some(log)
}

/// Drains what waits into one commit. Says whether to go on.
fn take_turn<F: FileSystem>(log: &mut Log<F>, messages: &Receiver<Message>, first: Message) -> bool {
    let mut changes = Vec::new();
    let mut answers = Vec::new();
    let mut weight = 0;
    let mut next = Some(first);
    let mut last = None;
    while let Some(message) = next.take() {
        match message {
            Message::Change(change, answer) => {
                weight += change.weight();
                changes.push(change);
                answers.push(answer);
            }
            other => {
                last = Some(other);
                break;
            }
        }
        if changes.len() < GROUP_CHANGES_MAX && weight < GROUP_BYTES_MAX {
            next = messages.try_recv().ok();
        }
    }
    if !changes.is_empty() {
        for (answer, outcome) in answers.into_iter().zip(log.commit(changes)) {
            answer(outcome);
        }
    }
    match last {
        Some(Message::Stop) => false,
        Some(Message::Report(report)) => {
            report(log.generations_in_use(), log.counts());
            true
        }
        _ => true,
    }
}
