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
//! only while nothing does; numbers, subnets and ports have
//! one owner (see [`super::claims`]); a request id has one effect.

use super::{Change, Store, StoredObject};
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use ipnet::IpNet;
use skep_model::cluster::Cluster;
use skep_model::config::Config;
use skep_model::container::ContainerSpec;
use skep_model::endpoint::Transport;
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::request::Outcome;
use skep_model::secret::Secret;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::versioned::VersionedSpec;
use skep_model::{ConfigId, Id, Kind, Meta, NetworkId, NodeId, Object, ObjectRef, Refusal, SecretId, Section, ServiceId, TaskId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a transaction did not take effect. The store is as it was, but for its
/// version and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The request it belongs to was carried out before, with this outcome.
    Repeated(Outcome),
    /// A section was written since the proposer read it.
    Changed(ObjectRef, SectionName),
    /// An object that it needs does not exist.
    Missing(ObjectRef),
    /// An object that it makes exists.
    Exists(ObjectRef),
    /// The name of an object that it makes or renames is taken.
    NameTaken {
        /// The kind of object.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// Something that it removes is referred to.
    InUse {
        /// The secret, config or network.
        object: ObjectRef,
        /// Its name.
        name: String,
        /// What refers to it, as a phrase.
        by: String,
    },
    /// Another network has the number of one that it makes.
    NumberTaken(u32),
    /// Another network has addresses of one that it makes.
    SubnetTaken {
        /// The other's subnet.
        subnet: IpNet,
        /// The other.
        network: NetworkId,
    },
    /// It makes a second ingress network.
    IngressExists(NetworkId),
    /// Another service publishes a port that it publishes.
    PortTaken {
        /// The published port.
        port: u16,
        /// Its protocol.
        transport: Transport,
        /// The other.
        service: ServiceId,
    },
}

impl Conflict {
    /// What the caller whose request this was is answered: the outcome of the
    /// first call if it is a repeat.
    pub fn into_result(self) -> Result<Outcome, Refusal> {
        Err(match self {
            Self::Repeated(outcome) => return Ok(outcome),
            Self::Changed(..) => Refusal::OutOfSequence,
            Self::Missing(object) => Refusal::NotFound { kind: object.kind, reference: object.id.to_string() },
            Self::Exists(object) => Refusal::NameConflict { kind: object.kind, name: object.id.to_string() },
            Self::NameTaken { kind, name } => Refusal::NameConflict { kind, name },
            Self::InUse { object, name, by } => Refusal::InUse { kind: object.kind, name, by },
            Self::NumberTaken(_) | Self::SubnetTaken { .. } | Self::IngressExists(_) | Self::PortTaken { .. } => {
                Refusal::Unavailable("what was chosen for it was given to another meanwhile; the request may be repeated".into())
            }
        })
    }

    /// Whether the proposer lost a race: for something that has one owner, or to change
    /// something first. Whoever won it got on, so such a request may be decided again as
    /// often as it takes.
    pub fn is_lost_race(&self) -> bool {
        matches!(
            self,
            Self::Changed(..) | Self::NumberTaken(_) | Self::SubnetTaken { .. } | Self::IngressExists(_) | Self::PortTaken { .. }
        )
    }
}

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
        if let Some(old) = self.object(object) {
            self.indexes.remove(&old);
        }
        if let Some(new) = &new {
            self.indexes.insert(new)?;
        }
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

impl StoredObject {
    /// Kind and id.
    pub fn reference(&self) -> ObjectRef {
        let (kind, id): (Kind, Id) = match self {
            Self::Cluster(object) => (Kind::Cluster, object.id.0),
            Self::Node(object) => (Kind::Node, object.id.0),
            Self::Network(object) => (Kind::Network, object.id.0),
            Self::Secret(object) => (Kind::Secret, object.id.0),
            Self::Config(object) => (Kind::Config, object.id.0),
            Self::Service(object) => (Kind::Service, object.id.0),
            Self::Task(object) => (Kind::Task, object.id.0),
        };
        ObjectRef { kind, id }
    }

    /// The version of a section; `None` if objects of this kind have no such section.
    pub fn section_version(&self, section: SectionName) -> Option<u64> {
        use SectionName::{Description, Plan, Spec, Status};
        Some(match (self, section) {
            (Self::Cluster(object), Spec) => object.spec.version,
            (Self::Cluster(object), Plan) => object.plan.version,
            (Self::Node(object), Spec) => object.spec.version,
            (Self::Node(object), Description) => object.description.version,
            (Self::Node(object), Status) => object.status.version,
            (Self::Node(object), Plan) => object.plan.version,
            (Self::Network(object), Spec) => object.spec.version,
            (Self::Network(object), Plan) => object.plan.version,
            (Self::Secret(object), Spec) => object.spec.version,
            (Self::Config(object), Spec) => object.spec.version,
            (Self::Service(object), Spec) => object.spec.version,
            (Self::Service(object), Plan) => object.plan.version,
            (Self::Task(object), Status) => object.status.version,
            (Self::Task(object), Plan) => object.plan.version,
            _ => return None,
        })
    }

    /// From an object of its own.
    pub fn from_object(object: Object) -> Self {
        match object {
            Object::Cluster(object) => Self::Cluster(Arc::from(object)),
            Object::Node(object) => Self::Node(Arc::from(object)),
            Object::Network(object) => Self::Network(Arc::from(object)),
            Object::Secret(object) => Self::Secret(Arc::from(object)),
            Object::Config(object) => Self::Config(Arc::from(object)),
            Object::Service(object) => Self::Service(Arc::from(object)),
            Object::Task(object) => Self::Task(Arc::from(object)),
        }
    }

    fn meta_mut(&mut self) -> &mut Meta {
        match self {
            Self::Cluster(object) => &mut Arc::make_mut(object).meta,
            Self::Node(object) => &mut Arc::make_mut(object).meta,
            Self::Network(object) => &mut Arc::make_mut(object).meta,
            Self::Secret(object) => &mut Arc::make_mut(object).meta,
            Self::Config(object) => &mut Arc::make_mut(object).meta,
            Self::Service(object) => &mut Arc::make_mut(object).meta,
            Self::Task(object) => &mut Arc::make_mut(object).meta,
        }
    }

    fn write_section(&mut self, write: &Write, version: u64, transaction: &Transaction) {
        let meta = self.meta_mut();
        meta.version = version;
        meta.updated_at = transaction.wall;
        match (self, write) {
            (Self::Cluster(object), Write::ClusterSpec(value)) => set(&mut Arc::make_mut(object).spec, version, value),
            (Self::Cluster(object), Write::ClusterPlan(value)) => set(&mut Arc::make_mut(object).plan, version, &**value),
            (Self::Node(object), Write::NodeSpec(_, value)) => set(&mut Arc::make_mut(object).spec, version, value),
            (Self::Node(object), Write::NodeDescription(_, value)) => set(&mut Arc::make_mut(object).description, version, value),
            (Self::Node(object), Write::NodeStatus(_, value)) => set(&mut Arc::make_mut(object).status, version, value),
            (Self::Node(object), Write::NodePlan(_, value)) => set(&mut Arc::make_mut(object).plan, version, value),
            (Self::Network(object), Write::NetworkSpec(_, value)) => set(&mut Arc::make_mut(object).spec, version, value),
            (Self::Network(object), Write::NetworkPlan(_, value)) => set(&mut Arc::make_mut(object).plan, version, value),
            (Self::Secret(object), Write::SecretSpec(_, value)) => set(&mut Arc::make_mut(object).spec, version, value),
            (Self::Config(object), Write::ConfigSpec(_, value)) => set(&mut Arc::make_mut(object).spec, version, value),
            (Self::Service(object), Write::ServiceSpec(_, value)) => set(&mut Arc::make_mut(object).spec, version, &**value),
            (Self::Service(object), Write::ServicePlan(_, value)) => set(&mut Arc::make_mut(object).plan, version, value),
            (Self::Service(object), Write::ServiceDeployment(_, value)) => {
                let plan = &mut Arc::make_mut(object).plan;
                plan.version = version;
                plan.value.deployment = Some(value.deployment.clone());
                plan.value.endpoint.ports.clone_from(&value.ports);
            }
            (Self::Task(object), Write::TaskPlan(_, value)) => set(&mut Arc::make_mut(object).plan, version, value),
            (Self::Task(object), Write::TaskStatus(_, value)) => set(&mut Arc::make_mut(object).status, version, value),
            (object, write) => panic!("a section that does not belong to {:?} was to be written: {write:?}", object.reference()),
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

fn set<T: Clone>(section: &mut Section<T>, version: u64, value: &T) {
    *section = Section { version, value: value.clone() };
}

/// An object as it is stored first: every section has the version of its making.
fn created(object: &Object, version: u64, transaction: &Transaction) -> StoredObject {
    let (wall, made_at) = (transaction.wall, transaction.time);
    let meta = Meta { created_at: wall, updated_at: wall, made_at, version };
    let mut object = object.clone();
    match &mut object {
        Object::Cluster(object) => {
            let Cluster { id: _, meta: m, spec, plan } = &mut **object;
            (*m, spec.version, plan.version) = (meta, version, version);
        }
        Object::Node(object) => {
            let Node { id: _, meta: m, spec, description, status, plan } = &mut **object;
            (*m, spec.version, plan.version) = (meta, version, version);
            (description.version, status.version) = (version, version);
        }
        Object::Network(object) => {
            let Network { id: _, meta: m, spec, plan } = &mut **object;
            (*m, spec.version, plan.version) = (meta, version, version);
        }
        Object::Secret(object) => {
            let Secret { id: _, meta: m, spec } = &mut **object;
            (*m, spec.version) = (meta, version);
        }
        Object::Config(object) => {
            let Config { id: _, meta: m, spec } = &mut **object;
            (*m, spec.version) = (meta, version);
        }
        Object::Service(object) => {
            let Service { id: _, meta: m, spec, plan } = &mut **object;
            (*m, spec.version, plan.version) = (meta, version, version);
        }
        Object::Task(object) => {
            let Task { meta: m, plan, status, .. } = &mut **object;
            (*m, plan.version, status.version) = (meta, version, version);
        }
    }
    StoredObject::from_object(object)
}
