//! What should be: objects, and the rows derived from them, kept in step.
//!
//! Two objects may ask for the same place for a while, as when an address is
//! reused before its first owner is gone. Both claims are kept, the one with the
//! lower key counts, and when it goes the other takes its place: the order in
//! which changes arrive does not matter.

use crate::endpoint_rows::{self, Row};
use crate::name::Name;
use crate::object::{Endpoint, EndpointId, InvalidObject, Network, Node, Object, ObjectKey};
use crate::row::{Key, Link, Namespace, Place, Value};
use crate::rows::Rows;
use skep_model::{Id, NetworkId, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// The id that sorts before all others.
fn lowest() -> Id {
    Id::from_random([0; 16])
}

/// The desired state.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    node: Option<Node>,
    tasks: BTreeSet<TaskId>,
    networks: BTreeMap<NetworkId, Network>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Endpoints by owner.
    owned: BTreeSet<(Id, NetworkId)>,
    claims: BTreeMap<ObjectKey, Vec<Place>>,
    rows: Rows<BTreeMap<ObjectKey, Value>>,
}

impl Desired {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a new or changed object; answers with the places to look at.
    ///
    /// # Errors
    /// If the object makes no sense; then nothing has changed.
    pub fn put(&mut self, object: Object) -> Result<BTreeSet<Place>, InvalidObject> {
        object.check()?;
        let key = object.key();
        match object {
            Object::Node(node) => self.node = Some(node),
            Object::Task(task) => drop(self.tasks.insert(task)),
            Object::Network(id, network) => drop(self.networks.insert(id, network)),
            Object::Endpoint(id, endpoint) => {
                self.owned.insert((id.owner, id.network));
                self.endpoints.insert(id, endpoint);
            }
        }
        Ok(self.derive_with_dependents(key))
    }

    /// Forgets an object; answers with the places to look at.
    pub fn remove(&mut self, key: ObjectKey) -> BTreeSet<Place> {
        match key {
            ObjectKey::Node => self.node = None,
            ObjectKey::Task(task) => drop(self.tasks.remove(&task)),
            ObjectKey::Network(id) => drop(self.networks.remove(&id)),
            ObjectKey::Endpoint(id) => {
                self.owned.remove(&(id.owner, id.network));
                self.endpoints.remove(&id);
            }
        }
        self.derive_with_dependents(key)
    }

    /// The keys of all objects.
    pub fn objects(&self) -> BTreeSet<ObjectKey> {
        let node = self.node.map(|_| ObjectKey::Node);
        let tasks = self.tasks.iter().map(|task| ObjectKey::Task(*task));
        let networks = self.networks.keys().map(|id| ObjectKey::Network(*id));
        let endpoints = self.endpoints.keys().map(|id| ObjectKey::Endpoint(*id));
        node.into_iter().chain(tasks).chain(networks).chain(endpoints).collect()
    }

    /// The value that should be at a place.
    pub fn get(&self, place: &Place) -> Option<&Value> {
        let value = self.strongest(place)?;
        place.key.link().is_none_or(|link| self.is_paired(place.namespace, link)).then_some(value)
    }

    fn strongest(&self, place: &Place) -> Option<&Value> {
        self.rows.get(place)?.values().next()
    }

    /// Whether both ends of a pair want each other. If two endpoints claim one
    /// address, the weaker one gets no interface at all rather than half of one.
    fn is_paired(&self, namespace: Namespace, link: Name) -> bool {
        match self.strongest(&Place { key: Key::Link(link), namespace }) {
            Some(Value::Link(Link::Veth { peer: Some((other, name)) })) => {
                let back = self.strongest(&Place { key: Key::Link(*name), namespace: *other });
                back == Some(&Value::Link(Link::Veth { peer: Some((namespace, link)) }))
            }
            _ => true,
        }
    }

    /// All places with a value.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.rows.iter().map(|(place, _)| place)
    }

    /// The places of one link.
    pub fn under_link(&self, namespace: Namespace, link: Name) -> impl Iterator<Item = Place> + '_ {
        self.rows.under_link(namespace, link)
    }

    /// The places of one namespace.
    pub fn under_namespace(&self, namespace: Namespace) -> impl Iterator<Item = Place> + '_ {
        self.rows.under_namespace(namespace)
    }

    fn derive_with_dependents(&mut self, key: ObjectKey) -> BTreeSet<Place> {
        let mut touched = BTreeSet::new();
        self.derive(key, &mut touched);
        for dependent in self.dependents(key) {
            self.derive(dependent, &mut touched);
        }
        let rivals: BTreeSet<ObjectKey> =
            touched.iter().filter(|place| matches!(place.key, Key::Link(_))).flat_map(|place| self.claimants(place)).collect();
        touched.extend(rivals.iter().filter_map(|rival| self.claims.get(rival)).flatten());
        touched
    }

    fn claimants(&self, place: &Place) -> impl Iterator<Item = ObjectKey> + '_ {
        self.rows.get(place).into_iter().flat_map(|claims| claims.keys().copied())
    }

    /// The objects whose rows follow from this one too.
    fn dependents(&self, key: ObjectKey) -> Vec<ObjectKey> {
        match key {
            ObjectKey::Endpoint(_) => Vec::new(),
            ObjectKey::Node => {
                self.objects().into_iter().filter(|key| !matches!(key, ObjectKey::Node | ObjectKey::Task(_))).collect()
            }
            ObjectKey::Task(task) => {
                let first = (task.0, NetworkId(lowest()));
                let owned = self.owned.range(first..).take_while(|(owner, _)| *owner == task.0);
                owned.map(|(owner, network)| ObjectKey::Endpoint(EndpointId { network: *network, owner: *owner })).collect()
            }
            ObjectKey::Network(network) => {
                let first = EndpointId { network, owner: lowest() };
                self.endpoints
                    .range(first..)
                    .take_while(|(id, _)| id.network == network)
                    .map(|(id, _)| ObjectKey::Endpoint(*id))
                    .collect()
            }
        }
    }

    fn derive(&mut self, key: ObjectKey, touched: &mut BTreeSet<Place>) {
        let rows = self.rows_of(key);
        for place in self.claims.remove(&key).unwrap_or_default() {
            if let Some(claimants) = self.rows.get_mut(&place) {
                claimants.remove(&key);
                if claimants.is_empty() {
                    self.rows.remove(&place);
                }
            }
            touched.insert(place);
        }
        if rows.is_empty() {
            return;
        }
        self.claims.insert(key, rows.iter().map(|(place, _)| *place).collect());
        for (place, value) in rows {
            self.rows.get_or_insert(place, BTreeMap::new).insert(key, value);
            touched.insert(place);
        }
    }

    fn rows_of(&self, key: ObjectKey) -> Vec<Row> {
        match key {
            ObjectKey::Node => Vec::new(),
            ObjectKey::Task(task) if self.tasks.contains(&task) => endpoint_rows::task(task),
            ObjectKey::Task(_) => Vec::new(),
            ObjectKey::Network(id) => match (&self.node, self.networks.get(&id)) {
                (Some(node), Some(network)) => endpoint_rows::network(node, network),
                _ => Vec::new(),
            },
            ObjectKey::Endpoint(id) => match (&self.node, self.networks.get(&id.network), self.endpoints.get(&id)) {
                (Some(node), Some(network), Some(endpoint)) if self.is_placeable(id, endpoint) => {
                    endpoint_rows::endpoint(node, network, id, endpoint)
                }
                _ => Vec::new(),
            },
        }
    }

    /// A local endpoint waits for the namespace of its task.
    fn is_placeable(&self, id: EndpointId, endpoint: &Endpoint) -> bool {
        matches!(endpoint.site, crate::Site::There(_)) || self.tasks.contains(&TaskId(id.owner))
    }
}
