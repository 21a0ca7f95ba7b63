//! Gives every node its part in the routing mesh: a number, and addresses on the
//! ingress network while there is one.
//!
//! A node keeps both as long as it is part of the cluster. If the ingress network
//! is replaced, it keeps its number and gets addresses on the new one.

use super::addresses::Addresses;
use crate::store::Store;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::endpoint::NodeIngress;
use skep_model::network::Network;
use skep_model::node::{Node, NodePlan};
use skep_model::{Kind, ObjectRef, Time};
use std::sync::Arc;

/// How many nodes one transaction writes: one that changed meanwhile refuses all of them.
const NODES_MAX: usize = 64;

/// What is to be written, and whether a node has to wait until something is free.
pub(crate) fn assign(store: &Store, addresses: &mut Addresses, now: Time) -> (Vec<Transaction>, bool) {
    let ingress = store.ingress_network();
    let mut is_waiting = false;
    let mut changed: Vec<(&Arc<Node>, Option<NodeIngress>)> = Vec::new();
    for node in store.nodes() {
        let have = node.plan.ingress.as_ref();
        match ingress {
            None if have.is_some() => changed.push((node, None)),
            Some(network) if !have.is_some_and(|have| is_on(network, have)) => match part(network, addresses, have) {
                Some(part) => changed.push((node, Some(part))),
                None => is_waiting = true,
            },
            _ => {}
        }
    }
    let transactions = changed.chunks(NODES_MAX).map(|nodes| write(nodes, ingress, now)).collect();
    (transactions, is_waiting)
}

fn part(network: &Network, addresses: &mut Addresses, have: Option<&NodeIngress>) -> Option<NodeIngress> {
    let given = addresses.give_node(network)?;
    let number = have.map(|have| have.number).or_else(|| addresses.give_number())?;
    Some(NodeIngress { number, addresses: given })
}

/// Whether a node's addresses are ones of this network, one of each family.
fn is_on(network: &Network, have: &NodeIngress) -> bool {
    let pools = &network.plan.pools;
    let fits = |pool: &skep_model::network::Pool| {
        have.addresses.iter().any(|address| pool.subnet.contains(address) && pool.gateway != Some(*address))
    };
    pools.len() == have.addresses.len() && pools.iter().all(fits)
}

fn write(nodes: &[(&Arc<Node>, Option<NodeIngress>)], ingress: Option<&Arc<Network>>, now: Time) -> Transaction {
    let mut transaction = Transaction::new(now);
    if let Some(network) = ingress {
        transaction.preconditions.push(Precondition::Exists(ObjectRef { kind: Kind::Network, id: network.id.0 }));
    }
    for (node, part) in nodes {
        let reference = ObjectRef { kind: Kind::Node, id: node.id.0 };
        transaction.preconditions.push(Precondition::Unchanged(reference, SectionName::Plan, node.plan.version));
        let plan = NodePlan { ingress: part.clone(), ..node.plan.value.clone() };
        transaction.writes.push(Write::NodePlan(node.id, plan));
    }
    transaction
}
