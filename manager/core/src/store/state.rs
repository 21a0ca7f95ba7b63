//! The tables of the store, and the questions that they and their indexes answer.

use super::index::{Indexes, TaskCounts};
use super::object::StoredObject;
use super::requests::Requests;
use rpds::RedBlackTreeMapSync;
use skep_model::cluster::Cluster;
use skep_model::config::Config;
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::secret::Secret;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{ConfigId, Id, Kind, NetworkId, NodeId, SecretId, ServiceId, TaskId, Time};
use std::ops::Bound;
use std::sync::Arc;

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
        self.tasks_of_service_after(service, None)
    }

    /// The tasks of a service with a higher id than this one, by id.
    pub fn tasks_of_service_after(&self, service: ServiceId, after: Option<Id>) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_service(service, after.map(TaskId)).filter_map(|id| self.task(id))
    }

    /// All tasks of a node, by id.
    pub fn tasks_of_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_of_node_after(node, None)
    }

    /// The tasks of a node with a higher id than this one, by id.
    pub fn tasks_of_node_after(&self, node: NodeId, after: Option<Id>) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.tasks_of_node(node, after.map(TaskId)).filter_map(|id| self.task(id))
    }

    /// How many tasks of a service are wanted, and how many of those run.
    pub fn task_counts(&self, service: ServiceId) -> TaskCounts {
        self.indexes.task_counts.get(&service).copied().unwrap_or_default()
    }

    /// The objects of a kind with a higher id than this one, by id.
    pub fn objects_after(&self, kind: Kind, after: Option<Id>) -> Box<dyn Iterator<Item = StoredObject> + '_> {
        match kind {
            Kind::Cluster => {
                let cluster = self.cluster.iter().filter(move |cluster| after.is_none_or(|after| cluster.id.0 > after));
                Box::new(cluster.cloned().map(StoredObject::Cluster))
            }
            Kind::Node => Box::new(later(&self.nodes, after.map(NodeId)).cloned().map(StoredObject::Node)),
            Kind::Network => Box::new(later(&self.networks, after.map(NetworkId)).cloned().map(StoredObject::Network)),
            Kind::Secret => Box::new(later(&self.secrets, after.map(SecretId)).cloned().map(StoredObject::Secret)),
            Kind::Config => Box::new(later(&self.configs, after.map(ConfigId)).cloned().map(StoredObject::Config)),
            Kind::Service => Box::new(later(&self.services, after.map(ServiceId)).cloned().map(StoredObject::Service)),
            Kind::Task => Box::new(later(&self.tasks, after.map(TaskId)).cloned().map(StoredObject::Task)),
        }
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

/// The objects of a table after a key.
fn later<K: Ord, V>(table: &Table<K, V>, after: Option<K>) -> impl Iterator<Item = &Arc<V>> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    table.range((from, Bound::Unbounded)).map(|(_, object)| object)
}
