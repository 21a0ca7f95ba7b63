//! From a draft to transactions.
//!
//! A transaction holds the versions of what was read as preconditions, with one
//! exception: a task's status, unless it is written. Observed states only grow,
//! so what followed from an older one still follows, and a status report never
//! refuses a plan. Writes that belong together (an old task and its replacement;
//! the tasks whose failures are counted and the count) are never split.

use super::draft::{Draft, Entry};
use super::slots::{self, SlotKey};
use crate::rules::estimate;
use crate::timing;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::service::ServicePlan;
use skep_model::task::Task;
use skep_model::{Kind, Object, ObjectRef, TaskId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most bytes (estimated) of one of the leader's transactions.
pub(super) const BYTES_MAX: usize = 1024 * 1024;

impl Draft<'_> {
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
            let key = slots::key(any);
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
