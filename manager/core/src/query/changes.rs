//! Which changes a watch is for.
//!
//! Values of one key are alternatives, different keys must all hold. The keys are those of Swarm's events, and `name` and
//! `task`. `service` and `node` choose the object itself and its tasks: that is what whoever waits for one needs.

use crate::store::{Change, StoredObject};
use skep_model::filter::{self, has_label};
use skep_model::task::Task;
use skep_model::{Id, Kind, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds and filters of a watch. Without any, every change is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeFilters {
    kinds: Vec<Kind>,
    filters: BTreeMap<String, Vec<String>>,
}

impl ChangeFilters {
    /// Changes of these kinds (none = all) that pass these filters.
    ///
    /// # Errors
    /// If a key is unknown.
    pub fn parse(kinds: Vec<Kind>, pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Refusal> {
        let mut filters = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in pairs {
            filter::check_watch(&key)?;
            filters.entry(key).or_default().push(value);
        }
        Ok(Self { kinds, filters })
    }

    /// Whether a change is wanted.
    pub fn accept(&self, change: &Change) -> bool {
        if !self.kinds.is_empty() && !self.kinds.contains(&change.object.kind) {
            return false;
        }
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return false };
        self.filters.iter().all(|(key, values)| values.iter().any(|value| matches(change, object, key, value)))
    }
}

fn matches(change: &Change, object: &StoredObject, key: &str, value: &str) -> bool {
    let is_named = |id: &Id, name: &str| id.as_str().starts_with(value) || name == value;
    let is_it = || is_named(&change.object.id, &object.name());
    match (key, object) {
        ("type", _) => change.object.kind.name() == value,
        ("event", _) => action_word(change) == value,
        ("scope", _) => value == "swarm",
        ("id", _) => change.object.id.as_str().starts_with(value),
        ("name", _) => object.name().starts_with(value),
        ("label", _) => labels(object).is_some_and(|labels| has_label(labels, value)),
        ("service", StoredObject::Task(task)) => is_named(&task.service_id.0, &task.service_name),
        // It has gone to a node or from one: both are told.
        ("node", StoredObject::Task(_)) => {
            let (old, new) = change.tasks();
            let is_on = |task: &Arc<Task>| task.plan.node.is_some_and(|node| node.0.as_str().starts_with(value));
            old.is_some_and(is_on) || new.is_some_and(is_on)
        }
        ("service" | "node" | "secret" | "config" | "network" | "task", _) => change.object.kind.name() == key && is_it(),
        // Of what a cluster does not have.
        _ => false,
    }
}

fn action_word(change: &Change) -> &'static str {
    match (&change.old, &change.new) {
        (None, _) => "create",
        (_, Some(_)) => "update",
        (_, None) => "remove",
    }
}

/// A task's are its service's, as they were when it was made.
fn labels(object: &StoredObject) -> Option<&BTreeMap<String, String>> {
    Some(match object {
        StoredObject::Cluster(it) => &it.spec.annotations.labels,
        StoredObject::Node(it) => &it.spec.labels,
        StoredObject::Network(it) => &it.spec.annotations.labels,
        StoredObject::Secret(it) => &it.spec.annotations.labels,
        StoredObject::Config(it) => &it.spec.annotations.labels,
        StoredObject::Service(it) => &it.spec.spec.annotations.labels,
        StoredObject::Task(it) => &it.service_labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::config::{Config, ConfigSpec};
    use skep_model::service::{Annotations, TaskSpec};
    use skep_model::task::{TaskPlan, TaskStatus};
    use skep_model::{ConfigId, Meta, NodeId, ObjectRef, Section, ServiceId, TaskId, TaskState, Time};

    fn labelled() -> BTreeMap<String, String> {
        [("tier".to_owned(), "front".to_owned())].into()
    }

    fn config(name: &str) -> StoredObject {
        let annotations = Annotations { name: name.into(), labels: labelled() };
        let spec = ConfigSpec { annotations, versions: Vec::new(), current: 1 };
        let id = ConfigId::from_random([7; 16]);
        StoredObject::Config(Arc::new(Config { id, meta: Meta::default(), spec: Section { version: 3, value: spec } }))
    }

    fn task(node: Option<u8>) -> StoredObject {
        let node = node.map(|node| NodeId::from_random([node; 16]));
        StoredObject::Task(Arc::new(Task {
            id: TaskId::from_random([8; 16]),
            meta: Meta::default(),
            service_id: ServiceId::from_random([9; 16]),
            service_name: "web".into(),
            service_labels: labelled(),
            slot: 1,
            spec: Arc::new(TaskSpec::default()),
            spec_version: 1,
            networks: Vec::new(),
            ports: Vec::new(),
            plan: Section::new(TaskPlan { node, ..TaskPlan::new(TaskState::Running, Time::ZERO) }),
            status: Section::new(TaskStatus::new(TaskState::New, Time::ZERO)),
        }))
    }

    fn parse(pairs: &[(&str, &str)]) -> ChangeFilters {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ChangeFilters::parse(Vec::new(), pairs).expect("the keys are known")
    }

    #[test]
    fn filters_choose_changes_by_what_they_are() {
        let object = ObjectRef { kind: Kind::Config, id: ConfigId::from_random([7; 16]).0 };
        let id = object.id.as_str().to_owned();
        let removal = Change { object, old: Some(config("web")), new: None };
        let creation = Change { object, old: None, new: Some(config("web")) };
        // (filters, whether the creation passes, whether the removal does)
        type Filters<'a> = &'a [(&'a str, &'a str)];
        let table: [(Filters<'_>, bool, bool); 17] = [
            (&[], true, true),
            (&[("type", "config")], true, true),
            (&[("type", "node")], false, false),
            (&[("type", "node"), ("type", "config")], true, true),
            (&[("event", "remove")], false, true),
            (&[("event", "create"), ("event", "remove")], true, true),
            (&[("event", "remove"), ("type", "service")], false, false),
            (&[("config", "web")], true, true),
            (&[("config", "we")], false, false),
            (&[("name", "we")], true, true),
            (&[("service", "web")], false, false),
            (&[("task", "web")], false, false),
            (&[("container", "web")], false, false),
            (&[("id", &id[..5])], true, true),
            (&[("label", "tier=front"), ("scope", "swarm")], true, true),
            (&[("label", "tier=back")], false, false),
            (&[("node", &id)], false, false),
        ];
        for (pairs, created, removed) in table {
            let chosen = parse(pairs);
            assert_eq!((chosen.accept(&creation), chosen.accept(&removal)), (created, removed), "{pairs:?}");
        }
        let of_nodes = ChangeFilters::parse(vec![Kind::Node], Vec::new()).expect("no filters");
        assert!(!of_nodes.accept(&creation));
        let refusal = ChangeFilters::parse(Vec::new(), [("colour".into(), "red".into())]).expect_err("an unknown key");
        assert!(refusal.to_string().starts_with("invalid filter \"colour\": watches know"), "{refusal}");
    }

    #[test]
    fn a_service_and_a_node_are_watched_with_their_tasks() {
        let object = ObjectRef { kind: Kind::Task, id: TaskId::from_random([8; 16]).0 };
        let moved = Change { object, old: Some(task(None)), new: Some(task(Some(4))) };
        let gone = Change { object, old: Some(task(Some(4))), new: None };
        let service = ServiceId::from_random([9; 16]).to_string();
        let (node, other) = (NodeId::from_random([4; 16]).to_string(), NodeId::from_random([5; 16]).to_string());
        for (key, value, expected) in [
            ("service", service.as_str(), true),
            ("service", "web", true),
            ("service", "we", false),
            ("service", &other, false),
            ("node", &node, true),
            ("node", &other, false),
            ("task", object.id.as_str(), true),
            ("type", "task", true),
            ("label", "tier", true),
        ] {
            let chosen = parse(&[(key, value)]);
            assert_eq!((chosen.accept(&moved), chosen.accept(&gone)), (expected, expected), "{key}={value}");
        }
    }
}
