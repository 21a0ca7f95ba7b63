//! What the leader has to look at: what became dirty, what waits for what, and when to look
//! again although nothing happened.
//!
//! Changes say where to look, never what to do. A new leader looks at everything.

use crate::rules::reservation::holds_reservation;
use crate::store::{Change, Store, StoredObject};
use crate::transaction::{Precondition, Transaction, Write};
use skep_model::node::Node;
use skep_model::service::{Service, ServiceMode};
use skep_model::task::Task;
use skep_model::{ConfigId, Kind, NodeId, SecretId, ServiceId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where to look in the next turn, and what is left for later ones.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    dirty: Dirty,
    /// Services with tasks that fit on no node now.
    waiting: BTreeSet<ServiceId>,
    /// Global services: they follow every node.
    global: BTreeSet<ServiceId>,
    /// Nodes that wait for a part in the routing mesh, with what is not free.
    excluded: BTreeMap<NodeId, String>,
    timers: Timers,
}

/// Where to look in the next turn.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceId>,
    nodes: BTreeSet<NodeId>,
    secrets: BTreeSet<SecretId>,
    configs: BTreeSet<ConfigId>,
    is_everything: bool,
    /// Something was freed: tasks that wait for a node or an address may find one.
    is_room: bool,
    /// A node or the ingress network appeared, changed its part or went.
    is_mesh: bool,
}

/// What a turn looks at.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) services: BTreeSet<ServiceId>,
    /// Nodes that changed, where tasks may no longer fit.
    pub(super) nodes: Vec<NodeId>,
}

/// When to look at a service again although nothing happened to it.
#[derive(Debug, Default)]
struct Timers {
    by_service: BTreeMap<ServiceId, Time>,
    by_time: BTreeSet<(Time, ServiceId)>,
}

impl Timers {
    fn set(&mut self, service: ServiceId, at: Option<Time>) {
        if let Some(old) = self.by_service.remove(&service) {
            self.by_time.remove(&(old, service));
        }
        if let Some(at) = at {
            self.by_service.insert(service, at);
            self.by_time.insert((at, service));
        }
    }

    fn due(&mut self, now: Time) -> Vec<ServiceId> {
        let due: Vec<ServiceId> = self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, service)| *service).collect();
        for service in &due {
            self.set(*service, None);
        }
        due
    }
}

impl Agenda {
    /// That of a new leader: everything.
    pub(super) fn of(store: &Store) -> Self {
        let global = store.services().filter(|service| is_global(service)).map(|service| service.id).collect();
        let dirty = Dirty { is_everything: true, ..Dirty::default() };
        Self { dirty, global, ..Self::default() }
    }

    /// A transaction was applied, ours or another; `is_address_free` if that freed an address.
    pub(super) fn changed(&mut self, change: &Change, is_address_free: bool) {
        self.dirty.is_room |= is_address_free;
        self.dirty.is_mesh |= concerns_mesh(change);
        match (&change.old, &change.new) {
            (_, Some(StoredObject::Task(_))) | (Some(StoredObject::Task(_)), None) => {
                let (old, new) = change.tasks();
                self.task_changed(old, new);
            }
            (_, Some(StoredObject::Service(service))) => {
                self.dirty.services.insert(service.id);
                if is_global(service) {
                    self.global.insert(service.id);
                }
            }
            (Some(StoredObject::Service(service)), None) => {
                self.dirty.services.insert(service.id);
                self.global.remove(&service.id);
                self.waiting.remove(&service.id);
            }
            (Some(StoredObject::Node(old)), Some(StoredObject::Node(new))) if is_same_place(old, new) => {}
            (Some(StoredObject::Node(node)), _) | (None, Some(StoredObject::Node(node))) => {
                self.dirty.nodes.insert(node.id);
            }
            (_, Some(StoredObject::Secret(secret))) => drop(self.dirty.secrets.insert(secret.id)),
            (_, Some(StoredObject::Config(config))) => drop(self.dirty.configs.insert(config.id)),
            (Some(StoredObject::Cluster(old)), Some(StoredObject::Cluster(new))) => {
                self.dirty.is_everything |= old.spec.task_history_limit != new.spec.task_history_limit;
            }
            _ => {}
        }
    }

    fn task_changed(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        if let Some(task) = new.or(old) {
            self.dirty.services.insert(task.service_id);
        }
        let was_counted = |task: &&Arc<Task>| task.is_wanted() || holds_reservation(task);
        let is_less = |old: &&Arc<Task>| {
            new.is_none_or(|new| (old.is_wanted() && !new.is_wanted()) || (holds_reservation(old) && !holds_reservation(new)))
        };
        self.dirty.is_room |= old.filter(was_counted).filter(is_less).is_some();
    }

    /// Something about these services changed that is not in the store.
    pub(super) fn look_at(&mut self, services: BTreeSet<ServiceId>) {
        self.dirty.services.extend(services);
    }

    /// A transaction of the last turn was refused: its service is looked at again.
    pub(super) fn refused(&mut self, transaction: &Transaction) {
        self.dirty.is_mesh |= transaction.writes.iter().any(|write| matches!(write, Write::NodePlan(..)));
        for precondition in &transaction.preconditions {
            if let Precondition::Unchanged(object, ..) | Precondition::Exists(object) | Precondition::Absent(object) =
                precondition
                && object.kind == Kind::Service
            {
                self.dirty.services.insert(ServiceId(object.id));
            }
        }
    }

    /// Whether there is something to look at now.
    pub(super) fn is_dirty(&self) -> bool {
        let dirty = &self.dirty;
        let has_keys =
            !(dirty.services.is_empty() && dirty.nodes.is_empty() && dirty.secrets.is_empty() && dirty.configs.is_empty());
        let is_waiting = !self.waiting.is_empty() || !self.excluded.is_empty();
        has_keys || dirty.is_everything || dirty.is_mesh || (dirty.is_room && is_waiting)
    }

    /// Whether nodes' parts in the routing mesh have to be looked at.
    pub(super) fn is_mesh_due(&self) -> bool {
        self.dirty.is_everything || self.dirty.is_mesh || (self.dirty.is_room && !self.excluded.is_empty())
    }

    /// These nodes wait for a part in the routing mesh, and no others.
    pub(super) fn exclude(&mut self, excluded: BTreeMap<NodeId, String>) {
        self.excluded = excluded;
    }

    /// See [`super::Leader::excluded`].
    pub(super) fn excluded(&self) -> &BTreeMap<NodeId, String> {
        &self.excluded
    }

    /// Takes what a turn looks at.
    pub(super) fn take(&mut self, store: &Store, now: Time) -> Due {
        let dirty = std::mem::take(&mut self.dirty);
        let mut services = dirty.services;
        services.extend(self.timers.due(now));
        if dirty.is_everything {
            services.extend(store.services().map(|service| service.id));
            services.extend(store.tasks().map(|task| task.service_id));
        }
        let nodes: Vec<NodeId> =
            if dirty.is_everything { store.nodes().map(|node| node.id).collect() } else { dirty.nodes.iter().copied().collect() };
        for node in &nodes {
            services.extend(store.tasks_of_node(*node).map(|task| task.service_id));
        }
        if !nodes.is_empty() {
            services.extend(&self.global);
        }
        if !nodes.is_empty() || dirty.is_room {
            services.extend(&self.waiting);
        }
        for secret in dirty.secrets {
            services.extend(store.services_of_secret(secret).map(|service| service.id));
        }
        for config in dirty.configs {
            services.extend(store.services_of_config(config).map(|service| service.id));
        }
        Due { services, nodes }
    }

    /// Whether a service has tasks that wait.
    pub(super) fn is_waiting(&self, service: ServiceId) -> bool {
        self.waiting.contains(&service)
    }

    /// A service was looked at: whether tasks of it wait, and when it is due again.
    pub(super) fn looked_at(&mut self, service: ServiceId, is_waiting: bool, wakeup: Option<Time>) {
        if is_waiting {
            self.waiting.insert(service);
        } else {
            self.waiting.remove(&service);
        }
        self.timers.set(service, wakeup);
    }

    /// A service is due at a time.
    pub(super) fn wake(&mut self, service: ServiceId, at: Time) {
        self.timers.set(service, Some(at));
    }

    /// When something is due although nothing happens.
    pub(super) fn next_wakeup(&self) -> Option<Time> {
        self.timers.by_time.first().map(|(at, _)| *at)
    }
}

fn is_global(service: &Service) -> bool {
    matches!(service.spec.spec.mode, ServiceMode::Global {})
}

/// Whether a node's part in the mesh may have to change.
fn concerns_mesh(change: &Change) -> bool {
    match (&change.old, &change.new) {
        (Some(StoredObject::Node(old)), Some(StoredObject::Node(new))) => old.plan.ingress != new.plan.ingress,
        (_, Some(StoredObject::Node(_))) | (Some(StoredObject::Node(_)), None) => true,
        (Some(StoredObject::Network(network)), _) | (_, Some(StoredObject::Network(network))) => network.spec.ingress,
        _ => false,
    }
}

/// Whether nothing changed that matters for what runs on a node.
fn is_same_place(old: &Node, new: &Node) -> bool {
    old.spec.value == new.spec.value
        && old.description.value == new.description.value
        && old.status.state == new.status.state
        && old.status.address == new.status.address
        && old.plan.role == new.plan.role
}
