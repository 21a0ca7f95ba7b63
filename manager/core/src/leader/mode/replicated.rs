//! Replicated services: so many slots, numbered from 1, on whatever nodes the scheduler
//! chooses.
//!
//! Scaling down follows Swarm: slots that do not run go first, then those on the
//! nodes with most tasks of the service, then high numbers.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::make::{Cause, make};
use crate::leader::turn::slots::{Goal, Slot, SlotKey};
use crate::mint::Mint;
use crate::rules::wanted::Wanted;
use skep_model::{NodeId, TaskState};
use std::collections::{BTreeMap, BTreeSet};

/// Adds slots up to `replicas`, or removes those beyond.
pub(super) fn orchestrate(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, replicas: u64) {
    let slots = draft.slots();
    let n_slots = slots.len() as u64;
    if n_slots > replicas {
        for slot in surplus(&slots, replicas) {
            draft.want_all(&slots[&slot], TaskState::Remove);
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

/// Every slot is to have a task.
pub(super) fn goal(draft: &Draft<'_>, replicas: u64) -> Goal {
    Goal { slots: draft.slots(), n_wanted: replicas }
}
