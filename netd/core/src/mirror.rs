//! What the kernel holds, as far as its events and our dumps have told.
//!
//! The kernel does not announce everything that it drops: routes of a link that
//! goes down, for one. So a row is forgotten together with all rows that cannot be
//! without it; a row that was forgotten for nothing is made once more, which
//! changes nothing.

use crate::row::{FdbTable, Key, Link, Namespace, Place, Port, Value};
use crate::rows::Rows;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The last known state of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    rows: Rows<Value>,
}

impl Mirror {
    /// An empty kernel.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value seen at a place.
    pub fn get(&self, place: &Place) -> Option<&Value> {
        self.rows.get(place)
    }

    /// All places with a value.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.rows.iter().map(|(place, _)| place)
    }

    /// The places of one link.
    #[cfg(test)]
    pub(crate) fn under_link(&self, namespace: Namespace, link: crate::Name) -> impl Iterator<Item = Place> + '_ {
        self.rows.under_link(namespace, link)
    }

    /// The places of one namespace.
    pub fn under_namespace(&self, namespace: Namespace) -> impl Iterator<Item = Place> + '_ {
        self.rows.under_namespace(namespace)
    }

    /// Notes a value; answers with the places that differ from before.
    pub fn set(&mut self, place: Place, value: Value) -> BTreeSet<Place> {
        let before = self.rows.get(&place).copied();
        // A pair that we made is known better than what the kernel shows of it.
        if before.is_some_and(|before| before == value || before.is_satisfied_by(&value)) {
            return BTreeSet::new();
        }
        // Nothing about a pair changes when its other end is found.
        if before.is_some_and(|before| value.is_satisfied_by(&before)) {
            self.rows.insert(place, value);
            return BTreeSet::from([place]);
        }
        let mut dirty = if before.is_some() { self.forget(place) } else { BTreeSet::new() };
        self.rows.insert(place, value);
        dirty.insert(place);
        dirty
    }

    /// Forgets a row and all that cannot be without it; answers with their places.
    pub fn forget(&mut self, place: Place) -> BTreeSet<Place> {
        if self.rows.get(&place).is_none() {
            return BTreeSet::new();
        }
        let mut lost = self.dependents(place);
        lost.insert(place);
        for place in &lost {
            self.rows.remove(place);
        }
        lost
    }

    /// Takes what a dump of one namespace found in place of what was known of it;
    /// answers with the places that differ.
    pub fn replace(&mut self, namespace: Namespace, found: &BTreeMap<Key, Value>) -> BTreeSet<Place> {
        let known: Vec<Place> = self.rows.under_namespace(namespace).collect();
        let mut dirty = BTreeSet::new();
        for place in known.into_iter().filter(|place| !found.contains_key(&place.key)) {
            self.rows.remove(&place);
            dirty.insert(place);
        }
        for (key, value) in found {
            let place = Place { key: *key, namespace };
            let is_known = self.rows.get(&place).is_some_and(|known| known == value || known.is_satisfied_by(value));
            if !is_known {
                self.rows.insert(place, *value);
                dirty.insert(place);
            }
        }
        dirty
    }

    /// The rows that vanish with this one, without it.
    pub fn dependents(&self, place: Place) -> BTreeSet<Place> {
        let mut lost = self.direct_dependents(place);
        let other_end = self.rows.get(&place).and_then(Value::other_end);
        if let Some(peer) = other_end.filter(|peer| self.rows.get(peer).is_some()) {
            lost.extend(self.direct_dependents(peer));
            lost.insert(peer);
        }
        lost.remove(&place);
        lost
    }

    fn direct_dependents(&self, place: Place) -> BTreeSet<Place> {
        let Place { key, namespace } = place;
        let under = |link, filter: &dyn Fn(&Key) -> bool| -> BTreeSet<Place> {
            self.rows.under_link(namespace, link).filter(|place| filter(&place.key)).collect()
        };
        match key {
            Key::Namespace => self.rows.under_namespace(namespace).collect(),
            Key::Link(link) => {
                let mut lost = under(link, &|_| true);
                if self.rows.get(&place) == Some(&Value::Link(Link::Bridge)) {
                    lost.extend(self.ports_of(namespace, link));
                }
                lost
            }
            Key::Up(link) => under(link, &Key::needs_up),
            Key::Port(link) => under(link, &|key| matches!(key, Key::Fdb(_, _, FdbTable::Bridge))),
            // The kernel flushes a link's v4 routes with its last v4 address.
            Key::Address(link, IpNet::V4(_)) => {
                under(link, &|key| matches!(key, Key::Route(_, IpNet::V4(_)) | Key::Via(_, _, IpNet::V4(_))))
            }
            _ => BTreeSet::new(),
        }
    }

    fn ports_of(&self, namespace: Namespace, bridge: crate::Name) -> Vec<Place> {
        let places: Vec<Place> = self.rows.under_namespace(namespace).collect();
        let is_port =
            |place: &Place| matches!(self.rows.get(place), Some(Value::Port(Port { bridge: Some(of), .. })) if *of == bridge);
        let ports: Vec<Place> = places.into_iter().filter(is_port).collect();
        ports.iter().flat_map(|port| self.direct_dependents(*port)).chain(ports.iter().copied()).collect()
    }
}
