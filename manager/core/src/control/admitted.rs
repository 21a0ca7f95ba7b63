//! What becomes of a request that is not refused, and the parts of its transaction.

pub use crate::rules::joining::JoinRaft;
use crate::store::Store;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::cluster::Cluster;
use skep_model::request::Outcome;
use skep_model::{Id, Kind, NodeId, ObjectRef, Refusal, Time};
use std::sync::Arc;

/// What becomes of a request that is not refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Admitted {
    /// To be proposed; the reply follows when it has been applied.
    Propose(Transaction),
    /// A node wants to become a member of raft.
    Join(JoinRaft),
    /// A node leaves the cluster.
    Leave {
        /// Which.
        node: NodeId,
    },
    /// Nothing is to be done: everything is as asked.
    Done(Outcome),
}

/// The cluster, which every request but the first one needs.
pub(super) fn cluster(store: &Store) -> Result<&Arc<Cluster>, Refusal> {
    store.cluster().ok_or_else(|| Refusal::FailedPrecondition("the cluster has not been initialised".into()))
}

/// A transaction that answers with the object it is about.
pub(super) fn transaction(now: Time, id: Id, number: u64, preconditions: Vec<Precondition>, writes: Vec<Write>) -> Admitted {
    let outcome = Some(Outcome { id, version: 0, number });
    Admitted::Propose(Transaction { outcome, preconditions, writes, ..Transaction::new(now) })
}

/// Nothing is to be done about an object.
pub(super) fn done(store: &Store, id: Id, number: u64) -> Admitted {
    Admitted::Done(Outcome { id, version: store.version, number })
}

pub(super) fn unchanged(kind: Kind, id: Id, section: SectionName, version: u64) -> Precondition {
    Precondition::Unchanged(ObjectRef { kind, id }, section, version)
}

pub(super) fn exists(kind: Kind, id: Id) -> Precondition {
    Precondition::Exists(ObjectRef { kind, id })
}

pub(super) fn removal(kind: Kind, id: Id) -> Write {
    Write::Remove(ObjectRef { kind, id })
}

/// Refuses an update of something that changed since the caller read it.
pub(super) fn check_expected(expect: Option<u64>, version: u64) -> Result<(), Refusal> {
    if expect.is_none_or(|expected| expected == version) { Ok(()) } else { Err(Refusal::OutOfSequence) }
}
