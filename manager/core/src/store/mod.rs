//! The replicated store: tables of objects, their indexes, and the outcomes of
//! recent requests.
//!
//! Tables are persistent ordered maps, so a clone of the store is cheap and
//! never changes: reads, snapshots and slow listings work on a clone while the
//! loop goes on. [`apply`] is the only writer. It is a pure function of the
//! store, the index and the transaction: no clock, no chance, no unordered map.

pub mod apply;
mod claims;
pub mod codec;
pub mod index;
pub mod requests;
pub mod resolve;
pub mod snapshot;
pub mod watch;

#[cfg(test)]
mod tests;

use index::Indexes;
use requests::Requests;
use rpds::RedBlackTreeMapSync;
use skep_model::cluster::Cluster;
use skep_model::config::Config;
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::secret::Secret;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{ConfigId, NetworkId, NodeId, Object, ObjectRef, SecretId, ServiceId, TaskId, Time};
use std::sync::Arc;

pub use snapshot::SnapshotContent;

/// One table: id → object.
pub type Table<K, V> = RedBlackTreeMapSync<K, Arc<V>>;

/// The state of the cluster at one version. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The raft index of the last entry that was applied, whether it changed anything or not.
    pub version: u64,
    /// Cluster time as far as it was applied: the newest `time` of a transaction.
    pub time: Time,
    /// The `wall` of the newest transaction applied, for the age of stale reads; zero
    /// after a snapshot, which does not hold it.
    pub wall: Time,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: Table<NodeId, Node>,
    pub(crate) networks: Table<NetworkId, Network>,
    pub(crate) secrets: Table<SecretId, Secret>,
    pub(crate) configs: Table<ConfigId, Config>,
    pub(crate) services: Table<ServiceId, Service>,
    pub(crate) tasks: Table<TaskId, Task>,
    pub(crate) indexes: Indexes,
    pub(crate) requests: Requests,
}

/// What a transaction did to one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which object.
    pub object: ObjectRef,
    /// It before the transaction; `None` if it was created.
    pub old: Option<StoredObject>,
    /// It after the transaction; `None` if it was removed.
    pub new: Option<StoredObject>,
}

impl Change {
    /// The task that changed, before and after; neither if it is of another kind.
    pub fn tasks(&self) -> (Option<&Arc<Task>>, Option<&Arc<Task>>) {
        (self.old.as_ref().and_then(StoredObject::task), self.new.as_ref().and_then(StoredObject::task))
    }

    /// The node that changed, before and after; neither if it is of another kind.
    pub fn nodes(&self) -> (Option<&Arc<Node>>, Option<&Arc<Node>>) {
        (self.old.as_ref().and_then(StoredObject::node), self.new.as_ref().and_then(StoredObject::node))
    }
}

/// A shared stored object of any kind.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each variant holds the type of its name")]
pub enum StoredObject {
    Cluster(Arc<Cluster>),
    Node(Arc<Node>),
    Network(Arc<Network>),
    Secret(Arc<Secret>),
    Config(Arc<Config>),
    Service(Arc<Service>),
    Task(Arc<Task>),
}

impl StoredObject {
    /// The task that it is, if it is one.
    fn task(&self) -> Option<&Arc<Task>> {
        if let Self::Task(task) = self { Some(task) } else { None }
    }

    /// The node that it is, if it is one.
    fn node(&self) -> Option<&Arc<Node>> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }

    /// A copy of its own.
    pub fn to_object(&self) -> Object {
        match self {
            Self::Cluster(object) => Object::Cluster(Box::new(Cluster::clone(object))),
            Self::Node(object) => Object::Node(Box::new(Node::clone(object))),
            Self::Network(object) => Object::Network(Box::new(Network::clone(object))),
            Self::Secret(object) => Object::Secret(Box::new(Secret::clone(object))),
            Self::Config(object) => Object::Config(Box::new(Config::clone(object))),
            Self::Service(object) => Object::Service(Box::new(Service::clone(object))),
            Self::Task(object) => Object::Task(Box::new(Task::clone(object))),
        }
    }
}

impl Store {
    /// A store without objects, as of a version.
    pub fn empty(version: u64) -> Self {
        Self { version, ..Self::default() }
    }

    /// Wall time of the newest transaction that was applied, as far as it is known.
    pub fn newest(&self) -> Time {
        if self.wall == Time::ZERO { self.time } else { self.wall }
    }

    /// The cluster object; there is one as soon as the cluster is initialised.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// All nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// A network.
    pub fn network(&self, id: NetworkId) -> Option<&Arc<Network>> {
        self.networks.get(&id)
    }

    /// All networks by id.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<Network>> {
        self.networks.values()
    }

    /// A secret.
    pub fn secret(&self, id: SecretId) -> Option<&Arc<Secret>> {
        self.secrets.get(&id)
    }

    /// The network over which published ports are reached, if there is one.
    pub fn ingress_network(&self) -> Option<&Arc<Network>> {
        self.network(self.indexes.claims.ingress()?)
    }

    /// All services that ask for a network by its id, by id.
    pub fn services_of_network(&self, network: NetworkId) -> impl Iterator<Item = &Arc<Service>> {
        self.indexes.services_of_network(network).filter_map(|id| self.service(id))
    }

    /// All tasks with an attachment to a network that are wanted and have not ended, by id.
    pub fn tasks_of_network(&self, network: NetworkId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_network(network).filter_map(|id| self.task(id))
    }

    /// All secrets by id.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }

    /// A config.
    pub fn config(&self, id: ConfigId) -> Option<&Arc<Config>> {
        self.configs.get(&id)
    }

    /// All configs by id.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }

    /// A service.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// All services by id.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A task.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)
    }

    /// All tasks by id.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// All tasks of a service, by id.
    pub fn tasks_of_service(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_service(service).filter_map(|id| self.task(id))
    }

    /// All tasks of a node, by id.
    pub fn tasks_of_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_node(node).filter_map(|id| self.task(id))
    }

    /// All services that refer to a secret, by id.
    pub fn services_of_secret(&self, secret: SecretId) -> impl Iterator<Item = &Arc<Service>> {
        self.indexes.services_of_secret(secret).filter_map(|id| self.service(id))
    }

    /// All tasks that refer to a secret and have not ended, by id.
    pub fn tasks_of_secret(&self, secret: SecretId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_secret(secret).filter_map(|id| self.task(id))
    }

    /// All tasks that refer to a config and have not ended, by id.
    pub fn tasks_of_config(&self, config: ConfigId) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_config(config).filter_map(|id| self.task(id))
    }

    /// Whether a version of a secret is stored.
    pub fn has_secret_version(&self, secret: SecretId, n: u64) -> bool {
        self.secret(secret).is_some_and(|secret| secret.spec.versions.iter().any(|version| version.n == n))
    }

    /// Whether a version of a config is stored.
    pub fn has_config_version(&self, config: ConfigId, n: u64) -> bool {
        self.config(config).is_some_and(|config| config.spec.versions.iter().any(|version| version.n == n))
    }

    /// All services that refer to a config, by id.
    pub fn services_of_config(&self, config: ConfigId) -> impl Iterator<Item = &Arc<Service>> {
        self.indexes.services_of_config(config).filter_map(|id| self.service(id))
    }
}
