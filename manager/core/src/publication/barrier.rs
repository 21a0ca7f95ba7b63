//! Whether a task's publication, or its withdrawal, is where it must be.
//!
//! A gate stands before each change of a task's [`EndpointState`]: it waits for the
//! nodes on the task's networks until each has programmed the link of its chain
//! that told it: the node has looked at that link, and none of the places that it
//! names as failed is one that the task needs ([`skep_model::place`]). A node that
//! goes down, is removed or leaves the networks is not waited for. When the cluster's timeout is over the gate opens without those
//! that are missing, and they are named until they catch up.
//!
//! All of it is in memory: a new leader's sessions begin with everything, so what
//! was told is told and acknowledged anew.

use super::overlay::is_on_networks;
use super::publishing::is_to_be_found;
use skep_model::endpoint::{EndpointState, Publication};
use skep_model::task::Task;
use skep_model::{NodeId, TaskId, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Where a task's newest change of publication stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Some node has yet to say that it has programmed it.
    Waiting,
    /// Every node that must know has programmed it, or none must.
    Open,
    /// The timeout is over, and these nodes have not said so.
    OpenedWithout(Vec<NodeId>),
}

/// Before one change of one task.
#[derive(Debug)]
struct Gate {
    state: EndpointState,
    until: Time,
    /// Nodes that are waited for, with the link that told them; `None` = not told yet.
    waiting: BTreeMap<NodeId, Option<u64>>,
    is_overdue: bool,
}

/// All gates. An open one stays as long as its task is on networks.
#[derive(Debug, Default)]
pub struct Barrier {
    gates: BTreeMap<TaskId, Gate>,
    /// Gates that wait for a node.
    of_node: BTreeMap<NodeId, BTreeSet<TaskId>>,
    deadlines: BTreeSet<(Time, TaskId)>,
    /// Gates that opened, or whose stragglers changed, since somebody asked.
    news: BTreeSet<TaskId>,
}

impl Barrier {
    /// Where the newest change of a task's publication stands. A task that nobody
    /// finds by the network has nothing to wait for.
    pub fn passage(&self, task: &Task) -> Passage {
        if !is_on_networks(task) || task.plan.endpoint.publication == Publication::Unpublished {
            return Passage::Open;
        }
        match self.gates.get(&task.id).filter(|gate| gate.state == task.plan.endpoint) {
            // A change that has not committed yet was told to nobody.
            None => Passage::Waiting,
            Some(gate) if gate.waiting.is_empty() => Passage::Open,
            Some(gate) if gate.is_overdue => Passage::OpenedWithout(gate.waiting.keys().copied().collect()),
            Some(_) => Passage::Waiting,
        }
    }

    /// Whether a task that runs is found wherever it is to be: published, and that has
    /// passed. One that is not to be found anywhere always is.
    pub fn reached(&self, task: &Task) -> bool {
        let is_published = task.plan.endpoint.publication == Publication::Published;
        !is_to_be_found(task) || (is_published && self.passage(task) != Passage::Waiting)
    }

    /// When the next gate opens although nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Gates that opened, or whose stragglers changed, since the last call.
    pub(crate) fn take_news(&mut self) -> BTreeSet<TaskId> {
        std::mem::take(&mut self.news)
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// A task's publication changed: `nodes` have to program that.
    pub(crate) fn begin(&mut self, task: TaskId, state: EndpointState, nodes: BTreeSet<NodeId>, until: Time) {
        self.end(task);
        for node in &nodes {
            self.of_node.entry(*node).or_default().insert(task);
        }
        if nodes.is_empty() {
            self.news.insert(task);
        } else {
            self.deadlines.insert((until, task));
        }
        let waiting = nodes.into_iter().map(|node| (node, None)).collect();
        self.gates.insert(task, Gate { state, until, waiting, is_overdue: false });
    }

    /// A task is on no network any more.
    pub(crate) fn end(&mut self, task: TaskId) {
        if let Some(gate) = self.gates.remove(&task) {
            self.deadlines.remove(&(gate.until, task));
            for node in gate.waiting.keys() {
                self.forget(*node, task);
            }
        }
    }

    /// The state that a task's gate is about.
    pub(crate) fn state(&self, task: TaskId) -> Option<EndpointState> {
        self.gates.get(&task).map(|gate| gate.state)
    }

    /// Tasks whose gates have yet to open.
    pub(crate) fn waiting(&self) -> Vec<TaskId> {
        self.deadlines.iter().map(|(_, task)| *task).collect()
    }

    /// A node came to the networks of a task. While its publication is under way
    /// the node is waited for too; of a withdrawal it never heard anything else.
    pub(crate) fn join(&mut self, node: NodeId, task: TaskId) {
        if self.gates.get(&task).is_some_and(|gate| gate.state.publication == Publication::Published) {
            self.come_back(node, task);
        }
    }

    /// A node that was not waited for came back, with what it held when it left.
    pub(crate) fn come_back(&mut self, node: NodeId, task: TaskId) {
        if let Some(gate) = self.gates.get_mut(&task)
            && !gate.waiting.is_empty()
            && !gate.is_overdue
        {
            gate.waiting.entry(node).or_insert(None);
            self.of_node.entry(node).or_default().insert(task);
        }
    }

    /// A session was told everything up to this link.
    pub(crate) fn told(&mut self, node: NodeId, link: u64) {
        for task in self.of_node.get(&node).into_iter().flatten() {
            if let Some(waiting) = self.gates.get_mut(task).and_then(|gate| gate.waiting.get_mut(&node)) {
                waiting.get_or_insert(link);
            }
        }
    }

    /// A node has looked at everything that it was told up to this link, and has
    /// programmed it but for the tasks that `is_held` says.
    pub(crate) fn programmed(&mut self, node: NodeId, link: u64, is_held: impl Fn(TaskId) -> bool) {
        let is_told = |gate: &Gate| matches!(gate.waiting.get(&node), Some(Some(told)) if *told <= link);
        let told = self.waiting_for(node).filter(|task| self.gates.get(task).is_some_and(is_told));
        let done: Vec<TaskId> = told.filter(|task| !is_held(*task)).collect();
        done.into_iter().for_each(|task| self.pass(node, task));
    }

    /// A session ended: its successor will be told everything again.
    pub(crate) fn session_ended(&mut self, node: NodeId) {
        for task in self.of_node.get(&node).into_iter().flatten() {
            if let Some(waiting) = self.gates.get_mut(task).and_then(|gate| gate.waiting.get_mut(&node)) {
                *waiting = None;
            }
        }
    }

    /// A node is not waited for any more, but for tasks that `keeps` says.
    pub(crate) fn leave(&mut self, node: NodeId, keeps: impl Fn(TaskId) -> bool) {
        let left: Vec<TaskId> = self.waiting_for(node).filter(|task| !keeps(*task)).collect();
        left.into_iter().for_each(|task| self.pass(node, task));
    }

    /// Opens the gates whose time is over.
    pub(crate) fn expire(&mut self, now: Time) {
        while let Some((at, task)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, task));
            if let Some(gate) = self.gates.get_mut(&task) {
                gate.is_overdue = true;
                self.news.insert(task);
            }
        }
    }

    fn waiting_for(&self, node: NodeId) -> impl Iterator<Item = TaskId> + '_ {
        self.of_node.get(&node).into_iter().flatten().copied()
    }

    /// One node less to wait for.
    fn pass(&mut self, node: NodeId, task: TaskId) {
        self.forget(node, task);
        let Some(gate) = self.gates.get_mut(&task) else { return };
        gate.waiting.remove(&node);
        if gate.waiting.is_empty() {
            self.deadlines.remove(&(gate.until, task));
        }
        if gate.waiting.is_empty() || gate.is_overdue {
            self.news.insert(task);
        }
    }

    fn forget(&mut self, node: NodeId, task: TaskId) {
        if let Some(tasks) = self.of_node.get_mut(&node) {
            tasks.remove(&task);
            if tasks.is_empty() {
                self.of_node.remove(&node);
            }
        }
    }
}
