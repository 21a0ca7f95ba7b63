//! Admits requests: from a mutation to a transaction, or a refusal that says why.
//!
//! A mutation is judged against the store as it is; the versions it relied on
//! become preconditions, so that what changed meanwhile refuses it at apply.
//! Nothing here proposes, waits or remembers. What concerns membership of raft
//! is handed on, validated.

mod admitted;
mod attachment;
mod cluster;
mod container;
mod files;
mod network;
mod node;
mod rollout;
mod service;
mod spec;
mod subnet;
mod template;
mod versioned;

#[cfg(test)]
mod border_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;

pub use admitted::{Admitted, JoinRaft};

use crate::mint::Mint;
use crate::store::Store;
use skep_model::request::Mutation;
use skep_model::{ConfigId, Refusal, RequestId, SecretId, Time};

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
