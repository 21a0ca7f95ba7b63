//! Reads: which objects of a store a query names, and what of them is shown.
//!
//! Filters are Swarm's: values of one key are alternatives, different keys must
//! all hold; ids and names match by prefix, those of networks anywhere. Nothing sealed leaves: secrets are
//! shown without their values, the cluster without its keys.

use skep_manager_core::Store;
use skep_model::cluster::ClusterPlan;
use skep_model::filter::{self, boolean, has_label};
use skep_model::node::{NodeState, Role};
use skep_model::sealed::Sealed;
use skep_model::service::ServiceMode;
use skep_model::{Kind, Object, Refusal};
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
    pub fn accept(&self, store: &Store, object: &Object) -> bool {
        self.0.iter().all(|(key, values)| values.iter().any(|value| matches(store, object, key, value)))
    }
}

fn matches(store: &Store, object: &Object, key: &str, value: &str) -> bool {
    match (key, object) {
        ("id", Object::Network(network)) => network.id.as_str().contains(value),
        ("name", Object::Network(network)) => network.spec.annotations.name.contains(value),
        ("driver", Object::Network(network)) => network.spec.driver == value,
        ("scope", Object::Network(_)) => value == "swarm",
        // What the cluster made by itself is built in, and in use as long as it is there.
        ("type", Object::Network(network)) => (value == "builtin") == network.spec.ingress,
        ("dangling", Object::Network(network)) => {
            let is_used = network.spec.ingress || store.services_of_network(network.id).next().is_some();
            boolean(value) == Some(!is_used)
        }
        ("id", _) => object.reference().id.as_str().starts_with(value),
        ("names", _) => object.name() == value,
        ("name", _) => object.name().starts_with(value),
        ("label", Object::Node(node)) => has_label(&node.description.engine_labels, value),
        ("node.label", Object::Node(node)) => has_label(&node.spec.labels, value),
        ("role", Object::Node(node)) => (node.plan.role == Role::Manager) == (value == "manager"),
        ("membership", Object::Node(_)) => value == "accepted",
        ("label", Object::Service(service)) => has_label(&service.spec.spec.annotations.labels, value),
        ("mode", Object::Service(service)) => match service.spec.spec.mode {
            ServiceMode::Replicated { .. } => value == "replicated",
            ServiceMode::Global {} => value == "global",
        },
        ("label", Object::Task(task)) => {
            store.service(task.service_id).is_some_and(|service| has_label(&service.spec.spec.annotations.labels, value))
        }
        ("service", Object::Task(task)) => task.service_id.as_str().starts_with(value) || task.service_name == value,
        ("node", Object::Task(task)) => task.plan.node.is_some_and(|id| {
            id.as_str().starts_with(value) || store.node(id).is_some_and(|node| node.description.hostname == value)
        }),
        ("desired-state", Object::Task(task)) => task.plan.desired.name() == value.to_ascii_lowercase(),
        ("runtime", _) => value == "container",
        ("label", Object::Secret(secret)) => has_label(&secret.spec.annotations.labels, value),
        ("label", Object::Config(config)) => has_label(&config.spec.annotations.labels, value),
        ("label", Object::Network(network)) => has_label(&network.spec.annotations.labels, value),
        _ => false,
    }
}

/// All objects of a kind, by id, that pass, as they are shown.
pub fn list(store: &Store, kind: Kind, filters: &Filters) -> Vec<Object> {
    let all: Box<dyn Iterator<Item = Object>> = match kind {
        Kind::Cluster => Box::new(store.cluster().into_iter().map(|object| Object::Cluster(Box::new((**object).clone())))),
        Kind::Node => Box::new(store.nodes().map(|object| Object::Node(Box::new((**object).clone())))),
        Kind::Network => Box::new(store.networks().map(|object| Object::Network(Box::new((**object).clone())))),
        Kind::Secret => Box::new(store.secrets().map(|object| Object::Secret(Box::new((**object).clone())))),
        Kind::Config => Box::new(store.configs().map(|object| Object::Config(Box::new((**object).clone())))),
        Kind::Service => Box::new(store.services().map(|object| Object::Service(Box::new((**object).clone())))),
        Kind::Task => Box::new(store.tasks().map(|object| Object::Task(Box::new((**object).clone())))),
    };
    all.filter(|object| filters.accept(store, object)).map(shown).collect()
}

/// One object by id, name or unique id prefix, as it is shown.
pub fn get(store: &Store, kind: Kind, reference: &str) -> Result<Object, Refusal> {
    let object = match kind {
        Kind::Cluster => {
            let cluster = store.cluster().ok_or(Refusal::NotFound { kind, reference: reference.into() })?;
            Object::Cluster(Box::new((**cluster).clone()))
        }
        Kind::Node => Object::Node(Box::new((**store.resolve_node(reference)?).clone())),
        Kind::Network => Object::Network(Box::new((**store.resolve_network(reference)?).clone())),
        Kind::Secret => Object::Secret(Box::new((**store.resolve_secret(reference)?).clone())),
        Kind::Config => Object::Config(Box::new((**store.resolve_config(reference)?).clone())),
        Kind::Service => Object::Service(Box::new((**store.resolve_service(reference)?).clone())),
        Kind::Task => Object::Task(Box::new((**store.resolve_task(reference)?).clone())),
    };
    Ok(shown(object))
}

/// The object without what nobody is shown.
pub fn shown(mut object: Object) -> Object {
    match &mut object {
        Object::Secret(secret) => secret.spec.value.versions.iter_mut().for_each(|version| version.sealed = Sealed::default()),
        Object::Config(config) => config.spec.value.versions.iter_mut().for_each(|version| version.sealed = Sealed::default()),
        Object::Cluster(cluster) => {
            let plan = std::mem::take(&mut cluster.plan.value);
            cluster.plan.value = ClusterPlan {
                root_ca: plan.root_ca,
                format: plan.format,
                removed_nodes: plan.removed_nodes,
                ..ClusterPlan::default()
            };
        }
        _ => {}
    }
    object
}

/// How many managers and nodes there are, and how many of the nodes are ready.
pub fn counts(store: &Store) -> (u64, u64, u64) {
    let mut counts = (0, 0, 0);
    for node in store.nodes() {
        counts.0 += u64::from(node.plan.manager.is_some());
        counts.1 += 1;
        counts.2 += u64::from(node.status.state == NodeState::Ready);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::network::{Network, NetworkPlan, NetworkSpec};
    use skep_model::service::Annotations;
    use skep_model::{Meta, NetworkId, Section, Time};

    #[test]
    fn networks_are_filtered_as_docker_filters_them() {
        let labels = [("tier".to_owned(), "front".to_owned())].into();
        let annotations = Annotations { name: "backend".into(), labels };
        let spec = NetworkSpec { annotations, driver: "overlay".into(), ..NetworkSpec::default() };
        let meta = Meta { created_at: Time::ZERO, updated_at: Time::ZERO, made_at: Time::ZERO, version: 1 };
        let id = NetworkId::from_random([6; 16]);
        let plan = Section { version: 1, value: NetworkPlan::default() };
        let network = Object::Network(Box::new(Network { id, meta, spec: Section { version: 1, value: spec }, plan }));
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
