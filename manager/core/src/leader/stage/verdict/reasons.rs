//! Says why a deployment has not come to its end: what the slot lacks that is most in
//! the way.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::slots::{Slot, SlotKey};
use crate::rules::dirtiness::{is_dirty, is_slot_dirty};
use crate::rules::eligibility::has_place;
use crate::rules::ending::Ending;
use crate::rules::steps::{running_since, settled_at};
use crate::rules::wanted::Wanted;
use skep_model::deployment::FailedTask;
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::collections::BTreeMap;

/// How much something is in the way; the first is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Unplaced,
    Failing,
    Starting,
    WaitingForOld,
    Unreachable,
    OldNotStopped,
    Outdated,
    Leaving,
    Watched,
}

/// The reason in a sentence. There always is one.
pub(crate) fn of(draft: &Draft<'_>, wanted: &Wanted, slots: &BTreeMap<SlotKey, Slot>) -> String {
    let mut found: Vec<(Weight, String)> = Vec::new();
    for (key, slot) in slots {
        found.extend(of_slot(draft, wanted, key, slot));
    }
    found.extend(draft.leaving().map(|(task, _)| {
        (Weight::Leaving, format!("task {}{} is not wanted any more and has not stopped", task.name(), place(draft, task)))
    }));
    let Some(first) = found.iter().map(|(weight, _)| *weight).min() else {
        let n = draft.deployment().map_or(0, |deployment| deployment.wanted);
        return format!("{} of {n} tasks are there", slots.len());
    };
    let n_others = found.len() - 1;
    let text = found.into_iter().find(|(weight, _)| *weight == first).map(|(_, text)| text).unwrap_or_default();
    let others = if n_others > 0 { format!(" (and {n_others} more)") } else { String::new() };
    match draft.deployment().and_then(|deployment| deployment.failed_task.as_ref()) {
        Some(failed) if first > Weight::Failing => failing(failed),
        _ => text + &others,
    }
}

/// ` on node NAME`, or nothing for a task without one.
pub(crate) fn place(draft: &Draft<'_>, task: &Task) -> String {
    let node = task.plan.node.map(|id| match draft.store.node(id) {
        Some(node) => node.description.hostname.clone(),
        None => id.to_string(),
    });
    node.map(|name| format!(" on node {name}")).unwrap_or_default()
}

fn failing(failed: &FailedTask) -> String {
    format!("task {} failed: {}", failed.task, failed.error)
}

/// What a slot lacks; `None` if nothing.
fn of_slot(draft: &Draft<'_>, wanted: &Wanted, key: &SlotKey, slot: &Slot) -> Option<(Weight, String)> {
    if is_slot_dirty(draft.store, wanted, &slot.tasks) {
        let old = slot.active().next_back().or(slot.newest())?;
        return Some((Weight::Outdated, outdated(draft, wanted, key, old)));
    }
    let mut active = slot.active();
    let Some(newest) = active.next_back().filter(|newest| !is_dirty(draft.store, wanted, newest)) else {
        let ended = slot.newest().filter(|newest| newest.status.state != TaskState::Complete)?;
        return Some((Weight::Failing, format!("task {}{} {}", ended.name(), place(draft, ended), ended.status.state)));
    };
    if let Some(waits) = waits(draft, slot, newest) {
        return Some(waits);
    }
    let place_of = |task: &Task| format!("task {}{}", task.name(), place(draft, task));
    if let Some(old) = active.next() {
        return Some((Weight::OldNotStopped, format!("{} has not given way to the new one", place_of(old))));
    }
    let is_settled =
        running_since(newest).is_some_and(|since| settled_at(wanted, draft.deployment(), newest, since) <= draft.now);
    (!is_settled).then(|| (Weight::Watched, format!("{} has not run for long enough yet", place_of(newest))))
}

/// What keeps the newest task of a slot from running and being reached.
fn waits(draft: &Draft<'_>, slot: &Slot, task: &Task) -> Option<(Weight, String)> {
    let (name, place) = (task.name(), place(draft, task));
    let state = task.status.state;
    // What its predecessors died of is more to the point than where it is now.
    let failed = slot.tasks.iter().rev().find(|task| Ending::of(task) == Some(Ending::Failed));
    if let (Some(failed), true) = (failed, task.plan.is_restart && state < TaskState::Running) {
        let error = if failed.status.error.is_empty() { &failed.status.message } else { &failed.status.error };
        return Some((Weight::Failing, format!("task {} failed: {error}", failed.id)));
    }
    if state < TaskState::Assigned {
        let why = if task.status.error.is_empty() { "no node was chosen for it" } else { task.status.error.as_str() };
        return Some((Weight::Unplaced, format!("task {name} waits: {why}")));
    }
    if task.plan.desired == TaskState::Ready && state <= TaskState::Ready {
        let old = task.plan.replaces.and_then(|old| draft.task(old)).filter(|_| draft.old_stopped_at(task) > draft.now);
        let why = match old {
            Some(old) => format!("task {}, which it replaces, has not stopped", old.name()),
            None if task.plan.start_at.unwrap_or(Time::ZERO) > draft.now => "its restart delay is not over".into(),
            None => "it is to start".into(),
        };
        return Some((Weight::WaitingForOld, format!("task {name}{place} waits: {why}")));
    }
    match state {
        TaskState::Running if draft.barrier.reached(task) => None,
        TaskState::Running => {
            Some((Weight::Unreachable, format!("task {name}{place} runs, and not every node has programmed where to reach it")))
        }
        TaskState::Starting => {
            let message = task.status.message.as_str();
            let message = if message.is_empty() || message == "starting" { "it does not run yet" } else { message };
            Some((Weight::Starting, format!("task {name}{place} is starting: {message}")))
        }
        _ => {
            let detail = if task.status.error.is_empty() { String::new() } else { format!(": {}", task.status.error) };
            Some((Weight::Starting, format!("task {name}{place} is {state}{detail}")))
        }
    }
}

fn outdated(draft: &Draft<'_>, wanted: &Wanted, key: &SlotKey, old: &Task) -> String {
    let text = format!("task {}{} still has the spec before", old.name(), place(draft, old));
    if !has_place(draft.store, wanted, key.node) {
        return format!("{text}: its node takes no new tasks now");
    }
    if is_dirty(draft.store, wanted, old) && old.status.state.is_final() {
        return format!("{text}, and has ended");
    }
    format!("{text}: other tasks come before it in the update")
}
