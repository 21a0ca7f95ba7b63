//! The leader's side of the agents' sessions.
//!
//! A node has at most one session; a new one replaces the old. What is known of
//! sessions (deadlines, what was sent) is in memory only: a new leader gets it
//! from each session's first message. Silence is measured by the leader's clock.
//!
//! What agents report becomes transactions, one batch at a time; reports that
//! arrive meanwhile wait and are merged. What they are told is the difference
//! between what they were told and what the store says after a commit, so
//! nothing that has not committed ever leaves.

mod assignment;
mod nodes;
mod status;

#[cfg(test)]
mod tests;

use crate::action::Action;
use crate::store::{Change, Store, StoredObject};
use crate::timing;
use crate::transaction::{Transaction, Write};
use assignment::Sent;
use nodes::Nodes;
use skep_model::assignment::{Hello, SessionInfo, StatusUpdate};
use skep_model::node::Node;
use skep_model::{NodeId, SessionId, Time};
use status::Reports;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// One agent's session.
#[derive(Debug)]
struct Session {
    node: NodeId,
    /// What it was told of the cluster.
    info: Option<SessionInfo>,
    /// What it was told to have.
    sent: Sent,
    /// The link up to which its network holds what it was told.
    programmed: u64,
}

/// Every session, what came from it and what is to go to it.
#[derive(Debug)]
pub struct Dispatcher {
    term: u64,
    sessions: BTreeMap<SessionId, Session>,
    by_node: BTreeMap<NodeId, SessionId>,
    nodes: Nodes,
    reports: Reports,
    /// Nodes whose assignments may have changed.
    dirty: BTreeSet<NodeId>,
    /// What sessions are told of the cluster may have changed.
    is_info_dirty: bool,
    /// Ends of sessions that have yet to be told.
    closing: Vec<(SessionId, String)>,
    /// Transactions under way.
    n_in_flight: usize,
}

impl Dispatcher {
    /// The dispatcher of a leader that has just been elected: it has no session
    /// yet, and gives nodes twice the time to come.
    pub fn new(store: &Store, now: Time, term: u64) -> Self {
        Self {
            term,
            sessions: BTreeMap::new(),
            by_node: BTreeMap::new(),
            nodes: Nodes::new(store, now),
            reports: Reports::default(),
            dirty: BTreeSet::new(),
            is_info_dirty: false,
            closing: Vec::new(),
            n_in_flight: 0,
        }
    }

    /// An agent opened a session.
    pub fn opened(&mut self, now: Time, store: &Store, session: SessionId, hello: Hello) {
        if let Err(reason) = self.nodes.register(now, store, &hello) {
            self.closing.push((session, reason));
            return;
        }
        if let Some(old) = self.by_node.insert(hello.node, session) {
            self.sessions.remove(&old);
            self.closing.push((old, "session invalid: the node opened a newer one".into()));
        }
        self.sessions.insert(session, Session { node: hello.node, info: None, sent: Sent::default(), programmed: 0 });
        self.nodes.heard(now, store, hello.node);
        self.is_info_dirty = true;
        self.dirty.insert(hello.node);
        self.reports.add(store, hello.node, hello.statuses);
    }

    /// An agent is alive.
    pub fn heartbeat(&mut self, now: Time, session: SessionId) {
        if let Some(node) = self.sessions.get(&session).map(|session| session.node) {
            self.nodes.beat(now, node);
        }
    }

    /// A node's network holds what the chain of its session told it up to `version`.
    pub fn programmed(&mut self, session: SessionId, version: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.programmed = session.programmed.max(version);
        }
    }

    /// An agent observed something.
    pub fn status(&mut self, now: Time, store: &Store, session: SessionId, updates: Vec<StatusUpdate>) {
        if let Some(node) = self.sessions.get(&session).map(|session| session.node) {
            self.nodes.beat(now, node);
            self.reports.add(store, node, updates);
        }
    }

    /// A session's stream ended. Without a goodbye the node may come back until
    /// its deadline; with one it counts as disconnected at once.
    pub fn closed(&mut self, now: Time, session: SessionId, is_goodbye: bool) {
        let Some(ended) = self.sessions.remove(&session) else { return };
        self.by_node.remove(&ended.node);
        if is_goodbye {
            self.nodes.goodbye(now, ended.node);
        }
    }

    /// A transaction was applied.
    pub fn changed(&mut self, store: &Store, changes: &[Change]) {
        for change in changes {
            match (&change.old, &change.new) {
                (Some(StoredObject::Node(old)), Some(StoredObject::Node(new))) => {
                    let is_info = |node: &Node| (node.plan.role, node.plan.manager.clone(), node.description.hostname.clone());
                    self.is_info_dirty |= is_info(old) != is_info(new);
                }
                (None, Some(StoredObject::Node(node))) => {
                    self.is_info_dirty |= node.plan.manager.is_some();
                    self.nodes.added(store, node);
                }
                (Some(StoredObject::Node(node)), None) => self.removed(node.id),
                (_, Some(StoredObject::Cluster(_))) => self.is_info_dirty = true,
                _ => self.task_changed(change),
            }
        }
    }

    /// What agents reported and how nodes fare, as transactions. Empty while the
    /// last batch is under way.
    pub fn transactions(&mut self, store: &Store, now: Time) -> Vec<Transaction> {
        for node in self.nodes.expire(store, now) {
            // A node that counts as down has to open a session to count as ready again.
            if let Some(session) = self.by_node.remove(&node) {
                self.sessions.remove(&session);
                self.closing.push((session, "heartbeat failure: the node was silent for too long".into()));
            }
        }
        if self.n_in_flight > 0 {
            return Vec::new();
        }
        let mut transactions = self.nodes.transactions(store, now);
        transactions.extend(self.reports.transactions(store, now));
        self.n_in_flight = transactions.len();
        transactions
    }

    /// A transaction of the last batch was committed, or refused: what a refused
    /// one was to say is looked at again.
    pub fn settled(&mut self, transaction: &Transaction, committed: bool) {
        self.n_in_flight = self.n_in_flight.saturating_sub(1);
        for write in &transaction.writes {
            match write {
                Write::NodeStatus(node, _) | Write::NodeDescription(node, _) => self.nodes.settled(*node, committed),
                Write::TaskStatus(task, _) => self.reports.settled(*task, committed),
                _ => {}
            }
        }
    }

    /// What the agents are to be told now.
    pub fn actions(&mut self, store: &Store, now: Time) -> Vec<Action> {
        let _ = now;
        let mut actions: Vec<Action> =
            self.closing.drain(..).map(|(session, reason)| Action::CloseSession { session, reason }).collect();
        if std::mem::take(&mut self.is_info_dirty) {
            self.tell_info(store, &mut actions);
        }
        if self.dirty.is_empty() {
            return actions;
        }
        let view = Arc::new(store.clone());
        for node in std::mem::take(&mut self.dirty) {
            let Some(id) = self.by_node.get(&node).copied() else { continue };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if let Some(assignments) = session.sent.next(store, node) {
                let assignments = Box::new(assignments);
                actions.push(Action::SendAssignments { session: id, term: self.term, assignments, view: view.clone() });
            }
        }
        actions
    }

    /// When a node's time is over, if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.nodes.next_deadline()
    }

    fn task_changed(&mut self, change: &Change) {
        for side in [&change.old, &change.new] {
            if let Some(StoredObject::Task(task)) = side {
                self.dirty.extend(task.plan.node);
            }
        }
    }

    fn removed(&mut self, node: NodeId) {
        self.is_info_dirty = true;
        self.nodes.removed(node);
        self.reports.forget_node(node);
        if let Some(session) = self.by_node.remove(&node) {
            self.sessions.remove(&session);
            self.closing.push((session, "the node was removed from the cluster".into()));
        }
    }

    fn tell_info(&mut self, store: &Store, actions: &mut Vec<Action>) {
        let Some(cluster) = store.cluster() else { return };
        let address = |node: &Arc<Node>| Some((node.id, node.plan.manager.as_ref()?.address.clone()));
        let managers: Vec<(NodeId, String)> = store.nodes().filter_map(address).collect();
        for (id, session) in &mut self.sessions {
            let Some(node) = store.node(session.node) else { continue };
            let info = SessionInfo {
                term: self.term,
                heartbeat_period: cluster.spec.heartbeat_period,
                managers: managers.clone(),
                role: node.plan.role,
                root_ca: cluster.plan.root_ca.clone(),
                node_name: node.description.hostname.clone(),
            };
            if session.info.as_ref() != Some(&info) {
                session.info = Some(info.clone());
                actions.push(Action::SendInfo { session: *id, info: Box::new(info) });
            }
        }
    }
}

/// The period between two heartbeats.
fn heartbeat_period(store: &Store) -> Duration {
    store.cluster().map_or(timing::SESSION_HEARTBEAT, |cluster| cluster.spec.heartbeat_period)
}
