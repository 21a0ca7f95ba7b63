//! What a turn is about to do to one service: its tasks as they will be.
//!
//! Every stage of a turn reads the draft and writes to it, so that a later stage
//! sees what an earlier one decided, and a task that is made, placed and started
//! in one turn is one write. Nothing of it is true before its transaction has
//! committed.
//!
//! A transaction holds the versions of what was read as preconditions, with one
//! exception: a task's status, unless it is written. Observed states only grow,
//! so what followed from an older one still follows, and a status report never
//! refuses a plan. Writes that belong together (an old task and its replacement;
//! the tasks whose failures are counted and the count) are never split.

use super::addresses::Addresses;
use super::ledger::Ledger;
use super::slot::{self, SlotKey};
use crate::publication::Barrier;
use crate::rules::estimate;
use crate::store::Store;
use crate::timing;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::deployment::{Deployment, DeploymentState};
use skep_model::endpoint::{self, PublishedPort, ServiceEndpoint};
use skep_model::service::{Service, ServicePlan, ServiceRecord};
use skep_model::task::Task;
use skep_model::{Kind, NetworkId, NodeId, Object, ObjectRef, ServiceId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The most bytes (estimated) of one of the leader's transactions.
const BYTES_MAX: usize = 1024 * 1024;
/// The most failures that one turn counts: they go into one transaction, with the count.
const COUNTED_MAX: usize = 250;
/// The bytes of that transaction that are left for replacements of what failed.
const COUNTED_BYTES_MAX: usize = BYTES_MAX / 2;

/// One task and what was done to it.
#[derive(Debug)]
struct Entry {
    /// As it is stored; `None` if this turn makes it.
    stored: Option<Arc<Task>>,
    /// As it will be; `None` if this turn removes it.
    task: Option<Arc<Task>>,
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
    tasks: BTreeMap<TaskId, Entry>,
    /// Nodes on whose state a placement relies.
    nodes_read: BTreeSet<NodeId>,
    record: Option<ServiceRecord>,
    deployment: Option<Deployment>,
    endpoint: ServiceEndpoint,
    /// Slots with a task whose failure this turn counts.
    counted: BTreeSet<SlotKey>,
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

    /// The deployment as it will be.
    pub(crate) fn deployment(&self) -> Option<&Deployment> {
        self.deployment.as_ref()
    }

    /// The deployment, to be changed.
    pub(crate) fn deployment_mut(&mut self) -> Option<&mut Deployment> {
        self.deployment.as_mut()
    }

    /// Whether this turn may count another failure; `bytes` is how much a replacement
    /// has. The others are for the next turn.
    pub(crate) fn can_count(&self, bytes: usize) -> bool {
        let n = self.counted.len();
        n == 0 || (n < COUNTED_MAX && (n + 1) * bytes <= COUNTED_BYTES_MAX)
    }

    /// The failure of a task of this slot was counted in the deployment.
    pub(crate) fn counted(&mut self, slot: SlotKey) {
        self.counted.insert(slot);
    }

    /// Replaces the deployment.
    pub(crate) fn set_deployment(&mut self, deployment: Deployment) {
        self.deployment = Some(deployment);
    }

    /// Ends the deployment.
    pub(crate) fn end_deployment(&mut self, state: DeploymentState, cause: String) {
        let now = self.now;
        if let Some(deployment) = self.deployment_mut() {
            deployment.state = state;
            deployment.cause = cause;
            deployment.ended_at = Some(now);
            deployment.next_step_at = None;
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

    /// The transactions of this draft, and what they rely on.
    pub(crate) fn finish(mut self) -> Drafted {
        let groups = self.groups();
        let mut transactions: Vec<(Transaction, usize)> = Vec::new();
        for group in groups {
            let bytes = group.iter().map(estimate::write).sum::<usize>();
            let has_room = transactions.last().is_some_and(|(transaction, sum)| {
                transaction.writes.len() + group.len() <= timing::TRANSACTION_WRITES_MAX && sum + bytes <= BYTES_MAX
            });
            if !has_room {
                transactions.push((Transaction::new(self.made_at), 0));
            }
            let (transaction, sum) = transactions.last_mut().expect("one was pushed if there was none");
            transaction.writes.extend(group);
            *sum += bytes;
        }
        let mut transactions: Vec<Transaction> = transactions.into_iter().map(|(transaction, _)| transaction).collect();
        for transaction in &mut transactions {
            transaction.preconditions = self.preconditions(&transaction.writes);
        }
        let pairs = self.tasks.into_values().filter(is_changed).map(|entry| (entry.stored, entry.task)).collect();
        Drafted { transactions, wakeup: self.wakeup, pairs }
    }

    /// The writes, in groups that must not be split. The service's own sections
    /// come last, since their versions are preconditions of all others, and with
    /// them the slots whose failures they count.
    fn groups(&mut self) -> Vec<Vec<Write>> {
        let mut groups: BTreeMap<SlotKey, Vec<Write>> = BTreeMap::new();
        for (id, entry) in &self.tasks {
            let Some(any) = entry.task.as_ref().or(entry.stored.as_ref()) else { continue };
            let key = slot::key(any);
            let mut writes = Vec::new();
            match (&entry.stored, &entry.task) {
                // A task's networks never change; one that had none yet is made anew.
                (Some(stored), Some(task)) if stored.networks != task.networks => {
                    writes.push(Write::Remove(ObjectRef { kind: Kind::Task, id: id.0 }));
                    writes.push(Write::Create(Object::Task(Box::new(Task::clone(task)))));
                }
                (Some(stored), Some(task)) => {
                    if stored.plan.value != task.plan.value {
                        writes.push(Write::TaskPlan(*id, task.plan.value.clone()));
                    }
                    if stored.status.value != task.status.value {
                        writes.push(Write::TaskStatus(*id, task.status.value.clone()));
                    }
                }
                (None, Some(task)) => writes.push(Write::Create(Object::Task(Box::new(Task::clone(task))))),
                (Some(_), None) => writes.push(Write::Remove(ObjectRef { kind: Kind::Task, id: id.0 })),
                (None, None) => {}
            }
            if !writes.is_empty() {
                groups.entry(key).or_default().extend(writes);
            }
        }
        let mut last: Vec<Write> = self.counted.iter().filter_map(|slot| groups.remove(slot)).flatten().collect();
        let mut groups: Vec<Vec<Write>> = groups.into_values().collect();
        if let (Some(record), Some(_)) = (self.record.take(), &self.service) {
            last.push(Write::ServiceSpec(self.id, Box::new(record)));
        }
        if let Some(service) = &self.service
            && (service.plan.deployment != self.deployment || service.plan.endpoint != self.endpoint)
        {
            let (deployment, endpoint) = (self.deployment.clone(), self.endpoint.clone());
            let plan = ServicePlan { deployment, removed_at: service.plan.removed_at, endpoint };
            last.push(Write::ServicePlan(self.id, plan));
        }
        if self.service.is_none() && self.store.service(self.id).is_some() && self.tasks().next().is_none() {
            last.push(Write::Remove(ObjectRef { kind: Kind::Service, id: self.id.0 }));
        }
        if !last.is_empty() {
            groups.push(last);
        }
        groups
    }

    fn preconditions(&self, writes: &[Write]) -> Vec<Precondition> {
        let mut preconditions = Vec::new();
        let service = ObjectRef { kind: Kind::Service, id: self.id.0 };
        match self.store.service(self.id) {
            Some(read) => {
                preconditions.push(Precondition::Unchanged(service, SectionName::Spec, read.spec.version));
                preconditions.push(Precondition::Unchanged(service, SectionName::Plan, read.plan.version));
            }
            // Always true; it names the service if the transaction is refused.
            None => preconditions.push(Precondition::Absent(service)),
        }
        let mut nodes = BTreeSet::new();
        let mut tasks = BTreeSet::new();
        let mut statuses = BTreeSet::new();
        for write in writes {
            match write {
                Write::TaskPlan(id, _) => drop(tasks.insert(*id)),
                Write::TaskStatus(id, _) => {
                    tasks.insert(*id);
                    statuses.insert(*id);
                    // That of a global service has its node from the beginning.
                    nodes.extend(self.task(*id).and_then(|task| task.plan.node));
                }
                Write::Remove(object) if object.kind == Kind::Task => drop(tasks.insert(TaskId(object.id))),
                Write::Create(Object::Task(task)) => nodes.extend(task.plan.node),
                _ => {}
            }
            if let Write::TaskPlan(_, plan) = write {
                nodes.extend(plan.node);
            }
        }
        for stored in tasks.iter().filter_map(|id| self.tasks.get(id)?.stored.as_ref()) {
            let task = ObjectRef { kind: Kind::Task, id: stored.id.0 };
            preconditions.push(Precondition::Unchanged(task, SectionName::Plan, stored.plan.version));
            if statuses.contains(&stored.id) {
                preconditions.push(Precondition::Unchanged(task, SectionName::Status, stored.status.version));
            }
        }
        for read in nodes.intersection(&self.nodes_read).filter_map(|id| self.store.node(*id)) {
            let node = ObjectRef { kind: Kind::Node, id: read.id.0 };
            preconditions.push(Precondition::Unchanged(node, SectionName::Spec, read.spec.version));
            preconditions.push(Precondition::Unchanged(node, SectionName::Description, read.description.version));
            preconditions.push(Precondition::Unchanged(node, SectionName::Status, read.status.version));
            // Its role, which constraints may ask for.
            preconditions.push(Precondition::Unchanged(node, SectionName::Plan, read.plan.version));
        }
        preconditions
    }
}

/// A task before and after a turn.
pub(crate) type Pair = (Option<Arc<Task>>, Option<Arc<Task>>);

/// What became of a draft.
#[derive(Debug)]
pub(crate) struct Drafted {
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) wakeup: Option<Time>,
    /// Tasks before and after, for the ledger.
    pub(crate) pairs: Vec<Pair>,
}

fn is_changed(entry: &Entry) -> bool {
    match (&entry.stored, &entry.task) {
        (Some(stored), Some(task)) => !Arc::ptr_eq(stored, task),
        _ => true,
    }
}
