//! Global services: a slot on each node that may have one.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::make::{Cause, make};
use crate::leader::turn::slots::{Goal, SlotKey};
use crate::mint::Mint;
use crate::rules::dirtiness::is_slot_dirty;
use crate::rules::eligibility::{is_eligible, must_leave, takes_new};
use crate::rules::wanted::Wanted;
use skep_model::node::Availability;
use skep_model::{NodeId, TaskState};

/// Follows the nodes: a slot for each that takes tasks, none on those that may have none.
pub(super) fn orchestrate(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    let slots = draft.slots();
    for (key, slot) in &slots {
        let node = key.node.and_then(|node| draft.store.node(node));
        match node {
            Some(node) if is_eligible(wanted, node) => {}
            // It may come back: its history stays.
            Some(node) if must_leave(Some(node)) => {
                for task in slot.active() {
                    draft.note_loss(task);
                    draft.want(task.id, TaskState::Shutdown);
                }
            }
            _ => draft.want_all(slot, TaskState::Remove),
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

/// The slots that are to have a task: all but those on nodes that take none, and on which
/// nothing is as it is wanted.
pub(super) fn goal(draft: &Draft<'_>, wanted: &Wanted) -> Goal {
    let mut slots = draft.slots();
    slots.retain(|key, slot| {
        let Some(node) = key.node else { return true };
        let node = draft.store.node(node);
        let is_open = node.is_some_and(|node| is_eligible(wanted, node) && node.spec.availability == Availability::Active);
        is_open || (slot.active().next().is_some() && !is_slot_dirty(draft.store, wanted, &slot.tasks))
    });
    let n_wanted = slots.len() as u64;
    Goal { slots, n_wanted }
}
