//! The cluster object: settings, join tokens, and its beginning.

use super::admitted::{Admitted, check_expected, cluster, done, transaction, unchanged};
use super::network;
use crate::mint::Mint;
use crate::store::Store;
use crate::transaction::{SectionName, Write};
use skep_model::cluster::{Cluster, ClusterSpec};
use skep_model::node::{Node, Role};
use skep_model::sealed::Sealed;
use skep_model::text::check_labels;
use skep_model::{Kind, Object, Refusal, Time};
use std::sync::Arc;

pub(super) fn update(store: &Store, now: Time, expect: Option<u64>, spec: ClusterSpec) -> Result<Admitted, Refusal> {
    let stored = cluster(store)?;
    check_expected(expect, stored.spec.version)?;
    if spec.annotations.name != stored.spec.annotations.name {
        return Err(Refusal::invalid("cluster name", &spec.annotations.name, "renaming the cluster is not supported"));
    }
    check_labels("cluster label", &spec.annotations.labels)?;
    spec.check()?;
    if spec.autolock != stored.spec.autolock {
        let what = "changing --autolock of a swarm that exists (choose it with `swarm init --autolock`)";
        return Err(Refusal::Unsupported { what: what.into() });
    }
    let settled = |spec: &ClusterSpec| (spec.address_pools.clone(), spec.subnet_size, spec.data_path_port);
    if settled(&spec) != settled(&stored.spec) {
        let text =
            "the address pools, their subnet size and the data path port of a swarm are set when it is made (`swarm init`)";
        return Err(Refusal::FailedPrecondition(text.into()));
    }
    if spec == stored.spec.value {
        return Ok(done(store, stored.id.0, 0));
    }
    let precondition = unchanged(Kind::Cluster, stored.id.0, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![Write::ClusterSpec(spec)]))
}

pub(super) fn rotate_join_token(store: &Store, now: Time, role: Role, sealed: Sealed) -> Result<Admitted, Refusal> {
    let stored = cluster(store)?;
    if sealed.bytes.is_empty() {
        return Err(Refusal::invalid("join token", "", "it must not be empty"));
    }
    let mut plan = stored.plan.value.clone();
    match role {
        Role::Worker => plan.sealed_worker_token = sealed,
        Role::Manager => plan.sealed_manager_token = sealed,
    }
    let precondition = unchanged(Kind::Cluster, stored.id.0, SectionName::Plan, stored.plan.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![Write::ClusterPlan(Box::new(plan))]))
}

/// The cluster begins with its first manager and the ingress network.
pub(super) fn bootstrap(store: &Store, now: Time, mint: &mut Mint, cluster: Cluster, node: Node) -> Result<Admitted, Refusal> {
    if store.cluster().is_some() {
        return Err(Refusal::FailedPrecondition("this cluster has been initialised already".into()));
    }
    if node.plan.role != Role::Manager || node.spec.desired_role != Role::Manager || node.plan.manager.is_none() {
        return Err(Refusal::invalid("node role", "worker", "the first node of a cluster is a manager"));
    }
    let id = cluster.id.0;
    // The first node may use some of the pool itself.
    let mut first = Store::default();
    first.nodes.insert_mut(node.id, Arc::new(node.clone()));
    let ingress = network::ingress(&first, &cluster.spec, mint)?;
    let objects = [Object::Cluster(Box::new(cluster)), Object::Node(Box::new(node)), Object::Network(Box::new(ingress))];
    let writes = objects.into_iter().map(Write::Create).collect();
    Ok(transaction(now, id, 0, Vec::new(), writes))
}
