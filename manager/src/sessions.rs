//! The open sessions of agents on this manager, while it is the leader.
//!
//! The core knows a session by its id; here is the stream behind it. A stream
//! that does not keep up is closed: the agent opens a new one and gets a
//! complete set.

use skep_model::{NodeId, SessionId};
use skep_proto::v1::{Close, ManagerMessage, manager_message};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tonic::Status;

/// Messages that wait for one agent.
pub const QUEUE_MAX: usize = 1024;

/// What is sent down a session's stream.
pub type Sender = mpsc::Sender<Result<ManagerMessage, Status>>;

#[derive(Debug)]
struct Session {
    node: NodeId,
    sender: Sender,
    /// In the order in which they were opened.
    number: u64,
}

/// All open sessions.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<SessionId, Session>>, AtomicU64);

impl Sessions {
    /// A session was opened.
    pub fn insert(&self, session: SessionId, node: NodeId, sender: Sender) {
        let number = self.1.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(session, Session { node, sender, number });
    }

    /// A session's stream ended.
    pub fn remove(&self, session: SessionId) {
        self.lock().remove(&session);
    }

    /// Whether a node has a session.
    pub fn has(&self, node: NodeId) -> bool {
        self.lock().values().any(|open| open.node == node)
    }

    /// Sends a message; a session that does not keep up is closed.
    pub fn send(&self, session: SessionId, message: manager_message::Message) {
        let mut sessions = self.lock();
        let Some(open) = sessions.get(&session) else { return };
        if open.sender.try_send(Ok(ManagerMessage { message: Some(message) })).is_err() {
            tracing::warn!(node = %open.node, "closed a session whose agent does not read");
            sessions.remove(&session);
        }
    }

    /// Sends a message to a node, if it has a session. Returns whether it has.
    pub fn send_to_node(&self, node: NodeId, message: manager_message::Message) -> bool {
        // Where an old one has not ended yet, the newest is the one that is read.
        let sessions = self.lock();
        let of_node = sessions.iter().filter(|(_, open)| open.node == node);
        let session = of_node.max_by_key(|(_, open)| open.number).map(|(id, _)| *id);
        drop(sessions);
        match session {
            Some(session) => {
                self.send(session, message);
                true
            }
            None => false,
        }
    }

    /// The nodes that have a session, each once.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.lock().values().map(|open| open.node).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// Ends a session with a reason.
    pub fn close(&self, session: SessionId, reason: String) {
        if let Some(open) = self.lock().remove(&session) {
            let message = manager_message::Message::Close(Close { reason });
            let _ = open.sender.try_send(Ok(ManagerMessage { message: Some(message) }));
        }
    }

    /// Ends every session of a node.
    pub fn close_node(&self, node: NodeId) {
        self.lock().retain(|_, open| open.node != node);
    }

    /// Ends all sessions: this manager leads no more.
    pub fn close_all(&self, reason: &str) {
        for open in std::mem::take(&mut *self.lock()).into_values() {
            let message = manager_message::Message::Close(Close { reason: reason.into() });
            let _ = open.sender.try_send(Ok(ManagerMessage { message: Some(message) }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Session>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
