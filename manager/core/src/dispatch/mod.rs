//! The leader's side of the agents' sessions.
//!
//! A node has at most one session; a new one replaces the old. What is known of
//! sessions (deadlines, what was sent) is in memory only: a new leader gets it
//! from each session's first message. Silence is measured by the leader's clock.
//!
//! What agents report becomes transactions, one batch at a time; reports that
//! arrive meanwhile wait and are merged. What they are told is the difference
//! between what they were told and what the store says after a commit, so
//! nothing that has not committed ever leaves. A node that can take no tasks yet is
//! told of the cluster alone. What agents say that their networks hold is the
//! [`crate::publication`]'s.

mod assignment;
mod nodes;
mod reports;
mod session;

#[cfg(test)]
mod hello_tests;
#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod tests;

use crate::action::Action;
use crate::clock::Moment;
use crate::publication::overlay::{DirtyKeys, OverlayObject};
use crate::publication::{Barrier, Publications};
use crate::store::{Change, Store, StoredObject};
use crate::timing;
use crate::transaction::{Transaction, Write};
use crate::values::ValueRef;
use nodes::Nodes;
use reports::Reports;
use session::Session;
use skep_model::assignment::{Hello, SessionInfo, StatusUpdate};
use skep_model::node::Node;
use skep_model::place::PlaceFaults;
use skep_model::{NetworkId, NodeId, ServiceId, SessionId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Every session, what came from it and what is to go to it.
#[derive(Debug)]
pub struct Dispatcher {
    term: u64,
    sessions: BTreeMap<SessionId, Session>,
    by_node: BTreeMap<NodeId, SessionId>,
    nodes: Nodes,
    reports: Reports,
    publications: Publications,
    /// Nodes whose tasks may have changed, or what they are told of them.
    dirty: BTreeSet<NodeId>,
    /// Nodes for which something of their networks may have changed.
    dirty_overlay: BTreeSet<NodeId>,
    /// What sessions are told of the cluster may have changed.
    is_info_dirty: bool,
    /// Ends of sessions that have yet to be told.
    closing: Vec<(SessionId, String)>,
    /// Nodes that lack a value which could not be sent, and when it is tried again.
    retries: BTreeMap<NodeId, Time>,
    /// Sentences for the log of this manager.
    warnings: Vec<String>,
    /// Transactions under way.
    n_in_flight: usize,
}

impl Dispatcher {
    /// The dispatcher of a leader that has just been elected: it has no session
    /// yet, and gives nodes twice the time to come.
    pub fn new(store: &Store, now: impl Into<Moment>, term: u64) -> Self {
        let now: Moment = now.into();
        let (publications, dirty_overlay) = Publications::new(store, now.cluster);
        Self {
            term,
            sessions: BTreeMap::new(),
            by_node: BTreeMap::new(),
            nodes: Nodes::new(store, now.local),
            reports: Reports::default(),
            publications,
            dirty: BTreeSet::new(),
            dirty_overlay,
            is_info_dirty: false,
            closing: Vec::new(),
            retries: BTreeMap::new(),
            warnings: Vec::new(),
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
            self.publications.barrier.session_ended(hello.node);
        }
        self.sessions.insert(session, Session::new(hello.node));
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

    /// A node's network holds what the chain of its session told it up to `version`,
    /// but for the places that failed.
    pub fn programmed(&mut self, store: &Store, session: SessionId, version: u64) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.programmed = session.programmed.max(version);
            session.pass(store, &mut self.publications.barrier);
        }
    }

    /// These places of a node's network do not work, and all others do.
    pub fn places_failed(&mut self, store: &Store, session: SessionId, faults: PlaceFaults) {
        if let Some(session) = self.sessions.get_mut(&session) {
            self.nodes.fault(store, session.node, faults.clone());
            session.faults = faults;
            session.pass(store, &mut self.publications.barrier);
        }
    }

    /// Values could not be sent with a link: they are named again after a while, in
    /// this session or the next.
    pub fn values_left_out(&mut self, now: Time, session: SessionId, values: &[ValueRef]) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.sent.left_out(values);
            self.retries.insert(session.node, now + timing::VALUE_RETRY);
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
    /// its deadline; with one it has left the cluster, and is down at once.
    pub fn closed(&mut self, now: Time, session: SessionId, is_goodbye: bool) {
        let Some(ended) = self.sessions.remove(&session) else { return };
        self.by_node.remove(&ended.node);
        self.publications.barrier.session_ended(ended.node);
        self.nodes.closed(now, ended.node);
        if is_goodbye {
            self.nodes.goodbye(now, ended.node);
        }
    }

    /// This manager was stopped or asleep until now: nodes are given the time that they
    /// have under a new leader.
    pub fn lagged(&mut self, now: Time) {
        self.nodes.lagged(now);
    }

    /// Whether a majority of the managers is to be asked if this is still the leader,
    /// before many nodes count as down. Said once; [`Dispatcher::confirmed`] answers.
    pub fn take_question(&mut self) -> bool {
        self.nodes.take_question()
    }

    /// A majority that was asked after [`Dispatcher::take_question`] says that it is.
    pub fn confirmed(&mut self) {
        self.nodes.confirmed();
    }

    /// A transaction was applied.
    pub fn changed(&mut self, store: &Store, changes: &[Change]) {
        let dirty_keys = self.publications.overlay.changed(store, changes);
        self.touch(&dirty_keys);
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
                _ => self.task_changed(store, change),
            }
        }
        let is_behind = |node: NodeId| {
            let session = self.by_node.get(&node).and_then(|session| self.sessions.get(session));
            let session = session.filter(|_| self.nodes.is_ready(node));
            session.is_none_or(|session| session.programmed < session.sent.overlay_version)
        };
        self.publications.follow_nodes(store, changes, &dirty_keys, is_behind);
    }

    /// Opens gates whose time is over. The services whose tasks' gates opened, or
    /// whose stragglers changed, since the last call: the leader looks at them.
    pub fn pass(&mut self, store: &Store, now: Time) -> BTreeSet<ServiceId> {
        self.publications.barrier.expire(now);
        let tasks = self.publications.barrier.take_news().into_iter().filter_map(|task| store.task(task));
        let mut services = BTreeSet::new();
        for task in tasks {
            services.insert(task.service_id);
            self.dirty.extend(task.plan.node.filter(|_| !task.is_wanted()));
        }
        services
    }

    /// Whether [`Dispatcher::pass`] has something to tell now.
    pub fn has_passed(&self) -> bool {
        self.publications.barrier.has_news()
    }

    /// Where changes of tasks' publications stand.
    pub fn barrier(&self) -> &Barrier {
        &self.publications.barrier
    }

    /// Which nodes have no part in the routing mesh, and why: their status says so,
    /// and the log of who newly has none. Whether anything changed.
    pub fn exclude(&mut self, store: &Store, excluded: &BTreeMap<NodeId, String>) -> bool {
        let changed = self.nodes.exclude(store, excluded);
        for id in &changed {
            if let (Some(node), Some(why)) = (store.node(*id), excluded.get(id)) {
                self.warnings.push(format!("node {} ({id}) {}", node.description.hostname, nodes::not_in_mesh(why)));
            }
        }
        !changed.is_empty()
    }

    /// What agents reported and how nodes fare, as transactions. Empty while the
    /// last batch is under way.
    pub fn transactions(&mut self, store: &Store, now: impl Into<Moment>) -> Vec<Transaction> {
        let Moment { local, cluster } = now.into();
        for node in self.nodes.expire(store, local) {
            // A node that counts as down has to open a session to count as ready again;
            // one that never did will do so when it can.
            if !self.nodes.is_ready(node) {
                continue;
            }
            if let Some(session) = self.by_node.remove(&node) {
                self.sessions.remove(&session);
                self.publications.barrier.session_ended(node);
                self.closing.push((session, "heartbeat failure: the node was silent for too long".into()));
            }
        }
        if self.n_in_flight > 0 {
            return Vec::new();
        }
        let mut transactions = self.nodes.transactions(store, cluster);
        transactions.extend(self.reports.transactions(store, cluster));
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

    /// What the agents, and the readers of this manager's log, are to be told now.
    pub fn actions(&mut self, store: &Store, now: Time) -> Vec<Action> {
        let due = |at: &Time| *at <= now;
        self.dirty.extend(self.retries.iter().filter(|(_, at)| due(at)).map(|(node, _)| *node));
        self.retries.retain(|_, at| !due(at));
        let mut actions: Vec<Action> =
            self.closing.drain(..).map(|(session, reason)| Action::CloseSession { session, reason }).collect();
        actions.extend(self.warnings.drain(..).map(|sentence| Action::Warn { sentence }));
        if std::mem::take(&mut self.is_info_dirty) {
            self.tell_info(store, &mut actions);
        }
        let dirty = std::mem::take(&mut self.dirty);
        let mut nodes = std::mem::take(&mut self.dirty_overlay);
        nodes.extend(&dirty);
        if nodes.is_empty() {
            return actions;
        }
        let view = Arc::new(store.clone());
        for node in nodes {
            let Some(id) = self.by_node.get(&node).copied().filter(|_| self.nodes.is_ready(node)) else { continue };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let assignments =
                session.sent.next(store, node, &self.publications.overlay, &self.publications.barrier, dirty.contains(&node));
            if let Some(assignments) = assignments {
                let assignments = Box::new(assignments);
                actions.push(Action::SendAssignments { session: id, term: self.term, assignments, view: view.clone() });
            }
            self.publications.barrier.told(node, session.sent.overlay_version);
            session.pass(store, &mut self.publications.barrier);
        }
        actions
    }

    /// When a node's time is over if nothing happens, or a value is tried again, in boot time.
    pub fn next_deadline(&self) -> Option<Time> {
        let retry = self.retries.values().min().copied();
        [self.nodes.next_deadline(), retry].into_iter().flatten().min()
    }

    /// When a gate's time is over if nothing happens, or a report may be written, in cluster time.
    pub fn next_gate(&self) -> Option<Time> {
        [self.publications.barrier.next_deadline(), self.reports.next_wakeup()].into_iter().flatten().min()
    }

    fn task_changed(&mut self, store: &Store, change: &Change) {
        for side in [&change.old, &change.new] {
            if let Some(StoredObject::Task(task)) = side {
                self.dirty.extend(task.plan.node);
            }
        }
        let (old, new) = change.tasks();
        if let Some(task) = new.or(old) {
            let nodes = self.publications.follow_task(store, task.id, new, store.time);
            self.dirty_overlay.extend(nodes);
        }
    }

    /// Tells the sessions on the networks of what changed that it did.
    fn touch(&mut self, dirty_keys: &DirtyKeys) {
        if dirty_keys.is_mesh_moved {
            self.dirty_overlay.extend(self.by_node.keys());
        }
        // Before anything else: who left a network has yet to be told that what is on it goes.
        self.dirty_overlay.extend(dirty_keys.moved.iter().map(|(node, _)| *node));
        for (key, old) in &dirty_keys.objects {
            let new = self.publications.overlay.object(*key);
            for node in self.audience(&[old.as_ref(), new.as_ref()]) {
                let session = self.by_node.get(&node).and_then(|session| self.sessions.get_mut(session));
                if session.is_some_and(|session| session.sent.overlay.touch(*key, old.as_ref(), new.as_ref())) {
                    self.dirty_overlay.insert(node);
                }
            }
        }
    }

    /// The nodes that may have been told of an object, and some more.
    fn audience(&self, sides: &[Option<&OverlayObject>]) -> BTreeSet<NodeId> {
        let mut networks: BTreeSet<NetworkId> = BTreeSet::new();
        for object in sides.iter().copied().flatten() {
            match object {
                OverlayObject::Peer(_) => return self.by_node.keys().copied().collect(),
                OverlayObject::Network(network) => drop(networks.insert(network.id)),
                OverlayObject::Service(service) => networks.extend(service.networks.iter().map(|part| part.network)),
                OverlayObject::Endpoint(endpoint) => drop(networks.insert(endpoint.id.network)),
            }
        }
        if self.publications.overlay.mesh().is_some_and(|mesh| networks.contains(&mesh)) {
            return self.by_node.keys().copied().collect();
        }
        let on_networks = networks.iter().flat_map(|network| self.publications.overlay.nodes_on(*network));
        on_networks.chain(self.dirty_overlay.iter().copied()).collect()
    }

    fn removed(&mut self, node: NodeId) {
        self.is_info_dirty = true;
        self.nodes.removed(node);
        self.reports.forget_node(node);
        if let Some(session) = self.by_node.remove(&node) {
            self.sessions.remove(&session);
            self.publications.barrier.session_ended(node);
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
                data_path_port: cluster.spec.data_path_port,
                barrier_timeout: cluster.spec.barrier_timeout,
                isolate_nodes: cluster.spec.isolate_nodes,
            };
            if session.info.as_ref() != Some(&info) {
                session.info = Some(info.clone());
                actions.push(Action::SendInfo { session: *id, info: Box::new(info) });
            }
        }
    }
}
