//! Admits nodes that become managers or cease to be: what raft has to say about it.
//!
//! Admission of the request itself is `control`'s; here what is wanted becomes a
//! transaction, and [`super::members`] brings it about.

use super::members::{Directory, format_of};
use crate::clock::Moment;
use crate::consensus::Consensus;
use crate::mint::{Mint, Purpose};
use crate::rules::joining::JoinRaft;
use crate::store::Store;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::cluster::Cluster;
use skep_model::node::{ManagerStatus, Node, NodePlan, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::request::{Mutation, Outcome};
use skep_model::{Kind, NodeId, ObjectRef, Refusal, Time};
use std::sync::Arc;

/// Refuses everything before the cluster's first mutation, and what would take
/// a majority of the managers away.
pub(crate) fn check(store: &Store, consensus: &Consensus, now: Time, mutation: &Mutation) -> Result<(), Refusal> {
    match mutation {
        Mutation::Bootstrap { .. } => Ok(()),
        // The shell of the first manager is about to send it.
        _ if store.cluster().is_none() => Err(Refusal::Unavailable("the cluster is not initialised yet; try again".into())),
        Mutation::UpdateNode { node, spec, .. } if spec.desired_role == Role::Worker => {
            let node = store.resolve_node(node)?;
            check_demotion(store, consensus, now, node)
        }
        _ => Ok(()),
    }
}

fn check_demotion(store: &Store, consensus: &Consensus, now: Time, node: &Node) -> Result<(), Refusal> {
    if node.spec.desired_role != Role::Manager {
        return Ok(());
    }
    let others = store.nodes().filter(|other| other.id != node.id && other.spec.desired_role == Role::Manager).count();
    if others == 0 {
        return Err(Refusal::FailedPrecondition("attempting to demote the last manager of the swarm".into()));
    }
    let raft_id = node.plan.manager.as_ref().map(|manager| manager.raft_id);
    if raft_id.is_some_and(|raft_id| !consensus.can_remove(now, raft_id, 0)) {
        let text = "can't remove member from the raft: this would result in a loss of quorum";
        return Err(Refusal::FailedPrecondition(text.into()));
    }
    Ok(())
}

/// A manager that leaves is demoted; a worker is marked down.
pub(crate) fn leave(store: &Store, consensus: &Consensus, now: Moment, wall: Time, id: NodeId) -> Result<Transaction, Refusal> {
    let node = member(store, id)?;
    check_demotion(store, consensus, now.local, node)?;
    let mut transaction = Transaction::new(now.cluster);
    let reference = ObjectRef { kind: Kind::Node, id: id.0 };
    transaction.preconditions.push(Precondition::Unchanged(reference, SectionName::Spec, node.spec.version));
    if node.spec.desired_role == Role::Manager {
        transaction.writes.push(Write::NodeSpec(id, NodeSpec { desired_role: Role::Worker, ..node.spec.value.clone() }));
    } else {
        let status = NodeStatus {
            state: NodeState::Down,
            message: "the node left the cluster".into(),
            since: now.cluster,
            since_wall: wall,
            ..node.status.value.clone()
        };
        transaction.writes.push(Write::NodeStatus(id, status));
    }
    transaction.outcome = Some(Outcome { id: id.0, version: 0, number: 0 });
    Ok(transaction)
}

/// Records a joiner's raft id, address and keys; a repeat updates them.
pub(crate) fn join(
    store: &Store,
    consensus: &Consensus,
    directory: &Directory,
    now: Time,
    mint: &mut Mint,
    join: JoinRaft,
) -> Result<Transaction, Refusal> {
    let JoinRaft { node: id, address, unsealing_key, slots, format_max } = join;
    let node = member(store, id)?.clone();
    let cluster = initialised(store)?.clone();
    let raft_id = match &node.plan.manager {
        Some(manager) => manager.raft_id,
        None => new_raft_id(consensus, directory, mint, &cluster),
    };
    // Until it has a vote, it does not count for the quorum.
    let unreachable = node.plan.manager.as_ref().is_none_or(|manager| manager.unreachable);
    let manager = ManagerStatus { raft_id, address, format_max, unreachable };
    let plan = NodePlan { manager: Some(manager.clone()), unsealing_key, ..node.plan.value.clone() };
    let mut cluster_plan = cluster.plan.value.clone();
    if !slots.is_empty() {
        cluster_plan.sealing_slots.insert(id, slots);
    }
    let others = store.nodes().filter(|other| other.id != id).filter_map(|other| other.plan.manager.as_ref());
    cluster_plan.format = format_of(others.chain([&manager]), cluster_plan.format);
    let mut transaction = Transaction::new(now);
    let (node_ref, cluster_ref) = (ObjectRef { kind: Kind::Node, id: id.0 }, ObjectRef { kind: Kind::Cluster, id: cluster.id.0 });
    transaction.preconditions = vec![
        Precondition::Unchanged(node_ref, SectionName::Plan, node.plan.version),
        Precondition::Unchanged(node_ref, SectionName::Spec, node.spec.version),
        Precondition::Unchanged(cluster_ref, SectionName::Plan, cluster.plan.version),
    ];
    transaction.writes = vec![Write::NodePlan(id, plan), Write::ClusterPlan(Box::new(cluster_plan))];
    transaction.outcome = Some(Outcome { id: id.0, version: 0, number: raft_id });
    Ok(transaction)
}

fn new_raft_id(consensus: &Consensus, directory: &Directory, mint: &mut Mint, cluster: &Cluster) -> u64 {
    loop {
        // 63 bits: some tools read these numbers as signed.
        let raft_id = mint.number(Purpose::RaftId) >> 1;
        let is_taken = directory.node(raft_id).is_some() || consensus.is_member(raft_id);
        if raft_id != 0 && !is_taken && !cluster.plan.removed_raft_ids.contains(&raft_id) {
            return raft_id;
        }
    }
}

fn member(store: &Store, id: NodeId) -> Result<&Arc<Node>, Refusal> {
    store.node(id).ok_or_else(|| Refusal::NotFound { kind: Kind::Node, reference: id.to_string() })
}

fn initialised(store: &Store) -> Result<&Arc<Cluster>, Refusal> {
    store.cluster().ok_or_else(|| Refusal::FailedPrecondition("the cluster is not initialised yet".into()))
}
