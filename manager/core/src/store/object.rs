//! Objects as they are stored: shared, in sections that have a version each.

use crate::transaction::{SectionName, Transaction, Write};
use skep_model::cluster::Cluster;
use skep_model::config::Config;
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::secret::Secret;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{Id, Kind, Meta, Object, ObjectRef, Section};
use std::borrow::Cow;
use std::sync::Arc;

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

    /// Its name; a node's is its host name, a task's Swarm's composed one.
    pub fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Cluster(object) => &object.spec.annotations.name,
            Self::Node(object) => &object.description.hostname,
            Self::Network(object) => &object.spec.annotations.name,
            Self::Secret(object) => &object.spec.annotations.name,
            Self::Config(object) => &object.spec.annotations.name,
            Self::Service(object) => &object.spec.spec.annotations.name,
            Self::Task(object) => return Cow::Owned(object.name()),
        })
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

    pub(super) fn write_section(&mut self, write: &Write, version: u64, transaction: &Transaction) {
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

fn set<T: Clone>(section: &mut Section<T>, version: u64, value: &T) {
    *section = Section { version, value: value.clone() };
}

/// An object as it is stored first: every section has the version of its making.
pub(super) fn created(object: &Object, version: u64, transaction: &Transaction) -> StoredObject {
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
