//! Takes tasks from nodes that may not have them any more.
//!
//! A task on an active node that no longer meets the constraints, or whose
//! reservations no longer fit, is rejected; one whose node is gone or has been
//! down for a day is orphaned. What is to replace it is decided later.

use crate::leader::turn::draft::Draft;
use crate::rules::constraints;
use crate::rules::reservation::holds_reservation;
use crate::rules::wanted::Wanted;
use crate::store::Store;
use crate::timing;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::resources::Resources;
use skep_model::task::Task;
use skep_model::{NodeId, TaskId, TaskState, Time};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The error of a task that its node may not have any more, as in Swarm.
const REJECTED: &str = "assigned node no longer meets constraints";

/// What becomes of a task on its node.
enum Outcome {
    Stays,
    Rejected,
    Orphaned(&'static str),
}

/// Rejects and orphans tasks of the draft's service. `overcommitted` are tasks
/// whose reservations do not fit on their nodes any more.
pub(crate) fn enforce(draft: &mut Draft<'_>, wanted: Option<&Wanted>, overcommitted: &BTreeSet<TaskId>) {
    let on_nodes: Vec<Arc<Task>> = draft.tasks().filter(|task| holds_reservation(task)).cloned().collect();
    for task in on_nodes {
        let node = task.plan.node.and_then(|node| draft.store.node(node));
        let is_overcommitted = overcommitted.contains(&task.id);
        match outcome(draft, wanted, &task, node, is_overcommitted) {
            Outcome::Stays => {}
            Outcome::Rejected => end(draft, task.id, TaskState::Rejected, REJECTED),
            Outcome::Orphaned(why) => end(draft, task.id, TaskState::Orphaned, why),
        }
    }
}

fn outcome(
    draft: &mut Draft<'_>,
    wanted: Option<&Wanted>,
    task: &Task,
    node: Option<&Arc<Node>>,
    is_overcommitted: bool,
) -> Outcome {
    let Some(node) = node else { return Outcome::Orphaned("the node was removed") };
    if node.status.state == NodeState::Down {
        let orphaned_at = node.status.since + timing::ORPHAN_AFTER;
        if orphaned_at <= draft.now {
            return Outcome::Orphaned("the node has been down for too long");
        }
        draft.wake_at(orphaned_at);
        return Outcome::Stays;
    }
    if !task.is_wanted() || node.spec.availability != Availability::Active {
        return Outcome::Stays;
    }
    let is_met = match wanted {
        // While an update is under way its own rule takes outdated tasks away, in
        // its own time; until then a task is held to what it was made for.
        Some(wanted) if draft.deployment().is_some_and(|deployment| deployment.state.is_final()) => {
            constraints::are_met(&wanted.constraints, node)
        }
        _ => constraints::are_met(&constraints::parse(&task.spec.placement.constraints), node),
    };
    if is_met && !is_overcommitted { Outcome::Stays } else { Outcome::Rejected }
}

fn end(draft: &mut Draft<'_>, id: TaskId, state: TaskState, error: &str) {
    let now = draft.now;
    draft.change(id, |task| {
        let status = &mut task.status.value;
        status.state = state;
        (status.timestamp, status.applied_at) = (Time::ZERO, now);
        status.error = error.into();
        status.is_evicted = true;
        status.message = if state == TaskState::Orphaned { "orphaned".into() } else { "rejected".into() };
    });
}

/// Tasks of a node whose reservations do not fit any more, newest first to go.
pub(crate) fn overcommitted(store: &Store, node: NodeId) -> BTreeSet<TaskId> {
    let Some(node) = store.node(node).filter(|node| node.spec.availability == Availability::Active) else {
        return BTreeSet::new();
    };
    let offered = node.description.resources;
    let mut tasks: Vec<&Arc<Task>> = store.tasks_of_node(node.id).filter(|task| holds_reservation(task)).collect();
    tasks.sort_by_key(|task| (task.meta.made(), task.id));
    let mut used = Resources::default();
    let mut out = BTreeSet::new();
    for task in tasks {
        let part = task.spec.resources.reservations;
        let next = Resources {
            nano_cpus: used.nano_cpus.saturating_add(part.nano_cpus),
            memory_bytes: used.memory_bytes.saturating_add(part.memory_bytes),
        };
        let fits = (part.nano_cpus == 0 || next.nano_cpus <= offered.nano_cpus)
            && (part.memory_bytes == 0 || next.memory_bytes <= offered.memory_bytes);
        if fits {
            used = next;
        } else if task.is_wanted() {
            out.insert(task.id);
        }
    }
    out
}
