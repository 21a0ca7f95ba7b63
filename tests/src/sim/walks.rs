//! Packets walked through what the nodes' kernels hold.
//!
//! When the leader says that a task's publication has passed the barrier, a packet
//! from every node on its networks must reach it by its service's virtual address
//! or name, and keeps doing so; when its withdrawal has, none may. No task is told
//! that it may stop while a node would still lead anybody to it.
//!
//! What is *not* guaranteed: anything about nodes that were not waited for (down,
//! or named as stragglers), whose power failed since, or that listened to a leader
//! who did not know yet that it is none.

use super::machines::Machine;
use super::{Simulation, services};
use skep_manager_core::publication::Passage;
use skep_manager_core::store::Store;
use skep_model::endpoint::{EndpointState, Publication};
use skep_model::node::{Availability, NodeState};
use skep_model::overlay::EndpointId;
use skep_model::task::Task;
use skep_model::{NetworkId, NodeId, ServiceId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A change of a task's publication that has passed, and who was looked at then.
#[derive(Debug)]
struct Passed {
    state: EndpointState,
    machines: BTreeSet<usize>,
    /// Nodes that it passed without, until they have caught up. Whoever comes later
    /// than that is nobody's to wait for, and learns of it with everything else.
    missing: Vec<NodeId>,
}

/// What was seen of the newest leader's barrier.
#[derive(Debug, Default)]
pub(super) struct Walks {
    term: u64,
    began_at: Option<Time>,
    /// The store at the last look.
    before: Store,
    passed: BTreeMap<TaskId, Passed>,
    /// Tasks that were told that they may stop.
    may_stop: BTreeSet<TaskId>,
}

impl Simulation {
    /// Looks at the barrier of a manager that leads, after an event of its; `is_of_nodes` if
    /// that was one by which nodes say what they have done. Nothing else opens a gate but
    /// time, and what follows from that is stored.
    pub(super) fn check_barrier(&mut self, number: usize, is_of_nodes: bool) -> Result<(), String> {
        let Some(manager) = self.machines[number].manager.as_ref() else { return Ok(()) };
        let status = manager.status();
        if !status.is_ready || status.term < self.walks.term {
            return Ok(());
        }
        let store = manager.store().clone();
        if status.term > self.walks.term {
            self.walks = Walks { term: status.term, began_at: Some(self.now), before: store, ..Walks::default() };
            return Ok(());
        }
        if store.version == self.walks.before.version && !is_of_nodes {
            return Ok(());
        }
        let mut passed = std::mem::take(&mut self.walks.passed);
        passed.retain(|id, seen| store.task(*id).is_some_and(|task| task.plan.endpoint == seen.state && is_on_networks(task)));
        if store.version != self.walks.before.version {
            // Who leaves a network and comes back to it learns everything anew.
            for (id, seen) in &mut passed {
                let Some(task) = store.task(*id) else { continue };
                seen.machines.retain(|number| stayed(&self.walks.before, &store, self.machines[*number].node, task));
            }
        }
        for task in store.tasks().filter(|task| is_on_networks(task)) {
            let seen = passed.get(&task.id);
            if task.plan.endpoint.publication == Publication::Unpublished || seen.is_some_and(|seen| seen.missing.is_empty()) {
                continue;
            }
            let missing = match manager.passage(task.id) {
                Some(Passage::Open) => Vec::new(),
                Some(Passage::OpenedWithout(nodes)) => nodes,
                Some(Passage::Waiting) | None => continue,
            };
            if seen.is_some_and(|seen| seen.missing == missing) {
                continue;
            }
            let is_due = |machine: &&Machine| match seen {
                None => stayed(&self.walks.before, &store, machine.node, task),
                Some(seen) => seen.missing.contains(&machine.node) && takes_part(&store, machine.node, task),
            };
            let due = self.machines.iter().filter(is_due).filter(|machine| !missing.contains(&machine.node));
            let mut machines: BTreeSet<usize> = due.map(|machine| machine.number).collect();
            for machine in &machines {
                self.walk(&store, &self.machines[*machine], task)?;
            }
            let how = if missing.is_empty() {
                format!("{:?} passed", task.plan.endpoint.publication)
            } else {
                "opened without stragglers".into()
            };
            self.coverage.count(format!("barrier: {how}"));
            machines.extend(seen.iter().flat_map(|seen| &seen.machines));
            passed.insert(task.id, Passed { state: task.plan.endpoint, machines, missing });
        }
        (self.walks.passed, self.walks.before) = (passed, store);
        Ok(())
    }

    /// What a kernel holds changed: what had passed has to stay so.
    pub(super) fn check_walks_from(&self, number: usize) -> Result<(), String> {
        let machine = &self.machines[number];
        for (id, passed) in self.walks.passed.iter().filter(|(_, passed)| passed.machines.contains(&number)) {
            let task = self.walks.before.task(*id).filter(|task| task.plan.endpoint == passed.state);
            if let Some(task) = task.filter(|task| takes_part(&self.walks.before, machine.node, task)) {
                self.walk(&self.walks.before, machine, task)?;
            }
        }
        Ok(())
    }

    /// A manager tells a node that a task may stop.
    pub(super) fn check_may_stop(&mut self, manager: usize, id: TaskId) -> Result<(), String> {
        self.coverage.count("assignments: may stop");
        let Some(manager) = self.machines[manager].manager.as_ref() else { return Ok(()) };
        if manager.status().term != self.walks.term || !self.walks.may_stop.insert(id) {
            return Ok(());
        }
        let Some(task) = manager.store().task(id).cloned() else { return Ok(()) };
        let stragglers = match manager.passage(id) {
            Some(Passage::OpenedWithout(nodes)) => nodes,
            _ => Vec::new(),
        };
        let passed = self.walks.passed.get(&id);
        let was_looked_at = |number| passed.is_none_or(|passed| passed.machines.contains(&number));
        for machine in self.machines.iter().filter(|machine| !stragglers.contains(&machine.node)) {
            let has_to_know = was_looked_at(machine.number) && takes_part(manager.store(), machine.node, &task);
            if has_to_know && leads_to(machine, &task) && self.counts(machine) {
                return Err(format!("task {id} is told that it may stop while machine {} still leads to it", machine.number));
            }
        }
        Ok(())
    }

    /// Walks a packet from a machine to a task, or sees that none gets there.
    fn walk(&self, store: &Store, machine: &Machine, task: &Task) -> Result<(), String> {
        if !self.counts(machine) {
            return Ok(());
        }
        let name =
            |what: &str| format!("machine {} {what} task {}, whose {:?} has passed", machine.number, task.id, task.plan.endpoint);
        if task.plan.endpoint.publication == Publication::Withdrawn {
            return if leads_to(machine, task) { Err(name("still leads to")) } else { Ok(()) };
        }
        // The names of a service that was removed go with it, its tasks follow.
        if store.service(task.service_id).is_none() {
            return Ok(());
        }
        for attachment in &task.networks {
            let kernel = &machine.kernel;
            let Some(network) = kernel.networks.get(&attachment.network) else { continue };
            // A network that does not work cannot be left either.
            if kernel.is_broken(network.id) && !is_of(store, machine.node, network.id) {
                continue;
            }
            let id = EndpointId { network: network.id, task: task.id };
            let Some(endpoint) = kernel.endpoints.get(&id) else { return Err(name("has no endpoint of")) };
            let service = kernel.services.get(&task.service_id);
            if !endpoint.is_published || endpoint.addresses != attachment.addresses || Some(endpoint.node) != task.plan.node {
                return Err(name("has another endpoint of"));
            }
            if service.is_none_or(|service| service.networks.iter().all(|part| part.network != network.id)) {
                return Err(name("does not know the service of"));
            }
            let is_removed = store.node(endpoint.node).is_none();
            if !kernel.peers.contains_key(&endpoint.node) && !is_removed {
                return Err(name("does not know the way to"));
            }
        }
        let is_on_any = task.networks.iter().any(|attachment| machine.kernel.networks.contains_key(&attachment.network));
        if is_on_any { Ok(()) } else { Err(name("is on no network of")) }
    }

    /// Whether what a machine's kernel holds says anything about the newest leader.
    fn counts(&self, machine: &Machine) -> bool {
        machine.kernel.changed.is_some_and(|(at, term)| {
            let was_misled = term < self.walks.term && self.walks.began_at.is_some_and(|began| at > began);
            !was_misled
        })
    }

    /// What the kernel of a machine lacks until it holds what the store implies.
    pub(super) fn network_lacks(&self, machine: &Machine, store: &Store) -> Option<String> {
        let number = machine.number;
        let kernel = &machine.kernel;
        if !kernel.is_idle() {
            return Some(format!("machine {number} is programming its network"));
        }
        let networks: BTreeSet<NetworkId> =
            store.networks().map(|network| network.id).filter(|network| is_of(store, machine.node, *network)).collect();
        let held: BTreeSet<NetworkId> = kernel.networks.keys().copied().collect();
        if networks != held {
            return Some(format!("machine {number} holds networks {held:?} and takes part in {networks:?}"));
        }
        let endpoints: BTreeSet<(EndpointId, bool)> = store
            .tasks()
            .filter(|task| is_on_networks(task))
            .flat_map(|task| task.networks.iter().map(move |attachment| (task, attachment.network)))
            .filter(|(_, network)| networks.contains(network))
            .map(|(task, network)| {
                let is_published = task.plan.endpoint.publication == Publication::Published;
                (EndpointId { network, task: task.id }, is_published)
            })
            .collect();
        let held: BTreeSet<(EndpointId, bool)> =
            kernel.endpoints.values().map(|endpoint| (endpoint.id, endpoint.is_published)).collect();
        (endpoints != held).then(|| format!("machine {number} holds endpoints {held:?} and there are {endpoints:?}"))
    }
}

/// Whether a name, virtual address or published port leads from a machine to a task.
fn leads_to(machine: &Machine, task: &Task) -> bool {
    let endpoint = |network| machine.kernel.endpoints.get(&EndpointId { network, task: task.id });
    task.networks.iter().any(|attachment| endpoint(attachment.network).is_some_and(|endpoint| endpoint.is_published))
}

fn is_on_networks(task: &Task) -> bool {
    let is_live = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    is_live && task.plan.node.is_some() && !task.networks.is_empty()
}

/// Whether a node takes part in a network.
fn is_of(store: &Store, node: NodeId, network: NetworkId) -> bool {
    let is_on = |task: &Arc<Task>| is_on_networks(task) && task.networks.iter().any(|attachment| attachment.network == network);
    // One may be removed while tasks that are not wanted any more are still on it.
    let Some(stored) = store.network(network) else { return false };
    (stored.spec.ingress && services::has_mesh(store)) || store.tasks_of_node(node).any(is_on)
}

/// Whether a node has had to know of a task all the time between two looks. One
/// event may apply several transactions: who is on a network by another task than
/// before may have left it for a moment, in which nobody waited for it.
fn stayed(before: &Store, after: &Store, node: NodeId, task: &Task) -> bool {
    let causes = |store: &Store, network: NetworkId| {
        let is_on =
            |task: &&Arc<Task>| is_on_networks(task) && task.networks.iter().any(|attachment| attachment.network == network);
        let tasks: BTreeSet<TaskId> = store.tasks_of_node(node).filter(is_on).map(|task| task.id).collect();
        let is_ingress = store.network(network).is_some_and(|network| network.spec.ingress);
        let services: BTreeSet<ServiceId> =
            store.services().filter(|service| is_ingress && services::is_in_mesh(service)).map(|service| service.id).collect();
        (tasks, services)
    };
    let has_stayed_on = |network: NetworkId| {
        let (tasks, services) = causes(before, network);
        let (tasks_after, services_after) = causes(after, network);
        !tasks.is_disjoint(&tasks_after) || !services.is_disjoint(&services_after)
    };
    [before, after].iter().all(|store| takes_part(store, node, task))
        && task.networks.iter().any(|attachment| has_stayed_on(attachment.network))
}

/// Whether a node that is ready has to know of a task.
fn takes_part(store: &Store, node: NodeId, task: &Task) -> bool {
    let is_there = store.node(node).is_some_and(|node| {
        let is_empty = !store.tasks_of_node(node.id).any(|task| is_on_networks(task));
        node.status.state == NodeState::Ready && !(node.spec.availability == Availability::Drain && is_empty)
    });
    is_there && task.networks.iter().any(|attachment| is_of(store, node, attachment.network))
}
