//! Slots: the places of a service that tasks take turns in.
//!
//! A replicated service has slots 1…n; a global one has a slot for each node. A
//! slot exists as long as it has a task that is not to be removed.

use skep_model::task::Task;
use skep_model::{NodeId, TaskId, TaskState};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Number of the slot, and for a global service (number 0) the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlotKey {
    pub(crate) number: u64,
    pub(crate) node: Option<NodeId>,
}

/// The tasks of one slot, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) tasks: Vec<Arc<Task>>,
}

impl Slot {
    /// The newest task.
    pub(crate) fn newest(&self) -> Option<&Arc<Task>> {
        self.tasks.last()
    }

    /// The task that a new one has to wait for: the newest that is being stopped,
    /// else the newest.
    pub(crate) fn predecessor(&self) -> Option<TaskId> {
        let is_up = |task: &&Arc<Task>| (TaskState::Starting..=TaskState::Running).contains(&task.status.state);
        let is_stopping = |task: &&Arc<Task>| !task.is_wanted() && is_up(task);
        self.tasks.iter().rev().find(is_stopping).or(self.newest()).map(|task| task.id)
    }

    /// Tasks that are wanted and have not ended.
    pub(crate) fn active(&self) -> impl DoubleEndedIterator<Item = &Arc<Task>> {
        self.tasks.iter().filter(|task| task.is_active())
    }
}

/// The slots that these tasks are in.
pub(crate) fn of<'a>(tasks: impl Iterator<Item = &'a Arc<Task>>) -> BTreeMap<SlotKey, Slot> {
    let mut slots: BTreeMap<SlotKey, Slot> = BTreeMap::new();
    for task in tasks.filter(|task| task.plan.desired != TaskState::Remove) {
        slots.entry(key(task)).or_default().tasks.push(task.clone());
    }
    for slot in slots.values_mut() {
        slot.tasks.sort_by_key(|task| (task.meta.made(), task.meta.version, task.id));
    }
    slots
}

/// The slot of a task.
pub(crate) fn key(task: &Task) -> SlotKey {
    SlotKey { number: task.slot, node: if task.slot == 0 { task.plan.node } else { None } }
}

/// What there is to be when a service is as it is wanted.
#[derive(Debug)]
pub(crate) struct Goal {
    /// The slots that are to have a task, as they are.
    pub(crate) slots: BTreeMap<SlotKey, Slot>,
    /// How many there are to be.
    pub(crate) n_wanted: u64,
}
