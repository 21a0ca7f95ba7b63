//! Logs of tasks, from their nodes to whoever asked.
//!
//! The leader, which has the sessions, asks the nodes; they publish over a call of their own, each in the order of time. What
//! was there when it was asked for leaves in the order of time over all nodes, ties in the order of the nodes; what comes
//! later, as it comes. A node that cannot be asked, is lost or is late is said in a warning, and the others go on.
//!
//! A log that does not follow ends when every node has published all it has.

use crate::sessions::Sessions;
use skep_model::{Id, NodeId, TaskId};
use skep_proto::v1::{LogChunk, LogOptions, LogSubscribe, LogUnsubscribe, manager_message};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks of one node that a reader may fall behind before the node waits for it.
const QUEUE_MAX: usize = 32;
/// How long the order of time waits for one node.
const LATE: Duration = Duration::from_secs(5);
/// How long a log that does not follow waits for a late node.
const SILENT_MAX: Duration = Duration::from_secs(15);

/// What a node says.
#[derive(Debug)]
pub enum Item {
    /// A line, or a warning.
    Chunk(LogChunk),
    /// Everything that was there before it was asked has been said.
    CaughtUp,
}

type Sender = mpsc::Sender<Item>;

#[derive(Debug)]
struct Asked {
    sender: Sender,
    /// A node speaks for no others.
    tasks: BTreeSet<String>,
}

/// All readers of logs.
#[derive(Debug)]
pub struct Logs {
    sessions: Arc<Sessions>,
    /// Nodes that have not finished, by subscription.
    subscriptions: Mutex<BTreeMap<Id, BTreeMap<NodeId, Asked>>>,
}

impl Logs {
    /// Nobody reads yet.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, subscriptions: Mutex::default() }
    }

    /// Asks each node for the logs of its tasks. The subscription ends when the receiver is dropped and
    /// [`Logs::unsubscribe`] is called, or all have finished.
    pub fn subscribe(&self, id: Id, tasks: BTreeMap<NodeId, Vec<TaskId>>, options: LogOptions) -> Merged {
        let mut merged = Merged::none(options.follow);
        for (node, tasks) in tasks {
            let task_ids: Vec<String> = tasks.iter().map(ToString::to_string).collect();
            // One more, so that a warning always has room.
            let (sender, receiver) = mpsc::channel(QUEUE_MAX + 1);
            let asked = Asked { sender: sender.clone(), tasks: task_ids.iter().cloned().collect() };
            self.lock().entry(id).or_default().insert(node, asked);
            let request = LogSubscribe { subscription_id: id.to_string(), task_ids, options: Some(options) };
            if !self.sessions.send_to_node(node, manager_message::Message::LogSubscribe(request)) {
                let _ = sender.try_send(Item::Chunk(incomplete(node, "cannot be reached")));
                self.finished(id, node);
            }
            merged.sources.push(Source { node, receiver, head: None, state: State::Backlog });
        }
        merged
    }

    /// Where a node's chunks go; `None` when nobody waits for them any more.
    pub fn sender(&self, id: Id, node: NodeId) -> Option<Sender> {
        let subscriptions = self.lock();
        Some(subscriptions.get(&id)?.get(&node)?.sender.clone())
    }

    /// Whether a node was asked for the log of that task.
    pub fn was_asked(&self, id: Id, node: NodeId, task: &str) -> bool {
        let subscriptions = self.lock();
        let asked = subscriptions.get(&id).and_then(|nodes| nodes.get(&node));
        asked.is_some_and(|asked| asked.tasks.contains(task))
    }

    /// A node has published everything.
    pub fn finished(&self, id: Id, node: NodeId) {
        let mut subscriptions = self.lock();
        if let Some(nodes) = subscriptions.get_mut(&id) {
            nodes.remove(&node);
            if nodes.is_empty() {
                subscriptions.remove(&id);
            }
        }
    }

    /// The reader has gone: the nodes need not go on.
    pub fn unsubscribe(&self, id: Id) {
        let Some(nodes) = self.lock().remove(&id) else { return };
        for node in nodes.into_keys() {
            let message = LogUnsubscribe { subscription_id: id.to_string() };
            self.sessions.send_to_node(node, manager_message::Message::LogUnsubscribe(message));
        }
    }

    /// A node's session ended: its logs are incomplete.
    pub fn node_lost(&self, node: NodeId) {
        let ids: Vec<Id> = self.lock().iter().filter(|(_, nodes)| nodes.contains_key(&node)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.broken(id, node, "was lost: its session ended"));
    }

    /// A node says no more, though it has not finished.
    pub fn broken(&self, id: Id, node: NodeId, why: &str) {
        if let Some(sender) = self.sender(id, node)
            && let Err(mpsc::error::TrySendError::Full(item)) = sender.try_send(Item::Chunk(incomplete(node, why)))
        {
            // Behind the lines that wait for the reader; over when it is.
            tokio::spawn(async move { sender.send(item).await });
        }
        self.finished(id, node);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, BTreeMap<NodeId, Asked>>> {
        self.subscriptions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn incomplete(node: NodeId, why: &str) -> LogChunk {
    let warning = format!("incomplete log stream. node {node} {why}");
    LogChunk { node_id: node.to_string(), warning, ..LogChunk::default() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its oldest line must be known before another's may leave.
    Backlog,
    /// It says what comes.
    Live,
    /// It has said everything.
    Over,
}

#[derive(Debug)]
struct Source {
    node: NodeId,
    receiver: mpsc::Receiver<Item>,
    head: Option<LogChunk>,
    state: State,
}

impl Source {
    fn take(&mut self, item: Option<Item>) {
        match item {
            Some(Item::Chunk(chunk)) => self.head = Some(chunk),
            Some(Item::CaughtUp) => self.state = State::Live,
            None => self.state = State::Over,
        }
    }
}

/// The lines of all nodes as one stream.
#[derive(Debug)]
pub struct Merged {
    sources: Vec<Source>,
    follows: bool,
    /// [`LATE`] and [`SILENT_MAX`].
    patience: (Duration, Duration),
}

impl Merged {
    /// No node yet.
    pub fn none(follows: bool) -> Self {
        Self { sources: Vec::new(), follows, patience: (LATE, SILENT_MAX) }
    }

    /// Takes over the nodes of another subscription of the same reader.
    pub fn join(&mut self, other: Merged) {
        self.sources.extend(other.sources);
    }

    /// The next line; `None` when all has been said. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<LogChunk> {
        loop {
            if let Some(late) = self.await_backlogs().await {
                return Some(late);
            }
            for source in &mut self.sources {
                while source.head.is_none() && source.state == State::Live {
                    match source.receiver.try_recv() {
                        Ok(item) => source.take(Some(item)),
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => source.take(None),
                    }
                }
            }
            let heads = self.sources.iter().enumerate();
            // The time of a warning is 0: it comes at once.
            let first = heads.filter_map(|(at, source)| Some((source.head.as_ref()?.timestamp, at))).min();
            if let Some((_, at)) = first {
                return self.sources[at].head.take();
            }
            self.sources.retain(|source| source.state != State::Over);
            if self.sources.is_empty() {
                return None;
            }
            if self.follows {
                self.await_any().await;
            } else if tokio::time::timeout(self.patience.1, self.await_any()).await.is_err() {
                let source = self.sources.remove(0);
                let silent = format!("said nothing for {} s", self.patience.1.as_secs_f64());
                return Some(incomplete(source.node, &silent));
            }
        }
    }

    /// Waits for the head of every node that has not caught up; one that takes too long is waited for no more.
    async fn await_backlogs(&mut self) -> Option<LogChunk> {
        for source in &mut self.sources {
            while source.head.is_none() && source.state == State::Backlog {
                match tokio::time::timeout(self.patience.0, source.receiver.recv()).await {
                    Ok(item) => source.take(item),
                    Err(_) => {
                        source.state = State::Live;
                        return Some(incomplete(source.node, "is late: its lines come out of order"));
                    }
                }
            }
        }
        None
    }

    async fn await_any(&mut self) {
        poll_fn(|context| {
            for source in &mut self.sources {
                if let Poll::Ready(item) = source.receiver.poll_recv(context) {
                    source.take(item);
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: u64, text: &str) -> Item {
        Item::Chunk(LogChunk { timestamp: at, data: text.into(), ..LogChunk::default() })
    }

    fn merged(n_nodes: u8, follows: bool) -> (Vec<Sender>, Merged) {
        let (mut senders, mut sources) = (Vec::new(), Vec::new());
        for n in 0..n_nodes {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX + 1);
            senders.push(sender);
            sources.push(Source { node: NodeId::from_random([n; 16]), receiver, head: None, state: State::Backlog });
        }
        (senders, Merged { sources, ..Merged::none(follows) })
    }

    fn text(chunk: Option<LogChunk>) -> String {
        chunk.map(|chunk| format!("{}{}", chunk.warning, String::from_utf8_lossy(&chunk.data))).unwrap_or_default()
    }

    #[tokio::test]
    async fn lines_leave_in_the_order_of_time_over_all_nodes() {
        let (senders, mut merged) = merged(3, false);
        let told: [&[(u64, &str)]; 3] = [&[(1, "a"), (5, "e"), (5, "f")], &[], &[(2, "b"), (3, "c"), (5, "g"), (4, "h")]];
        for (sender, lines) in senders.into_iter().zip(told) {
            tokio::spawn(async move {
                for (at, text) in lines {
                    sender.send(line(*at, text)).await.expect("somebody reads");
                }
            });
        }
        let mut all = String::new();
        while let Some(chunk) = merged.next().await {
            all.push_str(&text(Some(chunk)));
        }
        // A clock that went back within a node moves no line of that node.
        assert_eq!(all, "abcefgh");
    }

    #[tokio::test]
    async fn after_the_backlog_lines_leave_as_they_come() {
        let (senders, mut merged) = merged(2, true);
        senders[0].send(line(7, "late")).await.expect("somebody reads");
        senders[0].send(Item::CaughtUp).await.expect("somebody reads");
        senders[1].send(line(3, "early")).await.expect("somebody reads");
        senders[1].send(Item::CaughtUp).await.expect("somebody reads");
        assert_eq!(text(merged.next().await), "early");
        assert_eq!(text(merged.next().await), "late");
        senders[1].send(line(1, "now")).await.expect("somebody reads");
        assert_eq!(text(merged.next().await), "now");
        let other = self::merged(1, true);
        other.0[0].send(line(1, "joined")).await.expect("somebody reads");
        merged.join(other.1);
        assert_eq!(text(merged.next().await), "joined");
        drop((senders, other.0));
        assert!(merged.next().await.is_none());
    }

    #[tokio::test]
    async fn a_node_that_says_nothing_is_named_and_costs_nobody_else() {
        let (senders, mut merged) = merged(2, false);
        merged.patience = (Duration::from_millis(50), Duration::from_millis(200));
        senders[1].send(line(3, "here")).await.expect("somebody reads");
        senders[1].send(Item::CaughtUp).await.expect("somebody reads");
        assert!(text(merged.next().await).contains("is late"));
        assert_eq!(text(merged.next().await), "here");
        assert!(text(merged.next().await).contains("said nothing for 0.2 s"));
    }
}
