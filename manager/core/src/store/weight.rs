//! How much memory changes take, roughly, so that what keeps them is bounded in bytes.
//!
//! Counted are the objects themselves and those of their texts and lists that may be long; what two versions of a task share
//! is not counted twice.

use super::object::{Change, StoredObject};
use skep_model::container::ContainerSpec;
use skep_model::service::ServiceSpec;
use skep_model::task::Task;
use skep_model::versioned::VersionedSpec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an allocation, a reference or a small structure in a list takes.
const ITEM: usize = 64;

impl Change {
    /// Bytes of memory that keeping this change takes beyond the store: those of the object as it was, or of one that was
    /// made.
    pub fn weight(&self) -> usize {
        let is_spec_shared = matches!(self.tasks(), (Some(old), Some(new)) if Arc::ptr_eq(&old.spec, &new.spec));
        let kept = self.old.as_ref().or(self.new.as_ref());
        size_of::<Self>() + kept.map_or(0, |object| object.weight(is_spec_shared))
    }
}

impl StoredObject {
    fn weight(&self, is_spec_shared: bool) -> usize {
        match self {
            Self::Cluster(object) => size_of_val(&**object) + labels(&object.spec.annotations.labels) + ITEM * ITEM,
            Self::Node(object) => {
                let faults: usize = object.status.faults.faults.iter().map(|fault| ITEM + fault.reason.len()).sum();
                let occupied = object.description.underlay.iter().map(|underlay| ITEM * underlay.occupied.len()).sum::<usize>();
                size_of_val(&**object)
                    + labels(&object.spec.labels)
                    + labels(&object.description.engine_labels)
                    + faults
                    + occupied
            }
            Self::Network(object) => size_of_val(&**object) + labels(&object.spec.annotations.labels),
            Self::Secret(object) => size_of_val(&**object) + values(&object.spec),
            Self::Config(object) => size_of_val(&**object) + values(&object.spec),
            Self::Service(object) => {
                let previous = object.spec.previous.as_deref().map_or(0, service);
                size_of_val(&**object) + service(&object.spec.spec) + previous
            }
            Self::Task(object) => task(object, is_spec_shared),
        }
    }
}

fn task(task: &Task, is_spec_shared: bool) -> usize {
    let status = &task.status;
    let spec = if is_spec_shared { 0 } else { size_of_val(&*task.spec) + container(&task.spec.container_spec) };
    size_of_val(task)
        + spec
        + labels(&task.service_labels)
        + status.error.len()
        + status.message.len()
        + texts(&status.log_tail)
        + ITEM * (task.networks.len() + task.ports.len() + status.ports.len())
}

fn service(spec: &ServiceSpec) -> usize {
    let template = &spec.task_template;
    let placement = texts(&template.placement.constraints) + texts(&template.placement.spread);
    size_of_val(spec)
        + labels(&spec.annotations.labels)
        + container(&template.container_spec)
        + placement
        + ITEM * (template.networks.len() + spec.endpoint_spec.ports.len())
}

fn container(spec: &ContainerSpec) -> usize {
    let health = spec.healthcheck.as_ref().map_or(0, |check| texts(&check.test));
    let mounts: usize = spec.mounts.iter().map(|mount| 2 * ITEM + mount.source.len() + mount.target.len()).sum();
    let references = 2 * ITEM * (spec.secrets.len() + spec.configs.len());
    labels(&spec.labels)
        + labels(&spec.sysctls)
        + texts(&spec.command)
        + texts(&spec.args)
        + texts(&spec.env)
        + ITEM * (spec.hosts.len() + spec.ulimits.len() + spec.groups.len())
        + health
        + mounts
        + references
}

fn values<const C: bool>(spec: &VersionedSpec<C>) -> usize {
    let versions: usize = spec.versions.iter().map(|version| 2 * ITEM + version.sealed.bytes.len()).sum();
    labels(&spec.annotations.labels) + versions
}

fn labels(labels: &BTreeMap<String, String>) -> usize {
    labels.iter().map(|(key, value)| ITEM + key.len() + value.len()).sum()
}

fn texts(texts: &[String]) -> usize {
    texts.iter().map(|text| size_of::<String>() + text.len()).sum()
}
