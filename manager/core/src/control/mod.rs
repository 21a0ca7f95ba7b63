//! Admits requests: from a mutation to a transaction, or a refusal that says why.
//!
//! A mutation is judged against the store as it is; the versions it relied on
//! become preconditions, so that what changed meanwhile refuses it at apply.
//! Nothing here proposes, waits or remembers. What concerns membership of raft
//! is handed on, validated.

mod attachment;
mod cluster;
mod container;
mod files;
mod network;
mod node;
mod port;
mod rollout;
mod service;
mod spec;
pub(crate) mod subnet;
mod template;
mod versioned;

#[cfg(test)]
mod border_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;

pub(crate) use port::settle as settle_ports;

use crate::mint::Mint;
use crate::store::Store;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::cluster::SealingSlot;
use skep_model::request::{Mutation, Outcome};
use skep_model::service::ServiceSpec;
use skep_model::{ConfigId, Id, Kind, NodeId, ObjectRef, Refusal, RequestId, SecretId, Time};

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

/// A validated request to become a member of raft.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRaft {
    /// The node; it has a manager's certificate and is not to be demoted.
    pub node: NodeId,
    /// `host:port` at which the others reach it.
    pub address: String,
    /// The public half of its unsealing key, 32 bytes.
    pub unsealing_key: Vec<u8>,
    /// The sealing key wrapped for it, one slot for each generation.
    pub slots: Vec<SealingSlot>,
    /// The newest stored format it can read.
    pub format_max: u32,
}

/// Judges a request. The transaction carries the request's id and its outcome.
pub fn admit(store: &Store, now: Time, mint: &mut Mint, request: RequestId, mutation: Mutation) -> Result<Admitted, Refusal> {
    if let Some(outcome) = store.requests.outcome(request) {
        return Ok(Admitted::Done(outcome));
    }
    let mut admitted = judge(store, now, mint, mutation)?;
    if let Admitted::Propose(transaction) = &mut admitted {
        transaction.request = Some(request);
    }
    Ok(admitted)
}

fn judge(store: &Store, now: Time, mint: &mut Mint, mutation: Mutation) -> Result<Admitted, Refusal> {
    match mutation {
        Mutation::CreateService { spec } => service::create(store, now, mint, *spec),
        Mutation::UpdateService { service, expect, spec } => service::update(store, now, &service, expect, *spec),
        Mutation::RollbackService { service, expect } => service::rollback(store, now, &service, expect),
        Mutation::ScaleService { service, replicas } => service::scale(store, now, &service, replicas),
        Mutation::RemoveService { service } => service::remove(store, now, &service),
        Mutation::CreateSecret { id, annotations, version } => versioned::create(store, now, id, annotations, version),
        Mutation::UpdateSecret { secret, version, labels } => {
            versioned::update::<SecretId, _>(store, now, &secret, version, labels)
        }
        Mutation::RemoveSecret { secret } => versioned::remove::<SecretId, _>(store, now, &secret),
        Mutation::CreateConfig { id, annotations, version } => versioned::create(store, now, id, annotations, version),
        Mutation::UpdateConfig { config, version, labels } => {
            versioned::update::<ConfigId, _>(store, now, &config, version, labels)
        }
        Mutation::RemoveConfig { config } => versioned::remove::<ConfigId, _>(store, now, &config),
        Mutation::CreateNetwork { spec } => network::create(store, now, mint, spec),
        Mutation::RemoveNetwork { network } => network::remove(store, now, &network),
        Mutation::UpdateNode { node, expect, spec } => node::update(store, now, &node, expect, spec),
        Mutation::RemoveNode { node, force } => node::remove(store, now, &node, force),
        Mutation::RegisterNode { node, role, availability, hostname, certificate_expires, addresses } => {
            let newcomer = node::Newcomer { node, role, availability, hostname, certificate_expires, addresses };
            node::register(store, now, newcomer)
        }
        Mutation::CertificateIssued { node, certificate_expires } => {
            node::certificate_issued(store, now, node, certificate_expires)
        }
        Mutation::JoinRaft { node, address, unsealing_key, slots, format_max } => {
            node::join(store, JoinRaft { node, address, unsealing_key, slots, format_max })
        }
        Mutation::Leave { node } => node::leave(store, node),
        Mutation::UpdateCluster { expect, spec } => cluster::update(store, now, expect, spec),
        Mutation::RotateJoinToken { role, sealed } => cluster::rotate_join_token(store, now, role, sealed),
        Mutation::Bootstrap { cluster, node } => cluster::bootstrap(store, now, mint, *cluster, *node),
    }
}

/// Whether everything that a spec refers to is still there.
pub(crate) fn references_exist(store: &Store, spec: &ServiceSpec) -> bool {
    files::all_exist(store, spec) && attachment::all_exist(store, spec)
}

/// A transaction that answers with the object it is about.
fn transaction(now: Time, id: Id, number: u64, preconditions: Vec<Precondition>, writes: Vec<Write>) -> Admitted {
    let outcome = Some(Outcome { id, version: 0, number });
    Admitted::Propose(Transaction { outcome, preconditions, writes, ..Transaction::new(now) })
}

/// Nothing is to be done about an object.
fn done(store: &Store, id: Id, number: u64) -> Admitted {
    Admitted::Done(Outcome { id, version: store.version, number })
}

fn unchanged(kind: Kind, id: Id, section: SectionName, version: u64) -> Precondition {
    Precondition::Unchanged(ObjectRef { kind, id }, section, version)
}

fn exists(kind: Kind, id: Id) -> Precondition {
    Precondition::Exists(ObjectRef { kind, id })
}

fn removal(kind: Kind, id: Id) -> Write {
    Write::Remove(ObjectRef { kind, id })
}

/// Refuses an update of something that changed since the caller read it.
fn check_expected(expect: Option<u64>, version: u64) -> Result<(), Refusal> {
    if expect.is_none_or(|expected| expected == version) { Ok(()) } else { Err(Refusal::OutOfSequence) }
}
