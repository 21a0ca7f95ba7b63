//! A map from places to values in which all rows of a namespace, and of a link,
//! are neighbours, so that what vanishes together is found together.

use crate::name::Name;
use crate::row::{Key, Namespace, Place};
use std::collections::BTreeMap;

/// Rows by place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    links: BTreeMap<(Namespace, Option<Name>), BTreeMap<Key, T>>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { links: BTreeMap::new() }
    }
}

impl<T> Rows<T> {
    pub fn get(&self, place: &Place) -> Option<&T> {
        self.links.get(&(place.namespace, place.key.link()))?.get(&place.key)
    }

    pub fn get_mut(&mut self, place: &Place) -> Option<&mut T> {
        self.links.get_mut(&(place.namespace, place.key.link()))?.get_mut(&place.key)
    }

    pub fn get_or_insert(&mut self, place: Place, make: impl FnOnce() -> T) -> &mut T {
        self.links.entry((place.namespace, place.key.link())).or_default().entry(place.key).or_insert_with(make)
    }

    pub fn insert(&mut self, place: Place, value: T) -> Option<T> {
        self.links.entry((place.namespace, place.key.link())).or_default().insert(place.key, value)
    }

    pub fn remove(&mut self, place: &Place) -> Option<T> {
        let group = (place.namespace, place.key.link());
        let rows = self.links.get_mut(&group)?;
        let removed = rows.remove(&place.key);
        if rows.is_empty() {
            self.links.remove(&group);
        }
        removed
    }

    /// The places of one link, itself included.
    pub fn under_link(&self, namespace: Namespace, link: Name) -> impl Iterator<Item = Place> + '_ {
        let rows = self.links.get(&(namespace, Some(link)));
        rows.into_iter().flat_map(|rows| rows.keys()).map(move |key| Place { key: *key, namespace })
    }

    /// The places of one namespace, itself included.
    pub fn under_namespace(&self, namespace: Namespace) -> impl Iterator<Item = Place> + '_ {
        let first = (namespace, None);
        let of_namespace = self.links.range(first..).take_while(move |((found, _), _)| *found == namespace);
        of_namespace.flat_map(|(_, rows)| rows.keys()).map(move |key| Place { key: *key, namespace })
    }

    pub fn iter(&self) -> impl Iterator<Item = (Place, &T)> + '_ {
        self.links.iter().flat_map(|((namespace, _), rows)| {
            rows.iter().map(|(key, value)| (Place { key: *key, namespace: *namespace }, value))
        })
    }
}
