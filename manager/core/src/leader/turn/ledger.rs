//! What every node carries: reservations, ports, tasks by service, recent failures.
//!
//! Derived from the tasks and kept up to date by their changes, so that a
//! scheduling decision costs the nodes it looks at and never a walk over all
//! tasks. As in Swarm, a task counts as active as long as it is wanted, but its
//! reservation is released only when it was observed to have ended.
//!
//! Failures are remembered in memory only; a new leader finds those that still
//! matter among the stored tasks.

use crate::rules::reservation::{holds_reservation, host_ports};
use skep_model::endpoint::Transport;
use skep_model::resources::Resources;
use skep_model::task::Task;
use skep_model::{NodeId, ServiceId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// So many failures of one spec version on one node make the node a faulty one for it.
pub(crate) const FAILURES_MAX: usize = 5;
/// Failures older than this are forgotten.
pub(crate) const FAILURE_MEMORY: Duration = Duration::from_secs(300);

/// What one node carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Set aside by tasks that have not been observed to have ended.
    pub(crate) reserved: Resources,
    /// Wanted tasks of all services.
    pub(crate) n_tasks: u64,
    /// Wanted tasks by service.
    pub(crate) n_tasks_of: BTreeMap<ServiceId, u64>,
    /// Ports that the node answers on for tasks that have not been observed to have ended.
    pub(crate) host_ports: BTreeMap<(u16, Transport), u64>,
}

/// What all nodes carry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    loads: BTreeMap<NodeId, Load>,
    failures: BTreeMap<(NodeId, ServiceId, u64), VecDeque<Time>>,
}

impl Ledger {
    /// What a node carries.
    pub(crate) fn load(&self, node: NodeId) -> Option<&Load> {
        self.loads.get(&node)
    }

    /// A task appeared, changed or went.
    pub(crate) fn change(&mut self, old: Option<&Task>, new: Option<&Task>) {
        if let Some(task) = old {
            self.count(task, false);
        }
        if let Some(task) = new {
            self.count(task, true);
        }
    }

    /// Remembers that a task failed on its node.
    pub(crate) fn failed(&mut self, task: &Task, at: Time) {
        if let Some(node) = task.plan.node {
            let times = self.failures.entry((node, task.service_id, task.spec_version)).or_default();
            times.push_back(at);
            if times.len() > FAILURES_MAX {
                times.pop_front();
            }
        }
    }

    /// How often tasks of a spec version failed on a node lately: 0 below the
    /// number that makes the node a faulty one.
    pub(crate) fn penalty(&self, node: NodeId, service: ServiceId, spec_version: u64, now: Time) -> usize {
        let times = self.failures.get(&(node, service, spec_version));
        let recent = times.map_or(0, |times| times.iter().filter(|&&at| now.since(at) < FAILURE_MEMORY).count());
        if recent >= FAILURES_MAX { recent } else { 0 }
    }

    /// Forgets failures that do not matter any more.
    pub(crate) fn forget(&mut self, now: Time) {
        self.failures.retain(|_, times| times.back().is_some_and(|&at| now.since(at) < FAILURE_MEMORY));
    }

    fn count(&mut self, task: &Task, is_added: bool) {
        let Some(node) = task.plan.node else { return };
        let load = self.loads.entry(node).or_default();
        if holds_reservation(task) {
            let part = task.spec.resources.reservations;
            let total = &mut load.reserved;
            total.nano_cpus = step(total.nano_cpus, part.nano_cpus, is_added);
            total.memory_bytes = step(total.memory_bytes, part.memory_bytes, is_added);
            for port in host_ports(task) {
                let n = load.host_ports.entry(port).or_default();
                *n = step(*n, 1, is_added);
                if *n == 0 {
                    load.host_ports.remove(&port);
                }
            }
        }
        if task.is_wanted() {
            load.n_tasks = step(load.n_tasks, 1, is_added);
            let of_service = load.n_tasks_of.entry(task.service_id).or_default();
            *of_service = step(*of_service, 1, is_added);
            if *of_service == 0 {
                load.n_tasks_of.remove(&task.service_id);
            }
        }
        if *load == Load::default() {
            self.loads.remove(&node);
        }
    }
}

fn step(total: u64, part: u64, is_added: bool) -> u64 {
    if is_added {
        total.saturating_add(part)
    } else {
        total.checked_sub(part).expect("what a node carries is the sum of its tasks")
    }
}
