//! The open sessions of agents on this manager, while it is the leader.
//!
//! The core knows a session by its id; here is the stream behind it. A stream
//! that does not keep up is closed: the agent opens a new one and gets a
//! complete set.

use skep_model::{NodeId, SessionId};
use skep_proto::v1::{Close, ManagerMessage, manager_message};
use std::collections::BTreeMap;
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
}

/// All open sessions.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<SessionId, Session>>);

impl Sessions {
    /// A session was opened.
    pub fn insert(&self, session: SessionId, node: NodeId, sender: Sender) {
        self.lock().insert(session, Session { node, sender });
    }

    /// A session's stream ended.
    pub fn remove(&self, session: SessionId) {
        self.lock().remove(&session);
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
        let session = self.lock().iter().find(|(_, open)| open.node == node).map(|(id, _)| *id);
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
