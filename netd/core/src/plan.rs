//! From two states to the operations between them.
//!
//! Removals come first, in the reverse order of creation, then everything that is
//! to be made, in that order. A link that cannot be changed into what it should be
//! is removed and made anew, and with it every row that vanishes with it.

use crate::desired::DesiredRows;
use crate::mirror::Mirror;
use crate::row::{Key, Namespace, Place, Value};
use std::collections::BTreeSet;
use std::fmt;

/// One thing to do in the kernel. Doing it twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Make the row, or give it this value.
    Make(Place, Value),
    /// Remove the row.
    Remove(Place),
}

impl Op {
    /// Where it acts.
    pub fn place(&self) -> Place {
        match self {
            Self::Make(place, _) | Self::Remove(place) => *place,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(place, value) => write!(f, "make   {place}{value}"),
            Self::Remove(place) => write!(f, "remove {place}"),
        }
    }
}

/// The operations that bring the dirty places, and whatever depends on them, to
/// the desired state.
pub fn plan(desired: &DesiredRows, mirror: &Mirror, dirty: &BTreeSet<Place>) -> Vec<Op> {
    let mut planner = Planner { desired, mirror, removed: BTreeSet::new(), vanished: BTreeSet::new(), looked: BTreeSet::new() };
    planner.look(dirty.iter().copied().collect());
    planner.operations()
}

struct Planner<'a> {
    desired: &'a DesiredRows,
    mirror: &'a Mirror,
    /// What we remove.
    removed: BTreeSet<Place>,
    /// What goes with it.
    vanished: BTreeSet<Place>,
    looked: BTreeSet<Place>,
}

impl Planner<'_> {
    /// What will be at a place after the removals.
    fn seen(&self, place: &Place) -> Option<&Value> {
        if self.removed.contains(place) || self.vanished.contains(place) { None } else { self.mirror.get(place) }
    }

    fn is_right(&self, place: &Place) -> bool {
        is_right(place, self.desired.get(place), self.seen(place))
    }

    fn look(&mut self, mut queue: Vec<Place>) {
        while let Some(place) = queue.pop() {
            if !self.looked.insert(place) {
                continue;
            }
            if self.is_right(&place) {
                continue;
            }
            match (self.desired.get(&place).copied(), self.seen(&place).is_some()) {
                (None, _) => self.remove(place, &mut queue),
                (Some(wanted), true) => self.change(place, wanted, &mut queue),
                (Some(wanted), false) => self.make(place, wanted, &mut queue),
            }
        }
    }

    fn remove(&mut self, place: Place, queue: &mut Vec<Place>) {
        self.removed.insert(place);
        self.vanish_dependents(place, queue);
    }

    fn vanish_dependents(&mut self, place: Place, queue: &mut Vec<Place>) {
        for lost in self.mirror.dependents(place) {
            if self.vanished.insert(lost) {
                // It may have been found right before it was known to go.
                self.looked.remove(&lost);
                queue.push(lost);
            }
        }
    }

    fn change(&mut self, place: Place, wanted: Value, queue: &mut Vec<Place>) {
        if let Key::Link(_) = place.key {
            self.remove(place, queue);
            self.make(place, wanted, queue);
        } else {
            self.vanish_dependents(place, queue);
        }
    }

    fn make(&mut self, place: Place, wanted: Value, queue: &mut Vec<Place>) {
        self.look_under(place, queue);
        // Both ends of a pair are made at once, so the other must not be there yet.
        let Some(peer) = wanted.other_end() else { return };
        if self.seen(&peer).is_some() {
            self.remove(peer, queue);
        }
        self.looked.remove(&peer);
        if !queue.contains(&peer) && self.desired.get(&peer).is_some() {
            self.looked.insert(peer);
            self.look_under(peer, queue);
        }
    }

    /// What is in a namespace or on a link comes with it.
    fn look_under(&self, place: Place, queue: &mut Vec<Place>) {
        match place.key {
            Key::Namespace => queue.extend(self.desired.under_namespace(place.namespace)),
            Key::Link(name) => queue.extend(self.desired.under_link(place.namespace, name)),
            _ => {}
        }
    }

    fn operations(self) -> Vec<Op> {
        let removals = self.removed.iter().rev().filter(|place| !self.vanished.contains(place)).map(|place| Op::Remove(*place));
        let made = self.looked.iter().filter_map(|place| {
            let wanted = self.desired.get(place)?;
            // The node's end brings the task's end with it.
            let is_far_end = wanted.other_end().is_some() && place.namespace != Namespace::Node;
            (!self.is_right(place) && !is_far_end).then_some(Op::Make(*place, *wanted))
        });
        removals.chain(made).collect()
    }
}

/// Whether a place is as it should be. A property of something that stays for other
/// reasons has some value, whether it matters or not.
fn is_right(place: &Place, wanted: Option<&Value>, seen: Option<&Value>) -> bool {
    match (wanted, seen) {
        (Some(wanted), Some(seen)) => wanted.is_satisfied_by(seen),
        (None, Some(_)) => place.key.is_property(),
        (wanted, None) => wanted.is_none(),
    }
}

#[cfg(test)]
mod tests;
