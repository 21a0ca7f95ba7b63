//! Everything that can happen to a manager.

use crate::store::SnapshotContent;
pub use crate::ticket::Ticket;
use crate::values::ValueRef;
use raft::eraftpb;
use skep_model::assignment::{Hello, StatusUpdate};
use skep_model::place::PlaceFaults;
use skep_model::request::Mutation;
use skep_model::{NodeId, RequestId, SessionId, Time};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began.
    Linearizable,
    /// Whatever this manager has; answered at once.
    Stale,
}

/// One thing that happened. Time passing is an event too: [`Event::Tick`].
#[derive(Debug)]
pub enum Event {
    /// Nothing happened but that time passed (see `Manager::next_wakeup`).
    Tick,
    /// The log has made [`crate::Action::Persist`] number `n`, and all before it, durable.
    Persisted {
        /// Number of the batch.
        n: u64,
    },
    /// A message from another manager's raft.
    Peer(Box<eraftpb::Message>),
    /// A manager could not be reached when a message was sent to it.
    PeerUnreachable {
        /// Its raft id.
        raft_id: u64,
    },
    /// A snapshot has arrived whole, was verified and is on disk.
    SnapshotReceived {
        /// The message that came with it, metadata only.
        message: Box<eraftpb::Message>,
        /// Its decoded content.
        content: Box<SnapshotContent>,
    },
    /// The snapshot that was to be streamed to a peer has been delivered, or not.
    SnapshotSent {
        /// The receiver.
        raft_id: u64,
        /// Whether it was delivered.
        ok: bool,
    },
    /// A snapshot of our own ([`crate::Action::SaveSnapshot`]) is durable.
    SnapshotSaved {
        /// The last index it contains.
        index: u64,
    },
    /// A snapshot of our own could not be saved; the log is as it was.
    SnapshotNotSaved,
    /// Somebody asks for a change.
    Request {
        /// Who waits for the reply.
        ticket: Ticket,
        /// The client's id for the call.
        request: RequestId,
        /// What is asked for.
        mutation: Box<Mutation>,
    },
    /// Somebody wants to read.
    Read {
        /// Who waits for [`crate::Action::ReadReady`].
        ticket: Ticket,
        /// How fresh.
        consistency: Consistency,
    },
    /// Somebody wants every change from a version on.
    Watch {
        /// Names the watch; changes arrive as [`crate::Action::WatchChanges`].
        ticket: Ticket,
        /// The version after which changes are wanted; `None` = from a
        /// linearizable read that is answered first by [`crate::Action::ReadReady`].
        after: Option<u64>,
    },
    /// A watch of changes since a point in time begins, by [`crate::Action::WatchPast`].
    WatchSince {
        /// Names the watch.
        ticket: Ticket,
        /// From when on changes are wanted, in wall time.
        since: Time,
    },
    /// A reader, watcher or requester has gone away.
    Gone {
        /// Who.
        ticket: Ticket,
    },
    /// An agent opened a session. Replaces the node's earlier one.
    SessionOpened {
        /// The new session, minted by the shell.
        session: SessionId,
        /// What the agent said first.
        hello: Box<Hello>,
    },
    /// An agent is alive.
    Heartbeat {
        /// Its session.
        session: SessionId,
    },
    /// A node's network holds every link of its session's chain up to this one, but
    /// for the places that failed.
    Programmed {
        /// Its session.
        session: SessionId,
        /// The version of the link.
        version: u64,
    },
    /// Which places of a node's network do not work, all of them.
    PlacesFailed {
        /// Its session.
        session: SessionId,
        /// Complete; empty = all work.
        faults: PlaceFaults,
    },
    /// An agent observed something.
    Status {
        /// Its session.
        session: SessionId,
        /// What it observed.
        updates: Vec<StatusUpdate>,
    },
    /// Values that a link of assignments named could not be sent with it.
    ValuesLeftOut {
        /// The session that it was for.
        session: SessionId,
        /// Which.
        values: Vec<ValueRef>,
    },
    /// A session's stream ended.
    SessionClosed {
        /// Which.
        session: SessionId,
        /// The agent said goodbye: its node leaves the cluster, and its tasks end.
        is_goodbye: bool,
    },
    /// The daemon is stopping cleanly, or this manager shall step down: hand over leadership.
    StepDown,
}

/// Who asked for a change and where it came from, for messages only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The node whose certificate was shown, if one was.
    pub node: Option<NodeId>,
}
