//! The only writer of the store.
//!
//! A committed transaction takes effect as a whole or not at all, and does so
//! identically on every replica: everything that it depends on is in the store,
//! the index and the transaction. Indexes follow the tables in the same step, so
//! nobody ever sees one without the other.
//!
//! What `apply` itself guarantees, whatever a proposer asks for: ids and names
//! are unique; a section is only written where its object exists; a secret or config
//! goes only while no service and no task that has not ended refers to it, a network
//! only while no service asks for it, none publishes a port through it and no task that
//! is wanted is on it; numbers, subnets and ports have one owner (see [`super::claims`]); a
//! request id has one effect.

use super::conflict::Conflict;
use super::object::{Change, StoredObject, created};
use super::state::Store;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::container::ContainerSpec;
use skep_model::request::Outcome;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::versioned::VersionedSpec;
use skep_model::{ConfigId, Id, Kind, NetworkId, NodeId, ObjectRef, SecretId, ServiceId, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Store {
    /// Applies the transaction that was committed at `index`, which is greater
    /// than the store's version. On a conflict nothing but the version changes.
    /// The changes name each object once, in the order of kind and id.
    pub fn apply(&mut self, index: u64, transaction: &Transaction) -> Result<Vec<Change>, Conflict> {
        assert!(index > self.version, "entry {index} was to be applied to a store that is at {} already", self.version);
        self.version = index;
        self.time = self.time.max(transaction.time);
        self.wall = transaction.wall;
        if let Some(outcome) = transaction.request.and_then(|request| self.requests.outcome(request)) {
            return Err(Conflict::Repeated(outcome));
        }
        // Afterwards: what is remembered when a repeat arrives counts, however old it is.
        self.requests.forget_old(self.time);
        for precondition in &transaction.preconditions {
            self.check(precondition)?;
        }
        let mut next = self.clone();
        let mut touched = BTreeMap::new();
        for write in &transaction.writes {
            let object = next.object_of(write)?;
            touched.entry(object).or_insert_with(|| self.object(object));
            next.write(transaction, object, write)?;
        }
        if let (Some(request), Some(outcome)) = (transaction.request, transaction.outcome) {
            next.requests.remember(request, self.time, Outcome { version: index, ..outcome });
        }
        let changes = touched
            .into_iter()
            .map(|(object, old)| Change { object, old, new: next.object(object) })
            .filter(|change| change.old.is_some() || change.new.is_some())
            .collect();
        *self = next;
        Ok(changes)
    }

    /// An entry without a transaction was committed at `index` (an election, or a
    /// change of membership): only the version moves.
    pub fn skip(&mut self, index: u64) {
        assert!(index > self.version, "entry {index} was to be applied to a store that is at {} already", self.version);
        self.version = index;
    }

    /// An object of any kind.
    pub fn object(&self, object: ObjectRef) -> Option<StoredObject> {
        let id = object.id;
        match object.kind {
            Kind::Cluster => self.cluster.as_ref().filter(|cluster| cluster.id.0 == id).cloned().map(StoredObject::Cluster),
            Kind::Node => self.nodes.get(&NodeId(id)).cloned().map(StoredObject::Node),
            Kind::Network => self.networks.get(&NetworkId(id)).cloned().map(StoredObject::Network),
            Kind::Secret => self.secrets.get(&SecretId(id)).cloned().map(StoredObject::Secret),
            Kind::Config => self.configs.get(&ConfigId(id)).cloned().map(StoredObject::Config),
            Kind::Service => self.services.get(&ServiceId(id)).cloned().map(StoredObject::Service),
            Kind::Task => self.tasks.get(&TaskId(id)).cloned().map(StoredObject::Task),
        }
    }

    fn check(&self, precondition: &Precondition) -> Result<(), Conflict> {
        match *precondition {
            Precondition::Exists(object) if self.object(object).is_none() => Err(Conflict::Missing(object)),
            Precondition::Absent(object) if self.object(object).is_some() => Err(Conflict::Exists(object)),
            Precondition::Exists(_) | Precondition::Absent(_) => Ok(()),
            Precondition::Unchanged(object, section, version) => {
                let stored = self.object(object).ok_or(Conflict::Missing(object))?;
                if stored.section_version(section) == Some(version) { Ok(()) } else { Err(Conflict::Changed(object, section)) }
            }
        }
    }

    fn write(&mut self, transaction: &Transaction, object: ObjectRef, write: &Write) -> Result<(), Conflict> {
        match write {
            Write::Create(content) => {
                let is_taken = self.object(object).is_some() || (object.kind == Kind::Cluster && self.cluster.is_some());
                if is_taken {
                    return Err(Conflict::Exists(object));
                }
                self.put(object, Some(created(content, self.version, transaction)))
            }
            Write::Remove(_) => {
                self.check_unused(object)?;
                if self.object(object).is_none() {
                    return Err(Conflict::Missing(object));
                }
                self.put(object, None)
            }
            _ => {
                let mut stored = self.object(object).ok_or(Conflict::Missing(object))?;
                self.check_dropped(object, write)?;
                stored.write_section(write, self.version, transaction);
                self.put(object, Some(stored))
            }
        }
    }

    /// Which object a write is about. There is one cluster object, so writes to it carry no id.
    fn object_of(&self, write: &Write) -> Result<ObjectRef, Conflict> {
        let nobody = ObjectRef { kind: Kind::Cluster, id: Id::from_random([0; 16]) };
        let cluster = || self.cluster.as_ref().map(|cluster| ObjectRef { kind: Kind::Cluster, id: cluster.id.0 });
        write.object_unless_cluster().or_else(cluster).ok_or(Conflict::Missing(nobody))
    }

    /// A version of a secret or config goes only while no service names it.
    fn check_dropped(&self, object: ObjectRef, write: &Write) -> Result<(), Conflict> {
        let is_named = match write {
            Write::SecretSpec(id, spec) => {
                let dropped = dropped(self.secret(*id).map(|secret| &secret.spec.value), spec);
                let names =
                    |container: &ContainerSpec| names(&container.secrets, |it| (it.id == *id).then_some(it.version?), &dropped);
                !dropped.is_empty() && self.services_of_secret(*id).any(|service| in_either_spec(service, names))
            }
            Write::ConfigSpec(id, spec) => {
                let dropped = dropped(self.config(*id).map(|config| &config.spec.value), spec);
                let names =
                    |container: &ContainerSpec| names(&container.configs, |it| (it.id == *id).then_some(it.version?), &dropped);
                !dropped.is_empty() && self.services_of_config(*id).any(|service| in_either_spec(service, names))
            }
            _ => false,
        };
        // Whoever dropped it did not know of the service: it looks again.
        if is_named { Err(Conflict::Changed(object, SectionName::Spec)) } else { Ok(()) }
    }

    fn check_unused(&self, object: ObjectRef) -> Result<(), Conflict> {
        match (self.user_of(object), self.object(object)) {
            (Some(by), Some(stored)) => Err(Conflict::InUse { object, name: stored.to_object().name(), by }),
            _ => Ok(()),
        }
    }

    /// What refers to an object, as a phrase, so that it may not go.
    pub(crate) fn user_of(&self, object: ObjectRef) -> Option<String> {
        let name = |service: &Arc<Service>| service.spec.spec.annotations.name.clone();
        let follows = |service: &Arc<Service>| format!("the following service: {}", name(service));
        match object.kind {
            Kind::Secret => {
                let id = SecretId(object.id);
                let task = || self.tasks_of_secret(id).next().map(|task| self.user_task(task));
                self.services_of_secret(id).next().map(follows).or_else(task)
            }
            Kind::Config => {
                let id = ConfigId(object.id);
                let task = || self.tasks_of_config(id).next().map(|task| self.user_task(task));
                self.services_of_config(id).next().map(follows).or_else(task)
            }
            Kind::Network => {
                let id = NetworkId(object.id);
                let publishes = || self.indexes.claims.any_ingress_port().and_then(|service| self.service(service));
                let publisher = if self.indexes.claims.ingress() == Some(id) { publishes() } else { None };
                let service = self.services_of_network(id).next().or(publisher);
                let task = || self.tasks_of_network(id).next().map(|task| format!("task {}", task.name()));
                service.map(|service| format!("service {}", name(service))).or_else(task)
            }
            _ => None,
        }
    }

    /// A task that has not ended, as a refusal names it.
    pub(crate) fn user_task(&self, task: &Task) -> String {
        let node =
            task.plan.node.map(|id| self.node(id).map_or_else(|| id.to_string(), |node| node.description.hostname.clone()));
        let node = node.map(|node| format!(" on node {node}")).unwrap_or_default();
        format!("task {}{node}, which has not ended", task.name())
    }

    /// Replaces an object in its table and in every index.
    fn put(&mut self, object: ObjectRef, new: Option<StoredObject>) -> Result<(), Conflict> {
        let old = self.object(object);
        if let Some(old) = &old {
            self.indexes.remove(old);
        }
        if let Some(new) = &new {
            self.indexes.insert(new)?;
        }
        self.indexes.recount(old.as_ref(), new.as_ref());
        self.put_in_table(object, new);
        Ok(())
    }

    pub(crate) fn put_in_table(&mut self, object: ObjectRef, new: Option<StoredObject>) {
        let id = object.id;
        match (object.kind, new) {
            (Kind::Cluster, Some(StoredObject::Cluster(new))) => self.cluster = Some(new),
            (Kind::Node, Some(StoredObject::Node(new))) => self.nodes.insert_mut(NodeId(id), new),
            (Kind::Network, Some(StoredObject::Network(new))) => self.networks.insert_mut(NetworkId(id), new),
            (Kind::Secret, Some(StoredObject::Secret(new))) => self.secrets.insert_mut(SecretId(id), new),
            (Kind::Config, Some(StoredObject::Config(new))) => self.configs.insert_mut(ConfigId(id), new),
            (Kind::Service, Some(StoredObject::Service(new))) => self.services.insert_mut(ServiceId(id), new),
            (Kind::Task, Some(StoredObject::Task(new))) => self.tasks.insert_mut(TaskId(id), new),
            (Kind::Cluster, None) => self.cluster = None,
            (Kind::Node, None) => drop(self.nodes.remove_mut(&NodeId(id))),
            (Kind::Network, None) => drop(self.networks.remove_mut(&NetworkId(id))),
            (Kind::Secret, None) => drop(self.secrets.remove_mut(&SecretId(id))),
            (Kind::Config, None) => drop(self.configs.remove_mut(&ConfigId(id))),
            (Kind::Service, None) => drop(self.services.remove_mut(&ServiceId(id))),
            (Kind::Task, None) => drop(self.tasks.remove_mut(&TaskId(id))),
            (kind, Some(new)) => panic!("an object of another kind was to be stored as a {kind}: {:?}", new.reference()),
        }
    }
}

impl Write {
    /// Which object it writes; `None` for the sections of the cluster object.
    fn object_unless_cluster(&self) -> Option<ObjectRef> {
        let (kind, id) = match self {
            Self::Create(object) => return Some(object.reference()),
            Self::Remove(object) => return Some(*object),
            Self::ClusterSpec(_) | Self::ClusterPlan(_) => return None,
            Self::NodeSpec(id, _) | Self::NodeDescription(id, _) | Self::NodeStatus(id, _) | Self::NodePlan(id, _) => {
                (Kind::Node, id.0)
            }
            Self::NetworkSpec(id, _) | Self::NetworkPlan(id, _) => (Kind::Network, id.0),
            Self::SecretSpec(id, _) => (Kind::Secret, id.0),
            Self::ConfigSpec(id, _) => (Kind::Config, id.0),
            Self::ServiceSpec(id, _) => (Kind::Service, id.0),
            Self::ServicePlan(id, _) | Self::ServiceDeployment(id, _) => (Kind::Service, id.0),
            Self::TaskPlan(id, _) | Self::TaskStatus(id, _) => (Kind::Task, id.0),
        };
        Some(ObjectRef { kind, id })
    }
}

/// The numbers of versions that the new spec has no more.
fn dropped<const C: bool>(old: Option<&VersionedSpec<C>>, new: &VersionedSpec<C>) -> Vec<u64> {
    let is_kept = |n: &u64| new.versions.iter().any(|version| version.n == *n);
    old.iter().flat_map(|old| old.versions.iter().map(|version| version.n)).filter(|n| !is_kept(n)).collect()
}

/// Whether any reference is to one of these versions.
fn names<T>(references: &[T], version: impl Fn(&T) -> Option<u64>, versions: &[u64]) -> bool {
    references.iter().filter_map(version).any(|n| versions.contains(&n))
}

/// Whether something holds for what a service is, or for what it can go back to.
fn in_either_spec(service: &Service, holds: impl Fn(&ContainerSpec) -> bool) -> bool {
    let previous = service.spec.previous.as_deref();
    holds(&service.spec.spec.task_template.container_spec)
        || previous.is_some_and(|previous| holds(&previous.task_template.container_spec))
}
