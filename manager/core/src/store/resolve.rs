//! From a name, id or unique id prefix to an object.
//!
//! The order is Swarm's: the exact id, then the exact name (case does not
//! matter), then a prefix of exactly one id. A service that was removed is not
//! found any more, although its tasks may still be stopping.

use super::state::{Store, Table};
use skep_model::config::Config;
use skep_model::id::ID_LENGTH;
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::refusal::AMBIGUOUS_IDS_MAX;
use skep_model::secret::Secret;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{ConfigId, Id, Kind, NetworkId, NodeId, Refusal, SecretId, ServiceId, TaskId};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

impl Store {
    /// A service by id, name or unique id prefix.
    pub fn resolve_service(&self, reference: &str) -> Result<&Arc<Service>, Refusal> {
        let is_there = |service: &Arc<Service>| service.plan.removed_at.is_none();
        self.resolve(Kind::Service, &self.services, (ServiceId, |id: ServiceId| id.0), reference, is_there)
    }

    /// A secret by id, name or unique id prefix.
    pub fn resolve_secret(&self, reference: &str) -> Result<&Arc<Secret>, Refusal> {
        self.resolve(Kind::Secret, &self.secrets, (SecretId, |id: SecretId| id.0), reference, |_| true)
    }

    /// A config by id, name or unique id prefix.
    pub fn resolve_config(&self, reference: &str) -> Result<&Arc<Config>, Refusal> {
        self.resolve(Kind::Config, &self.configs, (ConfigId, |id: ConfigId| id.0), reference, |_| true)
    }

    /// A network by id, name or unique id prefix.
    pub fn resolve_network(&self, reference: &str) -> Result<&Arc<Network>, Refusal> {
        self.resolve(Kind::Network, &self.networks, (NetworkId, |id: NetworkId| id.0), reference, |_| true)
    }

    /// A task by id or unique id prefix.
    pub fn resolve_task(&self, reference: &str) -> Result<&Arc<Task>, Refusal> {
        self.resolve(Kind::Task, &self.tasks, (TaskId, |id: TaskId| id.0), reference, |_| true)
    }

    /// The node other than `except` that has an address now.
    pub fn holder_of(&self, address: IpAddr, except: NodeId) -> Option<&Arc<Node>> {
        self.nodes().find(|node| node.id != except && node.has_address(address))
    }

    /// A node by id, host name (which several nodes may have) or unique id prefix.
    pub fn resolve_node(&self, reference: &str) -> Result<&Arc<Node>, Refusal> {
        if let Some(node) = reference.parse().ok().and_then(|id| self.node(id)) {
            return Ok(node);
        }
        let named =
            self.nodes().filter(|node| !reference.is_empty() && node.description.hostname.eq_ignore_ascii_case(reference));
        if let Some(found) = only(Kind::Node, reference, named, |node| node.id.0) {
            return found;
        }
        self.resolve(Kind::Node, &self.nodes, (NodeId, |id: NodeId| id.0), reference, |_| true)
    }

    fn resolve<'a, K: Ord + Copy, V>(
        &'a self,
        kind: Kind,
        table: &'a Table<K, V>,
        (key, id): Keys<K>,
        reference: &str,
        is_there: impl Fn(&Arc<V>) -> bool,
    ) -> Result<&'a Arc<V>, Refusal> {
        let get = |id: Id| table.get(&key(id)).filter(|object| is_there(object));
        if let Some(object) = reference.parse().ok().and_then(get) {
            return Ok(object);
        }
        if let Some(object) = self.indexes.names.get(&(kind, reference.to_lowercase())).copied().and_then(get) {
            return Ok(object);
        }
        let not_found = || Refusal::NotFound { kind, reference: reference.chars().take(128).collect() };
        let Some((first, last)) = prefix_range(reference) else { return Err(not_found()) };
        let matches =
            table.range((Bound::Included(key(first)), Bound::Included(key(last)))).filter(|(_, object)| is_there(object));
        match only(kind, reference, matches, |(key, _)| id(**key)) {
            Some(found) => found.map(|(_, object)| object),
            None => Err(not_found()),
        }
    }
}

/// From an id to a table's key, and back.
type Keys<K> = (fn(Id) -> K, fn(K) -> Id);

/// The lowest and the highest id with a prefix; `None` if no id has it.
fn prefix_range(prefix: &str) -> Option<(Id, Id)> {
    if prefix.is_empty() || prefix.len() > ID_LENGTH || !prefix.is_ascii() {
        return None;
    }
    let filled = |digit: &str| format!("{prefix}{}", digit.repeat(ID_LENGTH - prefix.len())).parse().ok();
    Some((filled("0")?, filled("z")?))
}

/// The one match, or a refusal that names the first of several; `None` if there is none.
fn only<T>(kind: Kind, reference: &str, matches: impl Iterator<Item = T>, id: impl Fn(&T) -> Id) -> Option<Result<T, Refusal>> {
    let (mut first, mut n, mut ids) = (None, 0, Vec::new());
    for found in matches {
        n += 1;
        if ids.len() < AMBIGUOUS_IDS_MAX {
            ids.push(id(&found).to_string());
        }
        first.get_or_insert(found);
    }
    match n {
        0 | 1 => first.map(Ok),
        matches => Some(Err(Refusal::Ambiguous { kind, reference: reference.to_owned(), matches, ids })),
    }
}
