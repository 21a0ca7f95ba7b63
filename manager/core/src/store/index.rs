//! Indexes of the store: derived from the tables, kept by `apply`.
//!
//! Each is a set of pairs in a persistent ordered map, so that "all tasks of a
//! node" is a range and costs what it returns.

use super::claims::Claims;
use super::conflict::Conflict;
use super::object::StoredObject;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use skep_model::service::Service;
use skep_model::{ConfigId, Id, Kind, NetworkId, NodeId, SecretId, ServiceId, TaskId, TaskState};
use std::ops::Bound;

const ID_MIN: [u8; 16] = [0; 16];

/// All indexes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Indexes {
    /// (kind, name in lower case) → id, for kinds with unique names.
    pub(crate) names: RedBlackTreeMapSync<(Kind, String), Id>,
    pub(crate) service_tasks: RedBlackTreeSetSync<(ServiceId, TaskId)>,
    pub(crate) node_tasks: RedBlackTreeSetSync<(NodeId, TaskId)>,
    pub(crate) secret_services: RedBlackTreeSetSync<(SecretId, ServiceId)>,
    pub(crate) config_services: RedBlackTreeSetSync<(ConfigId, ServiceId)>,
    /// Only tasks that have not ended: until then a node may need the value.
    pub(crate) secret_tasks: RedBlackTreeSetSync<(SecretId, TaskId)>,
    /// See `secret_tasks`.
    pub(crate) config_tasks: RedBlackTreeSetSync<(ConfigId, TaskId)>,
    pub(crate) network_services: RedBlackTreeSetSync<(NetworkId, ServiceId)>,
    /// Only tasks that are wanted and have not ended.
    pub(crate) network_tasks: RedBlackTreeSetSync<(NetworkId, TaskId)>,
    /// Only services with a task that is wanted.
    pub(crate) task_counts: RedBlackTreeMapSync<ServiceId, TaskCounts>,
    pub(crate) claims: Claims,
}

/// How many tasks a service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Wanted and running.
    pub running: u64,
    /// Wanted, whatever they do.
    pub desired: u64,
}

impl Indexes {
    /// The tasks of a service that come after one, by id.
    pub(crate) fn tasks_of_service(&self, service: ServiceId, after: Option<TaskId>) -> impl Iterator<Item = TaskId> {
        self.service_tasks
            .range((first(service, after), Bound::Unbounded))
            .take_while(move |(key, _)| *key == service)
            .map(|(_, id)| *id)
    }

    /// The tasks of a node that come after one, by id.
    pub(crate) fn tasks_of_node(&self, node: NodeId, after: Option<TaskId>) -> impl Iterator<Item = TaskId> {
        self.node_tasks.range((first(node, after), Bound::Unbounded)).take_while(move |(key, _)| *key == node).map(|(_, id)| *id)
    }

    pub(crate) fn services_of_secret(&self, secret: SecretId) -> impl Iterator<Item = ServiceId> {
        let first = (secret, ServiceId::from_random(ID_MIN));
        self.secret_services
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == secret)
            .map(|(_, id)| *id)
    }

    pub(crate) fn services_of_config(&self, config: ConfigId) -> impl Iterator<Item = ServiceId> {
        let first = (config, ServiceId::from_random(ID_MIN));
        self.config_services
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == config)
            .map(|(_, id)| *id)
    }

    pub(crate) fn tasks_of_secret(&self, secret: SecretId) -> impl Iterator<Item = TaskId> {
        let first = (secret, TaskId::from_random(ID_MIN));
        self.secret_tasks
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == secret)
            .map(|(_, id)| *id)
    }

    pub(crate) fn tasks_of_config(&self, config: ConfigId) -> impl Iterator<Item = TaskId> {
        let first = (config, TaskId::from_random(ID_MIN));
        self.config_tasks
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == config)
            .map(|(_, id)| *id)
    }

    pub(crate) fn services_of_network(&self, network: NetworkId) -> impl Iterator<Item = ServiceId> {
        let first = (network, ServiceId::from_random(ID_MIN));
        self.network_services
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == network)
            .map(|(_, id)| *id)
    }

    pub(crate) fn tasks_of_network(&self, network: NetworkId) -> impl Iterator<Item = TaskId> {
        let first = (network, TaskId::from_random(ID_MIN));
        self.network_tasks
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == network)
            .map(|(_, id)| *id)
    }
}

impl Indexes {
    /// Everything that the tables imply.
    pub(crate) fn rebuilt(objects: impl Iterator<Item = StoredObject>) -> Result<Self, Conflict> {
        let mut indexes = Self::default();
        for object in objects {
            indexes.insert(&object)?;
            indexes.recount(None, Some(&object));
        }
        Ok(indexes)
    }

    /// Adds what an object implies; a name that another object has is a conflict.
    pub(crate) fn insert(&mut self, object: &StoredObject) -> Result<(), Conflict> {
        if let Some((kind, name)) = unique_name(object) {
            let key = (kind, name.to_lowercase());
            if self.names.contains_key(&key) {
                return Err(Conflict::NameTaken { kind, name: name.to_owned() });
            }
            self.names.insert_mut(key, object.reference().id);
        }
        match object {
            StoredObject::Task(task) => {
                self.service_tasks.insert_mut((task.service_id, task.id));
                if let Some(node) = task.plan.node {
                    self.node_tasks.insert_mut((node, task.id));
                }
                for attachment in task.networks.iter().filter(|_| task.is_active()) {
                    self.network_tasks.insert_mut((attachment.network, task.id));
                }
                if !task.status.state.is_final() {
                    let container = &task.spec.container_spec;
                    container.secrets.iter().for_each(|secret| self.secret_tasks.insert_mut((secret.id, task.id)));
                    container.configs.iter().for_each(|config| self.config_tasks.insert_mut((config.id, task.id)));
                }
            }
            StoredObject::Service(service) if service.plan.removed_at.is_none() => {
                let container = &service.spec.spec.task_template.container_spec;
                for secret in &container.secrets {
                    self.secret_services.insert_mut((secret.id, service.id));
                }
                for config in &container.configs {
                    self.config_services.insert_mut((config.id, service.id));
                }
                for network in networks(service) {
                    self.network_services.insert_mut((network, service.id));
                }
                self.claims.add_service(service)?;
            }
            StoredObject::Network(network) => self.claims.add_network(network)?,
            _ => {}
        }
        Ok(())
    }

    /// Takes away what an object implied.
    pub(crate) fn remove(&mut self, object: &StoredObject) {
        if let Some((kind, name)) = unique_name(object) {
            self.names.remove_mut(&(kind, name.to_lowercase()));
        }
        match object {
            StoredObject::Task(task) => {
                self.service_tasks.remove_mut(&(task.service_id, task.id));
                if let Some(node) = task.plan.node {
                    self.node_tasks.remove_mut(&(node, task.id));
                }
                for attachment in task.networks.iter().filter(|_| task.is_active()) {
                    self.network_tasks.remove_mut(&(attachment.network, task.id));
                }
                let container = &task.spec.container_spec;
                for secret in &container.secrets {
                    self.secret_tasks.remove_mut(&(secret.id, task.id));
                }
                for config in &container.configs {
                    self.config_tasks.remove_mut(&(config.id, task.id));
                }
            }
            StoredObject::Service(service) if service.plan.removed_at.is_none() => {
                let container = &service.spec.spec.task_template.container_spec;
                for secret in &container.secrets {
                    self.secret_services.remove_mut(&(secret.id, service.id));
                }
                for config in &container.configs {
                    self.config_services.remove_mut(&(config.id, service.id));
                }
                for network in networks(service) {
                    self.network_services.remove_mut(&(network, service.id));
                }
                self.claims.remove_service(service);
            }
            StoredObject::Network(network) => self.claims.remove_network(network),
            _ => {}
        }
    }
}

impl Indexes {
    /// Counts a task as it is instead of as it was: at most one write, and none if it counts as before.
    pub(crate) fn recount(&mut self, old: Option<&StoredObject>, new: Option<&StoredObject>) {
        let (old, new) = (old.and_then(counted), new.and_then(counted));
        if old == new {
            return;
        }
        for (is_new, (service, is_running)) in old.map(|old| (false, old)).into_iter().chain(new.map(|new| (true, new))) {
            let mut counts = self.task_counts.get(&service).copied().unwrap_or_default();
            let add = |count: &mut u64| *count = if is_new { *count + 1 } else { *count - 1 };
            add(&mut counts.desired);
            if is_running {
                add(&mut counts.running);
            }
            if counts == TaskCounts::default() {
                self.task_counts.remove_mut(&service);
            } else {
                self.task_counts.insert_mut(service, counts);
            }
        }
    }
}

/// The service for which a task counts, and whether it runs; `None` if it is not wanted.
fn counted(object: &StoredObject) -> Option<(ServiceId, bool)> {
    let StoredObject::Task(task) = object else { return None };
    task.is_wanted().then(|| (task.service_id, task.status.state == TaskState::Running))
}

/// Where the pairs of a key begin that come after one of them.
fn first<K>(key: K, after: Option<TaskId>) -> Bound<(K, TaskId)> {
    match after {
        Some(after) => Bound::Excluded((key, after)),
        None => Bound::Included((key, TaskId::from_random(ID_MIN))),
    }
}

/// The networks that a service asks for, by id as admission has written them.
fn networks(service: &Service) -> impl Iterator<Item = NetworkId> {
    service.spec.spec.task_template.networks.iter().filter_map(|request| request.target.parse().ok().map(NetworkId))
}

/// The name under which nobody else of its kind may be. A service that was
/// removed and only waits for its tasks to stop has given its name away.
fn unique_name(object: &StoredObject) -> Option<(Kind, &str)> {
    match object {
        StoredObject::Network(network) => Some((Kind::Network, &network.spec.annotations.name)),
        StoredObject::Secret(secret) => Some((Kind::Secret, &secret.spec.annotations.name)),
        StoredObject::Config(config) => Some((Kind::Config, &config.spec.annotations.name)),
        StoredObject::Service(service) if service.plan.removed_at.is_none() => {
            Some((Kind::Service, &service.spec.spec.annotations.name))
        }
        _ => None,
    }
}
