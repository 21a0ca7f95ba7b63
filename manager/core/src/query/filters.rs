//! Filters of lists, in Swarm's words.
//!
//! Values of one key are alternatives, different keys must all hold; ids and names match by prefix, those of networks
//! anywhere. The keys and their words are in `model/src/filter.rs`.

use crate::store::{Store, StoredObject};
use skep_model::filter::{self, boolean, has_label};
use skep_model::node::Role;
use skep_model::service::ServiceMode;
use skep_model::{Kind, Refusal};
use std::collections::BTreeMap;

/// The filters of a list: key → alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Filters of a list of `kind`; an unknown key or a bad value is refused.
    pub fn parse(kind: Kind, pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Refusal> {
        let mut filters = BTreeMap::<String, Vec<String>>::new();
        for (key, value) in pairs {
            filter::check(kind, &key, &value)?;
            filters.entry(key).or_default().push(value);
        }
        Ok(Self(filters))
    }

    /// Whether an object passes.
    pub fn accept(&self, store: &Store, object: &StoredObject) -> bool {
        self.0.iter().all(|(key, values)| values.iter().any(|value| matches(store, object, key, value)))
    }
}

fn matches(store: &Store, object: &StoredObject, key: &str, value: &str) -> bool {
    match (key, object) {
        ("id", StoredObject::Network(network)) => network.id.as_str().contains(value),
        ("name", StoredObject::Network(network)) => network.spec.annotations.name.contains(value),
        ("driver", StoredObject::Network(network)) => network.spec.driver == value,
        ("scope", StoredObject::Network(_)) => value == "swarm",
        // What the cluster made by itself is built in, and in use as long as it is there.
        ("type", StoredObject::Network(network)) => (value == "builtin") == network.spec.ingress,
        ("dangling", StoredObject::Network(network)) => {
            let is_used = network.spec.ingress || store.services_of_network(network.id).next().is_some();
            boolean(value) == Some(!is_used)
        }
        ("id", _) => object.reference().id.as_str().starts_with(value),
        ("names", _) => object.name() == value,
        ("name", _) => object.name().starts_with(value),
        ("label", StoredObject::Node(node)) => has_label(&node.description.engine_labels, value),
        ("node.label", StoredObject::Node(node)) => has_label(&node.spec.labels, value),
        ("role", StoredObject::Node(node)) => (node.plan.role == Role::Manager) == (value == "manager"),
        ("membership", StoredObject::Node(_)) => value == "accepted",
        ("label", StoredObject::Service(service)) => has_label(&service.spec.spec.annotations.labels, value),
        ("mode", StoredObject::Service(service)) => match service.spec.spec.mode {
            ServiceMode::Replicated { .. } => value == "replicated",
            ServiceMode::Global {} => value == "global",
        },
        ("label", StoredObject::Task(task)) => {
            store.service(task.service_id).is_some_and(|service| has_label(&service.spec.spec.annotations.labels, value))
        }
        ("service", StoredObject::Task(task)) => task.service_id.as_str().starts_with(value) || task.service_name == value,
        ("node", StoredObject::Task(task)) => task.plan.node.is_some_and(|id| {
            id.as_str().starts_with(value) || store.node(id).is_some_and(|node| node.description.hostname == value)
        }),
        ("desired-state", StoredObject::Task(task)) => task.plan.desired.name() == value.to_ascii_lowercase(),
        ("runtime", _) => value == "container",
        ("label", StoredObject::Secret(secret)) => has_label(&secret.spec.annotations.labels, value),
        ("label", StoredObject::Config(config)) => has_label(&config.spec.annotations.labels, value),
        ("label", StoredObject::Network(network)) => has_label(&network.spec.annotations.labels, value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::network::{Network, NetworkPlan, NetworkSpec};
    use skep_model::service::Annotations;
    use skep_model::{Meta, NetworkId, Section, Time};
    use std::sync::Arc;

    #[test]
    fn networks_are_filtered_as_docker_filters_them() {
        let labels = [("tier".to_owned(), "front".to_owned())].into();
        let annotations = Annotations { name: "backend".into(), labels };
        let spec = NetworkSpec { annotations, driver: "overlay".into(), ..NetworkSpec::default() };
        let meta = Meta { created_at: Time::ZERO, updated_at: Time::ZERO, made_at: Time::ZERO, version: 1 };
        let id = NetworkId::from_random([6; 16]);
        let plan = Section { version: 1, value: NetworkPlan::default() };
        let network = StoredObject::Network(Arc::new(Network { id, meta, spec: Section { version: 1, value: spec }, plan }));
        // No service asks for it.
        let store = Store::empty(0);
        let table = [
            (&[("driver", "overlay")] as &[(&str, &str)], true),
            (&[("driver", "bridge")], false),
            (&[("driver", "bridge"), ("driver", "overlay")], true),
            (&[("name", "ack")], true),
            (&[("name", "front")], false),
            (&[("id", &id.as_str()[3..9])], true),
            (&[("label", "tier")], true),
            (&[("label", "tier=back")], false),
            (&[("scope", "swarm"), ("type", "custom")], true),
            (&[("scope", "local")], false),
            (&[("type", "builtin")], false),
            (&[("dangling", "true")], true),
            (&[("dangling", "1")], true),
            (&[("dangling", "false")], false),
        ];
        for (pairs, expected) in table {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let filters = Filters::parse(Kind::Network, pairs).expect("the keys are known");
            assert_eq!(filters.accept(&store, &network), expected, "{filters:?}");
        }
    }
}
