//! Events of the cluster: what changed, with the old and the new value of what Docker names.
//!
//! Ours: `type` of a network (its driver), and `version` of a secret or config.

use crate::deployment::update_state;
use crate::node::reachability;
use crate::word::Word;
use serde::{Serialize, Serializer};
use skep_model::node::Node;
use skep_model::object::{Kind, Object};
use skep_model::service::{Service, ServiceMode};
use skep_model::{Id, Time};
use std::collections::BTreeMap;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was made.
    Create,
    /// It changed.
    Update,
    /// It is gone.
    Remove,
}

impl Action {
    /// Docker's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The kind of the object.
    pub kind: Kind,
    /// What happened to it.
    pub action: Action,
    /// The object.
    pub actor: Actor,
    /// When, in wall time of the manager that proposed it.
    pub time: Time,
}

/// The object of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID", serialize_with = "as_text")]
    pub id: Id,
    /// Its name, and what of it differs.
    pub attributes: BTreeMap<String, String>,
}

fn as_text<S: Serializer>(id: &Id, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_str())
}

/// Docker's keys. The last three are in small letters.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Json<'a> {
    #[serde(rename = "Type")]
    kind: String,
    action: &'static str,
    actor: &'a Actor,
    #[serde(rename = "scope")]
    scope: &'static str,
    #[serde(rename = "time")]
    seconds: u64,
    #[serde(rename = "timeNano")]
    nanos: u64,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, action, nanos) = (self.kind.to_string(), self.action.name(), self.time.0);
        Json { kind, action, actor: &self.actor, scope: "swarm", seconds: nanos / 1_000_000_000, nanos }.serialize(serializer)
    }
}

impl Event {
    /// The event of a change; `old` is the object before an update. `None` for changes that
    /// Docker does not tell of, such as counts of a deployment.
    pub fn of(action: Action, object: &Object, old: Option<&Object>, time: Time) -> Option<Self> {
        let mut attributes = BTreeMap::new();
        if let Some(old) = old {
            differences(&mut attributes, old, object);
            if attributes.is_empty() && spec_version(old) == spec_version(object) {
                return None;
            }
        }
        attributes.insert("name".to_owned(), object.name());
        if let Object::Network(network) = object {
            attributes.insert("type".to_owned(), network.spec.driver.clone());
        }
        let reference = object.reference();
        Some(Self { kind: reference.kind, action, actor: Actor { id: reference.id, attributes }, time })
    }
}

fn spec_version(object: &Object) -> u64 {
    match object {
        Object::Cluster(it) => it.spec.version,
        Object::Node(it) => it.spec.version,
        Object::Network(it) => it.spec.version,
        Object::Secret(it) => it.spec.version,
        Object::Config(it) => it.spec.version,
        Object::Service(it) => it.spec.version,
        Object::Task(it) => it.status.version,
    }
}

/// `KEY.old` and `KEY.new` of what Docker names; a value that is empty has no key.
fn differences(attributes: &mut BTreeMap<String, String>, old: &Object, new: &Object) {
    let mut differ = |key: &str, old: String, new: String| {
        if old == new {
            return;
        }
        let both = [("old", old), ("new", new)].into_iter().filter(|(_, value)| !value.is_empty());
        attributes.extend(both.map(|(which, value)| (format!("{key}.{which}"), value)));
    };
    match (old, new) {
        (Object::Service(old), Object::Service(new)) => {
            differ("image", image(old), image(new));
            differ("replicas", replicas(old), replicas(new));
            let state =
                |service: &Service| service.plan.deployment.as_ref().and_then(update_state).unwrap_or_default().to_owned();
            differ("updatestate", state(old), state(new));
        }
        (Object::Node(old), Object::Node(new)) => {
            let words = |node: &Node| {
                [
                    ("availability", node.spec.availability.word()),
                    ("role", node.plan.role.word()),
                    ("state", node.status.state.word()),
                    ("reachability", if node.plan.manager.is_some() { reachability(node) } else { "" }),
                ]
            };
            for ((key, old), (_, new)) in words(old).into_iter().zip(words(new)) {
                differ(key, old.to_owned(), new.to_owned());
            }
        }
        (Object::Secret(old), Object::Secret(new)) => {
            differ("version", old.spec.current.to_string(), new.spec.current.to_string());
        }
        (Object::Config(old), Object::Config(new)) => {
            differ("version", old.spec.current.to_string(), new.spec.current.to_string());
        }
        _ => {}
    }
}

/// The image without its digest.
fn image(service: &Service) -> String {
    let image = &service.spec.spec.task_template.container_spec.image;
    image.split_once('@').map_or(image.as_str(), |(name, _)| name).to_owned()
}

fn replicas(service: &Service) -> String {
    match service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicas.to_string(),
        ServiceMode::Global {} => String::new(),
    }
}
