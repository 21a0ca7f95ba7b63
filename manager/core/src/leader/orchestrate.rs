//! Sees to it that a service has the slots it should have: scales replicated
//! services, follows the nodes with global ones, dissolves what was removed.
//!
//! Scaling down follows Swarm: slots that do not run go first, then those on the
//! nodes with most tasks of the service, then high numbers.

use super::allocate::{Cause, make};
use super::draft::Draft;
use super::failures;
use super::slot::{Slot, SlotKey, slots};
use crate::mint::Mint;
use crate::rules::eligibility::{is_eligible, must_leave, takes_new};
use crate::rules::wanted::Wanted;
use skep_model::service::ServiceMode;
use skep_model::{NodeId, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};

/// Adds and removes slots.
pub(crate) fn orchestrate(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    match wanted.service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicated(draft, mint, wanted, replicas),
        ServiceMode::Global {} => global(draft, mint, wanted),
    }
}

/// The service was removed: so are its tasks.
pub(crate) fn dissolve(draft: &mut Draft<'_>) {
    let all: Vec<TaskId> = draft.tasks().map(|task| task.id).collect();
    for task in all {
        draft.want(task, TaskState::Remove);
    }
}

fn replicated(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, replicas: u64) {
    let slots = slots(draft);
    let n_slots = slots.len() as u64;
    if n_slots > replicas {
        for slot in surplus(&slots, replicas) {
            remove(draft, &slots[&slot]);
        }
        return;
    }
    let used: BTreeSet<u64> = slots.keys().map(|key| key.number).collect();
    let free = (1..).filter(|number| !used.contains(number)).take((replicas - n_slots) as usize);
    for number in free {
        make(draft, mint, wanted, SlotKey { number, node: None }, Cause::NEW);
    }
}

/// Which slots go when only `replicas` may stay.
fn surplus(slots: &BTreeMap<SlotKey, Slot>, replicas: u64) -> Vec<SlotKey> {
    let is_running = |slot: &Slot| slot.active().any(|task| task.status.state == TaskState::Running);
    let mut order: Vec<(&SlotKey, &Slot)> = slots.iter().collect();
    order.sort_by_key(|(key, slot)| (!is_running(slot), key.number));
    let mut on_node: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut ranked: Vec<(u64, SlotKey)> = Vec::new();
    for (key, slot) in order {
        // A running slot's place on its node; what does not run is last.
        let node = if is_running(slot) { slot.active().next_back().and_then(|task| task.plan.node) } else { None };
        let place = node.map_or(u64::MAX, |node| {
            let place = on_node.entry(node).or_default();
            *place += 1;
            *place
        });
        ranked.push((place, *key));
    }
    ranked.sort_by_key(|(place, key)| (*place, key.number));
    ranked.split_off(usize::try_from(replicas).unwrap_or(usize::MAX).min(ranked.len())).into_iter().map(|(_, key)| key).collect()
}

fn global(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    let slots = slots(draft);
    for (key, slot) in &slots {
        let node = key.node.and_then(|node| draft.store.node(node));
        match node {
            Some(node) if is_eligible(wanted, node) => {}
            // It may come back: its history stays.
            Some(node) if must_leave(Some(node)) => {
                for task in slot.active() {
                    failures::note_loss(draft, task);
                    draft.want(task.id, TaskState::Shutdown);
                }
            }
            _ => remove(draft, slot),
        }
    }
    let nodes: Vec<NodeId> = draft.store.nodes().filter(|node| takes_new(wanted, node)).map(|node| node.id).collect();
    for node in nodes {
        let key = SlotKey { number: 0, node: Some(node) };
        if !slots.contains_key(&key) {
            make(draft, mint, wanted, key, Cause::NEW);
        }
    }
}

fn remove(draft: &mut Draft<'_>, slot: &Slot) {
    for task in &slot.tasks {
        draft.want(task.id, TaskState::Remove);
    }
}
