//! Rolls a service from one spec to the next, a few slots at a time.
//!
//! Only dirty tasks are replaced: those whose spec differs from the service's in
//! anything but placement, or whose node does not meet the new constraints. A
//! slot occupies one of the update's places until its new task runs and is found
//! wherever it is to be (or ended) and the delay between batches is over. A new task
//! that fits on no node occupies none, unless one that ran was stopped for it. All of
//! this is read off the tasks.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::make::{Cause, make};
use crate::leader::turn::slots::{Slot, SlotKey};
use crate::mint::Mint;
use crate::rules::dirtiness::{is_dirty, is_slot_dirty};
use crate::rules::eligibility::has_place;
use crate::rules::steps::{self, is_step};
use crate::rules::wanted::Wanted;
use skep_model::deployment::DeploymentState;
use skep_model::service::{UpdateConfig, UpdateOrder};
use skep_model::task::Task;
use skep_model::{TaskId, TaskState, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Starts as many slots of the update as may be under way.
pub(crate) fn update(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    let config = steps::config(wanted, draft.deployment());
    let slots = draft.slots();
    hand_over(draft, wanted, &slots, config.order);
    if draft.deployment().is_none_or(|deployment| deployment.state == DeploymentState::Paused) {
        return;
    }
    let n_busy = slots.values().filter(|slot| is_busy(draft, wanted, slot, config)).count() as u64;
    let n_free = if config.parallelism == 0 { u64::MAX } else { config.parallelism.saturating_sub(n_busy) };
    let mut dirty: Vec<(&SlotKey, &Slot)> = slots
        .iter()
        .filter(|(key, slot)| is_slot_dirty(draft.store, wanted, &slot.tasks) && has_place(draft.store, wanted, key.node))
        .collect();
    // What does not run anyway is replaced first.
    dirty.sort_by_key(|(key, slot)| (is_running(slot), **key));
    for (key, slot) in dirty.into_iter().take(usize::try_from(n_free).unwrap_or(usize::MAX)) {
        replace(draft, mint, wanted, *key, slot, config.order);
    }
}

/// Whether a slot still occupies one of the update's places.
fn is_busy(draft: &mut Draft<'_>, wanted: &Wanted, slot: &Slot, config: UpdateConfig) -> bool {
    if slot.active().next_back().is_some_and(|newest| is_unplaced(newest) && !newest.plan.takes_over) {
        return false;
    }
    // A change that touches no task, such as of the replicas, leaves the steps under way.
    let tried = last_step(draft, wanted, slot);
    if !tried.iter().any(|task| is_step(task)) {
        return false;
    }
    let reached = tried.into_iter().filter_map(|task| reached_at(draft, task)).min();
    match reached.map(|at| at + config.delay) {
        Some(free_at) if free_at <= draft.now => false,
        Some(free_at) => {
            draft.wake_at(free_at);
            true
        }
        None => true,
    }
}

/// The tasks of the update's last step in a slot, newest first: what it made in place of a
/// task that is not as the spec wants it, and what replaced that since. Older ones that
/// are as it is wanted again, after a rollback of a rollback, are no part of it.
fn last_step<'a>(draft: &Draft<'_>, wanted: &Wanted, slot: &'a Slot) -> Vec<&'a Arc<Task>> {
    let mut tried = Vec::new();
    for task in slot.tasks.iter().rev().take_while(|task| !is_dirty(draft.store, wanted, task)) {
        tried.push(task);
        let replaced = task.plan.replaces.and_then(|id| slot.tasks.iter().find(|old| old.id == id));
        if is_step(task) && replaced.is_none_or(|old| is_dirty(draft.store, wanted, old)) {
            break;
        }
    }
    tried
}

/// Whether a task waits for a node: by the time of the next turn that is because none
/// can have it.
fn is_unplaced(task: &Task) -> bool {
    task.status.state < TaskState::Assigned
}

/// When a task that is found wherever it is to be first ran, or when one ended.
fn reached_at(draft: &Draft<'_>, task: &Task) -> Option<Time> {
    let is_over = task.status.state.is_final();
    let since = task.status.running_since.filter(|_| is_over || !task.is_wanted() || draft.barrier.reached(task));
    since.or_else(|| is_over.then_some(task.status.applied_at))
}

fn is_running(slot: &Slot) -> bool {
    slot.active().any(|task| task.status.state == TaskState::Running)
}

/// Where a slot has several active tasks, one stays, and the others go as soon as
/// it runs and is found wherever it is to be: the newest that is as the spec wants
/// it, which after an update that was taken back half-way is the old one; else the
/// newest, which the update has yet to come to.
fn hand_over(draft: &mut Draft<'_>, wanted: &Wanted, slots: &BTreeMap<SlotKey, Slot>, order: UpdateOrder) {
    for slot in slots.values().filter(|slot| slot.active().count() > 1) {
        let clean = slot.active().rev().find(|task| !is_dirty(draft.store, wanted, task));
        let Some(stays) = clean.or(slot.active().next_back()) else { continue };
        if is_up(draft, stays) || (clean.is_some() && order == UpdateOrder::StopFirst) {
            stop_others(draft, slot, Some(stays.id));
        }
    }
}

/// Whether a task runs and is found wherever it is to be.
fn is_up(draft: &Draft<'_>, task: &Task) -> bool {
    task.status.state == TaskState::Running && draft.barrier.reached(task)
}

fn stop_others(draft: &mut Draft<'_>, slot: &Slot, stays: Option<TaskId>) {
    for task in slot.active().filter(|task| Some(task.id) != stays) {
        draft.want(task.id, TaskState::Shutdown);
    }
}

fn replace(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, key: SlotKey, slot: &Slot, order: UpdateOrder) {
    let running = || slot.active().rev().filter(|task| task.status.state == TaskState::Running);
    // One task serves while the new one starts. One of an update before, which never got there, is given up.
    let serves = running().find(|task| is_up(draft, task)).or_else(|| running().next()).map(|task| task.id);
    let stays = serves.filter(|_| order == UpdateOrder::StartFirst);
    stop_others(draft, slot, stays);
    // Stop-first waits for what runs, and is being stopped by now or was before.
    let started = slot.active().rev().find(|task| task.status.state >= TaskState::Starting).map(|task| task.id);
    let replaces = serves.or(started).or_else(|| slot.predecessor());
    let desired = if stays.is_some() { TaskState::Running } else { TaskState::Ready };
    let takes_over = serves.is_some() && stays.is_none();
    let cause = Cause { desired, start_at: None, replaces, is_restart: false, is_retry: false, takes_over };
    make(draft, mint, wanted, key, cause);
}
