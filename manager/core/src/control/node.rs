//! Nodes: joining, updating, promoting, removing.
//!
//! What raft has to do about it (adding a member, removing one, moving a node's
//! actual role) is not done here: a spec says what role a node shall have.

use super::admitted::{Admitted, JoinRaft, check_expected, cluster, done, removal, transaction, unchanged};
use crate::store::Store;
use crate::transaction::{SectionName, Write};
use skep_model::address::{ClaimedAddresses, check_underlay, split};
use skep_model::endpoint::INGRESS_NODES_MAX;
use skep_model::node::{Availability, Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::said::is_hostname;
use skep_model::text::check_labels;
use skep_model::{Kind, Meta, NodeId, Object, Refusal, Section, Time};
use std::time::Duration;

/// A removed node's id is refused until its certificate has been expired for this long.
const REMOVED_NODE_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);
/// The length of an X25519 public key.
const UNSEALING_KEY: usize = 32;

pub(super) fn update(
    store: &Store,
    now: Time,
    reference: &str,
    expect: Option<u64>,
    spec: NodeSpec,
) -> Result<Admitted, Refusal> {
    let stored = store.resolve_node(reference)?;
    check_expected(expect, stored.spec.version)?;
    check_labels("node label", &spec.labels)?;
    if !spec.hostname.is_empty() && spec.hostname != stored.spec.hostname {
        check_hostname(&spec.hostname)?;
    }
    if stored.spec.desired_role == Role::Manager && spec.desired_role == Role::Worker {
        let is_other_manager = |node: &&std::sync::Arc<Node>| node.id != stored.id && node.spec.desired_role == Role::Manager;
        if !store.nodes().any(|node| is_other_manager(&node)) {
            return Err(Refusal::FailedPrecondition("attempting to demote the last manager of the swarm".into()));
        }
    }
    if spec == stored.spec.value {
        return Ok(done(store, stored.id.0, 0));
    }
    let precondition = unchanged(Kind::Node, stored.id.0, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![Write::NodeSpec(stored.id, spec)]))
}

pub(super) fn remove(store: &Store, now: Time, reference: &str, force: bool) -> Result<Admitted, Refusal> {
    let stored = store.resolve_node(reference)?;
    let cluster = cluster(store)?;
    if stored.spec.desired_role == Role::Manager || stored.plan.role == Role::Manager || stored.plan.manager.is_some() {
        let text = format!(
            "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
            stored.id
        );
        return Err(Refusal::FailedPrecondition(text));
    }
    if !force && stored.status.state == NodeState::Ready {
        return Err(Refusal::FailedPrecondition(format!("node {} is not down and can't be removed", stored.id)));
    }
    let mut plan = cluster.plan.value.clone();
    plan.removed_nodes.retain(|_, until| *until > now);
    plan.removed_nodes.insert(stored.id, stored.plan.certificate_expires.max(now) + REMOVED_NODE_MEMORY);
    plan.sealing_slots.remove(&stored.id);
    let preconditions = vec![
        unchanged(Kind::Cluster, cluster.id.0, SectionName::Plan, cluster.plan.version),
        unchanged(Kind::Node, stored.id.0, SectionName::Spec, stored.spec.version),
        unchanged(Kind::Node, stored.id.0, SectionName::Plan, stored.plan.version),
    ];
    let writes = vec![Write::ClusterPlan(Box::new(plan)), removal(Kind::Node, stored.id.0)];
    Ok(transaction(now, stored.id.0, 0, preconditions, writes))
}

/// What is known of a node that was given its first certificate.
pub(super) struct Newcomer {
    pub(super) node: NodeId,
    pub(super) role: Role,
    pub(super) availability: Availability,
    pub(super) hostname: String,
    pub(super) certificate_expires: Time,
    pub(super) addresses: ClaimedAddresses,
}

pub(super) fn register(store: &Store, now: Time, newcomer: Newcomer) -> Result<Admitted, Refusal> {
    let cluster = cluster(store)?;
    let Newcomer { node: id, role, availability, hostname, certificate_expires, addresses } = newcomer;
    if cluster.plan.removed_nodes.contains_key(&id) {
        return Err(Refusal::PermissionDenied(format!("node {id} was removed from the cluster")));
    }
    if store.node(id).is_some() {
        return Err(Refusal::FailedPrecondition(format!("node {id} is registered already")));
    }
    check_hostname(&hostname)?;
    check_addresses(store, id, addresses)?;
    if store.nodes().count() >= INGRESS_NODES_MAX as usize {
        let text = format!(
            "the cluster has {INGRESS_NODES_MAX} nodes, and the routing mesh no ports for more: remove one that is gone (`skep node rm`)"
        );
        return Err(Refusal::Exhausted(text));
    }
    let status =
        NodeStatus { state: NodeState::Unknown, message: "has not reported yet".into(), since: now, ..NodeStatus::default() };
    let node = Node {
        id,
        meta: Meta::default(),
        spec: Section::new(NodeSpec { desired_role: role, availability, ..NodeSpec::default() }),
        description: Section::new(NodeDescription { hostname, ..NodeDescription::default() }),
        status: Section::new(status),
        plan: Section::new(NodePlan { role, certificate_expires, ..NodePlan::default() }),
    };
    Ok(transaction(now, id.0, 0, Vec::new(), vec![Write::Create(Object::Node(Box::new(node)))]))
}

pub(super) fn certificate_issued(store: &Store, now: Time, id: NodeId, expires: Time) -> Result<Admitted, Refusal> {
    let stored = member(store, id)?;
    let plan = NodePlan { certificate_expires: expires, ..stored.plan.value.clone() };
    let precondition = unchanged(Kind::Node, id.0, SectionName::Plan, stored.plan.version);
    Ok(transaction(now, id.0, 0, vec![precondition], vec![Write::NodePlan(id, plan)]))
}

pub(super) fn join(store: &Store, join: JoinRaft) -> Result<Admitted, Refusal> {
    let stored = member(store, join.node)?;
    if stored.spec.desired_role != Role::Manager || stored.plan.role != Role::Manager {
        return Err(Refusal::PermissionDenied(format!("node {} is not a manager", join.node)));
    }
    let Some((host, Some(_))) = split(&join.address) else {
        return Err(Refusal::invalid("manager address", &join.address, "it has the form host:port"));
    };
    if let Ok(address) = host.parse() {
        check_underlay(address).map_err(|invalid| Refusal::invalid("manager address", &join.address, invalid.reason))?;
    }
    let has_it = |node: &&std::sync::Arc<Node>| {
        node.id != join.node && node.plan.manager.as_ref().is_some_and(|manager| manager.address == join.address)
    };
    // Whether that one is there or not: raft sends what is for one to the other.
    if let Some(other) = store.nodes().find(has_it) {
        return Err(Refusal::invalid("manager address", &join.address, is_of(other)));
    }
    if join.unsealing_key.len() != UNSEALING_KEY {
        return Err(Refusal::invalid("unsealing key", "", format!("it has {UNSEALING_KEY} bytes")));
    }
    let format = cluster(store)?.plan.format;
    if join.format_max < format {
        let text =
            format!("node {} reads stored formats up to {}, the cluster has {format}: upgrade it", join.node, join.format_max);
        return Err(Refusal::FailedPrecondition(text));
    }
    Ok(Admitted::Join(join))
}

pub(super) fn leave(store: &Store, id: NodeId) -> Result<Admitted, Refusal> {
    member(store, id)?;
    Ok(Admitted::Leave { node: id })
}

fn member(store: &Store, id: NodeId) -> Result<&std::sync::Arc<Node>, Refusal> {
    if cluster(store)?.plan.removed_nodes.contains_key(&id) {
        return Err(Refusal::PermissionDenied(format!("node {id} was removed from the cluster")));
    }
    store.node(id).ok_or_else(|| Refusal::NotFound { kind: Kind::Node, reference: id.to_string() })
}

/// A newcomer's addresses are those of nodes, and of no other node. One that its very
/// connection comes from is its own, whatever is known of a node that had it before.
fn check_addresses(store: &Store, id: NodeId, claimed: ClaimedAddresses) -> Result<(), Refusal> {
    for (flag, address) in [("--advertise-addr", claimed.advertise), ("--data-path-addr", claimed.data_path)] {
        let Some(address) = address else { continue };
        check_underlay(address).map_err(|invalid| Refusal::invalid(flag, address.to_string(), invalid.reason))?;
        if let Some(other) = store.holder_of(address, id).filter(|_| claimed.seen != Some(address)) {
            return Err(Refusal::invalid(flag, address.to_string(), is_of(other)));
        }
    }
    Ok(())
}

fn is_of(other: &Node) -> String {
    format!(
        "it is the address of node {} ({}); name one of this node's own, or, if that node is gone for good, remove it first \
         (`skep node rm --force {}`)",
        other.description.hostname, other.id, other.id
    )
}

fn check_hostname(hostname: &str) -> Result<(), Refusal> {
    if !is_hostname(hostname) {
        return Err(Refusal::invalid("host name", hostname, "it consists of letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}
