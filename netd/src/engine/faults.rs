//! What does not work, by place, as every room of netd says it.
//!
//! Each room names all of its faults each time ([`Faults::replace`]): what it does not
//! name works again. A room that is called from `settling` puts them in its
//! [`crate::settled::Settled::faults`]; any other calls `replace` with a name of its own
//! and has the engine publish them by [`super::Engine::publish_faults`]. From here they
//! go to the agent with every [`skep_proto::v1::NetdProgress`], to the leader, and into
//! the node's status; see [`skep_model::place`].

use super::{Engine, Namespace, ObjectKey};
use skep_model::place::{Place, PlaceFault, PlaceFaults};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The faults that rooms named.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rooms: BTreeMap<&'static str, Vec<PlaceFault>>,
}

impl Faults {
    /// Takes all faults of a room; those that it named before and does not now are over.
    pub fn replace(&mut self, room: &'static str, faults: Vec<PlaceFault>) {
        if faults.is_empty() {
            self.rooms.remove(room);
        } else {
            self.rooms.insert(room, faults);
        }
    }

    fn all(&self) -> impl Iterator<Item = PlaceFault> + '_ {
        self.rooms.values().flatten().cloned()
    }
}

/// Whose an object is that was left out.
pub(crate) fn owner(key: ObjectKey) -> Place {
    match key {
        ObjectKey::Node | ObjectKey::Peer(_) => Place::Node,
        ObjectKey::Network(id) => Place::Network(id),
        ObjectKey::Service(id) => Place::Service(id),
        ObjectKey::Endpoint(id) => Place::Task(id.task),
        ObjectKey::Task(id) => Place::Task(id),
    }
}

impl Engine {
    /// Tells of all faults, if they are others than before. To be called before a
    /// version is acknowledged that they hold for.
    pub(super) fn publish_faults(&mut self) {
        let faults = PlaceFaults::new(self.place_faults());
        self.published_faults.send_if_modified(|known| {
            let is_news = **known != faults;
            if is_news {
                *known = Arc::new(faults);
            }
            is_news
        });
    }

    fn place_faults(&self) -> Vec<PlaceFault> {
        let rows = self.failures.iter().map(|(place, text)| PlaceFault::blocking(self.desired.owner(place), text.clone()));
        let of_namespaces = self.failures_after.iter().chain(&self.unreadable);
        let rest = of_namespaces.flat_map(|(namespace, text)| self.of_namespace(*namespace, text));
        let connections = self.tables.failures().flat_map(|(namespace, text)| self.of_namespace(namespace, &text));
        let mut faults: Vec<PlaceFault> = rows.chain(rest).chain(connections).collect();
        faults.extend(self.left_out.values().cloned());
        if let Some(text) = self.underlay_failure() {
            faults.push(PlaceFault::blocking(Place::Node, text.clone()));
            let networks = self.desired.overlay().networks();
            faults.extend(networks.map(|network| PlaceFault::blocking(Place::Network(network.id), text.clone())));
        }
        faults.extend(self.lacks());
        faults.extend(self.faults.all());
        faults
    }

    /// What this node or a task lacks, and the rest works without.
    fn lacks(&self) -> Vec<PlaceFault> {
        let overlay = self.desired.overlay();
        let mut faults = overlay.capabilities().missing(overlay.node().map(|node| node.address));
        faults.extend(
            overlay
                .unreachable()
                .map(|(node, why)| PlaceFault::lasting(Place::Node, format!("the tasks of node {node} are not reached: {why}"))),
        );
        faults
    }

    /// What fails in the node's own namespace fails its published ports with it.
    fn of_namespace(&self, namespace: Namespace, text: &str) -> Vec<PlaceFault> {
        match namespace {
            Namespace::Task(task) => vec![PlaceFault::blocking(Place::Task(task), text)],
            Namespace::Node => {
                let ingress = self.desired.overlay().ingress().map(|network| Place::Network(network.id));
                let places = [Place::Node].into_iter().chain(ingress);
                places.map(|place| PlaceFault::blocking(place, text)).collect()
            }
        }
    }
}
