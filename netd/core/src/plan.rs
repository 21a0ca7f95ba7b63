//! From two states to the operations between them.
//!
//! Removals come first, in the reverse order of creation, then everything that is
//! to be made, in that order. A link that cannot be changed into what it should be
//! is removed and made anew, and with it every row that vanishes with it.

use crate::desired::Desired;
use crate::mirror::Mirror;
use crate::row::{Key, Link, Namespace, Place, Value};
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

/// The operations that bring the touched places, and whatever depends on them, to
/// the desired state.
pub fn plan(desired: &Desired, mirror: &Mirror, touched: &BTreeSet<Place>) -> Vec<Op> {
    let mut planner = Planner { desired, mirror, removed: BTreeSet::new(), vanished: BTreeSet::new(), looked: BTreeSet::new() };
    planner.look(touched.iter().copied().collect());
    planner.operations()
}

struct Planner<'a> {
    desired: &'a Desired,
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

    fn look(&mut self, mut queue: Vec<Place>) {
        while let Some(place) = queue.pop() {
            if !self.looked.insert(place) {
                continue;
            }
            match (self.desired.get(&place).copied(), self.seen(&place).copied()) {
                (None, None) => {}
                (None, Some(_)) => self.remove(place, &mut queue),
                (Some(wanted), Some(seen)) if wanted.is_satisfied_by(&seen) => {}
                (Some(wanted), Some(_)) => self.change(place, wanted, &mut queue),
                (Some(wanted), None) => self.make(place, wanted, &mut queue),
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
        match place.key {
            Key::Namespace => queue.extend(self.desired.under_namespace(place.namespace)),
            Key::Link(name) => queue.extend(self.desired.under_link(place.namespace, name)),
            _ => {}
        }
        // Both ends of a pair are made at once, so the other must not be there yet.
        if let Value::Link(Link::Veth { peer: Some((namespace, name)) }) = wanted {
            let peer = Place { key: Key::Link(name), namespace };
            if self.seen(&peer).is_some() {
                self.remove(peer, queue);
            }
            self.looked.remove(&peer);
            if self.seen(&peer).is_none() && !queue.contains(&peer) && self.desired.get(&peer).is_some() {
                self.looked.insert(peer);
                queue.extend(self.desired.under_link(namespace, name));
            }
        }
    }

    fn operations(self) -> Vec<Op> {
        let removals = self.removed.iter().rev().filter(|place| !self.vanished.contains(place)).map(|place| Op::Remove(*place));
        let made = self.looked.iter().filter_map(|place| {
            let wanted = self.desired.get(place)?;
            let is_right = self.seen(place).is_some_and(|seen| wanted.is_satisfied_by(seen));
            // The node's end brings the task's end with it.
            let is_far_end = matches!(wanted, Value::Link(Link::Veth { .. })) && place.namespace != Namespace::Node;
            (!is_right && !is_far_end).then_some(Op::Make(*place, *wanted))
        });
        removals.chain(made).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{Object, ObjectKey};
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    fn all(desired: &Desired, mirror: &Mirror) -> BTreeSet<Place> {
        desired.places().chain(mirror.places()).collect()
    }

    fn assert_reached(desired: &Desired, model: &Model) {
        for place in all(desired, &model.rows) {
            let (wanted, seen) = (desired.get(&place), model.rows.get(&place));
            let is_right = match (wanted, seen) {
                (Some(wanted), Some(seen)) => wanted.is_satisfied_by(seen),
                (wanted, seen) => wanted.is_none() && seen.is_none(),
            };
            assert!(is_right, "{place}: wanted {wanted:?}, is {seen:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        /// Whatever is wished and whatever others do: planning over exactly the
        /// places that were touched reaches the desired state, and then rests.
        #[test]
        fn touched_places_suffice(
            rounds in prop::collection::vec((prop::collection::vec(change(), 0..8), prop::collection::vec(drift(), 0..4), any::<bool>()), 1..8)
        ) {
            let (mut desired, mut model) = (Desired::new(), Model::default());
            for (changes, drifts, knows_pairs) in rounds {
                // A pair that was found at a start and whose address changes hands at
                // the same moment takes a second plan, after the kernel's events.
                let knows_pairs = knows_pairs || !changes.is_empty();
                let mut touched = BTreeSet::new();
                for change in changes {
                    touched.extend(match change {
                        Change::Put(object) => desired.put(object).expect("the objects are right"),
                        Change::Remove(key) => desired.remove(key),
                    });
                }
                for drift in drifts {
                    touched.extend(model.disturb(&drift));
                }
                for op in plan(&desired, &model.seen(knows_pairs), &touched) {
                    model.apply(&op);
                }
                assert_reached(&desired, &model);
                let seen = model.seen(knows_pairs);
                prop_assert_eq!(plan(&desired, &seen, &all(&desired, &seen)), Vec::new());
            }
        }

        /// A place that nothing happened to costs nothing, wherever it is.
        #[test]
        fn needless_touches_are_free(changes in prop::collection::vec(change(), 0..20), pick in any::<u64>()) {
            let (mut desired, mut model) = (Desired::new(), Model::default());
            for change in changes {
                match change {
                    Change::Put(object) => drop(desired.put(object).expect("the objects are right")),
                    Change::Remove(key) => drop(desired.remove(key)),
                }
            }
            for op in plan(&desired, &model.rows, &all(&desired, &model.rows)) {
                model.apply(&op);
            }
            let some = all(&desired, &model.rows).into_iter().enumerate().filter(|(n, _)| pick >> (n % 64) & 1 == 1).map(|(_, place)| place);
            prop_assert_eq!(plan(&desired, &model.rows, &some.collect()), Vec::new());
        }

        /// The rows of the objects do not depend on the order they came in.
        #[test]
        fn the_order_of_objects_does_not_matter(changes in prop::collection::vec(change(), 0..20)) {
            let mut desired = Desired::new();
            let mut last = std::collections::BTreeMap::new();
            for change in changes {
                match change {
                    Change::Put(object) => {
                        last.insert(object.key(), object.clone());
                        desired.put(object).expect("the objects are right");
                    }
                    Change::Remove(key) => {
                        last.remove(&key);
                        desired.remove(key);
                    }
                }
            }
            let mut again = Desired::new();
            for (_, object) in last.into_iter().rev() {
                again.put(object).expect("the objects are right");
            }
            prop_assert_eq!(desired.places().collect::<Vec<_>>(), again.places().collect::<Vec<_>>());
            for place in desired.places() {
                prop_assert_eq!(desired.get(&place), again.get(&place));
            }
        }
    }

    fn given(objects: Vec<Object>) -> (Desired, Model) {
        let (mut desired, mut model) = (Desired::new(), Model::default());
        for object in objects {
            desired.put(object).expect("the objects are right");
        }
        for op in plan(&desired, &model.rows, &all(&desired, &model.rows)) {
            model.apply(&op);
        }
        (desired, model)
    }

    fn check(desired: &Desired, model: &Model, touched: &BTreeSet<Place>, expected: &Expect) {
        let text: String = plan(desired, &model.rows, touched).iter().map(|op| format!("{op}\n")).collect();
        expected.assert_eq(&text.replace(task(1).as_str(), "T1"));
    }

    #[test]
    fn a_network_with_one_endpoint_here_and_one_there() {
        let mut desired = Desired::new();
        for object in [remote(0, 2, 3, "192.0.2.2"), local(0, 1, 2), Object::Task(task(1)), network(0), node("192.0.2.1")] {
            desired.put(object).unwrap();
        }
        let touched = desired.places().collect();
        check(
            &desired,
            &Model::default(),
            &touched,
            &expect![[r#"
            make   task T1: namespace
            make   node: link sk001000b = bridge
            make   node: link sk001000e000002 = pair with eth0 of task T1
            make   node: link sk001000x = vxlan 4096 from 192.0.2.1 port 4789
            make   task T1: mtu eth0 = 1450
            make   node: mtu sk001000b = 1450
            make   node: mtu sk001000e000002 = 1450
            make   node: mtu sk001000x = 1450
            make   task T1: mac eth0 = 02:42:0a:00:00:02
            make   node: port sk001000e000002 = of sk001000b
            make   node: port sk001000x = of sk001000b
            make   task T1: setting ipv6/conf/eth0/accept_ra = 0
            make   node: setting ipv6/conf/sk001000b/addr_gen_mode = 1
            make   node: setting ipv6/conf/sk001000e000002/addr_gen_mode = 1
            make   node: setting ipv6/conf/sk001000x/addr_gen_mode = 1
            make   task T1: up eth0
            make   task T1: up lo
            make   node: up sk001000b
            make   node: up sk001000e000002
            make   node: up sk001000x
            make   task T1: address 10.0.0.2/20 on eth0
            make   task T1: address fd00::2/64 on eth0
            make   task T1: route 10.0.0.0/20 on eth0 = direct
            make   task T1: route fd00::/64 on eth0 = direct
            make   node: fdb 02:42:0a:00:00:02 on port sk001000e000002 = here
            make   node: fdb 02:42:0a:00:00:03 on port sk001000x = here
            make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.2
            make   node: neighbour 10.0.0.3 on sk001000x = 02:42:0a:00:00:03
            make   node: neighbour fd00::3 on sk001000x = 02:42:0a:00:00:03
        "#]],
        );
    }

    #[test]
    fn a_move_changes_one_row() {
        let (mut desired, model) =
            given(vec![node("192.0.2.1"), network(0), Object::Task(task(1)), local(0, 1, 2), remote(0, 2, 3, "192.0.2.2")]);
        let touched = desired.put(remote(0, 2, 3, "192.0.2.3")).unwrap();
        check(
            &desired,
            &model,
            &touched,
            &expect![[r#"
            make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.3
        "#]],
        );
    }

    #[test]
    fn a_task_that_goes_takes_its_pair_along() {
        let (mut desired, model) = given(vec![node("192.0.2.1"), network(0), Object::Task(task(1)), local(0, 1, 2)]);
        let touched = desired.remove(ObjectKey::Task(task(1)));
        check(
            &desired,
            &model,
            &touched,
            &expect![[r#"
            remove node: link sk001000e000002
            remove task T1: namespace
        "#]],
        );
    }

    #[test]
    fn a_link_that_went_down_gets_back_what_the_kernel_dropped() {
        let (desired, mut model) = given(vec![node("192.0.2.1"), network(0), Object::Task(task(1)), local(0, 1, 2)]);
        let touched = model.rows.forget(Place::task(task(1), Key::Up(crate::interface_name(0))));
        check(
            &desired,
            &model,
            &touched,
            &expect![[r#"
            make   task T1: up eth0
            make   task T1: address fd00::2/64 on eth0
            make   task T1: route 10.0.0.0/20 on eth0 = direct
            make   task T1: route fd00::/64 on eth0 = direct
        "#]],
        );
    }

    #[test]
    fn a_new_underlay_address_rebuilds_the_device_and_its_rows() {
        let (mut desired, model) = given(vec![node("192.0.2.1"), network(0), remote(0, 2, 3, "192.0.2.2")]);
        let touched = desired.put(node("192.0.2.9")).unwrap();
        check(
            &desired,
            &model,
            &touched,
            &expect![[r#"
            remove node: link sk001000x
            make   node: link sk001000x = vxlan 4096 from 192.0.2.9 port 4789
            make   node: mtu sk001000x = 1450
            make   node: port sk001000x = of sk001000b
            make   node: setting ipv6/conf/sk001000x/addr_gen_mode = 1
            make   node: up sk001000x
            make   node: fdb 02:42:0a:00:00:03 on port sk001000x = here
            make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.2
            make   node: neighbour 10.0.0.3 on sk001000x = 02:42:0a:00:00:03
            make   node: neighbour fd00::3 on sk001000x = 02:42:0a:00:00:03
        "#]],
        );
    }
}
