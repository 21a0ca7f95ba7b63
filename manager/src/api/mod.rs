//! The services that a manager offers, and what they share.

pub mod authorise;
#[cfg(test)]
mod border_tests;
pub mod ca;
pub mod control;
pub(crate) mod description;
pub mod dispatcher;
mod log_stream;
pub mod raft;
pub mod roles;
pub mod verify;
mod watching;

use crate::channels::Channels;
use crate::images::Images;
use crate::inbox::Inbox;
use crate::logs::Logs;
use crate::persist::Disk;
use crate::probes::Probes;
use crate::rates::Rates;
use crate::sealing::Sealing;
use crate::sessions::Sessions;
use crate::waiting::Waiting;
use skep_identity::tls::PeerInfo;
use skep_manager_core::event::Consistency;
use skep_manager_core::{Event, Store, Ticket};
use skep_model::request::{Mutation, Outcome};
use skep_model::{Id, NodeId, Refusal, RequestId};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Status};

/// How long the core may take to answer; it has a shorter deadline of its own.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader's node and address, where known.
    pub leader: Option<(NodeId, String)>,
    /// Whether it is this manager, with everything applied.
    pub is_self: bool,
    /// Why nobody can be asked for anything here: too few managers are heard of, or this
    /// is none any more.
    pub lost: Option<Refusal>,
}

/// How much callers may ask for.
#[derive(Debug)]
pub struct Limits {
    /// First certificates, by the address that asks.
    pub(crate) joins: Rates<IpAddr>,
    /// First certificates that are being decided about.
    pub(crate) joining: Semaphore,
    /// Renewals, by node.
    pub(crate) renewals: Rates<NodeId>,
    /// Messages of a node's session.
    pub(crate) messages: Rates<NodeId>,
    /// Statuses in them.
    pub(crate) statuses: Rates<NodeId>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            joins: Rates::new(5.0, 50.0),
            joining: Semaphore::new(64),
            // Twenty changes of role at once, and then one a minute.
            renewals: Rates::new(1.0 / 60.0, 20.0),
            messages: Rates::new(200.0, 1_000.0),
            statuses: Rates::new(2_000.0, 20_000.0),
        }
    }
}

/// What every service needs.
pub struct Shared {
    pub(crate) node: NodeId,
    pub(crate) inbox: Inbox,
    pub(crate) waiting: Waiting,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) sealing: Sealing,
    pub(crate) logs: Logs,
    pub(crate) images: Images,
    pub(crate) probes: Probes,
    pub(crate) disk: Disk,
    pub(crate) limits: Limits,
}

impl Shared {
    /// The state of the cluster, this fresh.
    pub async fn read(&self, consistency: Consistency) -> Result<Arc<Store>, Refusal> {
        let (ticket, receiver) = self.waiting.for_read();
        if let Err(refusal) = self.inbox.put_call(Event::Read { ticket, consistency }) {
            self.waiting.forget(ticket);
            return Err(refusal);
        }
        let answer = tokio::time::timeout(ANSWER_MAX, receiver).await;
        self.waiting.forget(ticket);
        answer.unwrap_or_else(|_| Ok(Err(late("the read")))).unwrap_or_else(|_| Err(stopping()))
    }

    /// Has a mutation decided by this manager, which must be the leader.
    pub async fn propose(&self, request: RequestId, mutation: Mutation) -> Result<Outcome, Refusal> {
        let (ticket, receiver) = self.waiting.for_reply();
        let event = Event::Request { ticket, request, mutation: Box::new(mutation) };
        if let Err(refusal) = self.inbox.put_call(event) {
            self.waiting.forget(ticket);
            return Err(refusal);
        }
        let answer = tokio::time::timeout(ANSWER_MAX, receiver).await;
        self.waiting.forget(ticket);
        answer.unwrap_or_else(|_| Ok(Err(late("the change")))).unwrap_or_else(|_| Err(stopping()))
    }

    /// The leader, where it is known.
    pub fn leader(&self) -> Option<(NodeId, String)> {
        self.leadership.borrow().leader.clone()
    }

    /// What somebody is told who needs the leader: which node that is, and where.
    pub fn not_leader(&self) -> Refusal {
        let (leader, address) = self.leader().unzip();
        Refusal::NotLeader { leader, address: address.unwrap_or_default() }
    }

    /// The leader's address, if it is another manager.
    pub fn elsewhere(&self) -> Option<String> {
        let leadership = self.leadership.borrow();
        leadership.leader.as_ref().filter(|_| !leadership.is_self).map(|(_, address)| address.clone())
    }

    /// Sixteen random bytes.
    pub fn random(&self) -> [u8; 16] {
        skep_host::chance::bytes()
    }

    /// A new id.
    pub fn random_id(&self) -> Id {
        Id::from_random(self.random())
    }
}

/// The node that calls, by its certificate, and its address without port.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<(NodeId, String), Status> {
    let peer = request.extensions().get::<PeerInfo>();
    let node = peer.and_then(|peer| Some((peer.node.as_ref()?.node_id.parse().ok()?, peer.remote.ip().to_string())));
    node.ok_or_else(|| Status::unauthenticated("this call needs the certificate of a node of this cluster"))
}

pub(crate) fn deadline(what: &str, limit: Duration) -> Status {
    Status::deadline_exceeded(format!("{what} was not decided within {} s; it may still take effect", limit.as_secs()))
}

fn late(what: &str) -> Refusal {
    Refusal::Unavailable(format!("{what} was not answered within {} s", ANSWER_MAX.as_secs()))
}

fn stopping() -> Refusal {
    Refusal::Unavailable("the manager is stopping".into())
}

/// Tells the core that a watcher is gone.
pub(crate) struct Gone {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ticket: Ticket,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.shared.waiting.forget(self.ticket);
        self.shared.inbox.put(Event::Gone { ticket: self.ticket });
    }
}
