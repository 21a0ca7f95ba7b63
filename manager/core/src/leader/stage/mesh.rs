//! Gives every node its part in the routing mesh: a number, and addresses on the
//! ingress network while there is one.
//!
//! A node keeps both as long as it is part of the cluster. If the ingress network
//! is replaced, it keeps its number and gets addresses on the new one. A node for
//! which nothing is free takes no part until something is, and why is said: in its
//! status and in the leader's log (`dispatch/nodes.rs`), which the turn does not write.

use crate::leader::turn::addresses::{Addresses, no_address};
use crate::store::Store;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::endpoint::{INGRESS_NODES_MAX, NodeIngress};
use skep_model::network::Network;
use skep_model::node::{Node, NodePlan};
use skep_model::{Kind, NodeId, ObjectRef, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many nodes one transaction writes: one that changed meanwhile refuses all of them.
const NODES_MAX: usize = 64;

/// The nodes that have no part in the mesh because nothing is free for them, with why.
pub(crate) type Excluded = BTreeMap<NodeId, String>;

/// What is to be written, and who has to wait until something is free.
pub(crate) fn assign(store: &Store, addresses: &mut Addresses, now: Time) -> (Vec<Transaction>, Excluded) {
    let ingress = store.ingress_network();
    let mut excluded = Excluded::new();
    let mut changed: Vec<(&Arc<Node>, Option<NodeIngress>)> = Vec::new();
    for node in store.nodes() {
        let have = node.plan.ingress.as_ref();
        match ingress {
            None if have.is_some() => changed.push((node, None)),
            Some(network) if !have.is_some_and(|have| is_on(network, have)) => match part(network, addresses, have) {
                Ok(part) => changed.push((node, Some(part))),
                Err(why) => drop(excluded.insert(node.id, why)),
            },
            _ => {}
        }
    }
    let transactions = changed.chunks(NODES_MAX).map(|nodes| write(nodes, ingress, now)).collect();
    (transactions, excluded)
}

fn part(network: &Network, addresses: &mut Addresses, have: Option<&NodeIngress>) -> Result<NodeIngress, String> {
    let given = addresses.give_node(network).ok_or_else(|| no_address(network))?;
    let number = have.map(|have| have.number).or_else(|| addresses.give_number());
    let number = number.ok_or_else(|| format!("all {INGRESS_NODES_MAX} numbers of nodes are taken"))?;
    Ok(NodeIngress { number, addresses: given })
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
