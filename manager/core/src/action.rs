//! Everything that a manager can want done.

pub use crate::consensus::Persist;
use crate::store::Store;
use crate::store::watch::{Recent, WatchEnd};
use crate::ticket::Ticket;
use raft::eraftpb;
use skep_model::assignment::{Assignments, SessionInfo};
use skep_model::request::Outcome;
use skep_model::{NodeId, Refusal, SessionId};
use std::sync::Arc;

/// One thing to be done by the shell. Actions of one call are in order; those
/// marked *after persist* must not be carried out before the named batch is durable
/// (the core only emits them once it is).
#[derive(Debug)]
pub enum Action {
    /// Append to the log and sync; answer with [`crate::Event::Persisted`].
    Persist(Persist),
    /// Send a raft message; loss is allowed, order is not required.
    SendPeer {
        /// The receiver's raft id.
        raft_id: u64,
        /// The receiver's address (`host:port`), where it is known.
        address: String,
        /// The message.
        message: Box<eraftpb::Message>,
    },
    /// Encode `view` and stream it to a peer, followed by `message` (metadata only).
    StreamSnapshot {
        /// The receiver's raft id.
        raft_id: u64,
        /// The receiver's address (`host:port`).
        address: String,
        /// The `MsgSnapshot`, without data.
        message: Box<eraftpb::Message>,
        /// What to encode.
        view: Arc<Store>,
    },
    /// Encode `view` to a sealed file and sync; answer with [`crate::Event::SnapshotSaved`].
    SaveSnapshot {
        /// Index, term and membership.
        metadata: eraftpb::SnapshotMetadata,
        /// What to encode.
        view: Arc<Store>,
    },
    /// Entries before `index` are no longer needed on disk.
    Compact {
        /// The first index to keep.
        index: u64,
    },
    /// Answer a request.
    Reply {
        /// Who waits.
        ticket: Ticket,
        /// The outcome.
        result: Result<Outcome, Refusal>,
    },
    /// Answer a read (or the beginning of a watch).
    ReadReady {
        /// Who waits.
        ticket: Ticket,
        /// The state at its version, or why there is none.
        result: Result<Arc<Store>, Refusal>,
    },
    /// Changes for a watcher, in order, each version at most once: one version as it is
    /// applied, or all that a watch missed before it resumed.
    WatchChanges {
        /// The watch.
        ticket: Ticket,
        /// What changed, and when.
        recent: Vec<Recent>,
    },
    /// A watch since a point in time begins: what follows comes by [`Self::WatchChanges`].
    WatchPast {
        /// The watch.
        ticket: Ticket,
        /// The state at the version from which changes follow.
        view: Arc<Store>,
        /// What is known of the time between.
        past: Vec<Recent>,
        /// Whether that is all that happened.
        is_complete: bool,
    },
    /// A watch cannot begin, or not go on.
    WatchEnded {
        /// The watch.
        ticket: Ticket,
        /// Why.
        end: WatchEnd,
    },
    /// Tell an agent about the cluster.
    SendInfo {
        /// Its session.
        session: SessionId,
        /// What to tell.
        info: Box<SessionInfo>,
    },
    /// Tell an agent what to have. The shell adds the values of the secrets and
    /// configs that the changes name, read from `view`.
    SendAssignments {
        /// Its session.
        session: SessionId,
        /// The leader's term.
        term: u64,
        /// What to tell.
        assignments: Box<Assignments>,
        /// Where the sealed values are.
        view: Arc<Store>,
    },
    /// End a session; the agent opens a new one.
    CloseSession {
        /// Which.
        session: SessionId,
        /// Why, for the agent's log.
        reason: String,
    },
    /// Close every open connection of a node that was removed or demoted.
    ClosePeer {
        /// The node.
        node: NodeId,
    },
    /// This manager's part changed.
    LeaderChanged {
        /// The term.
        term: u64,
        /// The leader's node, where it is known and its address.
        leader: Option<(NodeId, String)>,
        /// Whether it is this manager and its store is up to date.
        is_self: bool,
    },
    /// Too few managers are heard of for anything to be decided, or that is over.
    QuorumLost {
        /// Which are missing and how many are needed, in a sentence; `None` = it is over.
        sentence: Option<String>,
    },
    /// This manager is no longer a member of raft: stop it and delete its log.
    Removed,
    /// Something is wrong that users can mend: a line for this manager's log.
    Warn {
        /// What, in a sentence.
        sentence: String,
    },
    /// The process must end: going on would be wrong.
    Halt {
        /// Why, in a sentence.
        sentence: String,
    },
}
