//! Who is a member: roles in the store and membership in raft are made equal.
//!
//! Level-triggered, on the leader: each look compares what users want (a node's
//! desired role), what the store records (its role and place in raft) and what
//! raft has, and names at most one step. A step that is lost is named again.
//!
//! The order keeps everyone reachable: a joiner's raft id and address are
//! recorded first, then it learns, then it votes; a leaver's raft id is spent, it
//! hands over leadership, leaves raft, and only then loses its role and its slots
//! of the sealing key. Last comes what is only told: whether a manager counts for the quorum.

use crate::clock::Moment;
use crate::consensus::Consensus;
use crate::store::{Change, Store, StoredObject};
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use raft::eraftpb::{ConfChangeType, Message, MessageType};
use skep_model::cluster::ClusterPlan;
use skep_model::node::{ManagerStatus, Node, NodePlan, Role};
use skep_model::{Kind, NodeId, ObjectRef, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Raft ids, where they are reached, and the nodes that are, were or shall be managers.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    members: BTreeMap<u64, (NodeId, String)>,
    concerned: BTreeSet<NodeId>,
    /// Addresses that a joiner was told before its store had any.
    hints: BTreeMap<u64, String>,
    /// Addresses that members said of themselves, where the store may be behind.
    learned: BTreeMap<u64, String>,
    /// This manager, and where it is reached now; empty = as the store says.
    own: (u64, String),
}

/// The longest address that is learned from a message, in bytes.
const ADDRESS_MAX: usize = 300;
/// The most members that are learned from messages.
const LEARNED_MAX: usize = 100;

/// One step towards the wanted members.
#[derive(Debug)]
pub(crate) enum Step {
    /// Record something in the store.
    Write(Box<Transaction>),
    /// Change raft's membership.
    Change(ConfChangeType, u64),
    /// This leader is to leave: another one must lead first.
    HandOver,
}

impl Directory {
    /// What a store says, and hints for a store that says nothing yet.
    pub(crate) fn new(store: &Store, hints: BTreeMap<u64, String>, own: (u64, String)) -> Self {
        let mut directory = Self { hints, own, ..Self::default() };
        directory.rebuild(store);
        directory
    }

    /// Forgets what it knew of a store that was replaced.
    pub(crate) fn rebuild(&mut self, store: &Store) {
        self.members.clear();
        self.concerned.clear();
        store.nodes().for_each(|node| self.add(node));
    }

    /// Follows a change; whether it concerned a manager.
    pub(crate) fn changed(&mut self, change: &Change) -> bool {
        if change.object.kind != Kind::Node {
            return false;
        }
        let id = NodeId(change.object.id);
        let was_concerned = self.concerned.remove(&id);
        if let Some(StoredObject::Node(old)) = &change.old
            && let Some(manager) = &old.plan.manager
        {
            self.members.remove(&manager.raft_id);
        }
        if let Some(StoredObject::Node(new)) = &change.new {
            self.add(new);
        }
        was_concerned || self.concerned.contains(&id)
    }

    /// The node with a raft id.
    pub(crate) fn node(&self, raft_id: u64) -> Option<NodeId> {
        self.members.get(&raft_id).map(|(node, _)| *node)
    }

    /// `host:port` of a member; empty if it is not known.
    pub(crate) fn address(&self, raft_id: u64) -> String {
        if raft_id == self.own.0 && !self.own.1.is_empty() {
            return self.own.1.clone();
        }
        let recorded = || self.members.get(&raft_id).map(|(_, address)| address);
        let known = self.learned.get(&raft_id).or_else(recorded).or_else(|| self.hints.get(&raft_id));
        known.cloned().unwrap_or_default()
    }

    /// Adds to a message where its sender is reached. A store that is behind does
    /// not know a member that joined meanwhile, and could never answer it. Only
    /// messages to which raft gives no context of its own carry it.
    pub(crate) fn sign(&self, message: &mut Message) {
        if introduces(message) && message.context.is_empty() {
            message.context = [&[SIGNED], self.address(message.from).as_bytes()].concat().into();
        }
    }

    /// Takes out of a message what [`Self::sign`] has added. What a member says of itself
    /// counts more than our store: it may have moved, and could not be elected, or elect
    /// anybody, if it were answered where it was before.
    pub(crate) fn learn(&mut self, message: &mut Message) {
        if !introduces(message) || message.context.first() != Some(&SIGNED) {
            return;
        }
        let context = std::mem::take(&mut message.context);
        if let Ok(address) = std::str::from_utf8(&context[1..])
            && !address.is_empty()
            && address.len() <= ADDRESS_MAX
            && self.address(message.from) != address
            && (self.learned.len() < LEARNED_MAX || self.learned.contains_key(&message.from))
        {
            self.learned.insert(message.from, address.to_owned());
        }
    }

    fn add(&mut self, node: &Node) {
        if let Some(manager) = &node.plan.manager {
            self.learned.remove(&manager.raft_id);
            self.members.insert(manager.raft_id, (node.id, manager.address.clone()));
        }
        if node.spec.desired_role == Role::Manager || node.plan.role == Role::Manager || node.plan.manager.is_some() {
            self.concerned.insert(node.id);
        }
    }

    /// The next step of a leader whose store is up to date and which leads since `since`.
    pub(crate) fn step(&self, store: &Store, consensus: &Consensus, now: Moment, since: Time) -> Option<Step> {
        // Before its first mutation a cluster has a member without a node.
        store.cluster()?;
        let nodes = || self.concerned.iter().filter_map(|id| store.node(*id));
        nodes()
            .find_map(|node| step_of_node(store, consensus, node, now))
            .or_else(|| consensus.learner_to_promote(now.local).map(|id| Step::Change(ConfChangeType::AddNode, id)))
            .or_else(|| self.step_of_stranger(store, consensus, now.local))
            .or_else(|| nodes().find_map(|node| note_reach(store, consensus, node, now, since)))
    }

    /// A member of raft that no node claims any more is removed.
    fn step_of_stranger(&self, store: &Store, consensus: &Consensus, now: Time) -> Option<Step> {
        let members = consensus.members();
        let stranger = members.voters.iter().chain(&members.learners).find(|id| !self.members.contains_key(id))?;
        removal(store, consensus, *stranger, now)
    }
}

/// What a context begins with that says where the sender is; those of reads begin
/// with another byte (see `consensus::reads`), and raft's own with a letter.
const SIGNED: u8 = b'@';

fn introduces(message: &Message) -> bool {
    use MessageType::{MsgAppend, MsgHeartbeat, MsgRequestPreVote, MsgRequestVote};
    matches!(message.get_msg_type(), MsgAppend | MsgHeartbeat | MsgRequestPreVote | MsgRequestVote)
}

/// Records whether a manager counts for the quorum now: it has a vote, and raft hears of
/// it. Whether its agent has a session says nothing of that. A learner is not reachable in
/// this sense: whoever takes another manager away because this one is there loses the
/// quorum.
fn note_reach(store: &Store, consensus: &Consensus, node: &Node, now: Moment, since: Time) -> Option<Step> {
    let manager = node.plan.manager.as_ref()?;
    let unreachable = !consensus.is_voter(manager.raft_id) || consensus.is_silent(now.local, manager.raft_id, since);
    if manager.unreachable == unreachable {
        return None;
    }
    let manager = Some(ManagerStatus { unreachable, ..manager.clone() });
    Some(write_plan(store, node, NodePlan { manager, ..node.plan.value.clone() }, None, now.cluster))
}

fn step_of_node(store: &Store, consensus: &Consensus, node: &Node, now: Moment) -> Option<Step> {
    let plan = || node.plan.value.clone();
    let Some(manager) = &node.plan.manager else {
        let role = node.spec.desired_role;
        return (node.plan.role != role).then(|| write_plan(store, node, NodePlan { role, ..plan() }, None, now.cluster));
    };
    let cluster = store.cluster()?;
    let (is_member, is_spent) = (consensus.is_member(manager.raft_id), cluster.plan.removed_raft_ids.contains(&manager.raft_id));
    match node.spec.desired_role {
        // A raft id whose removal has begun is never used again, even if the node
        // is promoted meanwhile: its log may be gone already.
        _ if is_spent && is_member => removal(store, consensus, manager.raft_id, now.local),
        _ if is_spent => {
            let plan = NodePlan { role: Role::Worker, manager: None, unsealing_key: Vec::new(), ..plan() };
            Some(write_plan(store, node, plan, Some(cluster_without(store, node, &cluster.plan)), now.cluster))
        }
        Role::Manager => (!is_member).then_some(Step::Change(ConfChangeType::AddLearnerNode, manager.raft_id)),
        Role::Worker if !consensus.can_remove(now.local, manager.raft_id, 0) => None,
        Role::Worker => {
            let mut cluster = cluster.plan.value.clone();
            cluster.removed_raft_ids.push(manager.raft_id);
            Some(write_plan(store, node, plan(), Some(cluster), now.cluster))
        }
    }
}

/// The removal of a member whose raft id is spent, once a quorum of those who stay
/// has stored that it is. Whoever was lost just before the removal was decided would
/// be missing afterwards, for good.
fn removal(store: &Store, consensus: &Consensus, raft_id: u64, now: Time) -> Option<Step> {
    let spent_at = store.cluster()?.plan.version;
    if !consensus.can_remove(now, raft_id, spent_at) {
        return None;
    }
    let is_self = raft_id == consensus.raft_id();
    Some(if is_self { Step::HandOver } else { Step::Change(ConfChangeType::RemoveNode, raft_id) })
}

fn write_plan(store: &Store, node: &Node, plan: NodePlan, cluster: Option<ClusterPlan>, now: Time) -> Step {
    let mut transaction = Transaction::new(now);
    let reference = ObjectRef { kind: Kind::Node, id: node.id.0 };
    transaction.preconditions.push(Precondition::Unchanged(reference, SectionName::Plan, node.plan.version));
    transaction.preconditions.push(Precondition::Unchanged(reference, SectionName::Spec, node.spec.version));
    transaction.writes.push(Write::NodePlan(node.id, plan));
    if let (Some(stored), Some(plan)) = (store.cluster(), cluster) {
        let reference = ObjectRef { kind: Kind::Cluster, id: stored.id.0 };
        transaction.preconditions.push(Precondition::Unchanged(reference, SectionName::Plan, stored.plan.version));
        transaction.writes.push(Write::ClusterPlan(Box::new(plan)));
    }
    Step::Write(Box::new(transaction))
}

/// The cluster's plan once a node is no longer a manager: without its slots, and
/// the stored format raised if it was the one that held it down.
fn cluster_without(store: &Store, node: &Node, plan: &ClusterPlan) -> ClusterPlan {
    let mut plan = plan.clone();
    plan.sealing_slots.remove(&node.id);
    let others = store.nodes().filter(|other| other.id != node.id);
    plan.format = format_of(others.filter_map(|other| other.plan.manager.as_ref()), plan.format);
    plan
}

/// The lowest newest format among managers; `otherwise` if there are none.
pub(crate) fn format_of<'a>(managers: impl Iterator<Item = &'a ManagerStatus>, otherwise: u32) -> u32 {
    managers.map(|manager| manager.format_max).min().unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType, context: &[u8]) -> Message {
        let mut message = Message { from: 7, to: 1, context: context.to_vec().into(), ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    #[test]
    fn a_message_says_where_its_sender_is_unless_raft_needs_its_context() {
        let sender = Directory { hints: [(7, "m7:2377".into())].into(), ..Directory::default() };
        let read = [b'r', 1, 2, 3];
        let table: [(MessageType, &[u8], &str, &[u8]); 5] = [
            (MessageType::MsgAppend, b"", "m7:2377", b""),
            (MessageType::MsgHeartbeat, b"", "m7:2377", b""),
            (MessageType::MsgHeartbeat, &read, "", &read),
            (MessageType::MsgRequestVote, b"CampaignTransfer", "", b"CampaignTransfer"),
            (MessageType::MsgAppendResponse, b"", "", b""),
        ];
        for (kind, context, address, delivered) in table {
            let mut receiver = Directory::default();
            let mut message = message(kind, context);
            sender.sign(&mut message);
            receiver.learn(&mut message);
            assert_eq!((receiver.address(7).as_str(), &message.context[..]), (address, delivered), "{kind:?}");
        }
    }

    #[test]
    fn a_member_that_moved_says_where_it_is_whatever_the_store_says() {
        let moved = Directory {
            members: [(7, (NodeId::from_random([7; 16]), "old:2377".into()))].into(),
            own: (7, "new:2377".into()),
            ..Directory::default()
        };
        let mut receiver = Directory { members: moved.members.clone(), ..Directory::default() };
        let mut asked = message(MessageType::MsgRequestPreVote, b"");
        moved.sign(&mut asked);
        receiver.learn(&mut asked);
        assert_eq!((receiver.address(7).as_str(), &asked.context[..]), ("new:2377", &b""[..]));
    }

    #[test]
    fn what_is_learned_from_messages_is_bounded() {
        let mut receiver = Directory::default();
        let mut long = message(MessageType::MsgAppend, &[&[SIGNED][..], "x".repeat(ADDRESS_MAX + 1).as_bytes()].concat());
        receiver.learn(&mut long);
        assert_eq!(receiver.address(7), "");
        for from in 1..=2 * LEARNED_MAX as u64 {
            let mut message = Message { from, ..message(MessageType::MsgAppend, b"@m:1") };
            receiver.learn(&mut message);
        }
        assert_eq!(receiver.learned.len(), LEARNED_MAX);
    }
}
