//! What the network daemon is to have: the objects that the manager told of, and
//! this node's own tasks.
//!
//! Every change gets a version of its own, higher than any before it, also than
//! those of an earlier life of this daemon: versions begin at the boot clock's
//! nanoseconds, and the network daemon lives no longer than the machine. A stream
//! begins with everything, and goes on with what is new. No
//! stream begins before the manager has told a complete set once, or what it told
//! before a restart of the machine was found: what it did not name would be taken for
//! gone.

use super::kept::Overlay;
use skep_model::endpoint::{PublishMode, PublishedPort};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, OverlayChange, Peer};
use skep_model::task::Task;
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use skep_proto::v1::{self, netd_change::Change};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// A link of a chain of assignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The chain.
    pub chain: u64,
    /// The link's version in it.
    pub version: u64,
}

/// A task of this node with a namespace of the network daemon's.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// The task.
    pub task: Arc<Task>,
    /// Its host name, placeholders filled in.
    pub hostname: String,
    /// Its ports of mode `host`, each chosen.
    pub host_ports: Vec<PublishedPort>,
}

/// All of it, and what of it the daemon was not told yet.
#[derive(Debug)]
pub(super) struct Desired {
    node: NodeId,
    address: IpAddr,
    /// UDP, of overlay traffic; `None` until a manager said it.
    port: Option<u16>,
    /// No task opens a connection to an address of this node.
    isolate_nodes: bool,
    peers: BTreeMap<NodeId, Peer>,
    networks: BTreeMap<NetworkId, NodeNetwork>,
    services: BTreeMap<ServiceId, NodeService>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    tasks: BTreeMap<TaskId, Local>,
    /// A complete set was told, now or before a restart of the machine.
    is_told: bool,
    /// What was told before a restart was found.
    is_restored: bool,
    version: u64,
    /// The version that carries each link, oldest first.
    links: VecDeque<(u64, Link)>,
    /// A stream is open.
    is_streaming: bool,
    news: Vec<v1::NetdChange>,
}

impl Desired {
    /// Nothing is known yet; versions begin after `version`.
    pub fn new(node: NodeId, address: IpAddr, version: u64) -> Self {
        Self {
            node,
            address,
            port: None,
            isolate_nodes: false,
            peers: BTreeMap::new(),
            networks: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            tasks: BTreeMap::new(),
            is_told: false,
            is_restored: false,
            version,
            links: VecDeque::new(),
            is_streaming: false,
            news: Vec::new(),
        }
    }

    /// Takes what was told before a restart. It is not handed on before
    /// [`Desired::use_restored`].
    pub fn restore(&mut self, overlay: Overlay) {
        (self.port, self.isolate_nodes) = (Some(overlay.port), overlay.isolate_nodes);
        overlay.objects.into_iter().for_each(|object| self.take(object));
        self.is_restored = true;
    }

    /// Begins to hand on what was restored, unless a manager has told something newer.
    /// True if there is news.
    pub fn use_restored(&mut self) -> bool {
        let is_news = self.is_restored && !self.is_told;
        self.is_told |= self.is_restored;
        is_news
    }

    /// Whether a complete set was told, now or before a restart of the machine.
    pub fn is_told(&self) -> bool {
        self.is_told
    }

    /// What is to be kept for a restart; nothing if no manager has told anything yet.
    pub fn to_keep(&self) -> Option<Overlay> {
        let port = self.port.filter(|_| self.is_told)?;
        Some(Overlay { port, isolate_nodes: self.isolate_nodes, objects: self.objects().collect() })
    }

    fn objects(&self) -> impl Iterator<Item = OverlayChange> {
        let peers = self.peers.values().cloned().map(OverlayChange::PutPeer);
        let networks = self.networks.values().cloned().map(OverlayChange::PutNetwork);
        let services = self.services.values().cloned().map(OverlayChange::PutService);
        let endpoints = self.endpoints.values().cloned().map(OverlayChange::PutEndpoint);
        peers.chain(networks).chain(services).chain(endpoints)
    }

    /// The manager said which port overlay traffic has, and whether tasks are kept from
    /// their node.
    pub fn learn(&mut self, port: u16, isolate_nodes: bool) {
        let was = (self.port.replace(port), std::mem::replace(&mut self.isolate_nodes, isolate_nodes));
        if was != (Some(port), isolate_nodes) {
            self.version += 1;
            self.push(self.node_change());
        }
    }

    /// One more link of the chain.
    pub fn tell(&mut self, link: Link, is_complete: bool, changes: Vec<OverlayChange>) {
        self.version += 1;
        let removals = if is_complete { self.unnamed(&changes) } else { Vec::new() };
        self.is_told |= is_complete;
        for change in changes.into_iter().chain(removals) {
            let wire = v1::OverlayChange::from(&change);
            self.take(change);
            self.push(Change::Overlay(wire));
        }
        // Whatever the last chain still waited for is of no interest any more.
        self.links.retain(|(_, other)| other.chain == link.chain);
        self.links.push_back((self.version, link));
    }

    /// What is here and a complete set does not name; endpoints before their networks.
    fn unnamed(&self, changes: &[OverlayChange]) -> Vec<OverlayChange> {
        let mut gone = Self::new(self.node, self.address, 0);
        gone.peers.clone_from(&self.peers);
        gone.networks.clone_from(&self.networks);
        gone.services.clone_from(&self.services);
        gone.endpoints.clone_from(&self.endpoints);
        for change in changes {
            match change {
                OverlayChange::PutPeer(peer) => drop(gone.peers.remove(&peer.node)),
                OverlayChange::PutNetwork(network) => drop(gone.networks.remove(&network.id)),
                OverlayChange::PutService(service) => drop(gone.services.remove(&service.id)),
                OverlayChange::PutEndpoint(endpoint) => drop(gone.endpoints.remove(&endpoint.id)),
                OverlayChange::RemoveEndpoint(_)
                | OverlayChange::RemoveService(_)
                | OverlayChange::RemoveNetwork(_)
                | OverlayChange::RemovePeer(_) => {}
            }
        }
        let endpoints = gone.endpoints.into_keys().map(OverlayChange::RemoveEndpoint);
        let services = gone.services.into_keys().map(OverlayChange::RemoveService);
        let networks = gone.networks.into_keys().map(OverlayChange::RemoveNetwork);
        let peers = gone.peers.into_keys().map(OverlayChange::RemovePeer);
        endpoints.chain(services).chain(networks).chain(peers).collect()
    }

    fn take(&mut self, change: OverlayChange) {
        match change {
            OverlayChange::PutPeer(peer) => drop(self.peers.insert(peer.node, peer)),
            OverlayChange::PutNetwork(network) => drop(self.networks.insert(network.id, network)),
            OverlayChange::PutService(service) => drop(self.services.insert(service.id, service)),
            OverlayChange::PutEndpoint(endpoint) => drop(self.endpoints.insert(endpoint.id, endpoint)),
            OverlayChange::RemoveEndpoint(id) => drop(self.endpoints.remove(&id)),
            OverlayChange::RemoveService(id) => drop(self.services.remove(&id)),
            OverlayChange::RemoveNetwork(id) => drop(self.networks.remove(&id)),
            OverlayChange::RemovePeer(id) => drop(self.peers.remove(&id)),
        }
    }

    /// A task is to have a namespace. The version from which on the network daemon
    /// knows it, and every network told before; 0 if no stream can begin yet.
    pub fn put_task(&mut self, local: Local) -> u64 {
        self.version += 1;
        self.push(Change::PutTask((&self.local_task(&local)).into()));
        self.tasks.insert(local.task.id, local);
        if self.is_told && self.port.is_some() { self.version } else { 0 }
    }

    /// A task does not need its namespace any more. False if it had none.
    pub fn remove_task(&mut self, task: TaskId) -> bool {
        let had = self.tasks.remove(&task).is_some();
        if had {
            self.version += 1;
            self.push(Change::RemoveTask(task.to_string()));
        }
        had
    }

    /// Whether the task has a namespace.
    pub fn has_task(&self, task: TaskId) -> bool {
        self.tasks.contains_key(&task)
    }

    /// The task whose node answers on this port for it.
    pub fn holder(&self, port: &PublishedPort) -> Option<&Arc<Task>> {
        let is_same = |other: &PublishedPort| (other.transport, other.published_port) == (port.transport, port.published_port);
        self.tasks.values().find(|local| local.host_ports.iter().any(is_same)).map(|local| &local.task)
    }

    /// The task as the network daemon has it.
    pub fn local_task(&self, local: &Local) -> LocalTask {
        let task = &local.task;
        let is_internal =
            |network: &NetworkId| self.networks.get(network).is_some_and(|network| network.internal && !network.ingress);
        let is_cut_off = !task.networks.is_empty() && task.networks.iter().all(|place| is_internal(&place.network));
        LocalTask {
            id: task.id,
            service: task.service_id,
            attachments: task.networks.clone(),
            has_gateway: !is_cut_off || !local.host_ports.is_empty(),
            host_ports: local.host_ports.clone(),
            hostname: local.hostname.clone(),
            dns: task.spec.container_spec.dns.clone(),
        }
    }

    /// The beginning of a stream; `None` as long as it would not be true.
    pub fn everything(&mut self) -> Option<Vec<v1::NetdChange>> {
        if !self.is_told || self.port.is_none() {
            return None;
        }
        self.is_streaming = true;
        self.news.clear();
        self.push(Change::Reset(v1::NetdReset {}));
        self.push(self.node_change());
        let overlay: Vec<Change> = self.objects().map(|change| Change::Overlay((&change).into())).collect();
        let tasks: Vec<Change> = self.tasks.values().map(|local| Change::PutTask((&self.local_task(local)).into())).collect();
        overlay.into_iter().chain(tasks).for_each(|change| self.push(change));
        Some(self.commit())
    }

    /// What is new since the last call, with the version after it; nothing if
    /// `sent` is the newest version.
    pub fn news(&mut self, sent: u64) -> Vec<v1::NetdChange> {
        if self.version == sent { Vec::new() } else { self.commit() }
    }

    fn commit(&mut self) -> Vec<v1::NetdChange> {
        self.push(Change::Commit(self.version));
        std::mem::take(&mut self.news)
    }

    /// The stream is gone.
    pub fn stream_ended(&mut self) {
        self.is_streaming = false;
        self.news.clear();
    }

    /// Forgets everything; the version of that.
    pub fn cleared(&mut self) -> u64 {
        *self = Self::new(self.node, self.address, self.version + 1);
        self.version
    }

    /// The kernel holds everything up to a version: the newest link of which that
    /// is true, if there is one that was not named before.
    pub fn programmed(&mut self, through: u64) -> Option<Link> {
        let mut newest = None;
        while let Some((version, link)) = self.links.front().copied() {
            if version > through {
                break;
            }
            self.links.pop_front();
            newest = Some(link);
        }
        newest
    }

    fn node_change(&self) -> Change {
        let port = self.port.unwrap_or_default().into();
        let (id, address) = (self.node.to_string(), self.address.to_string());
        Change::Node(v1::NetdNode { id, address, port, is_isolated: self.isolate_nodes })
    }

    /// Without a stream nothing is kept: the next one begins with everything.
    fn push(&mut self, change: Change) {
        if self.is_streaming {
            self.news.push(v1::NetdChange { change: Some(change) });
        }
    }
}

/// The ports of a task that its node answers on for it alone.
pub(super) fn host_ports(task: &Task) -> impl Iterator<Item = &PublishedPort> {
    task.ports.iter().filter(|port| port.publish_mode == PublishMode::Host)
}
