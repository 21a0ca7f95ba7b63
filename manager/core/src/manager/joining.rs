//! Nodes that become managers or cease to be: what raft has to say about it.
//!
//! `control` has checked the request; here admission records what is wanted; `consensus::members` brings it about.

use super::Manager;
use super::calls::WaitingFor;
use crate::consensus::members::format_of;
use crate::control::JoinRaft;
use crate::event::Ticket;
use crate::mint::Purpose;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::cluster::Cluster;
use skep_model::node::{ManagerStatus, Node, NodePlan, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::request::{Mutation, Outcome};
use skep_model::{Kind, NodeId, ObjectRef, Refusal};
use std::sync::Arc;

impl Manager {
    /// Refuses everything before the cluster's first mutation, and what would take
    /// a majority of the managers away.
    pub(super) fn check_members(&self, mutation: &Mutation) -> Result<(), Refusal> {
        match mutation {
            Mutation::Bootstrap { .. } => Ok(()),
            // The shell of the first manager is about to send it.
            _ if self.store.cluster().is_none() => {
                Err(Refusal::Unavailable("the cluster is not initialised yet; try again".into()))
            }
            Mutation::UpdateNode { node, spec, .. } if spec.desired_role == Role::Worker => {
                let node = self.store.resolve_node(node)?;
                self.check_demotion(node)
            }
            _ => Ok(()),
        }
    }

    fn check_demotion(&self, node: &Node) -> Result<(), Refusal> {
        if node.spec.desired_role != Role::Manager {
            return Ok(());
        }
        let others = self.store.nodes().filter(|other| other.id != node.id && other.spec.desired_role == Role::Manager).count();
        if others == 0 {
            return Err(Refusal::FailedPrecondition("attempting to demote the last manager of the swarm".into()));
        }
        let raft_id = node.plan.manager.as_ref().map(|manager| manager.raft_id);
        if raft_id.is_some_and(|raft_id| !self.consensus.can_remove(self.now, raft_id, 0)) {
            let text = "can't remove member from the raft: this would result in a loss of quorum";
            return Err(Refusal::FailedPrecondition(text.into()));
        }
        Ok(())
    }

    /// A manager that leaves is demoted; a worker is marked down.
    pub(super) fn admit_leave(&self, id: NodeId) -> Result<Transaction, Refusal> {
        let node = self.node(id)?;
        self.check_demotion(node)?;
        let mut transaction = Transaction::new(self.cluster_time());
        let reference = ObjectRef { kind: Kind::Node, id: id.0 };
        transaction.preconditions.push(Precondition::Unchanged(reference, SectionName::Spec, node.spec.version));
        if node.spec.desired_role == Role::Manager {
            transaction.writes.push(Write::NodeSpec(id, NodeSpec { desired_role: Role::Worker, ..node.spec.value.clone() }));
        } else {
            let status = NodeStatus {
                state: NodeState::Down,
                message: "the node left the cluster".into(),
                since: self.cluster_time(),
                since_wall: self.wall,
                ..node.status.value.clone()
            };
            transaction.writes.push(Write::NodeStatus(id, status));
        }
        transaction.outcome = Some(Outcome { id: id.0, version: 0, number: 0 });
        Ok(transaction)
    }

    /// Records a joiner's raft id, address and keys; a repeat updates them.
    pub(super) fn admit_join(&mut self, join: JoinRaft) -> Result<Transaction, Refusal> {
        let JoinRaft { node: id, address, unsealing_key, slots, format_max } = join;
        let node = self.node(id)?.clone();
        let cluster = self.cluster()?.clone();
        let raft_id = match &node.plan.manager {
            Some(manager) => manager.raft_id,
            None => self.new_raft_id(&cluster),
        };
        // Until it has a vote, it does not count for the quorum.
        let unreachable = node.plan.manager.as_ref().is_none_or(|manager| manager.unreachable);
        let manager = ManagerStatus { raft_id, address, format_max, unreachable };
        let plan = NodePlan { manager: Some(manager.clone()), unsealing_key, ..node.plan.value.clone() };
        let mut cluster_plan = cluster.plan.value.clone();
        if !slots.is_empty() {
            cluster_plan.sealing_slots.insert(id, slots);
        }
        let others = self.store.nodes().filter(|other| other.id != id).filter_map(|other| other.plan.manager.as_ref());
        cluster_plan.format = format_of(others.chain([&manager]), cluster_plan.format);
        let mut transaction = Transaction::new(self.cluster_time());
        let (node_ref, cluster_ref) =
            (ObjectRef { kind: Kind::Node, id: id.0 }, ObjectRef { kind: Kind::Cluster, id: cluster.id.0 });
        transaction.preconditions = vec![
            Precondition::Unchanged(node_ref, SectionName::Plan, node.plan.version),
            Precondition::Unchanged(node_ref, SectionName::Spec, node.spec.version),
            Precondition::Unchanged(cluster_ref, SectionName::Plan, cluster.plan.version),
        ];
        transaction.writes = vec![Write::NodePlan(id, plan), Write::ClusterPlan(Box::new(cluster_plan))];
        transaction.outcome = Some(Outcome { id: id.0, version: 0, number: raft_id });
        Ok(transaction)
    }

    /// A join is recorded: it is answered once raft has the joiner as a member, or
    /// once nobody has its raft id any more because the node was demoted meanwhile.
    pub(super) fn await_join(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.kind = WaitingFor::Membership(outcome.number);
            self.joining.entry(outcome.number).or_default().push((ticket, outcome));
            self.answer_joins();
        }
    }

    pub(super) fn answer_joins(&mut self) {
        for raft_id in self.joining.keys().copied().collect::<Vec<_>>() {
            let is_member = self.consensus.is_member(raft_id);
            if !is_member && self.directory.node(raft_id).is_some() {
                continue;
            }
            for (ticket, outcome) in self.joining.remove(&raft_id).unwrap_or_default() {
                let gone = || Refusal::FailedPrecondition("the node was demoted while it joined; it may ask anew".into());
                self.reply(ticket, if is_member { Ok(outcome) } else { Err(gone()) });
            }
        }
    }

    fn new_raft_id(&mut self, cluster: &Cluster) -> u64 {
        loop {
            // 63 bits: some tools read these numbers as signed.
            let raft_id = self.mint.number(Purpose::RaftId) >> 1;
            let is_taken = self.directory.node(raft_id).is_some() || self.consensus.is_member(raft_id);
            if raft_id != 0 && !is_taken && !cluster.plan.removed_raft_ids.contains(&raft_id) {
                return raft_id;
            }
        }
    }

    fn node(&self, id: NodeId) -> Result<&Arc<Node>, Refusal> {
        self.store.node(id).ok_or_else(|| Refusal::NotFound { kind: Kind::Node, reference: id.to_string() })
    }

    fn cluster(&self) -> Result<&Arc<Cluster>, Refusal> {
        self.store.cluster().ok_or_else(|| Refusal::FailedPrecondition("the cluster is not initialised yet".into()))
    }
}
