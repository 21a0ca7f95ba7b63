//! Everything that this node was told of, by key, with the indexes that keep the
//! cost of a change to what it concerns.
//!
//! The rows of the kernel, the tables of each namespace and the answers to names
//! all follow from this one value, so that they cannot disagree. Objects may refer
//! to others that are not known yet, or not any more; what follows from such an
//! object is nothing, until the other one comes.

use crate::capabilities::Capabilities;
use crate::dirty::DirtyKeys;
use crate::gateway::Gateway;
use crate::object::{Node, Object, ObjectKey, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6};
use skep_model::address::check_underlay_of_several;
use skep_model::network::Attachment;
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, Peer, ServiceNetwork};
use skep_model::{Id, NetworkId, NodeId, ServiceId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct NodeOverlay {
    node: Option<Node>,
    capabilities: Capabilities,
    gateway: Option<Gateway>,
    peers: BTreeMap<NodeId, Peer>,
    networks: BTreeMap<NetworkId, NodeNetwork>,
    services: BTreeMap<ServiceId, NodeService>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    tasks: BTreeMap<TaskId, LocalTask>,
    services_on: BTreeSet<(NetworkId, ServiceId)>,
    tasks_on: BTreeSet<(NetworkId, TaskId)>,
    endpoints_of: BTreeSet<(NetworkId, ServiceId, TaskId)>,
    endpoints_at: BTreeSet<(NodeId, EndpointId)>,
}

/// The id that sorts before all others.
pub(crate) fn lowest() -> Id {
    Id::from_random([0; 16])
}

impl NodeOverlay {
    /// This node.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// What this node has and lacks.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The largest packet inside a network, in bytes: what the underlay leaves, or
    /// less if a user asked for less. Larger ones would vanish on the way.
    pub fn mtu(&self, network: &NodeNetwork) -> Option<u32> {
        let overhead = if self.node.as_ref()?.address.is_ipv4() { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 };
        let left = self.capabilities.underlay_mtu()?.checked_sub(overhead)?;
        Some(network.mtu.map_or(left, |wish| wish.min(left)))
    }

    /// Nodes that this one cannot reach over its underlay, each with why: nothing leads
    /// there.
    pub fn unreachable(&self) -> impl Iterator<Item = (NodeId, String)> + '_ {
        let others = self.node.iter().flat_map(|node| self.peers.values().filter(|peer| peer.node != node.id));
        others.filter_map(|peer| Some((peer.node, self.why_unreachable(peer)?)))
    }

    /// Why this node cannot reach another one over its underlay, if it cannot.
    pub fn why_unreachable(&self, peer: &Peer) -> Option<String> {
        let node = self.node.as_ref().filter(|node| node.id != peer.node)?;
        if let Err(invalid) = check_underlay_of_several(peer.address) {
            return Some(invalid.to_string());
        }
        let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let (here, there) = (family(node.address), family(peer.address));
        (here != there)
            .then(|| format!("its data path address {} is of {there}, this node's {} of {here}", peer.address, node.address))
    }

    /// The gateway bridge, once its subnets are chosen.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateway.as_ref()
    }

    /// This node, as its peers see it.
    pub fn here(&self) -> Option<&Peer> {
        self.peers.get(&self.node.as_ref()?.id)
    }

    /// A node.
    pub fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    /// All nodes, this one included.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> + '_ {
        self.peers.values()
    }

    /// A network.
    pub fn network(&self, id: NetworkId) -> Option<&NodeNetwork> {
        self.networks.get(&id)
    }

    /// All networks.
    pub fn networks(&self) -> impl Iterator<Item = &NodeNetwork> + '_ {
        self.networks.values()
    }

    /// The network over which published ports are reached.
    pub fn ingress(&self) -> Option<&NodeNetwork> {
        self.networks.values().find(|network| network.ingress)
    }

    /// A service.
    pub fn service(&self, id: ServiceId) -> Option<&NodeService> {
        self.services.get(&id)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &NodeService> + '_ {
        self.services.values()
    }

    /// The services on a network, as they are on it.
    pub fn services_on(&self, network: NetworkId) -> impl Iterator<Item = (&NodeService, &ServiceNetwork)> + '_ {
        let on = self.services_on.range((network, ServiceId(lowest()))..).take_while(move |(found, _)| *found == network);
        on.filter_map(move |(_, service)| {
            let service = self.services.get(service)?;
            Some((service, service.networks.iter().find(|on| on.network == network)?))
        })
    }

    /// An endpoint.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(&id)
    }

    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> + '_ {
        self.endpoints.values()
    }

    /// The endpoints on a network.
    pub fn endpoints_on(&self, network: NetworkId) -> impl Iterator<Item = &Endpoint> + '_ {
        let first = EndpointId { network, task: TaskId(lowest()) };
        self.endpoints.range(first..).take_while(move |(id, _)| id.network == network).map(|(_, endpoint)| endpoint)
    }

    /// The endpoints of one service on one network.
    pub fn endpoints_of(&self, network: NetworkId, service: ServiceId) -> impl Iterator<Item = &Endpoint> + '_ {
        let first = (network, service, TaskId(lowest()));
        let found = self.endpoints_of.range(first..).take_while(move |(on, of, _)| (*on, *of) == (network, service));
        found.filter_map(move |(_, _, task)| self.endpoints.get(&EndpointId { network, task: *task }))
    }

    /// The endpoints on one node.
    pub fn endpoints_at(&self, node: NodeId) -> impl Iterator<Item = &Endpoint> + '_ {
        let first = EndpointId { network: NetworkId(lowest()), task: TaskId(lowest()) };
        let found = self.endpoints_at.range((node, first)..).take_while(move |(at, _)| *at == node);
        found.filter_map(|(_, id)| self.endpoints.get(id))
    }

    /// A task of this node.
    pub fn task(&self, id: TaskId) -> Option<&LocalTask> {
        self.tasks.get(&id)
    }

    /// All tasks of this node.
    pub fn tasks(&self) -> impl Iterator<Item = &LocalTask> + '_ {
        self.tasks.values()
    }

    /// The tasks of this node that are on a network.
    pub fn tasks_on(&self, network: NetworkId) -> impl Iterator<Item = &LocalTask> + '_ {
        let on = self.tasks_on.range((network, TaskId(lowest()))..).take_while(move |(found, _)| *found == network);
        on.filter_map(|(_, task)| self.tasks.get(task))
    }

    /// The networks that a task of this node sees, in the order of its interfaces.
    /// One that is not known yet is left out.
    pub fn visible_to(&self, task: TaskId) -> impl Iterator<Item = (&Attachment, &NodeNetwork)> + '_ {
        let attachments = self.tasks.get(&task).into_iter().flat_map(|task| &task.attachments);
        attachments.filter_map(|attachment| Some((attachment, self.networks.get(&attachment.network)?)))
    }

    /// The tasks of this node whose namespace may have to hold something else:
    /// those that changed themselves, and those on a network where something did.
    pub fn tasks_to_look_at(&self, dirty: &DirtyKeys) -> BTreeSet<TaskId> {
        let mut found = dirty.tasks.clone();
        let networks: BTreeSet<NetworkId> =
            dirty.networks.iter().copied().chain(dirty.services.iter().map(|(network, _)| *network)).collect();
        found.extend(networks.into_iter().flat_map(|network| self.tasks_on(network)).map(|task| task.id));
        if dirty.node || !dirty.peers.is_empty() {
            found.extend(self.ingress().into_iter().flat_map(|network| self.tasks_on(network.id)).map(|task| task.id));
        }
        found
    }

    /// The keys of all objects.
    pub fn keys(&self) -> BTreeSet<ObjectKey> {
        let node = self.node.map(|_| ObjectKey::Node);
        let peers = self.peers.keys().map(|id| ObjectKey::Peer(*id));
        let networks = self.networks.keys().map(|id| ObjectKey::Network(*id));
        let services = self.services.keys().map(|id| ObjectKey::Service(*id));
        let endpoints = self.endpoints.keys().map(|id| ObjectKey::Endpoint(*id));
        let tasks = self.tasks.keys().map(|id| ObjectKey::Task(*id));
        node.into_iter().chain(peers).chain(networks).chain(services).chain(endpoints).chain(tasks).collect()
    }

    /// Chooses the gateway's subnets. Only before any task is known.
    pub(crate) fn set_gateway(&mut self, gateway: Option<Gateway>, dirty: &mut DirtyKeys) {
        debug_assert!(self.tasks.is_empty(), "addresses behind the gateway are never taken away from tasks");
        self.gateway = gateway;
        dirty.node = true;
    }

    pub(crate) fn capabilities_mut(&mut self) -> &mut Capabilities {
        &mut self.capabilities
    }

    /// Takes an object in place of the one with its key.
    pub(crate) fn put(&mut self, object: Object, dirty: &mut DirtyKeys) {
        if !self.is_indexed_as(&object) {
            self.remove(object.key(), dirty);
        }
        match object {
            Object::Node(node) => self.node = Some(node),
            Object::Peer(peer) => drop(self.peers.insert(peer.node, peer)),
            Object::Network(network) => drop(self.networks.insert(network.id, network)),
            Object::Service(service) => {
                let on: Vec<_> = service.networks.iter().map(|on| (on.network, service.id)).collect();
                self.services_on.extend(&on);
                dirty.services.extend(on);
                dirty.ports |= !service.ingress_ports.is_empty();
                self.services.insert(service.id, service);
            }
            Object::Endpoint(endpoint) => {
                let EndpointId { network, task } = endpoint.id;
                self.endpoints_of.insert((network, endpoint.service, task));
                self.endpoints_at.insert((endpoint.node, endpoint.id));
                dirty.services.insert((network, endpoint.service));
                dirty.ports |= self.networks.get(&network).is_some_and(|network| network.ingress);
                self.endpoints.insert(endpoint.id, endpoint);
            }
            Object::Task(task) => {
                if let Some(gateway) = self.gateway.as_mut().filter(|_| task.has_gateway) {
                    gateway.give(task.id);
                }
                self.tasks_on.extend(task.attachments.iter().map(|attachment| (attachment.network, task.id)));
                self.tasks.insert(task.id, task);
            }
        }
    }

    /// Whether an object takes the place of one that is found in the same ways. Most
    /// changes of an endpoint are of its publication, and many come at once.
    fn is_indexed_as(&self, object: &Object) -> bool {
        let Object::Endpoint(new) = object else { return false };
        self.endpoints.get(&new.id).is_some_and(|old| (old.service, old.node) == (new.service, new.node))
    }

    /// Forgets an object. The gateway's addresses of a task stay its own until
    /// [`Self::release`].
    pub(crate) fn remove(&mut self, key: ObjectKey, dirty: &mut DirtyKeys) {
        match key {
            ObjectKey::Node => {
                self.node = None;
                dirty.node = true;
            }
            ObjectKey::Peer(id) => {
                self.peers.remove(&id);
                dirty.peers.insert(id);
            }
            ObjectKey::Network(id) => {
                self.networks.remove(&id);
                dirty.networks.insert(id);
            }
            ObjectKey::Service(id) => {
                let Some(service) = self.services.remove(&id) else { return };
                for on in &service.networks {
                    self.services_on.remove(&(on.network, id));
                    dirty.services.insert((on.network, id));
                }
                dirty.ports |= !service.ingress_ports.is_empty();
            }
            ObjectKey::Endpoint(id) => {
                let Some(endpoint) = self.endpoints.remove(&id) else { return };
                self.endpoints_of.remove(&(id.network, endpoint.service, id.task));
                self.endpoints_at.remove(&(endpoint.node, id));
                dirty.services.insert((id.network, endpoint.service));
                dirty.ports |= self.networks.get(&id.network).is_some_and(|network| network.ingress);
            }
            ObjectKey::Task(id) => {
                dirty.tasks.insert(id);
                let Some(task) = self.tasks.remove(&id) else { return };
                for attachment in &task.attachments {
                    self.tasks_on.remove(&(attachment.network, id));
                }
            }
        }
    }

    /// Takes back what a task had of the gateway.
    pub(crate) fn release(&mut self, task: TaskId) {
        if let Some(gateway) = &mut self.gateway {
            gateway.take_back(task);
        }
    }

    /// Notes the gateway's address that a task was found with.
    pub(crate) fn keep(&mut self, task: TaskId, address: std::net::IpAddr) {
        if let Some(gateway) = &mut self.gateway {
            gateway.keep(task, address);
        }
    }
}
