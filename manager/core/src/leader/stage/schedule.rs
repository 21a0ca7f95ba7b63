//! Chooses nodes for tasks, and says why there is none.
//!
//! Filters first, then Swarm's ranking: faulty nodes last, then fewest tasks of
//! the service, then fewest tasks; within the branches that spread preferences
//! ask for. What is still equal is decided by chance, from the seed. A task that
//! fits nowhere stays pending with the filters and their counts as its error.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::ledger::Load;
use crate::mint::{Mint, Purpose};
use crate::rules::constraints;
use crate::rules::reservation::{host_ports, lacks_addresses};
use crate::store::Store;
use skep_model::constraint::Constraint;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::service::Platform;
use skep_model::task::Task;
use skep_model::{NodeId, ServiceId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a group of equal tasks asks of a node.
struct Ask<'a> {
    task: &'a Task,
    constraints: Vec<Constraint>,
    /// A preassigned task is counted on its node already.
    is_preassigned: bool,
}

/// One filter: its test, and how a refusal by it is told for one and for several nodes.
struct Filter {
    passes: fn(&Ask<'_>, &Node, &Load) -> bool,
    one: &'static str,
    many: &'static str,
}

/// All filters in Swarm's order. A node counts for the first that refuses it.
const FILTERS: &[Filter] = &[
    Filter { passes: is_ready, one: "1 node not available for new tasks", many: "# nodes not available for new tasks" },
    Filter { passes: has_resources, one: "insufficient resources on 1 node", many: "insufficient resources on # nodes" },
    Filter {
        passes: meets_constraints,
        one: "scheduling constraints not satisfied on 1 node",
        many: "scheduling constraints not satisfied on # nodes",
    },
    Filter { passes: has_platform, one: "unsupported platform on 1 node", many: "unsupported platform on # nodes" },
    Filter {
        passes: has_host_ports,
        one: "host-mode port already in use on 1 node",
        many: "host-mode port already in use on # nodes",
    },
    Filter {
        passes: has_room_for_replica,
        one: "max replicas per node limit exceed",
        many: "max replicas per node limit exceed",
    },
];

fn is_ready(_: &Ask<'_>, node: &Node, _: &Load) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

fn has_resources(ask: &Ask<'_>, node: &Node, load: &Load) -> bool {
    let (part, offered) = (ask.task.spec.resources.reservations, node.description.resources);
    let fits = |part: u64, used: u64, offered: u64| part == 0 || used.saturating_add(part) <= offered;
    fits(part.nano_cpus, load.reserved.nano_cpus, offered.nano_cpus)
        && fits(part.memory_bytes, load.reserved.memory_bytes, offered.memory_bytes)
}

fn meets_constraints(ask: &Ask<'_>, node: &Node, _: &Load) -> bool {
    constraints::are_met(&ask.constraints, node)
}

fn has_platform(ask: &Ask<'_>, node: &Node, _: &Load) -> bool {
    let platforms = &ask.task.spec.placement.platforms;
    let have = &node.description.platform;
    let same = |want: &str, have: &str| want.is_empty() || canonical(want) == canonical(have);
    let supports = |want: &Platform| same(&want.os, &have.os) && same(&want.architecture, &have.architecture);
    platforms.is_empty() || platforms.iter().any(supports)
}

/// Machines call themselves by other names than images do.
fn canonical(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        _ => name,
    }
}

fn has_host_ports(ask: &Ask<'_>, _: &Node, load: &Load) -> bool {
    host_ports(ask.task).all(|port| !load.host_ports.contains_key(&port))
}

fn has_room_for_replica(ask: &Ask<'_>, _: &Node, load: &Load) -> bool {
    let max = ask.task.spec.placement.max_replicas;
    let n = load.n_tasks_of.get(&ask.task.service_id).copied().unwrap_or(0) - u64::from(ask.is_preassigned);
    max == 0 || n < max
}

/// Which filters refused how many nodes.
#[derive(Debug, Default)]
struct Refusals([usize; FILTERS.len()]);

impl Refusals {
    fn check(&mut self, ask: &Ask<'_>, node: &Node, load: &Load) -> bool {
        match FILTERS.iter().position(|filter| !(filter.passes)(ask, node, load)) {
            Some(refused) => {
                self.0[refused] += 1;
                false
            }
            None => true,
        }
    }

    /// Swarm's sentence: the most frequent reason first.
    fn explain(&self) -> String {
        let mut reasons: Vec<(usize, &Filter)> = self.0.iter().copied().zip(FILTERS).filter(|(count, _)| *count > 0).collect();
        reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let text = |(count, filter): &(usize, &Filter)| match count {
            1 => filter.one.to_owned(),
            count => filter.many.replace('#', &count.to_string()),
        };
        match reasons.is_empty() {
            true => "no suitable node".into(),
            false => format!("no suitable node ({})", reasons.iter().map(text).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// Whether a service has a task without a node for which a running one was stopped.
pub(crate) fn has_claim(store: &Store, service: ServiceId) -> bool {
    let is_unplaced = |task: &Arc<Task>| task.is_active() && task.status.state < TaskState::Assigned;
    store.tasks_of_service(service).any(|task| is_unplaced(task) && task.plan.takes_over)
}

/// Places the draft's tasks that have no node yet; whether any has to wait.
pub(crate) fn schedule(draft: &mut Draft<'_>, mint: &mut Mint) -> bool {
    let unplaced: Vec<Arc<Task>> =
        draft.tasks().filter(|task| task.is_wanted() && task.status.state < TaskState::Assigned).cloned().collect();
    let mut groups: BTreeMap<u64, Vec<Arc<Task>>> = BTreeMap::new();
    let mut is_any_left = unplaced.iter().any(|task| lacks_addresses(task));
    for task in unplaced.into_iter().filter(|task| !lacks_addresses(task)) {
        match task.plan.node {
            Some(node) => is_any_left |= !confirm(draft, &task, node),
            None => groups.entry(task.spec_version).or_default().push(task),
        }
    }
    for (_, mut group) in groups {
        group.sort_by_key(|task| (!task.plan.takes_over, task.meta.made(), task.slot, task.id));
        is_any_left |= !place(draft, mint, &group);
    }
    is_any_left
}

/// Lets a preassigned task go to its node if it passes the filters.
fn confirm(draft: &mut Draft<'_>, task: &Task, node: NodeId) -> bool {
    let ask = Ask { task, constraints: constraints::parse(&task.spec.placement.constraints), is_preassigned: true };
    let mut refusals = Refusals::default();
    let load = draft.ledger.load(node).cloned().unwrap_or_default();
    if draft.store.node(node).is_some_and(|node| refusals.check(&ask, node, &load)) {
        assign(draft, task, node, "scheduler confirmed task can run on preassigned node");
        return true;
    }
    explain(draft, task, &refusals.explain());
    false
}

/// Spreads equal tasks over the nodes that may have them; whether all found one.
fn place(draft: &mut Draft<'_>, mint: &mut Mint, group: &[Arc<Task>]) -> bool {
    let Some(first) = group.first() else { return true };
    let ask = Ask { task: first, constraints: constraints::parse(&first.spec.placement.constraints), is_preassigned: false };
    let mut refusals = Refusals::default();
    let mut tree = Branch::default();
    let nothing = Load::default();
    for node in draft.store.nodes() {
        let load = draft.ledger.load(node.id).unwrap_or(&nothing);
        let is_candidate = refusals.check(&ask, node, load);
        let rank = is_candidate.then(|| rank(draft, &ask, node.id, mint));
        let n_of_service = load.n_tasks_of.get(&first.service_id).copied().unwrap_or(0);
        tree.add(&first.spec.placement.spread, node, n_of_service, rank);
    }
    let mut is_all_placed = true;
    for task in group {
        match tree.take() {
            Some((path, mut rank)) => {
                assign(draft, task, rank.node, "scheduler assigned task to node");
                (rank.n_of_service, rank.n_tasks) = (rank.n_of_service + 1, rank.n_tasks + 1);
                let load = draft.ledger.load(rank.node).unwrap_or(&nothing);
                let keeps = draft.store.node(rank.node).is_some_and(|node| refusals.check(&ask, node, load));
                tree.put_back(&path, keeps.then_some(rank));
            }
            None => {
                explain(draft, task, &refusals.explain());
                is_all_placed = false;
            }
        }
    }
    is_all_placed
}

/// How good a node is for the next task; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    penalty: usize,
    n_of_service: u64,
    n_tasks: u64,
    chance: u64,
    node: NodeId,
}

fn rank(draft: &Draft<'_>, ask: &Ask<'_>, node: NodeId, mint: &mut Mint) -> Rank {
    let load = draft.ledger.load(node);
    let (service, version) = (ask.task.service_id, ask.task.spec_version);
    Rank {
        penalty: draft.ledger.penalty(node, service, version, draft.now),
        n_of_service: load.and_then(|load| load.n_tasks_of.get(&service).copied()).unwrap_or(0),
        n_tasks: load.map_or(0, |load| load.n_tasks),
        chance: mint.number(Purpose::Choice),
        node,
    }
}

/// A branch of the tree that spread preferences make: nodes with the same labels.
#[derive(Debug, Default)]
struct Branch {
    /// Tasks of the service on all nodes of the branch.
    n_tasks: u64,
    /// Nodes that may have another task.
    ranks: BTreeSet<Rank>,
    branches: BTreeMap<String, Branch>,
}

impl Branch {
    fn add(&mut self, spread: &[String], node: &Node, n_tasks: u64, rank: Option<Rank>) {
        let mut branch = self;
        branch.n_tasks += n_tasks;
        for value in spread.iter().filter_map(|descriptor| label(node, descriptor)) {
            branch = branch.branches.entry(value.to_owned()).or_default();
            branch.n_tasks += n_tasks;
        }
        branch.ranks.extend(rank);
    }

    fn has_room(&self) -> bool {
        !self.ranks.is_empty() || self.branches.values().any(Branch::has_room)
    }

    /// Takes the best node of the emptiest branch, and tells the way to it.
    fn take(&mut self) -> Option<(Vec<String>, Rank)> {
        let mut path = Vec::new();
        let mut branch = self;
        loop {
            branch.n_tasks += 1;
            let mut open: Vec<_> = branch.branches.iter().filter(|(_, branch)| branch.has_room()).collect();
            open.sort_by_key(|(name, branch)| (branch.n_tasks, (*name).clone()));
            let next = open.first().map(|(name, _)| (*name).clone());
            match next {
                Some(name) => {
                    branch = branch.branches.get_mut(&name).expect("it was just found");
                    path.push(name);
                }
                None => return branch.ranks.pop_first().map(|rank| (path, rank)),
            }
        }
    }

    fn put_back(&mut self, path: &[String], rank: Option<Rank>) {
        let mut branch = self;
        for name in path {
            branch = branch.branches.get_mut(name).expect("branches are never removed");
        }
        branch.ranks.extend(rank);
    }
}

/// The value that a spread preference divides by; `None` if it divides by nothing.
fn label<'a>(node: &'a Node, descriptor: &str) -> Option<&'a str> {
    let of = |labels: &'a BTreeMap<String, String>, key: &str| labels.get(key).map_or("", String::as_str);
    if let Some(key) = descriptor.strip_prefix("node.labels.") {
        return Some(of(&node.spec.labels, key));
    }
    descriptor.strip_prefix("engine.labels.").map(|key| of(&node.description.engine_labels, key))
}

fn assign(draft: &mut Draft<'_>, task: &Task, node: NodeId, message: &str) {
    let now = draft.now;
    draft.relies_on(node);
    draft.change(task.id, |task| {
        task.plan.value.node = Some(node);
        let status = &mut task.status.value;
        status.state = TaskState::Assigned;
        status.message = message.into();
        status.error.clear();
        (status.timestamp, status.applied_at) = (Time::ZERO, now);
    });
}

fn explain(draft: &mut Draft<'_>, task: &Task, error: &str) {
    if task.status.error != error {
        let error = error.to_owned();
        draft.change(task.id, |task| task.status.value.error = error);
    }
}
