//! Who is called what, as each task of this node sees it.
//!
//! [`Names`] takes the same objects as the rest of netd, one at a time, and keeps
//! them by name and by address, so that a question costs a few look-ups and a change
//! costs what it concerns. A task sees its own networks only, in the order of its
//! interfaces; the first network that knows a name answers for it. The rules, most
//! of them Swarm's:
//!
//! - a service, or an alias of it on that network, is its virtual addresses there;
//!   without any, the addresses of its published tasks;
//! - `tasks.` before either is always the addresses of its published tasks;
//! - a container's name and host name are its addresses while it is published; a
//!   task knows its own always;
//! - any of these with `.` and the network's name behind it is asked of that network
//!   alone, and this is how addresses are named in return;
//! - a name that is known and has no address of the family asked for has none: it is
//!   not asked elsewhere, as it would be if nobody knew it.
//!
//! Not here: sockets, messages, and the order in which equal addresses are given.

use crate::dirty::DirtyKeys;
use crate::overlay::NodeOverlay;
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, ServiceNetwork};
use skep_model::{NetworkId, ServiceId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Before a service's name: the addresses of its tasks.
const TASKS: &str = "tasks.";

/// What a task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameQuestion<'a> {
    /// What has this name? In any case, without a dot at its end.
    Name(&'a str),
    /// What is this address called?
    Address(IpAddr),
}

/// What a task is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameAnswer {
    /// Addresses that stay as long as the service does; none = the name is known
    /// and has none.
    Service(Vec<IpAddr>),
    /// Addresses of tasks, which come and go; none as above.
    Tasks(Vec<IpAddr>),
    /// The name of an address.
    Named(String),
    /// Nobody here knows; others may be asked.
    Elsewhere,
    /// Nobody knows, and nobody else may be asked.
    Nowhere,
}

/// All names of this node's networks.
#[derive(Clone, Debug, Default)]
pub struct Names {
    tasks: BTreeMap<TaskId, LocalTask>,
    networks: BTreeMap<NetworkId, NodeNetwork>,
    services: BTreeMap<ServiceId, NodeService>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    on: BTreeMap<NetworkId, Known>,
}

/// What is known on one network. An endpoint may be told of before its service.
#[derive(Clone, Debug, Default)]
struct Known {
    services: BTreeMap<String, BTreeSet<ServiceId>>,
    /// Names of single tasks.
    tasks: BTreeMap<String, BTreeSet<TaskId>>,
    tasks_of: BTreeMap<ServiceId, BTreeSet<TaskId>>,
    virtual_addresses: BTreeMap<IpAddr, ServiceId>,
    /// By address; no two tasks share one for longer than a change takes.
    owners: BTreeMap<IpAddr, TaskId>,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.services.is_empty() && self.tasks.is_empty() && self.tasks_of.is_empty()
    }
}

impl Names {
    /// Takes what is dirty as it is now.
    pub fn follow(&mut self, overlay: &NodeOverlay, dirty: &DirtyKeys) {
        for id in &dirty.tasks {
            match overlay.task(*id) {
                Some(task) => self.put_task(task.clone()),
                None => self.remove_task(*id),
            }
        }
        for id in &dirty.networks {
            match overlay.network(*id) {
                Some(network) => self.put_network(network.clone()),
                None => self.remove_network(*id),
            }
        }
        for (network, id) in &dirty.services {
            self.follow_service(overlay, *network, *id);
        }
    }

    /// A service, and its tasks on one network.
    fn follow_service(&mut self, overlay: &NodeOverlay, network: NetworkId, id: ServiceId) {
        match overlay.service(id) {
            Some(service) if self.services.get(&id) == Some(service) => {}
            Some(service) => self.put_service(service.clone()),
            None => self.remove_service(id),
        }
        let known = self.on.get(&network).and_then(|known| known.tasks_of.get(&id)).into_iter().flatten();
        let known = known.map(|task| EndpointId { network, task: *task });
        let gone: Vec<EndpointId> = known.filter(|id| overlay.endpoint(*id).is_none()).collect();
        gone.into_iter().for_each(|id| self.remove_endpoint(id));
        for endpoint in overlay.endpoints_of(network, id) {
            if self.endpoints.get(&endpoint.id) != Some(endpoint) {
                self.put_endpoint(endpoint.clone());
            }
        }
    }

    /// A task of this node is new, or changed.
    pub fn put_task(&mut self, task: LocalTask) {
        self.tasks.insert(task.id, task);
    }

    /// A task of this node is gone.
    pub fn remove_task(&mut self, id: TaskId) {
        self.tasks.remove(&id);
    }

    /// A task of this node.
    pub fn task(&self, id: TaskId) -> Option<&LocalTask> {
        self.tasks.get(&id)
    }

    /// A network is new, or changed.
    pub fn put_network(&mut self, network: NodeNetwork) {
        self.networks.insert(network.id, network);
    }

    /// A network is gone.
    pub fn remove_network(&mut self, id: NetworkId) {
        self.networks.remove(&id);
    }

    /// A service is new, or changed.
    pub fn put_service(&mut self, service: NodeService) {
        self.remove_service(service.id);
        for on in &service.networks {
            let known = self.on.entry(on.network).or_default();
            for name in service_names(&service, on) {
                known.services.entry(name).or_default().insert(service.id);
            }
            known.virtual_addresses.extend(on.virtual_addresses.iter().map(|address| (*address, service.id)));
        }
        self.services.insert(service.id, service);
    }

    /// A service is gone.
    pub fn remove_service(&mut self, id: ServiceId) {
        let Some(service) = self.services.remove(&id) else { return };
        for on in &service.networks {
            self.forget(on.network, |known| {
                for name in service_names(&service, on) {
                    remove_from(&mut known.services, &name, id);
                }
                remove_owned(&mut known.virtual_addresses, &on.virtual_addresses, id);
            });
        }
    }

    /// An endpoint is new, or changed.
    pub fn put_endpoint(&mut self, endpoint: Endpoint) {
        let EndpointId { network, task } = endpoint.id;
        // Most changes are of the publication, which is asked for and not indexed.
        if let Some(known) = self.endpoints.get_mut(&endpoint.id)
            && (known.service, &known.names, &known.addresses) == (endpoint.service, &endpoint.names, &endpoint.addresses)
        {
            *known = endpoint;
            return;
        }
        self.remove_endpoint(endpoint.id);
        let known = self.on.entry(network).or_default();
        for name in &endpoint.names {
            known.tasks.entry(name.to_lowercase()).or_default().insert(task);
        }
        known.tasks_of.entry(endpoint.service).or_default().insert(task);
        known.owners.extend(endpoint.addresses.iter().map(|address| (*address, task)));
        self.endpoints.insert(endpoint.id, endpoint);
    }

    /// An endpoint is gone.
    pub fn remove_endpoint(&mut self, id: EndpointId) {
        let Some(endpoint) = self.endpoints.remove(&id) else { return };
        self.forget(id.network, |known| {
            for name in &endpoint.names {
                remove_from(&mut known.tasks, &name.to_lowercase(), id.task);
            }
            remove_from(&mut known.tasks_of, &endpoint.service, id.task);
            remove_owned(&mut known.owners, &endpoint.addresses, id.task);
        });
    }

    fn forget(&mut self, network: NetworkId, forget: impl FnOnce(&mut Known)) {
        let Some(known) = self.on.get_mut(&network) else { return };
        forget(known);
        if known.is_empty() {
            self.on.remove(&network);
        }
    }

    /// What a task is told; only addresses of a family that it asks for, as
    /// `is_wanted` says.
    pub fn answer(&self, task: TaskId, question: NameQuestion<'_>, is_wanted: impl Fn(&IpAddr) -> bool) -> NameAnswer {
        let Some(task) = self.tasks.get(&task) else { return NameAnswer::Nowhere };
        let found = match question {
            NameQuestion::Name(name) => self.by_name(task, &name.to_lowercase(), is_wanted),
            NameQuestion::Address(address) => self.by_address(task, address),
        };
        // Whoever has no way out may not get one through questions either.
        let may_ask = task.has_gateway || self.has_resolver(task);
        found.unwrap_or(if may_ask { NameAnswer::Elsewhere } else { NameAnswer::Nowhere })
    }

    /// Whether a server that the task was given is on one of its own networks.
    fn has_resolver(&self, task: &LocalTask) -> bool {
        let given = task.dns.nameservers.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        let mut subnets = self.visible_to(task).flat_map(|network| &network.pools).map(|pool| pool.subnet);
        let given: Vec<IpAddr> = given.collect();
        subnets.any(|subnet| given.iter().any(|address| subnet.contains(address)))
    }

    fn by_name(&self, task: &LocalTask, name: &str, is_wanted: impl Fn(&IpAddr) -> bool) -> Option<NameAnswer> {
        let whole = self.visible_to(task).map(|network| (network, name));
        let split = name.rmatch_indices('.').flat_map(|(dot, _)| {
            let (before, network_name) = (&name[..dot], &name[dot + 1..]);
            let called = self.visible_to(task).filter(move |network| network.name.eq_ignore_ascii_case(network_name));
            called.map(move |network| (network, before))
        });
        let mut known = None;
        for (network, name) in whole.chain(split) {
            let Some(mut answer) = self.on_network(task, network, name) else { continue };
            if let NameAnswer::Service(addresses) | NameAnswer::Tasks(addresses) = &mut answer {
                addresses.retain(&is_wanted);
                if !addresses.is_empty() {
                    return Some(answer);
                }
            }
            // Another network may have addresses of this family.
            known.get_or_insert(answer);
        }
        known
    }

    fn on_network(&self, task: &LocalTask, network: &NodeNetwork, name: &str) -> Option<NameAnswer> {
        let known = self.on.get(&network.id);
        if let Some(services) = known.and_then(|known| known.services.get(name)) {
            return Some(self.of_services(network.id, services));
        }
        if self.is_own(task, network.id, name) {
            let own = task.attachments.iter().find(|attachment| attachment.network == network.id)?;
            return Some(NameAnswer::Tasks(own.addresses.clone()));
        }
        let known = known?;
        if let Some(tasks) = known.tasks.get(name) {
            return Some(NameAnswer::Tasks(self.published(network.id, tasks)));
        }
        let services = known.services.get(name.strip_prefix(TASKS)?)?;
        Some(NameAnswer::Tasks(self.of_tasks(network.id, services)))
    }

    fn is_own(&self, task: &LocalTask, network: NetworkId, name: &str) -> bool {
        let own = self.endpoints.get(&EndpointId { network, task: task.id });
        let names = own.iter().flat_map(|endpoint| &endpoint.names).chain([&task.hostname]);
        names.into_iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// Services that share a name on a network answer for it together.
    fn of_services(&self, network: NetworkId, services: &BTreeSet<ServiceId>) -> NameAnswer {
        let on = |service| self.services.get(service)?.networks.iter().find(|on| on.network == network);
        let addresses = services.iter().filter_map(on).flat_map(|on: &ServiceNetwork| on.virtual_addresses.iter().copied());
        let addresses: Vec<IpAddr> = addresses.collect();
        if addresses.is_empty() { NameAnswer::Tasks(self.of_tasks(network, services)) } else { NameAnswer::Service(addresses) }
    }

    fn of_tasks(&self, network: NetworkId, services: &BTreeSet<ServiceId>) -> Vec<IpAddr> {
        let Some(known) = self.on.get(&network) else { return Vec::new() };
        services.iter().filter_map(|id| known.tasks_of.get(id)).flat_map(|tasks| self.published(network, tasks)).collect()
    }

    fn published(&self, network: NetworkId, tasks: &BTreeSet<TaskId>) -> Vec<IpAddr> {
        let endpoints = tasks.iter().filter_map(|task| self.endpoints.get(&EndpointId { network, task: *task }));
        endpoints.filter(|endpoint| endpoint.is_published).flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
    }

    fn by_address(&self, task: &LocalTask, address: IpAddr) -> Option<NameAnswer> {
        for network in self.visible_to(task) {
            if let Some(name) = self.name_of(task, network, address) {
                return Some(NameAnswer::Named(format!("{name}.{}", network.name)));
            }
        }
        // Addresses of an overlay are nobody else's business.
        let mut subnets = self.visible_to(task).flat_map(|network| &network.pools);
        subnets.any(|pool| pool.subnet.contains(&address)).then_some(NameAnswer::Nowhere)
    }

    fn name_of(&self, task: &LocalTask, network: &NodeNetwork, address: IpAddr) -> Option<&str> {
        let known = self.on.get(&network.id)?;
        if let Some(owner) = known.owners.get(&address) {
            let endpoint = self.endpoints.get(&EndpointId { network: network.id, task: *owner })?;
            let name = endpoint.names.first().filter(|_| endpoint.is_published || *owner == task.id);
            return name.map(String::as_str);
        }
        self.services.get(known.virtual_addresses.get(&address)?).map(|service| service.name.as_str())
    }

    fn visible_to<'a>(&'a self, task: &'a LocalTask) -> impl Iterator<Item = &'a NodeNetwork> {
        task.attachments.iter().filter_map(|attachment| self.networks.get(&attachment.network))
    }
}

/// What a service is called on a network.
fn service_names(service: &NodeService, on: &ServiceNetwork) -> BTreeSet<String> {
    std::iter::once(&service.name).chain(&on.aliases).map(|name| name.to_lowercase()).collect()
}

fn remove_from<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

/// An address may be another's already.
fn remove_owned<V: PartialEq>(owners: &mut BTreeMap<IpAddr, V>, addresses: &[IpAddr], owner: V) {
    for address in addresses {
        if owners.get(address) == Some(&owner) {
            owners.remove(address);
        }
    }
}

#[cfg(test)]
mod tests;
