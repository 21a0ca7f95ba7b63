//! What a slot of a service may hold: one task that is wanted and has not ended.
//! Two only while an update starts the new one first, from when that is made until
//! it runs and is found; an update that is taken back leaves the old one alone.
//!
//! Which order an update has is in the service's spec while the update begins; the
//! spec may be another one before the slot is whole again, so it is remembered.

use skep_manager_core::publication::{Barrier, Passage};
use skep_manager_core::store::{Change, Store, StoredObject};
use skep_model::endpoint::{Publication, PublishMode};
use skep_model::service::{Service, UpdateOrder};
use skep_model::task::Task;
use skep_model::{NodeId, ServiceId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Tasks<'a> = Vec<&'a Arc<Task>>;

/// The updates that started new tasks first, by service and number of its spec.
#[derive(Debug, Default)]
pub struct Slots {
    start_first: BTreeSet<(ServiceId, u64)>,
}

impl Slots {
    /// A transaction was applied: the slots that it touched.
    pub fn changed(&mut self, store: &Store, changes: &[Change]) -> Result<(), String> {
        for change in changes {
            if let Some(StoredObject::Service(service)) = &change.new
                && starts_first(service)
            {
                self.start_first.insert((service.id, service.spec.spec_version));
            }
        }
        changes.iter().try_for_each(|change| match &change.new {
            Some(StoredObject::Task(task)) => self.check(&of_slot(store, task)),
            _ => Ok(()),
        })
    }

    /// Nobody has anything more to do until something happens: no slot holds two
    /// although one of them is enough.
    pub fn at_rest(&self, store: &Store, barrier: &Barrier) -> Result<(), String> {
        let mut slots: BTreeMap<(ServiceId, u64, Option<NodeId>), Tasks<'_>> = BTreeMap::new();
        for task in store.tasks().filter(|task| task.is_active()) {
            let node = task.plan.node.filter(|_| task.slot == 0);
            slots.entry((task.service_id, task.slot, node)).or_default().push(task);
        }
        for tasks in slots.into_values().filter(|tasks| tasks.len() > 1).map(by_age) {
            let newest = tasks.last().map(|task| task.id);
            for task in &tasks {
                let is_as_wanted = store.service(task.service_id).is_some_and(|service| is_as_wanted(service, task));
                if (Some(task.id) == newest || is_as_wanted) && is_up(task, barrier) {
                    return Err(format!("{} is up, and yet {}", task.name(), told(&tasks)));
                }
            }
        }
        Ok(())
    }

    /// Looks at the active tasks of one slot, oldest first.
    fn check(&self, tasks: &[&Arc<Task>]) -> Result<(), String> {
        match tasks {
            [] | [_] => Ok(()),
            [_, new] if self.start_first.contains(&(new.service_id, new.spec_version)) => Ok(()),
            [_, _] => Err(format!("no update starts its task first, and yet {}", told(tasks))),
            _ => Err(told(tasks)),
        }
    }
}

fn told(tasks: &[&Arc<Task>]) -> String {
    let states: Vec<String> =
        tasks.iter().map(|task| format!("{} of v{} {}", task.id, task.spec_version, task.status.state)).collect();
    format!("slot {} of {} has {} wanted tasks: {}", tasks[0].slot, tasks[0].service_name, tasks.len(), states.join(", "))
}

fn starts_first(service: &Service) -> bool {
    let (spec, deployment) = (&service.spec.spec, service.plan.deployment.as_ref());
    let is_rollback = deployment
        .is_some_and(|deployment| deployment.spec_version == service.spec.spec_version && deployment.kind.is_rollback());
    let config = if is_rollback { spec.rollback_config } else { spec.update_config };
    config.order == UpdateOrder::StartFirst
}

/// The active tasks of a task's slot, oldest first.
fn of_slot<'a>(store: &'a Store, task: &Task) -> Tasks<'a> {
    let is_same = |other: &&Arc<Task>| {
        other.is_active() && other.slot == task.slot && (task.slot != 0 || other.plan.node == task.plan.node)
    };
    by_age(store.tasks_of_service(task.service_id).filter(is_same).collect())
}

fn by_age(mut tasks: Tasks<'_>) -> Tasks<'_> {
    tasks.sort_by_key(|task| task.meta.made());
    tasks
}

fn is_as_wanted(service: &Service, task: &Task) -> bool {
    *task.spec == service.spec.spec.task_template && task.ports == service.plan.endpoint.ports
}

fn is_up(task: &Task, barrier: &Barrier) -> bool {
    let is_to_be_found = !task.networks.is_empty() || task.ports.iter().any(|port| port.publish_mode == PublishMode::Host);
    let is_found = task.plan.endpoint.publication == Publication::Published && barrier.passage(task) != Passage::Waiting;
    task.status.state == TaskState::Running && (is_found || !is_to_be_found)
}
