//! Which nodes are there.
//!
//! Deadlines live in memory and count in boot time. A node that was ready under another leader is
//! unknown until it opens a session here; silence makes a node down, a session
//! makes it ready. One that has a session but can take no tasks yet is not heard
//! of in this sense: it is down, with its own reason, when its time is over. One that
//! is ready but has no part in the routing mesh says so. Changes of status wait here
//! until they are written.
//!
//! When most nodes fall silent at about the same time, it is likelier that this manager
//! hears nobody than that they are gone. So more than half of them are down within one
//! detection window only once a majority of the managers, asked after the last of those
//! nodes' time was over, has said that this is still the leader, and a heartbeat's
//! period more has passed. A manager that was stopped or asleep begins with everybody anew.

use crate::store::Store;
use crate::timing;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::assignment::Hello;
use skep_model::node::{Node, NodeDescription, NodeState, NodeStatus};
use skep_model::place::PlaceFaults;
use skep_model::said::line;
use skep_model::task::{MESSAGE_MAX, cut};
use skep_model::{Kind, NodeId, ObjectRef, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How many sessions a node may open within [`REGISTRATIONS_WINDOW`]. Swarm has
/// 3; here a node whose daemon restarts is to be back before it counts as down.
pub(super) const REGISTRATIONS_MAX: usize = 20;
/// See [`REGISTRATIONS_MAX`].
pub(super) const REGISTRATIONS_WINDOW: Duration = Duration::from_secs(8);
/// The longest address of a session, in bytes.
const ADDRESS_MAX: usize = 64;
/// The message of a node that was silent for too long.
const HEARTBEAT_FAILURE: &str = "heartbeat failure";
/// The message of a node that said goodbye.
const LEFT: &str = "the node left the cluster";

/// What is known of the nodes beyond the store.
#[derive(Debug)]
pub(super) struct Nodes {
    period: Duration,
    /// When a node is down if it is not heard of before.
    deadlines: BTreeMap<NodeId, Time>,
    by_deadline: BTreeSet<(Time, NodeId)>,
    registrations: BTreeMap<NodeId, VecDeque<Time>>,
    /// Why nodes that have a session can take no tasks yet.
    not_ready: BTreeMap<NodeId, String>,
    /// Why nodes have no part in the routing mesh.
    excluded: BTreeMap<NodeId, String>,
    /// State and message that a node shall get; what was last wished for counts.
    wished: BTreeMap<NodeId, Wish>,
    /// Nodes whose wish is being written, with what was written.
    in_flight: BTreeMap<NodeId, Wish>,
    /// When nodes were found to be down, within the last window.
    fallen: VecDeque<Time>,
    doubt: Option<Doubt>,
    now: Time,
}

/// Most nodes seem to be silent: whether that is so is being found out.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Since when; about a node whose time was over later, the answer says nothing.
    since: Time,
    is_asked: bool,
    is_confirmed: bool,
}

/// What is to be written about a node.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wish {
    state: NodeState,
    message: String,
    address: Option<String>,
    description: Option<NodeDescription>,
    faults: Option<PlaceFaults>,
}

impl Nodes {
    pub(super) fn new(store: &Store, now: Time) -> Self {
        let period = heartbeat_period(store);
        let mut nodes = Self {
            period,
            deadlines: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            registrations: BTreeMap::new(),
            not_ready: BTreeMap::new(),
            excluded: BTreeMap::new(),
            wished: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            fallen: VecDeque::new(),
            doubt: None,
            now,
        };
        for node in store.nodes().filter(|node| node.status.state != NodeState::Down) {
            nodes.set_deadline(node.id, Some(now + period * timing::NODE_DOWN_HEARTBEATS_NEW_LEADER));
            if node.status.state == NodeState::Ready {
                nodes.wish(node.id, NodeState::Unknown, "node moved to \"unknown\" state due to leadership change in cluster");
            }
        }
        nodes
    }

    /// Checks who opens a session and notes what it says of itself. Only one that can
    /// take tasks counts as heard of.
    pub(super) fn register(&mut self, now: Time, store: &Store, hello: &Hello) -> Result<(), String> {
        self.now = now;
        let id = hello.node;
        let Some(node) = store.node(id) else { return Err(format!("node {id} is not part of the cluster")) };
        let recent = self.registrations.entry(id).or_default();
        while recent.front().is_some_and(|&at| now.since(at) >= REGISTRATIONS_WINDOW) {
            recent.pop_front();
        }
        if recent.len() >= REGISTRATIONS_MAX {
            return Err(format!("node {id} exceeded rate limit count of registrations"));
        }
        recent.push_back(now);
        let (description, notes) = believed(store, node, hello);
        let description = (node.description.value != description).then_some(description);
        let address = Some(line(&hello.address, ADDRESS_MAX));
        let not_ready = line(&hello.not_ready, MESSAGE_MAX);
        self.period = heartbeat_period(store);
        let state = if hello.not_ready.is_empty() {
            self.not_ready.remove(&id);
            self.beat(now, id);
            NodeState::Ready
        } else {
            self.not_ready.insert(id, not_ready.clone());
            // One that may yet be ready in time keeps its tasks until then.
            if self.deadlines.contains_key(&id) { NodeState::Unknown } else { NodeState::Down }
        };
        let faults = self.wished.remove(&id).and_then(|waiting| waiting.faults);
        let message = if state == NodeState::Ready { notes.join("; ") } else { not_ready };
        self.wished.insert(id, Wish { state, message: cut(&message), address, description, faults });
        Ok(())
    }

    /// Places of a node's network do not work, or all do again.
    pub(super) fn fault(&mut self, store: &Store, id: NodeId, faults: PlaceFaults) {
        let Some(node) = store.node(id) else { return };
        let waiting = self.wished.remove(&id).or_else(|| self.in_flight.get(&id).cloned());
        let stored = || Wish { state: node.status.state, message: node.status.message.clone(), ..Wish::default() };
        self.wished.insert(id, Wish { faults: Some(faults), ..waiting.unwrap_or_else(stored) });
    }

    /// Takes over why nodes have no part in the mesh; the nodes for which that changed.
    pub(super) fn exclude(&mut self, store: &Store, excluded: &BTreeMap<NodeId, String>) -> BTreeSet<NodeId> {
        if self.excluded == *excluded {
            return BTreeSet::new();
        }
        let before = std::mem::replace(&mut self.excluded, excluded.clone());
        let either = before.keys().chain(excluded.keys()).copied();
        let changed: BTreeSet<NodeId> = either.filter(|id| before.get(id) != excluded.get(id)).collect();
        for id in &changed {
            // A wish that waits is completed when it is written.
            let Some(node) = store.node(*id).filter(|_| !self.wished.contains_key(id)) else { continue };
            let state = self.in_flight.get(id).map_or(node.status.state, |wish| wish.state);
            if state == NodeState::Ready {
                self.wish(*id, state, "");
            }
        }
        changed
    }

    /// Whether a node with a session can take tasks, as it said.
    pub(super) fn is_ready(&self, node: NodeId) -> bool {
        !self.not_ready.contains_key(&node)
    }

    /// A node with a session is alive.
    pub(super) fn beat(&mut self, now: Time, node: NodeId) {
        self.now = now;
        if self.is_ready(node) {
            self.set_deadline(node, Some(now + self.period * timing::NODE_DOWN_HEARTBEATS));
        }
    }

    /// A node's session ended. One that was down for a reason of its own is silent
    /// from now on.
    pub(super) fn closed(&mut self, now: Time, node: NodeId) {
        self.now = now;
        if self.not_ready.remove(&node).is_some() && !self.deadlines.contains_key(&node) {
            self.wish(node, NodeState::Down, HEARTBEAT_FAILURE);
        }
    }

    /// A node said goodbye, since it leaves the cluster: it is down at once.
    pub(super) fn goodbye(&mut self, now: Time, node: NodeId) {
        self.now = now;
        self.set_deadline(node, None);
        self.wish(node, NodeState::Down, LEFT);
    }

    /// A node joined; it has to open a session like one that a new leader waits for.
    pub(super) fn added(&mut self, store: &Store, node: &Node) {
        self.period = heartbeat_period(store);
        if !self.deadlines.contains_key(&node.id) {
            self.set_deadline(node.id, Some(self.now + self.period * timing::NODE_DOWN_HEARTBEATS_NEW_LEADER));
        }
    }

    pub(super) fn removed(&mut self, node: NodeId) {
        self.set_deadline(node, None);
        self.registrations.remove(&node);
        self.not_ready.remove(&node);
        self.wished.remove(&node);
    }

    /// Nothing was heard because nobody listened: every node is given the time that it
    /// has under a new leader.
    pub(super) fn lagged(&mut self, now: Time) {
        self.now = now;
        self.doubt = None;
        let until = now + self.period * timing::NODE_DOWN_HEARTBEATS_NEW_LEADER;
        for node in self.deadlines.keys().copied().collect::<Vec<_>>() {
            self.set_deadline(node, Some(until));
        }
    }

    /// Whether a majority is to be asked now.
    pub(super) fn take_question(&mut self) -> bool {
        self.doubt.as_mut().is_some_and(|doubt| !std::mem::replace(&mut doubt.is_asked, true))
    }

    /// The majority that was asked has answered.
    pub(super) fn confirmed(&mut self) {
        if let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.is_asked) {
            doubt.is_confirmed = true;
        }
    }

    /// Nodes whose time is over are down; they are returned.
    pub(super) fn expire(&mut self, store: &Store, now: Time) -> Vec<NodeId> {
        self.now = now;
        self.period = heartbeat_period(store);
        let window = self.period * timing::NODE_DOWN_HEARTBEATS;
        while self.fallen.front().is_some_and(|at| now.since(*at) > window) {
            self.fallen.pop_front();
        }
        let due = self.by_deadline.iter().take_while(|(at, _)| *at <= now);
        let (silent, unfit): (Vec<_>, Vec<_>) = due.copied().partition(|(_, node)| self.is_ready(*node));
        // Those say so themselves.
        let mut expired: Vec<NodeId> = unfit.into_iter().map(|(_, node)| node).collect();
        let silent = self.believed(silent);
        self.fallen.extend(silent.iter().map(|_| now));
        expired.extend(silent);
        for node in &expired {
            self.set_deadline(*node, None);
            let reason = self.not_ready.get(node).cloned();
            self.wish(*node, NodeState::Down, reason.as_deref().unwrap_or(HEARTBEAT_FAILURE));
        }
        expired
    }

    /// Of nodes that were not heard of in time, those that are gone as far as this
    /// manager may believe it.
    fn believed(&mut self, silent: Vec<(Time, NodeId)>) -> Vec<NodeId> {
        // Of those that were there when the window began.
        let n_there = self.deadlines.len() + self.fallen.len();
        let is_most = (silent.len() + self.fallen.len()) * 2 > n_there;
        match self.doubt {
            _ if !is_most => self.doubt = None,
            Some(doubt) if doubt.is_confirmed && self.now >= doubt.since + self.period => {
                self.doubt = None;
                return silent.into_iter().filter(|(at, _)| *at <= doubt.since).map(|(_, node)| node).collect();
            }
            Some(_) => return Vec::new(),
            None => {
                self.doubt = Some(Doubt { since: self.now, is_asked: false, is_confirmed: false });
                return Vec::new();
            }
        }
        silent.into_iter().map(|(_, node)| node).collect()
    }

    /// When [`Nodes::expire`] has something to do if nothing happens; a majority's
    /// answer happens.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        match self.doubt {
            Some(doubt) => Some(doubt.since + self.period).filter(|at| *at > self.now),
            None => self.by_deadline.first().map(|(at, _)| *at),
        }
    }

    /// What is wished for and differs from what is stored, as one transaction
    /// for each node.
    pub(super) fn transactions(&mut self, store: &Store, now: Time) -> Vec<Transaction> {
        let mut transactions = Vec::new();
        for (id, wish) in std::mem::take(&mut self.wished) {
            let Some(node) = store.node(id) else { continue };
            let mut transaction = Transaction::new(now);
            let object = ObjectRef { kind: Kind::Node, id: id.0 };
            let status = next_status(node, &wish, self.excluded.get(&id), now);
            if status != node.status.value {
                transaction.preconditions.push(Precondition::Unchanged(object, SectionName::Status, node.status.version));
                transaction.writes.push(Write::NodeStatus(id, status));
            }
            if let Some(description) = wish.description.clone().filter(|description| *description != node.description.value) {
                transaction.preconditions.push(Precondition::Unchanged(
                    object,
                    SectionName::Description,
                    node.description.version,
                ));
                transaction.writes.push(Write::NodeDescription(id, description));
            }
            if !transaction.writes.is_empty() {
                self.in_flight.insert(id, wish);
                transactions.push(transaction);
            }
        }
        transactions
    }

    /// What was written about a node took effect, or not: then it is wished for
    /// again, unless something newer is.
    pub(super) fn settled(&mut self, node: NodeId, committed: bool) {
        if let Some(wish) = self.in_flight.remove(&node).filter(|_| !committed) {
            self.wished.entry(node).or_insert(wish);
        }
    }

    fn wish(&mut self, node: NodeId, state: NodeState, message: &str) {
        let waiting = self.wished.remove(&node);
        self.wished.insert(node, Wish { state, message: message.into(), ..waiting.unwrap_or_default() });
    }

    fn set_deadline(&mut self, node: NodeId, at: Option<Time>) {
        if let Some(old) = self.deadlines.remove(&node) {
            self.by_deadline.remove(&(old, node));
        }
        if let Some(at) = at {
            self.deadlines.insert(node, at);
            self.by_deadline.insert((at, node));
        }
    }
}

/// What of a node's word about itself is believed, and what is to be said of the rest.
///
/// Its host name is the one that it joined with, until a user accepts another: whatever
/// is placed by host name would follow a node that takes another's. Its address is not
/// another's, unless it is the one that this very session comes from.
fn believed(store: &Store, node: &Node, hello: &Hello) -> (NodeDescription, Vec<String>) {
    let (mut description, mut notes) = hello.description.clone().believed();
    let known = &node.description.hostname;
    let is_accepted = !description.hostname.is_empty() && description.hostname == node.spec.hostname;
    if !known.is_empty() && description.hostname != *known && !is_accepted {
        if !description.hostname.is_empty() {
            let new = &description.hostname;
            notes.push(format!(
                "says that its host name is {new}; accept it with \"skep node update --hostname {new} {}\"",
                node.id
            ));
        }
        description.hostname.clone_from(known);
    }
    let claimed = description.underlay.as_ref().map(|underlay| underlay.address);
    let is_its_own = |address: IpAddr| hello.address.parse() == Ok(address);
    if let Some(address) = claimed.filter(|address| !is_its_own(*address))
        && let Some(other) = store.holder_of(address, node.id)
    {
        notes.push(format!("its underlay address {address} is that of node {} ({})", other.description.hostname, other.id));
        description.underlay.clone_from(&node.description.underlay);
    }
    (description, notes)
}

/// What is said of a node without a part in the mesh.
pub(super) fn not_in_mesh(why: &str) -> String {
    format!("is not in the routing mesh: {why}")
}

fn next_status(node: &Arc<Node>, wish: &Wish, excluded: Option<&String>, now: Time) -> NodeStatus {
    let (since, since_wall) = match node.status.state == wish.state {
        true => (node.status.since, node.status.since_wall),
        // Wall time is stamped when it is proposed.
        false => (now, Time::ZERO),
    };
    let address = wish.address.clone().unwrap_or_else(|| node.status.address.clone());
    let message = match excluded {
        Some(why) if wish.state == NodeState::Ready => not_in_mesh(why),
        _ => wish.message.clone(),
    };
    // What a node said of its network is not known any more when it is gone.
    let faults = match wish.state {
        NodeState::Down => PlaceFaults::default(),
        _ => wish.faults.clone().unwrap_or_else(|| node.status.faults.clone()),
    };
    NodeStatus { state: wish.state, message, address, since, since_wall, faults }
}

/// The period between two heartbeats.
fn heartbeat_period(store: &Store) -> Duration {
    store.cluster().map_or(timing::SESSION_HEARTBEAT, |cluster| cluster.spec.heartbeat_period)
}
