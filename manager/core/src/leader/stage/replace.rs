//! Replaces tasks that ended, or that have to leave their node.
//!
//! As in Swarm: the old task is no longer wanted, its replacement is made at once
//! with desired state ready, and starts when the delay is over *and* the old one
//! has stopped (or long enough to be killed has passed; not if its node is down).
//!
//! The delay is for crash loops: only a task that ended by itself is replaced after
//! it. One that was lost with its node, or that may not stay there, is replaced at
//! once, and that costs no attempt.
//!
//! Whether a slot gets a replacement follows from its newest task alone, each
//! time it is looked at: nothing has to be remembered.

use crate::leader::turn::draft::Draft;
use crate::leader::turn::make::{Cause, make};
use crate::leader::turn::slots::{Slot, SlotKey};
use crate::mint::Mint;
use crate::rules::dirtiness::is_dirty;
use crate::rules::eligibility::has_place;
use crate::rules::ending::{Ending, ended_at, ended_by_itself};
use crate::rules::restart::should_restart;
use crate::rules::steps;
use crate::rules::wanted::Wanted;
use skep_model::node::Availability;
use skep_model::task::Task;
use skep_model::{TaskState, Time};

/// Makes the replacements of tasks that were retired.
pub(crate) fn replace(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    for (key, slot) in draft.slots() {
        let Some(newest) = slot.newest().cloned() else { continue };
        if newest.is_wanted() {
            continue;
        }
        // With an older task still active (start-first) only a failed new one is replaced;
        // one of an update before is the update's to replace, in its order.
        let is_new = newest.spec_version == wanted.spec_version() && !is_dirty(draft.store, wanted, &newest);
        let is_needed = slot.active().next().is_none() || is_new;
        if is_needed && has_place(draft.store, wanted, key.node) && should_restart(&newest, &slot.tasks) {
            replace_one(draft, mint, wanted, key, &slot, &newest);
        }
    }
}

fn replace_one(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, key: SlotKey, slot: &Slot, old: &Task) {
    let is_restart = ended_by_itself(old);
    let watch = steps::watch(wanted, draft.deployment(), old);
    let has_proven = old.status.running_since.is_some_and(|since| draft.now.since(since) > watch);
    let is_retry = !is_dirty(draft.store, wanted, old) && (is_restart || old.plan.is_retry || has_proven);
    let cause = Cause {
        desired: TaskState::Ready,
        start_at: start_at(draft, old),
        replaces: slot.predecessor(),
        is_restart,
        is_retry,
        takes_over: false,
    };
    make(draft, mint, wanted, key, cause);
}

/// When the replacement of a task may start; `None` if there is no delay.
fn start_at(draft: &Draft<'_>, old: &Task) -> Option<Time> {
    let node = old.plan.node.and_then(|node| draft.store.node(node));
    let delay = old.spec.restart_policy.delay;
    if node.is_some_and(|node| node.spec.availability == Availability::Drain) {
        return None;
    }
    if ended_by_itself(old) {
        return Some(ended_at(old).max(old.plan.start_at.unwrap_or_default()) + delay);
    }
    let earliest = match Ending::of(old) {
        // Not again and again without a pause.
        Some(Ending::Lost) => Some(old.meta.made() + delay),
        // A task that waited for the delay of its predecessor hands it on.
        _ => old.plan.start_at,
    };
    earliest.filter(|at| *at > draft.now)
}
