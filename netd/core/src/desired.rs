//! The desired state: objects, and the rows derived from them, kept in step.
//!
//! Two objects may ask for the same place for a while, as when an address is
//! reused before its first owner is gone. Both claims are kept, the one with the
//! lower key counts, and when it goes the other takes its place: the order in
//! which changes arrive does not matter.

use crate::dirty::DirtyKeys;
use crate::gateway::Gateway;
use crate::ingress_rows;
use crate::link_rows::Row;
use crate::name::{Name, gateway_bridge_name};
use crate::object::{Object, ObjectKey};
use crate::object_rows;
use crate::overlay::NodeOverlay;
use crate::row::{Key, Link, Namespace, Place, Value};
use crate::rows::Rows;
use skep_model::network::InvalidField;
use skep_model::place::Place as Owner;
use skep_model::{NodeId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Who asks for rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    /// An object.
    Object(ObjectKey),
    /// A task's namespace as such.
    Namespace(TaskId),
    /// The way back from a task to an ingress node.
    WayBack(TaskId, NodeId),
}

/// Where to look after a change: at rows, and at all else that follows from the
/// objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// The places of rows.
    pub places: BTreeSet<Place>,
    /// The rest.
    pub keys: DirtyKeys,
}

/// The desired state.
#[derive(Clone, Debug, Default)]
pub struct DesiredRows {
    overlay: NodeOverlay,
    /// Tasks with a namespace; what is to be in it may not be known yet.
    namespaces: BTreeSet<TaskId>,
    claims: BTreeMap<Claimant, Vec<Place>>,
    rows: Rows<BTreeMap<Claimant, Value>>,
}

impl DesiredRows {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The objects.
    pub fn overlay(&self) -> &NodeOverlay {
        &self.overlay
    }

    /// Tasks with a namespace.
    pub fn namespaces(&self) -> &BTreeSet<TaskId> {
        &self.namespaces
    }

    /// Sets the gateway; only before any task is known.
    pub fn set_gateway(&mut self, gateway: Option<Gateway>) {
        self.overlay.set_gateway(gateway, &mut DirtyKeys::default());
    }

    /// Notes the gateway's address that a task was found with, before the task is
    /// put.
    pub fn keep_address(&mut self, task: TaskId, address: IpAddr) {
        self.overlay.keep(task, address);
    }

    /// Notes the largest packet of the underlay, in bytes.
    pub fn set_underlay_mtu(&mut self, mtu: Option<u32>) -> Dirty {
        if !self.overlay.capabilities_mut().set_underlay_mtu(mtu) {
            return Dirty::default();
        }
        self.derive(ObjectKey::Node, DirtyKeys { node: true, ..DirtyKeys::default() })
    }

    /// Notes why this node has no IPv6, or that it has it.
    pub fn set_lacks_ipv6(&mut self, why: Option<String>) -> Dirty {
        if !self.overlay.capabilities_mut().set_lacks_ipv6(why) {
            return Dirty::default();
        }
        let claimants = self.claims.keys().copied().collect();
        self.derive_all(ObjectKey::Node, claimants, DirtyKeys { node: true, ..DirtyKeys::default() })
    }

    /// Notes whether somebody switched IPv6 off on a link: what needs it is not wanted
    /// there until it is back.
    pub fn set_link_without_ipv6(&mut self, namespace: Namespace, link: Name, is_off: bool) -> Dirty {
        let mut places = BTreeSet::new();
        if self.overlay.capabilities_mut().set_link_without_ipv6(namespace, link, is_off) {
            let on_link: Vec<Place> = self.rows.under_link(namespace, link).collect();
            let claimants: BTreeSet<Claimant> = on_link.iter().flat_map(|place| self.claimants(place)).collect();
            claimants.into_iter().for_each(|claimant| self.derive_one(claimant, &mut places));
        }
        Dirty { places, keys: DirtyKeys::default() }
    }

    /// Wants a namespace for a task.
    pub fn put_namespace(&mut self, task: TaskId) -> Dirty {
        self.namespaces.insert(task);
        self.derive(ObjectKey::Task(task), DirtyKeys { tasks: BTreeSet::from([task]), ..DirtyKeys::default() })
    }

    /// Wants a task's namespace and what is in it no more.
    pub fn remove_namespace(&mut self, task: TaskId) -> Dirty {
        let mut keys = DirtyKeys::default();
        self.namespaces.remove(&task);
        self.overlay.remove(ObjectKey::Task(task), &mut keys);
        self.overlay.release(task);
        self.derive(ObjectKey::Task(task), keys)
    }

    /// Takes a new or changed object. A task's namespace is wanted from then on.
    ///
    /// # Errors
    /// If the object makes no sense; then nothing has changed.
    pub fn put(&mut self, object: Object) -> Result<Dirty, InvalidField> {
        object.check()?;
        let (key, mut keys) = (object.key(), DirtyKeys::default());
        if let ObjectKey::Task(task) = key {
            self.namespaces.insert(task);
        }
        if self.has_rows_of(&object) {
            self.overlay.put(object, &mut keys);
            return Ok(Dirty { places: BTreeSet::new(), keys });
        }
        // What depended on the object's former value is found before it is gone.
        let dependents = self.dependents(key);
        self.overlay.put(object, &mut keys);
        Ok(self.derive_all(key, dependents, keys))
    }

    /// Whether an object's rows are there already. Most changes of an endpoint are of
    /// its publication, and its rows follow from where it is alone.
    fn has_rows_of(&self, object: &Object) -> bool {
        let Object::Endpoint(new) = object else { return false };
        self.overlay.endpoint(new.id).is_some_and(|old| (old.node, &old.addresses) == (new.node, &new.addresses))
    }

    /// Forgets an object. A task's namespace stays, with nothing in it.
    pub fn remove(&mut self, key: ObjectKey) -> Dirty {
        let mut keys = DirtyKeys::default();
        let dependents = self.dependents(key);
        self.overlay.remove(key, &mut keys);
        self.derive_all(key, dependents, keys)
    }

    /// The value that should be at a place.
    pub fn get(&self, place: &Place) -> Option<&Value> {
        let value = self.strongest(place)?;
        place.key.link().is_none_or(|link| self.is_paired(place.namespace, link)).then_some(value)
    }

    /// Whom a place belongs to, as users know it: whom it fails if it cannot be brought
    /// in line. What many share, and what nobody asks for any more, is the node's.
    pub fn owner(&self, place: &Place) -> Owner {
        if let Namespace::Task(task) = place.namespace {
            return Owner::Task(task);
        }
        if place.key.link().is_none_or(|link| link == gateway_bridge_name()) {
            return Owner::Node;
        }
        match self.claimants(place).next() {
            Some(Claimant::Object(ObjectKey::Network(id))) => Owner::Network(id),
            Some(Claimant::Object(ObjectKey::Endpoint(id))) => Owner::Network(id.network),
            Some(Claimant::Object(ObjectKey::Service(id))) => Owner::Service(id),
            Some(Claimant::Object(ObjectKey::Task(id)) | Claimant::Namespace(id) | Claimant::WayBack(id, _)) => Owner::Task(id),
            Some(Claimant::Object(ObjectKey::Peer(_))) => {
                self.overlay.ingress().map_or(Owner::Node, |network| Owner::Network(network.id))
            }
            Some(Claimant::Object(ObjectKey::Node)) | None => Owner::Node,
        }
    }

    fn strongest(&self, place: &Place) -> Option<&Value> {
        self.rows.get(place)?.values().next()
    }

    /// Whether both ends of a pair want each other. If two tasks claim one
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

    fn derive(&mut self, key: ObjectKey, keys: DirtyKeys) -> Dirty {
        self.derive_all(key, BTreeSet::new(), keys)
    }

    fn derive_all(&mut self, key: ObjectKey, mut claimants: BTreeSet<Claimant>, keys: DirtyKeys) -> Dirty {
        claimants.extend(self.dependents(key));
        let mut places = BTreeSet::new();
        for claimant in claimants {
            self.derive_one(claimant, &mut places);
        }
        let rivals: BTreeSet<Claimant> =
            places.iter().filter(|place| matches!(place.key, Key::Link(_))).flat_map(|place| self.claimants(place)).collect();
        places.extend(rivals.iter().filter_map(|rival| self.claims.get(rival)).flatten());
        Dirty { places, keys }
    }

    fn claimants(&self, place: &Place) -> impl Iterator<Item = Claimant> + '_ {
        self.rows.get(place).into_iter().flat_map(|claims| claims.keys().copied())
    }

    /// Whose rows follow from this object: itself, and those that refer to it.
    fn dependents(&self, key: ObjectKey) -> BTreeSet<Claimant> {
        let overlay = &self.overlay;
        let mut found = BTreeSet::from([Claimant::Object(key)]);
        match key {
            ObjectKey::Endpoint(_) | ObjectKey::Service(_) => {}
            ObjectKey::Node => {
                found.extend(overlay.keys().into_iter().map(Claimant::Object));
                found.extend(overlay.peers().flat_map(|peer| self.ways_back_to(peer.node)));
            }
            ObjectKey::Peer(node) => {
                found.extend(overlay.endpoints_at(node).map(|endpoint| Claimant::Object(ObjectKey::Endpoint(endpoint.id))));
                found.extend(self.ways_back_to(node));
                if overlay.node().is_some_and(|here| here.id == node) {
                    found.extend(overlay.ingress().map(|network| Claimant::Object(ObjectKey::Network(network.id))));
                }
            }
            ObjectKey::Network(network) => {
                found.extend(overlay.endpoints_on(network).map(|endpoint| Claimant::Object(ObjectKey::Endpoint(endpoint.id))));
                found.extend(overlay.tasks_on(network).map(|task| Claimant::Object(ObjectKey::Task(task.id))));
                if overlay.network(network).is_some_and(|network| network.ingress) {
                    found.extend(overlay.peers().map(|peer| Claimant::Object(ObjectKey::Peer(peer.node))));
                    found.extend(overlay.peers().flat_map(|peer| self.ways_back_to(peer.node)));
                }
            }
            ObjectKey::Task(task) => {
                found.insert(Claimant::Namespace(task));
                let first = Claimant::WayBack(task, NodeId(crate::overlay::lowest()));
                let claimed = self.claims.range(first..).map(|(claimant, _)| *claimant);
                found.extend(claimed.take_while(|claimant| matches!(claimant, Claimant::WayBack(of, _) if *of == task)));
                let is_on_ingress = overlay.visible_to(task).any(|(_, network)| network.ingress);
                found.extend(overlay.peers().filter(|_| is_on_ingress).map(|peer| Claimant::WayBack(task, peer.node)));
            }
        }
        found
    }

    fn ways_back_to(&self, node: NodeId) -> impl Iterator<Item = Claimant> + '_ {
        let tasks = self.overlay.ingress().into_iter().flat_map(|network| self.overlay.tasks_on(network.id));
        tasks.map(move |task| Claimant::WayBack(task.id, node))
    }

    fn derive_one(&mut self, claimant: Claimant, dirty: &mut BTreeSet<Place>) {
        let rows = self.rows_of(claimant);
        for place in self.claims.remove(&claimant).unwrap_or_default() {
            if let Some(claimants) = self.rows.get_mut(&place) {
                claimants.remove(&claimant);
                if claimants.is_empty() {
                    self.rows.remove(&place);
                }
            }
            dirty.insert(place);
        }
        if rows.is_empty() {
            return;
        }
        self.claims.insert(claimant, rows.iter().map(|(place, _)| *place).collect());
        for (place, value) in rows {
            self.rows.get_or_insert(place, BTreeMap::new).insert(claimant, value);
            dirty.insert(place);
        }
    }

    fn rows_of(&self, claimant: Claimant) -> Vec<Row> {
        let mut rows = self.rows_if_known(claimant).unwrap_or_default();
        rows.retain(|(place, _)| self.overlay.capabilities().admits(place));
        rows
    }

    /// None = something that it refers to is not known.
    fn rows_if_known(&self, claimant: Claimant) -> Option<Vec<Row>> {
        let overlay = &self.overlay;
        Some(match claimant {
            Claimant::Namespace(task) => object_rows::namespace(*self.namespaces.get(&task)?),
            Claimant::WayBack(task, node) => ingress_rows::way_back(overlay, overlay.task(task)?, overlay.peer(node)?),
            Claimant::Object(key) => match key {
                ObjectKey::Node | ObjectKey::Service(_) => Vec::new(),
                ObjectKey::Peer(id) if overlay.node()?.id == id => Vec::new(),
                ObjectKey::Peer(id) => ingress_rows::far_gateway(overlay, overlay.peer(id)?),
                ObjectKey::Network(id) => object_rows::network(overlay, overlay.node()?, overlay.network(id)?),
                ObjectKey::Task(id) => object_rows::task(overlay, overlay.task(id)?),
                ObjectKey::Endpoint(id) => {
                    let endpoint = overlay.endpoint(id)?;
                    let network = overlay.network(id.network)?;
                    // What is here has rows by its task.
                    if overlay.node()?.id == endpoint.node {
                        return None;
                    }
                    let peer = overlay.peer(endpoint.node).filter(|peer| overlay.why_unreachable(peer).is_none())?;
                    object_rows::remote(network, endpoint, peer.address, overlay.mtu(network)?)
                }
            },
        })
    }
}
