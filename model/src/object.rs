//! Stored objects: what they have in common, and the one enum of all of them.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::network::Network;
use crate::node::Node;
use crate::secret::Secret;
use crate::service::Service;
use crate::task::Task;
use crate::{Id, Time};
use std::fmt;
use std::ops::Deref;

/// The kinds of stored objects, in the order in which snapshots hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The one cluster object.
    Cluster,
    /// A node.
    Node,
    /// A network.
    Network,
    /// A secret.
    Secret,
    /// A config.
    Config,
    /// A service.
    Service,
    /// A task.
    Task,
}

/// Every kind.
pub const KINDS: [Kind; 7] = [Kind::Cluster, Kind::Node, Kind::Network, Kind::Secret, Kind::Config, Kind::Service, Kind::Task];

impl Kind {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Config => "config",
            Self::Service => "service",
            Self::Task => "task",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Names one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
}

/// When an object was made and last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// When it was made, in wall time of the manager that proposed it.
    pub created_at: Time,
    /// When any section last changed, in wall time of the manager that proposed it.
    pub updated_at: Time,
    /// When it was made, in cluster time; zero in what was stored before there was
    /// one. See [`Meta::made`].
    pub made_at: Time,
    /// The store version (raft index) at which any section last changed.
    pub version: u64,
}

impl Meta {
    /// When the object was made, in cluster time: what its age and its place among
    /// others are told by. Before there was cluster time, wall time took its place.
    pub fn made(&self) -> Time {
        if self.made_at == Time::ZERO { self.created_at } else { self.made_at }
    }
}

/// A part of an object with one writer and a version of its own: the store
/// version (raft index) at which it last changed. A precondition names it, so
/// writers of different sections never refuse each other.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Section<T> {
    /// Store version of the last change; 0 before the object is stored.
    pub version: u64,
    /// The content.
    pub value: T,
}

impl<T> Section<T> {
    /// A section that has not been stored.
    pub fn new(value: T) -> Self {
        Self { version: 0, value }
    }
}

impl<T> Deref for Section<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Any stored object.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant holds the type of its name")]
pub enum Object {
    Cluster(Box<Cluster>),
    Node(Box<Node>),
    Network(Box<Network>),
    Secret(Box<Secret>),
    Config(Box<Config>),
    Service(Box<Service>),
    Task(Box<Task>),
}

impl Object {
    /// Kind and id.
    pub fn reference(&self) -> ObjectRef {
        let (kind, id) = match self {
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

    /// Its name; a node's is its host name, a task's Swarm's composed one.
    pub fn name(&self) -> String {
        match self {
            Self::Cluster(object) => object.spec.annotations.name.clone(),
            Self::Node(object) => object.description.hostname.clone(),
            Self::Network(object) => object.spec.annotations.name.clone(),
            Self::Secret(object) => object.spec.annotations.name.clone(),
            Self::Config(object) => object.spec.annotations.name.clone(),
            Self::Service(object) => object.spec.spec.annotations.name.clone(),
            Self::Task(object) => object.name(),
        }
    }

    /// When it was made and last changed.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Cluster(object) => &object.meta,
            Self::Node(object) => &object.meta,
            Self::Network(object) => &object.meta,
            Self::Secret(object) => &object.meta,
            Self::Config(object) => &object.meta,
            Self::Service(object) => &object.meta,
            Self::Task(object) => &object.meta,
        }
    }
}
