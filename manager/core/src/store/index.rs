//! Indexes of the store: derived from the tables, kept by `apply`.
//!
//! Each is a set of pairs in a persistent ordered map, so that "all tasks of a
//! node" is a range and costs what it returns.

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use skep_model::{ConfigId, Id, Kind, NodeId, SecretId, ServiceId, TaskId};
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
}

impl Indexes {
    pub(crate) fn tasks_of_service(&self, service: ServiceId) -> impl Iterator<Item = TaskId> {
        let first = (service, TaskId::from_random(ID_MIN));
        self.service_tasks
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == service)
            .map(|(_, id)| *id)
    }

    pub(crate) fn tasks_of_node(&self, node: NodeId) -> impl Iterator<Item = TaskId> {
        let first = (node, TaskId::from_random(ID_MIN));
        self.node_tasks
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| *key == node)
            .map(|(_, id)| *id)
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
}
