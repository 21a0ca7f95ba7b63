//! What there is to tell of the overlay networks, and which node is concerned.
//!
//! Everything follows from the store and is kept up to date by its changes, with
//! the indexes that lead from a change to the nodes on its networks: what a change
//! costs grows with them, not with what exists. What one node was told of it is
//! its session's affair ([`super::view`]).
//!
//! A node takes part in a network while it has a task on it that was assigned and
//! has not ended, and in the ingress network while any service publishes a port
//! through it.

use super::names::names;
use crate::store::{Change, Store, StoredObject};
use skep_model::endpoint::{Publication, PublishMode, PublishedPort};
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::overlay::{Endpoint, EndpointId, NodeNetwork, NodeService, Peer, ServiceNetwork};
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{NetworkId, NodeId, ServiceId, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

const ID_MIN: [u8; 16] = [0; 16];

/// Names one object that nodes are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Peer(NodeId),
    Network(NetworkId),
    Service(ServiceId),
    Endpoint(EndpointId),
}

/// One object that nodes are told of; a service with all of its networks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OverlayObject {
    Peer(Arc<Peer>),
    Network(Arc<NodeNetwork>),
    Service(Arc<NodeService>),
    Endpoint(Arc<Endpoint>),
}

/// What a transaction did to what nodes are told.
#[derive(Debug, Default)]
pub(crate) struct DirtyKeys {
    /// Objects that changed, with what they were.
    pub(crate) objects: Vec<(Key, Option<OverlayObject>)>,
    /// Nodes that joined or left a network.
    pub(crate) moved: BTreeSet<(NodeId, NetworkId)>,
    /// All nodes joined or left the ingress network.
    pub(crate) is_mesh_moved: bool,
}

/// All objects, by key, and who is concerned.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    peers: BTreeMap<NodeId, Arc<Peer>>,
    networks: BTreeMap<NetworkId, Arc<NodeNetwork>>,
    services: BTreeMap<ServiceId, Arc<NodeService>>,
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// Services by network.
    services_on: BTreeSet<(NetworkId, ServiceId)>,
    /// How many endpoints a service has on a network.
    endpoints_of: BTreeMap<(ServiceId, NetworkId), usize>,
    /// How many endpoints a node has on a network, and the same by network.
    attached: BTreeMap<NodeId, BTreeMap<NetworkId, usize>>,
    nodes_on: BTreeSet<(NetworkId, NodeId)>,
    /// Services with ports in ingress mode.
    in_mesh: BTreeSet<ServiceId>,
    ingress: Option<NetworkId>,
}

impl Overlay {
    /// Everything that a store implies.
    pub(crate) fn new(store: &Store) -> Self {
        let mut overlay = Self::default();
        let mut dirty_keys = DirtyKeys::default();
        store.networks().for_each(|network| overlay.put_network(store, network.id, Some(network), &mut dirty_keys));
        store.nodes().for_each(|node| overlay.put_peer(node.id, Some(node), &mut dirty_keys));
        for task in store.tasks() {
            overlay.put_task(store, None, Some(task), &mut dirty_keys);
        }
        store.services().for_each(|service| overlay.put_service(store, service.id, &mut dirty_keys));
        overlay
    }

    /// Follows a transaction that was applied.
    pub(crate) fn changed(&mut self, store: &Store, changes: &[Change]) -> DirtyKeys {
        let mut dirty_keys = DirtyKeys::default();
        for change in changes {
            match (&change.old, &change.new) {
                (_, Some(StoredObject::Network(network))) => self.put_network(store, network.id, Some(network), &mut dirty_keys),
                (Some(StoredObject::Network(network)), None) => self.put_network(store, network.id, None, &mut dirty_keys),
                (_, Some(StoredObject::Node(node))) => {
                    self.put_peer(node.id, Some(node), &mut dirty_keys);
                    let had = change.nodes().0.is_none_or(|old| has_ipv6(old));
                    if had != has_ipv6(node) {
                        for task in store.tasks_of_node(node.id).filter(|task| is_on_networks(task)) {
                            self.put_endpoints(store, task, &mut dirty_keys);
                        }
                    }
                }
                (Some(StoredObject::Node(node)), None) => self.put_peer(node.id, None, &mut dirty_keys),
                (_, Some(StoredObject::Service(service))) | (Some(StoredObject::Service(service)), None) => {
                    self.put_service(store, service.id, &mut dirty_keys);
                }
                (_, Some(StoredObject::Task(_))) | (Some(StoredObject::Task(_)), _) => {
                    let (old, new) = change.tasks();
                    self.put_task(store, old, new, &mut dirty_keys);
                }
                _ => {}
            }
        }
        dirty_keys
    }

    /// One object as it is.
    pub(crate) fn object(&self, key: Key) -> Option<OverlayObject> {
        match key {
            Key::Peer(id) => self.peers.get(&id).cloned().map(OverlayObject::Peer),
            Key::Network(id) => self.networks.get(&id).cloned().map(OverlayObject::Network),
            Key::Service(id) => self.services.get(&id).cloned().map(OverlayObject::Service),
            Key::Endpoint(id) => self.endpoints.get(&id).cloned().map(OverlayObject::Endpoint),
        }
    }

    /// The networks that a node takes part in, of those that are settled.
    pub(crate) fn networks_of(&self, node: NodeId) -> BTreeSet<NetworkId> {
        let attached = self.attached.get(&node).into_iter().flat_map(BTreeMap::keys).copied();
        attached.chain(self.mesh()).filter(|network| self.networks.contains_key(network)).collect()
    }

    /// Whether a node takes part in a network.
    pub(crate) fn takes_part(&self, node: NodeId, network: NetworkId) -> bool {
        self.networks.contains_key(&network) && (self.mesh() == Some(network) || self.nodes_on.contains(&(network, node)))
    }

    /// The nodes that take part in a network because of tasks.
    pub(crate) fn nodes_on(&self, network: NetworkId) -> impl Iterator<Item = NodeId> + '_ {
        let first = (network, NodeId::from_random(ID_MIN));
        self.nodes_on.range(first..).take_while(move |(on, _)| *on == network).map(|(_, node)| *node)
    }

    /// The ingress network, while all nodes take part in it.
    pub(crate) fn mesh(&self) -> Option<NetworkId> {
        self.ingress.filter(|_| !self.in_mesh.is_empty())
    }

    /// Whether a node has a task on any network.
    pub(crate) fn has_tasks(&self, node: NodeId) -> bool {
        self.attached.contains_key(&node)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(&node)
    }

    pub(crate) fn network(&self, network: NetworkId) -> Option<&Arc<NodeNetwork>> {
        self.networks.get(&network)
    }

    pub(crate) fn service(&self, service: ServiceId) -> Option<&Arc<NodeService>> {
        self.services.get(&service)
    }

    pub(crate) fn endpoint(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&id)
    }

    pub(crate) fn services_on(&self, network: NetworkId) -> impl Iterator<Item = ServiceId> + '_ {
        let first = (network, ServiceId::from_random(ID_MIN));
        self.services_on.range(first..).take_while(move |(on, _)| *on == network).map(|(_, service)| *service)
    }

    pub(crate) fn endpoints_on(&self, network: NetworkId) -> impl Iterator<Item = &Arc<Endpoint>> + '_ {
        let first = EndpointId { network, task: TaskId::from_random(ID_MIN) };
        let range = self.endpoints.range((Bound::Included(first), Bound::Unbounded));
        range.take_while(move |(id, _)| id.network == network).map(|(_, endpoint)| endpoint)
    }

    fn put_peer(&mut self, id: NodeId, node: Option<&Arc<Node>>, dirty_keys: &mut DirtyKeys) {
        let peer = node.and_then(|node| {
            let underlay = node.description.underlay.as_ref()?;
            let mut ingress = node.plan.ingress.clone();
            if let Some(ingress) = ingress.as_mut().filter(|_| !underlay.lacks_ipv6.is_empty()) {
                ingress.addresses.retain(IpAddr::is_ipv4);
            }
            Some(Arc::new(Peer { node: id, address: underlay.address, ingress }))
        });
        if let Some(old) = replace(&mut self.peers, id, peer) {
            dirty_keys.objects.push((Key::Peer(id), old.map(OverlayObject::Peer)));
        }
    }

    fn put_network(&mut self, store: &Store, id: NetworkId, network: Option<&Arc<Network>>, dirty_keys: &mut DirtyKeys) {
        let (was_mesh, was_ingress) = (self.mesh(), self.ingress);
        if network.is_some_and(|network| network.spec.ingress) {
            self.ingress = Some(id);
        } else if self.ingress == Some(id) {
            self.ingress = None;
        }
        dirty_keys.is_mesh_moved |= was_mesh != self.mesh();
        if was_ingress != self.ingress {
            self.in_mesh.clone().into_iter().for_each(|service| self.put_service(store, service, dirty_keys));
        }
        let settled = network.filter(|network| network.plan.vni != 0).map(|network| Arc::new(node_network(network)));
        let Some(old) = replace(&mut self.networks, id, settled) else { return };
        if old.is_some() != self.networks.contains_key(&id) {
            dirty_keys.moved.extend(self.nodes_on(id).map(|node| (node, id)));
            dirty_keys.is_mesh_moved |= self.mesh() == Some(id);
        }
        dirty_keys.objects.push((Key::Network(id), old.map(OverlayObject::Network)));
    }

    fn put_service(&mut self, store: &Store, id: ServiceId, dirty_keys: &mut DirtyKeys) {
        let was_mesh = self.mesh();
        let service = store.service(id);
        let ports = service.map(|service| ingress_ports(service)).unwrap_or_default();
        if ports.is_empty() {
            self.in_mesh.remove(&id)
        } else {
            self.in_mesh.insert(id)
        };
        dirty_keys.is_mesh_moved |= was_mesh != self.mesh();
        let new = service.map(|service| Arc::new(self.node_service(service, ports)));
        let Some(old) = replace(&mut self.services, id, new) else { return };
        for part in old.iter().flat_map(|service| &service.networks) {
            self.services_on.remove(&(part.network, id));
        }
        for part in self.services.get(&id).into_iter().flat_map(|service| &service.networks) {
            self.services_on.insert((part.network, id));
        }
        dirty_keys.objects.push((Key::Service(id), old.map(OverlayObject::Service)));
    }

    /// A service is on the networks of its spec, and still on those that tasks of
    /// an earlier one have.
    fn node_service(&self, service: &Service, ingress_ports: Vec<PublishedPort>) -> NodeService {
        let mut networks: BTreeMap<NetworkId, Vec<String>> = BTreeMap::new();
        for request in &service.spec.spec.task_template.networks {
            if let Ok(network) = request.target.parse() {
                networks.insert(network, request.aliases.clone());
            }
        }
        let endpoint = &service.plan.endpoint;
        let first = (service.id, NetworkId::from_random(ID_MIN));
        let of_tasks = self.endpoints_of.range(first..).take_while(|((of, _), _)| *of == service.id);
        let others = endpoint.virtual_addresses.keys().copied().chain(of_tasks.map(|((_, network), _)| *network));
        for network in others.chain(self.ingress.filter(|_| !ingress_ports.is_empty())) {
            networks.entry(network).or_default();
        }
        let part = |(network, aliases)| {
            let virtual_addresses =
                endpoint.virtual_addresses.get(&network).map(|owned| owned.addresses.clone()).unwrap_or_default();
            ServiceNetwork { network, virtual_addresses, aliases }
        };
        NodeService {
            id: service.id,
            name: service.spec.spec.annotations.name.clone(),
            networks: networks.into_iter().map(part).collect(),
            ingress_ports,
        }
    }

    fn put_task(&mut self, store: &Store, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>, dirty_keys: &mut DirtyKeys) {
        let (old, new) = (old.filter(|task| is_on_networks(task)), new.filter(|task| is_on_networks(task)));
        if let Some(task) = new {
            self.put_endpoints(store, task, dirty_keys);
        }
        match (old, new) {
            (None, Some(task)) => self.count(store, task, true, dirty_keys),
            (Some(task), None) => {
                for attachment in &task.networks {
                    let id = EndpointId { network: attachment.network, task: task.id };
                    self.put_endpoint(id, None, dirty_keys);
                }
                self.count(store, task, false, dirty_keys);
            }
            // A task's node and networks never change.
            _ => {}
        }
    }

    /// The places of a task on its networks. Nobody is told of an IPv6 address on a node
    /// that has none.
    fn put_endpoints(&mut self, store: &Store, task: &Task, dirty_keys: &mut DirtyKeys) {
        let Some(node) = task.plan.node else { return };
        let (names, has_ipv6) = (names(store, task), store.node(node).is_none_or(|node| has_ipv6(node)));
        for attachment in &task.networks {
            let id = EndpointId { network: attachment.network, task: task.id };
            let endpoint = Arc::new(Endpoint {
                id,
                service: task.service_id,
                node,
                addresses: attachment.addresses.iter().copied().filter(|address| has_ipv6 || address.is_ipv4()).collect(),
                names: names.clone(),
                is_published: task.plan.endpoint.publication == Publication::Published,
            });
            self.put_endpoint(id, Some(endpoint), dirty_keys);
        }
    }

    fn put_endpoint(&mut self, id: EndpointId, endpoint: Option<Arc<Endpoint>>, dirty_keys: &mut DirtyKeys) {
        if let Some(old) = replace(&mut self.endpoints, id, endpoint) {
            dirty_keys.objects.push((Key::Endpoint(id), old.map(OverlayObject::Endpoint)));
        }
    }

    /// Counts the endpoints of a task, and notes what became of it.
    fn count(&mut self, store: &Store, task: &Task, is_added: bool, dirty_keys: &mut DirtyKeys) {
        let Some(node) = task.plan.node else { return };
        let mut is_service_touched = false;
        for network in task.networks.iter().map(|attachment| attachment.network) {
            let attached = self.attached.entry(node).or_default();
            if step(attached, network, is_added) {
                dirty_keys.moved.insert((node, network));
                if is_added {
                    self.nodes_on.insert((network, node))
                } else {
                    self.nodes_on.remove(&(network, node))
                };
            }
            if attached.is_empty() {
                self.attached.remove(&node);
            }
            is_service_touched |= step(&mut self.endpoints_of, (task.service_id, network), is_added);
        }
        if is_service_touched {
            self.put_service(store, task.service_id, dirty_keys);
        }
    }
}

/// Whether tasks of a node have IPv6, as far as it said.
fn has_ipv6(node: &Node) -> bool {
    node.description.underlay.as_ref().is_none_or(|underlay| underlay.lacks_ipv6.is_empty())
}

/// Whether a task has endpoints: it has a node and networks, and has not ended.
pub(crate) fn is_on_networks(task: &Task) -> bool {
    let is_live = (TaskState::Assigned..=TaskState::Running).contains(&task.status.state);
    is_live && task.plan.node.is_some() && !task.networks.is_empty()
}

/// A network as nodes are told of it.
pub(crate) fn node_network(network: &Network) -> NodeNetwork {
    NodeNetwork {
        id: network.id,
        name: network.spec.annotations.name.clone(),
        vni: network.plan.vni,
        pools: network.plan.pools.clone(),
        mtu: network.spec.mtu(),
        internal: network.spec.internal,
        ingress: network.spec.ingress,
    }
}

fn ingress_ports(service: &Service) -> Vec<PublishedPort> {
    let ports = service.plan.endpoint.ports.iter();
    ports.filter(|port| port.publish_mode == PublishMode::Ingress).cloned().collect()
}

/// Puts or removes a value; what was there before if it was another.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, new: Option<Arc<V>>) -> Option<Option<Arc<V>>> {
    if map.get(&key) == new.as_ref() {
        return None;
    }
    Some(match new {
        Some(new) => map.insert(key, new),
        None => map.remove(&key),
    })
}

/// Counts one more or less; whether the first came or the last went.
fn step<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, is_added: bool) -> bool {
    if is_added {
        let count = counts.entry(key).or_default();
        *count += 1;
        return *count == 1;
    }
    let count = counts.get_mut(&key).expect("what is taken away was counted");
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        counts.remove(&key);
    }
    is_last
}
