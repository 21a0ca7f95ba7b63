//! From a name, id or unique id prefix to an object.
//!
//! The order is Swarm's: the exact id, then the exact name (case does not
//! matter), then a prefix of exactly one id. A service that was removed is not
//! found any more, although its tasks may still be stopping.

use super::{Store, Table};
use skep_model::config::Config;
use skep_model::id::ID_LENGTH;
use skep_model::network::Network;
use skep_model::node::Node;
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
        self.resolve(Kind::Service, &self.services, ServiceId, reference, is_there)
    }

    /// A secret by id, name or unique id prefix.
    pub fn resolve_secret(&self, reference: &str) -> Result<&Arc<Secret>, Refusal> {
        self.resolve(Kind::Secret, &self.secrets, SecretId, reference, |_| true)
    }

    /// A config by id, name or unique id prefix.
    pub fn resolve_config(&self, reference: &str) -> Result<&Arc<Config>, Refusal> {
        self.resolve(Kind::Config, &self.configs, ConfigId, reference, |_| true)
    }

    /// A network by id, name or unique id prefix.
    pub fn resolve_network(&self, reference: &str) -> Result<&Arc<Network>, Refusal> {
        self.resolve(Kind::Network, &self.networks, NetworkId, reference, |_| true)
    }

    /// A task by id or unique id prefix.
    pub fn resolve_task(&self, reference: &str) -> Result<&Arc<Task>, Refusal> {
        self.resolve(Kind::Task, &self.tasks, TaskId, reference, |_| true)
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
        let mut named =
            self.nodes().filter(|node| !reference.is_empty() && node.description.hostname.eq_ignore_ascii_case(reference));
        if let Some(first) = named.next() {
            return match named.count() {
                0 => Ok(first),
                more => Err(ambiguous(Kind::Node, reference, more + 1)),
            };
        }
        self.resolve(Kind::Node, &self.nodes, NodeId, reference, |_| true)
    }

    fn resolve<'a, K: Ord + Copy, V>(
        &'a self,
        kind: Kind,
        table: &'a Table<K, V>,
        key: fn(Id) -> K,
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
        let mut matches = table
            .range((Bound::Included(key(first)), Bound::Included(key(last))))
            .map(|(_, object)| object)
            .filter(|object| is_there(object));
        match (matches.next(), matches.count()) {
            (None, _) => Err(not_found()),
            (Some(object), 0) => Ok(object),
            (Some(_), more) => Err(ambiguous(kind, reference, more + 1)),
        }
    }
}

/// The lowest and the highest id with a prefix; `None` if no id has it.
fn prefix_range(prefix: &str) -> Option<(Id, Id)> {
    if prefix.is_empty() || prefix.len() > ID_LENGTH || !prefix.is_ascii() {
        return None;
    }
    let filled = |digit: &str| format!("{prefix}{}", digit.repeat(ID_LENGTH - prefix.len())).parse().ok();
    Some((filled("0")?, filled("z")?))
}

fn ambiguous(kind: Kind, reference: &str, matches: usize) -> Refusal {
    Refusal::Ambiguous { kind, reference: reference.to_owned(), matches }
}
