//! From raft's rounds to the store: send, persist, install, apply, tell.

use super::Manager;
use super::proposals::Origin;
use crate::action::Action;
use crate::consensus::Round;
use crate::store::Conflict;
use crate::store::watch::Recent;
use crate::store::{Change, SnapshotContent, StoredObject, codec};
use crate::timing;
use crate::transaction::Transaction;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, Entry, EntryType, Message, MessageType};
use skep_model::node::Role;
use skep_model::{Kind, NodeId};
use std::sync::Arc;

impl Manager {
    pub(super) fn carry_out(&mut self, round: Round) {
        for message in round.messages {
            self.send(message);
        }
        if let Some(metadata) = round.snapshot {
            let content = match self.received.take() {
                Some((index, content)) if index == metadata.index => content,
                other => {
                    let there = other.map(|(index, _)| index);
                    panic!("raft took a snapshot that ends at {}, there is {there:?}", metadata.index)
                }
            };
            self.install(content);
        }
        if let Some(persist) = round.persist {
            self.actions.push(Action::Persist(persist));
        }
        for entry in round.committed {
            self.apply(&entry);
            if self.is_stopped {
                return;
            }
        }
        for read in round.reads {
            self.reads.answered(&read.request_ctx, read.index);
        }
    }

    pub(super) fn send(&mut self, message: Message) {
        let (raft_id, address) = (message.to, self.directory.address(message.to));
        let mut message = Box::new(message);
        self.directory.sign(&mut message);
        if message.get_msg_type() != MessageType::MsgSnapshot {
            self.actions.push(Action::SendPeer { raft_id, address, message });
            return;
        }
        // The store may have moved on since raft wrote the message: what is
        // streamed is the store as it is, and the message says so.
        message.mut_snapshot().set_metadata(self.consensus.snapshot_metadata().clone());
        let view = self.view();
        self.actions.push(Action::StreamSnapshot { raft_id, address, message, view });
    }

    pub(super) fn receive_snapshot(&mut self, message: Message, content: SnapshotContent) {
        let index = message.get_snapshot().get_metadata().index;
        assert!(
            content.store.version == index,
            "a snapshot that ends at {} came with a message that says {index}",
            content.store.version
        );
        // Its content is kept only if raft takes it.
        if self.consensus.receive(self.now, message, &mut self.mint) {
            self.received = Some((index, content));
        }
    }

    /// A snapshot from the leader takes the place of the store.
    fn install(&mut self, content: SnapshotContent) {
        assert!(content.store.version >= self.store.version, "a snapshot may not take the store back");
        self.store = content.store;
        self.clock.set(&self.store, self.now);
        self.view = None;
        self.snapshot_at = self.store.version;
        self.is_saving = false;
        self.bytes_since_snapshot = 0;
        self.directory.rebuild(&self.store);
        for (ticket, end) in self.watches.reset(self.store.version, self.wall) {
            self.actions.push(Action::WatchEnded { ticket, end });
        }
    }

    fn apply(&mut self, entry: &Entry) {
        self.view = None;
        self.bytes_since_snapshot += entry.data.len();
        let result = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => {
                self.store.skip(entry.index);
                Ok(Vec::new())
            }
            EntryType::EntryNormal => match codec::decode(&entry.data, self.config.format_max) {
                Ok(transaction) => self.store.apply(entry.index, &transaction),
                Err(error) => return self.halt(format!("entry {} of the log cannot be applied: {error}", entry.index)),
            },
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.change_members(entry);
                Ok(Vec::new())
            }
        };
        // A leader's clock never goes back, and what it applies is a little old.
        if self.leading.is_none() || self.store.time > self.cluster_time() {
            self.clock.set(&self.store, self.now);
        }
        self.consensus.applied(entry.index, entry.term);
        if let Ok(changes) = &result {
            self.tell(changes);
        }
        if let Some(proposal) = self.proposals.take(entry.index, entry.term) {
            self.settled(proposal.origin, &proposal.transaction, result.err());
        }
    }

    fn change_members(&mut self, entry: &Entry) {
        self.store.skip(entry.index);
        let mut change = ConfChangeV2::default();
        if let Err(error) = change.merge_from_bytes(&entry.data) {
            return self.halt(format!("entry {} of the log is no change of membership: {error}", entry.index));
        }
        let was_changed = self.consensus.change_membership(entry.index, &change);
        self.members_due = true;
        self.answer_joins();
        let own = self.consensus.raft_id();
        let names_self = |single: &raft::eraftpb::ConfChangeSingle| {
            single.node_id == own && single.get_change_type() == ConfChangeType::RemoveNode
        };
        if was_changed && change.changes.iter().any(names_self) {
            self.actions.push(Action::Removed);
            self.is_stopped = true;
        }
    }

    /// Tells everyone inside and outside what changed.
    fn tell(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            self.members_due |= self.directory.changed(change);
            if let Some(node) = closes_peer(change) {
                self.actions.push(Action::ClosePeer { node });
            }
        }
        self.answer_joins();
        let (version, wall, time) = (self.store.version, self.store.wall, self.store.time);
        let recent = Recent { version, wall, time, changes: Arc::from(changes) };
        for ticket in self.watches.push(recent.clone()) {
            self.actions.push(Action::WatchChanges { ticket, recent: vec![recent.clone()] });
        }
        if let Some(leading) = &mut self.leading {
            leading.dispatcher.changed(&self.store, changes);
            leading.leader.changed(changes);
        }
    }

    /// A transaction of ours was agreed, and applied or refused.
    fn settled(&mut self, origin: Origin, transaction: &Transaction, conflict: Option<Conflict>) {
        match origin {
            Origin::Request(request) => self.request_settled(request, conflict),
            // The next look at the members sees what there is now.
            Origin::Members => self.members_due = true,
            Origin::Turn => {
                if let (Some(leading), true) = (&mut self.leading, conflict.is_some()) {
                    leading.leader.refused(transaction);
                }
            }
            Origin::Dispatch => {
                if let Some(leading) = &mut self.leading {
                    leading.dispatcher.settled(transaction, conflict.is_none());
                }
            }
        }
    }

    pub(super) fn save_snapshot(&mut self) {
        let interval = self.store.cluster().map_or(timing::COMPACT_ENTRIES, |cluster| cluster.spec.snapshot_interval.max(1));
        let is_due = self.store.version - self.snapshot_at >= interval || self.bytes_since_snapshot >= timing::COMPACT_BYTES;
        let is_possible = self.consensus.can_snapshot() && self.store.cluster().is_some();
        if self.is_saving || !is_due || !is_possible || self.now < self.save_not_before {
            return;
        }
        self.is_saving = true;
        self.bytes_since_snapshot = 0;
        let metadata = self.consensus.snapshot_metadata().clone();
        let view = self.view();
        self.actions.push(Action::SaveSnapshot { metadata, view });
    }

    /// A snapshot of ours is durable: older entries may go.
    pub(super) fn compact(&mut self, index: u64) {
        // One that was begun before a received snapshot took over says nothing new.
        if !self.is_saving || index <= self.snapshot_at {
            return;
        }
        self.is_saving = false;
        self.snapshot_at = index;
        let first = self.consensus.compact(index);
        self.actions.push(Action::Compact { index: first });
    }
}

/// The node whose connections end because of a change: it was removed, or is a manager no more.
fn closes_peer(change: &Change) -> Option<NodeId> {
    let role = |object: &Option<StoredObject>| match object {
        Some(StoredObject::Node(node)) => Some(node.plan.role),
        _ => None,
    };
    let (old, new) = (role(&change.old)?, role(&change.new));
    let ends = change.object.kind == Kind::Node && (new.is_none() || (old == Role::Manager && new == Some(Role::Worker)));
    ends.then_some(NodeId(change.object.id))
}
