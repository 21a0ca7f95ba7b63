//! Who has which address: gateways, virtual addresses, tasks, nodes of the mesh.
//!
//! Derived from the store and kept by its changes, so that giving one costs what
//! is given and not a walk over all that was. Only a turn gives addresses, and a
//! turn begins when everything of the last one is settled: so no address is ever
//! given twice, whether or not what it was given for comes to be.
//!
//! A task has its addresses until its node says that it ended. One that the leader
//! ended itself may still be running: it keeps them until it is removed. Addresses
//! are given in turn, round and round, so what is freed is given late; a new leader
//! goes on behind the newest owner.

use crate::rules::reservation::holds_addresses;
use crate::rules::subnets::{address, hosts, is_ipv4, number};
use crate::store::{Change, Store, StoredObject};
use skep_model::endpoint::INGRESS_NODES_MAX;
use skep_model::network::{Network, Pool};
use skep_model::node::Node;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{NetworkId, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What is in use, on every network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    networks: BTreeMap<NetworkId, Used>,
    /// The addresses of nodes on the ingress network, whichever that is, with the
    /// number of their owners: two for a moment, while a draft becomes true.
    nodes: BTreeMap<IpAddr, usize>,
    /// The numbers of nodes in the mesh.
    numbers: BTreeMap<u32, usize>,
    last_number: u32,
    drafted: Vec<Drafted>,
}

/// What is in use on one network.
#[derive(Clone, Debug, Default)]
struct Used {
    /// With the number of owners: two for a moment, while a draft becomes true.
    owners: BTreeMap<IpAddr, usize>,
    /// What was given last, with the owner's age when a leader begins.
    last_ipv4: (Time, u128),
    last_ipv6: (Time, u128),
}

/// What the turn under way gave.
#[derive(Clone, Copy, Debug)]
enum Drafted {
    Address(NetworkId, IpAddr),
    OfNode(IpAddr),
    Number(u32),
}

impl Addresses {
    /// What a store has in use.
    pub(crate) fn of(store: &Store) -> Self {
        let mut addresses = Self::default();
        for task in store.tasks() {
            if holds_addresses(task) {
                addresses.add(of_task(task));
            }
            addresses.seed(of_task(task), task.meta.made());
        }
        for service in store.services() {
            addresses.add(of_service(service));
            addresses.seed(of_service(service), service.meta.made());
        }
        for node in store.nodes() {
            addresses.add_node(node);
        }
        addresses.last_number = addresses.numbers.last_key_value().map_or(0, |(number, _)| *number);
        if let Some(ingress) = store.ingress_network() {
            let of_nodes: Vec<_> = addresses.nodes.keys().map(|address| (ingress.id, *address)).collect();
            addresses.seed(of_nodes.into_iter(), Time::ZERO);
        }
        addresses
    }

    /// A transaction was applied; whether something became free.
    pub(crate) fn changed(&mut self, change: &Change) -> bool {
        match (&change.old, &change.new) {
            (Some(StoredObject::Task(old)), Some(StoredObject::Task(new)))
                if holds_addresses(old) == holds_addresses(new) && old.networks == new.networks =>
            {
                false
            }
            (Some(StoredObject::Service(old)), Some(StoredObject::Service(new)))
                if old.plan.endpoint.virtual_addresses == new.plan.endpoint.virtual_addresses =>
            {
                false
            }
            (Some(StoredObject::Node(old)), Some(StoredObject::Node(new))) if old.plan.ingress == new.plan.ingress => false,
            (old, new) => {
                new.iter().for_each(|new| self.add_object(new));
                old.iter().any(|old| self.remove_object(old))
            }
        }
    }

    /// A turn begins: what the last one gave has come true by now, or never will.
    pub(crate) fn begin_turn(&mut self) {
        for drafted in std::mem::take(&mut self.drafted) {
            match drafted {
                Drafted::Address(network, address) => self.release(network, address),
                Drafted::OfNode(address) => step_down(&mut self.nodes, address),
                Drafted::Number(number) => step_down(&mut self.numbers, number),
            };
        }
    }

    /// One free address of each family that a network has; `None` if any has none left.
    pub(crate) fn give(&mut self, network: &Network) -> Option<Vec<IpAddr>> {
        let found = self.find(network)?;
        for address in &found {
            self.take(network.id, *address);
            self.drafted.push(Drafted::Address(network.id, *address));
        }
        Some(found)
    }

    /// The same for a node, on the ingress network.
    pub(crate) fn give_node(&mut self, network: &Network) -> Option<Vec<IpAddr>> {
        let found = self.find(network)?;
        for address in &found {
            *self.nodes.entry(*address).or_default() += 1;
            self.drafted.push(Drafted::OfNode(*address));
        }
        Some(found)
    }

    /// A free number for a node in the mesh; `None` if all are taken.
    pub(crate) fn give_number(&mut self) -> Option<u32> {
        let mut in_turn = (self.last_number + 1..=INGRESS_NODES_MAX).chain(1..=self.last_number);
        let number = in_turn.find(|number| !self.numbers.contains_key(number))?;
        self.last_number = number;
        *self.numbers.entry(number).or_default() += 1;
        self.drafted.push(Drafted::Number(number));
        Some(number)
    }

    fn find(&mut self, network: &Network) -> Option<Vec<IpAddr>> {
        let found: Vec<IpAddr> = network.plan.pools.iter().map(|pool| self.next(network, pool)).collect::<Option<_>>()?;
        let used = self.networks.entry(network.id).or_default();
        found.iter().for_each(|address| used.last(*address).1 = number(*address));
        Some(found)
    }

    /// The next free address of a pool, behind the one that was given last.
    fn next(&self, network: &Network, pool: &Pool) -> Option<IpAddr> {
        let ipv4 = is_ipv4(pool.subnet);
        let (first, last) = bounds(pool);
        let used = self.networks.get(&network.id);
        let given = used.map_or(0, |used| if ipv4 { used.last_ipv4.1 } else { used.last_ipv6.1 });
        let middle = if (first..last).contains(&given) { given + 1 } else { first };
        let is_free = |candidate: &IpAddr| {
            let is_taken = used.is_some_and(|used| used.owners.contains_key(candidate));
            let is_of_node = network.spec.ingress && self.nodes.contains_key(candidate);
            !is_taken && !is_of_node && pool.gateway != Some(*candidate)
        };
        (middle..=last).chain(first..middle).map(|number| address(number, ipv4)).find(is_free)
    }

    fn add_object(&mut self, object: &StoredObject) {
        match object {
            StoredObject::Task(task) if holds_addresses(task) => self.add(of_task(task)),
            StoredObject::Service(service) => self.add(of_service(service)),
            StoredObject::Node(node) => self.add_node(node),
            _ => {}
        }
    }

    /// Takes away what an object had; whether something became free.
    fn remove_object(&mut self, object: &StoredObject) -> bool {
        match object {
            StoredObject::Task(task) if holds_addresses(task) => self.remove(of_task(task)),
            StoredObject::Service(service) => self.remove(of_service(service)),
            StoredObject::Node(node) => {
                let Some(ingress) = &node.plan.ingress else { return false };
                let is_number_free = step_down(&mut self.numbers, ingress.number);
                let nodes = &mut self.nodes;
                ingress.addresses.iter().fold(is_number_free, |is_free, address| step_down(nodes, *address) || is_free)
            }
            StoredObject::Network(network) => {
                self.networks.remove(&network.id);
                false
            }
            _ => false,
        }
    }

    fn add<'a>(&mut self, owned: impl Iterator<Item = (NetworkId, IpAddr)> + 'a) {
        owned.for_each(|(network, address)| self.take(network, address));
    }

    fn remove<'a>(&mut self, owned: impl Iterator<Item = (NetworkId, IpAddr)> + 'a) -> bool {
        owned.fold(false, |is_freed, (network, address)| self.release(network, address) || is_freed)
    }

    fn add_node(&mut self, node: &Node) {
        if let Some(ingress) = &node.plan.ingress {
            *self.numbers.entry(ingress.number).or_default() += 1;
            ingress.addresses.iter().for_each(|address| *self.nodes.entry(*address).or_default() += 1);
        }
    }

    /// The owner of an address is as old as this: the newest one's was given last.
    fn seed<'a>(&mut self, owned: impl Iterator<Item = (NetworkId, IpAddr)> + 'a, made_at: Time) {
        for (network, address) in owned {
            let last = self.networks.entry(network).or_default().last(address);
            *last = (*last).max((made_at, number(address)));
        }
    }

    fn take(&mut self, network: NetworkId, address: IpAddr) {
        *self.networks.entry(network).or_default().owners.entry(address).or_default() += 1;
    }

    /// A network that is gone has no addresses to free.
    fn release(&mut self, network: NetworkId, address: IpAddr) -> bool {
        self.networks.get_mut(&network).is_some_and(|used| step_down(&mut used.owners, address))
    }
}

impl Used {
    fn last(&mut self, address: IpAddr) -> &mut (Time, u128) {
        if address.is_ipv4() { &mut self.last_ipv4 } else { &mut self.last_ipv6 }
    }
}

/// Why there are no addresses, naming the network.
pub(crate) fn no_address(network: &Network) -> String {
    let subnets = network.plan.pools.iter().map(|pool| pool.subnet.to_string()).collect::<Vec<_>>().join(" and ");
    format!("no available address on network {} ({subnets})", network.spec.annotations.name)
}

/// The first and the last address of a pool that an owner may have.
fn bounds(pool: &Pool) -> (u128, u128) {
    let (first, last) = hosts(pool.subnet);
    let (first, last) = (number(first), number(last));
    match pool.range {
        Some(range) => (first.max(number(range.network())), last.min(number(range.broadcast()))),
        None => (first, last),
    }
}

fn of_task(task: &Task) -> impl Iterator<Item = (NetworkId, IpAddr)> {
    task.networks.iter().flat_map(|attachment| attachment.addresses.iter().map(|address| (attachment.network, *address)))
}

fn of_service(service: &Service) -> impl Iterator<Item = (NetworkId, IpAddr)> {
    let endpoint = &service.plan.endpoint;
    endpoint.virtual_addresses.iter().flat_map(|(network, own)| own.addresses.iter().map(|address| (*network, *address)))
}

/// Counts one owner less; whether none is left.
fn step_down<K: Ord>(owners: &mut BTreeMap<K, usize>, key: K) -> bool {
    let Some(n) = owners.get_mut(&key) else { return false };
    *n -= 1;
    let is_free = *n == 0;
    if is_free {
        owners.remove(&key);
    }
    is_free
}
