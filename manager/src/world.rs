//! What the core's actions mean here: disk, peers, sessions, waiting callers.
//!
//! Carrying out an action waits for no disk, peer or caller: that goes to the log's
//! thread, a peer's queue or a task of its own and comes back as an event. What it
//! computes is done here: the values that a link of assignments names are opened, and
//! the link is encoded, while the loop stands.

use crate::api::{Leadership, Shared};
use crate::peers::Peers;
use crate::{persist, sealing, snapshots};
use protobuf::Message as _;
use skep_identity::tls::Connections;
use skep_manager_core::action::Persist;
use skep_manager_core::{Action, Event, Store};
use skep_model::assignment::Assignments;
use skep_model::{Refusal, SessionId};
use skep_proto::v1::manager_message::Message;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What whoever asks a manager is told that has just ceased to be one.
const REMOVED: &str = "This node is not a swarm manager any more. Please run this command on a manager node.";

/// Everything that actions need.
pub struct World {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peers: Peers,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) connections: Connections,
    /// Cancelled when this node is no longer a member of raft.
    pub(crate) removed: CancellationToken,
}

impl World {
    /// Does one thing, or starts it.
    pub fn carry_out(&self, action: Action) {
        match action {
            Action::Persist(persist) => self.persist(persist),
            Action::SendPeer { raft_id, address, message } => match message.write_to_bytes() {
                Ok(bytes) => self.peers.send(raft_id, address, bytes),
                Err(error) => tracing::error!(raft_id, %error, "could not encode a raft message"),
            },
            Action::StreamSnapshot { raft_id, address, message, view } => {
                let shared = self.shared.clone();
                tokio::spawn(async move {
                    let sent = snapshots::send(&shared, &address, &message, &view).await;
                    if let Err(error) = &sent {
                        tracing::warn!(raft_id, %address, %error, "could not deliver a snapshot");
                    }
                    shared.inbox.put(Event::SnapshotSent { raft_id, ok: sent.is_ok() });
                });
            }
            Action::SaveSnapshot { metadata, view } => {
                let shared = self.shared.clone();
                tokio::task::spawn_blocking(move || match snapshots::save(&shared, &metadata, &view) {
                    Ok(()) => shared.inbox.put(Event::SnapshotSaved { index: metadata.index }),
                    // The log is whole without it: a disk that is full now may have room later.
                    Err(error) => {
                        tracing::warn!("could not save a snapshot: {}; it is tried again later", persist::line(&error));
                        shared.inbox.put(Event::SnapshotNotSaved);
                    }
                });
            }
            Action::Compact { index } => self.shared.disk.compact(index),
            Action::Reply { ticket, result } => self.shared.waiting.reply(ticket, result),
            Action::ReadReady { ticket, result } => self.shared.waiting.ready(ticket, result),
            Action::WatchChanges { ticket, recent } => {
                if !self.shared.waiting.changes(ticket, recent) {
                    self.shared.inbox.put(Event::Gone { ticket });
                }
            }
            Action::WatchPast { ticket, view, past, is_complete } => {
                if !self.shared.waiting.past(ticket, &view, past, is_complete) {
                    self.shared.inbox.put(Event::Gone { ticket });
                }
            }
            Action::WatchEnded { ticket, end } => self.shared.waiting.ended(ticket, end),
            Action::SendInfo { session, info } => self.shared.sessions.send(session, Message::Info((&*info).into())),
            Action::SendAssignments { session, term: _, assignments, view } => self.assign(session, *assignments, &view),
            Action::CloseSession { session, reason } => self.shared.sessions.close(session, reason),
            Action::ClosePeer { node } => {
                self.shared.sessions.close_node(node);
                self.connections.close_node(node.as_str());
            }
            Action::LeaderChanged { term, leader, is_self } => {
                let lost = self.leadership.borrow().lost.clone();
                self.leader_changed(Leadership { term, leader, is_self, lost });
            }
            Action::QuorumLost { sentence } => {
                match &sentence {
                    Some(sentence) => tracing::warn!("{sentence}"),
                    None => tracing::info!("enough managers are heard of again"),
                }
                self.leadership.send_modify(|leadership| leadership.lost = sentence.map(Refusal::NoQuorum));
            }
            Action::Removed => {
                let refusal = Refusal::FailedPrecondition(REMOVED.into());
                self.leadership.send_replace(Leadership { lost: Some(refusal), ..Leadership::default() });
                self.removed.cancel();
            }
            Action::Warn { sentence } => tracing::warn!("{sentence}"),
            Action::Halt { sentence } => {
                tracing::error!("{sentence}");
                std::process::exit(70);
            }
        }
    }

    /// The manager has stopped: everyone who waits is let go.
    pub fn close(&self) {
        self.shared.waiting.close();
        self.shared.sessions.close_all("this manager is stopping");
        self.peers.close();
    }

    fn persist(&self, persist: Persist) {
        let (n, inbox) = (persist.n, self.shared.inbox.clone());
        self.shared.disk.persist(persist, move || inbox.put(Event::Persisted { n }));
    }

    /// Adds the values that the changes name, opened here and zeroized with the
    /// message. One that cannot be had is left out; the others go their way.
    fn assign(&self, session: SessionId, assignments: Assignments, view: &Store) {
        match sealing::with_values(&self.shared.sealing, view, assignments) {
            Ok((messages, left_out)) => {
                messages.into_iter().for_each(|message| self.shared.sessions.send(session, Message::Assignments(message)));
                if !left_out.is_empty() {
                    left_out.iter().for_each(|(value, why)| tracing::error!("could not send {value} to a node: {why}"));
                    let values = left_out.into_iter().map(|(value, _)| value).collect();
                    self.shared.inbox.put(Event::ValuesLeftOut { session, values });
                }
            }
            // Every value that is still named has just been opened.
            Err(error) => panic!("a link of assignments could not be encoded: {error}"),
        }
    }

    fn leader_changed(&self, leadership: Leadership) {
        let before = self.leadership.send_replace(leadership.clone());
        if before.is_self && !leadership.is_self {
            self.shared.sessions.close_all("this manager leads no more");
        }
        if before != leadership {
            tracing::info!(term = leadership.term, leader = ?leadership.leader, is_self = leadership.is_self, "leadership");
        }
    }
}
