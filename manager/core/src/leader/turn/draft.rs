//! What a turn is about to do to one service: its tasks as they will be.
//!
//! Every stage of a turn reads the draft and writes to it, so that a later stage
//! sees what an earlier one decided, and a task that is made, placed and started
//! in one turn is one write. Nothing of it is true before its transaction has
//! committed.

use super::addresses::Addresses;
use super::ledger::Ledger;
use super::slots::{self, Slot, SlotKey};
use crate::publication::Barrier;
use crate::rules::stopping::{is_stopping, stop_max};
use crate::store::Store;
use skep_model::deployment::Deployment;
use skep_model::endpoint::{self, PublishedPort, ServiceEndpoint};
use skep_model::service::{Service, ServiceRecord};
use skep_model::task::Task;
use skep_model::{NetworkId, NodeId, ServiceId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// One task and what was done to it.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it is stored; `None` if this turn makes it.
    pub(super) stored: Option<Arc<Task>>,
    /// As it will be; `None` if this turn removes it.
    pub(super) task: Option<Arc<Task>>,
}

/// The service a draft is about, and its tasks as they will be.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) store: &'a Store,
    /// What nodes have programmed of what is stored.
    pub(crate) barrier: &'a Barrier,
    pub(crate) now: Time,
    /// When this turn's tasks are made: after all that the service has, though the
    /// clock stands still or a new leader's is behind. Which task of a slot is the
    /// newest decides what becomes of it.
    pub(crate) made_at: Time,
    pub(crate) id: ServiceId,
    /// The service; `None` if it was removed.
    pub(crate) service: Option<Arc<Service>>,
    pub(super) tasks: BTreeMap<TaskId, Entry>,
    /// Nodes on whose state a placement relies.
    pub(super) nodes_read: BTreeSet<NodeId>,
    pub(super) record: Option<ServiceRecord>,
    pub(super) deployment: Option<Deployment>,
    pub(super) endpoint: ServiceEndpoint,
    /// Slots with a task whose failure this turn counts.
    pub(super) counted: BTreeSet<SlotKey>,
    /// Why no task of the service can be given addresses now.
    pub(crate) exhausted: Option<String>,
    /// When this service must be looked at again if nothing happens.
    pub(crate) wakeup: Option<Time>,
    /// What the tasks of this turn do to the nodes.
    pub(crate) ledger: &'a mut Ledger,
    /// What addresses are free.
    pub(crate) addresses: &'a mut Addresses,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(
        store: &'a Store,
        barrier: &'a Barrier,
        ledger: &'a mut Ledger,
        addresses: &'a mut Addresses,
        id: ServiceId,
        now: Time,
    ) -> Self {
        let service = store.service(id).filter(|service| service.plan.removed_at.is_none()).cloned();
        let entry = |task: &Arc<Task>| (task.id, Entry { stored: Some(task.clone()), task: Some(task.clone()) });
        let made_last = store.tasks_of_service(id).map(|task| task.meta.made()).max();
        Self {
            store,
            barrier,
            now,
            made_at: made_last.map_or(now, |last| now.max(last + Duration::from_nanos(1))),
            id,
            tasks: store.tasks_of_service(id).map(entry).collect(),
            nodes_read: BTreeSet::new(),
            record: None,
            deployment: service.as_ref().and_then(|service| service.plan.deployment.clone()),
            endpoint: service.as_ref().map(|service| service.plan.endpoint.clone()).unwrap_or_default(),
            counted: BTreeSet::new(),
            exhausted: None,
            service,
            wakeup: None,
            ledger,
            addresses,
        }
    }

    /// The tasks as they will be, by id.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter_map(|entry| entry.task.as_ref())
    }

    /// One task as it will be.
    pub(crate) fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.get(&id)?.task.as_ref()
    }

    /// The slots of the service as they will be.
    pub(crate) fn slots(&self) -> BTreeMap<SlotKey, Slot> {
        slots::of(self.tasks())
    }

    /// When the task that a replacement waits for has stopped, or is not waited for any longer.
    pub(crate) fn old_stopped_at(&self, task: &Task) -> Time {
        let old = task.plan.replaces.and_then(|old| self.task(old)).filter(|old| is_stopping(self.store, old));
        old.map_or(Time::ZERO, |old| old.plan.desired_since.max(task.meta.made()) + stop_max(self.store, old))
    }

    /// Tasks that the service is not to have any more and that may still run, each with
    /// when it is not waited for any longer.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = (&Task, Time)> {
        let tasks = self.tasks().filter(|task| task.plan.desired == TaskState::Remove && is_stopping(self.store, task));
        let until = tasks.map(|task| (&**task, task.plan.desired_since + stop_max(self.store, task)));
        until.filter(|(_, until)| *until > self.now)
    }

    /// Adds a task.
    pub(crate) fn create(&mut self, task: Task) {
        self.ledger.change(None, Some(&task));
        self.tasks.insert(task.id, Entry { stored: None, task: Some(Arc::new(task)) });
    }

    /// Changes a task that the draft has.
    pub(crate) fn change(&mut self, id: TaskId, change: impl FnOnce(&mut Task)) {
        let Some(old) = self.task(id).cloned() else { return };
        let mut new = Task::clone(&old);
        change(&mut new);
        self.ledger.change(Some(&old), Some(&new));
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.task = Some(Arc::new(new));
        }
    }

    /// Raises what is wanted of a task; it never goes back.
    pub(crate) fn want(&mut self, id: TaskId, desired: TaskState) {
        if self.task(id).is_some_and(|task| task.plan.desired < desired) {
            let now = self.now;
            self.change(id, |task| {
                task.plan.value.desired = desired;
                task.plan.value.desired_since = now;
            });
        }
    }

    /// The same of every task of a slot.
    pub(crate) fn want_all(&mut self, slot: &Slot, desired: TaskState) {
        slot.tasks.iter().for_each(|task| self.want(task.id, desired));
    }

    /// Removes a task for good.
    pub(crate) fn remove(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get_mut(&id) {
            if let Some(task) = entry.task.take() {
                self.ledger.change(Some(&task), None);
            }
            if entry.stored.is_none() {
                self.tasks.remove(&id);
            }
        }
    }

    /// The service's virtual addresses as they will be.
    pub(crate) fn virtual_addresses(&self) -> &BTreeMap<NetworkId, endpoint::Addresses> {
        &self.endpoint.virtual_addresses
    }

    /// Replaces the service's virtual addresses.
    pub(crate) fn set_virtual_addresses(&mut self, addresses: BTreeMap<NetworkId, endpoint::Addresses>) {
        self.endpoint.virtual_addresses = addresses;
    }

    /// Replaces the service's spec, and the ports that were settled for it: the
    /// failure action `rollback` does.
    pub(crate) fn replace_spec(&mut self, record: ServiceRecord, ports: Vec<PublishedPort>, deployment: Deployment) {
        self.endpoint.ports = ports;
        self.record = Some(record);
        self.deployment = Some(deployment);
    }

    /// Whether this turn replaces the service's spec.
    pub(crate) fn is_spec_replaced(&self) -> bool {
        self.record.is_some()
    }

    /// A decision relies on what this node is now.
    pub(crate) fn relies_on(&mut self, node: NodeId) {
        self.nodes_read.insert(node);
    }

    /// Asks to be looked at again at `at`; the earliest wish counts.
    pub(crate) fn wake_at(&mut self, at: Time) {
        if at > self.now {
            self.wakeup = Some(self.wakeup.map_or(at, |earlier| earlier.min(at)));
        }
    }
}
