//! Logs of tasks, from their nodes to whoever asked.
//!
//! The leader, which has the sessions, asks the nodes; they publish over a call
//! of their own. A log that does not follow ends when every node has published
//! all it has, or with a warning for each node that cannot be asked.

use crate::sessions::Sessions;
use skep_model::{Id, NodeId, TaskId};
use skep_proto::v1::{LogChunk, LogOptions, LogSubscribe, LogUnsubscribe, manager_message};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;

/// Chunks that a reader may fall behind before the nodes wait for it.
const QUEUE_MAX: usize = 256;

type Sender = mpsc::Sender<LogChunk>;

#[derive(Debug)]
struct Subscription {
    sender: Sender,
    /// Nodes that have not finished, and the tasks that each was asked for: a
    /// node speaks for no others.
    open: BTreeMap<NodeId, BTreeSet<String>>,
}

/// All readers of logs.
#[derive(Debug)]
pub struct Logs {
    sessions: Arc<Sessions>,
    subscriptions: Mutex<BTreeMap<Id, Subscription>>,
}

impl Logs {
    /// Nobody reads yet.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, subscriptions: Mutex::default() }
    }

    /// Asks each node for the logs of its tasks. The subscription ends when the
    /// receiver is dropped and [`Logs::unsubscribe`] is called, or all have finished.
    pub fn subscribe(&self, id: Id, tasks: BTreeMap<NodeId, Vec<TaskId>>, options: LogOptions) -> mpsc::Receiver<LogChunk> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX + tasks.len());
        let asked = |ids: &Vec<TaskId>| ids.iter().map(ToString::to_string).collect();
        let open = tasks.iter().map(|(node, ids)| (*node, asked(ids))).collect();
        self.lock().insert(id, Subscription { sender: sender.clone(), open });
        let is_empty = tasks.is_empty();
        for (node, tasks) in tasks {
            let task_ids = tasks.iter().map(ToString::to_string).collect();
            let request = LogSubscribe { subscription_id: id.to_string(), task_ids, options: Some(options) };
            if !self.sessions.send_to_node(node, manager_message::Message::LogSubscribe(request)) {
                let warning = format!("warning: incomplete log stream. node {node} cannot be reached");
                let _ = sender.try_send(LogChunk { node_id: node.to_string(), warning, ..LogChunk::default() });
                self.finished(id, node);
            }
        }
        if is_empty {
            self.lock().remove(&id);
        }
        receiver
    }

    /// Where a node's chunks go; `None` when nobody waits for them any more.
    pub fn sender(&self, id: Id, node: NodeId) -> Option<Sender> {
        let subscriptions = self.lock();
        let subscription = subscriptions.get(&id)?;
        subscription.open.contains_key(&node).then(|| subscription.sender.clone())
    }

    /// Whether a node was asked for the log of that task.
    pub fn was_asked(&self, id: Id, node: NodeId, task: &str) -> bool {
        let subscriptions = self.lock();
        let asked = subscriptions.get(&id).and_then(|subscription| subscription.open.get(&node));
        asked.is_some_and(|tasks| tasks.contains(task))
    }

    /// A node has published everything.
    pub fn finished(&self, id: Id, node: NodeId) {
        let mut subscriptions = self.lock();
        if let Some(subscription) = subscriptions.get_mut(&id) {
            subscription.open.remove(&node);
            if subscription.open.is_empty() {
                subscriptions.remove(&id);
            }
        }
    }

    /// The reader has gone: the nodes need not go on.
    pub fn unsubscribe(&self, id: Id) {
        let Some(subscription) = self.lock().remove(&id) else { return };
        for node in subscription.open.into_keys() {
            let message = LogUnsubscribe { subscription_id: id.to_string() };
            self.sessions.send_to_node(node, manager_message::Message::LogUnsubscribe(message));
        }
    }

    /// A node's session ended: its logs are incomplete.
    pub fn node_lost(&self, node: NodeId) {
        let ids: Vec<Id> = self.lock().iter().filter(|(_, s)| s.open.contains_key(&node)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(sender) = self.sender(id, node) {
                let warning = format!("warning: incomplete log stream. the session of node {node} ended");
                let _ = sender.try_send(LogChunk { node_id: node.to_string(), warning, ..LogChunk::default() });
            }
            self.finished(id, node);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Subscription>> {
        self.subscriptions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
