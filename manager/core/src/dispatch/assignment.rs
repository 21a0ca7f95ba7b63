//! What one node shall have, and how that differs from what it was told.
//!
//! The first message of a session is complete, every later one an increment that
//! names the version it applies to. Secrets and configs come before the tasks
//! that need them, as far as they are stored, and go after the last of them has ended; so do peers, networks,
//! services and endpoints. A task that is to stop may do so once its withdrawal
//! has passed the barrier; that is said once in a session.

use crate::publication::overlay::Overlay;
use crate::publication::view::{Delta, SessionView};
use crate::publication::{Barrier, Passage};
use crate::store::Store;
use crate::values::ValueRef;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::endpoint::Publication;
use skep_model::task::Task;
use skep_model::{ConfigId, NodeId, SecretId, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a session was told so far.
#[derive(Debug, Default)]
pub(super) struct Sent {
    version: u64,
    /// The newest link that told something of the overlay networks.
    pub(super) overlay_version: u64,
    pub(super) overlay: SessionView,
    /// Tasks and the version of the plan that was sent.
    tasks: BTreeMap<TaskId, u64>,
    /// Tasks that were told that they may stop.
    may_stop: BTreeSet<TaskId>,
    secrets: BTreeSet<(SecretId, u64)>,
    configs: BTreeSet<(ConfigId, u64)>,
}

/// Changes of one link, without those of the overlay networks.
#[derive(Debug, Default)]
struct Changes {
    files: Vec<AssignmentChange>,
    tasks: Vec<AssignmentChange>,
    removals: Vec<AssignmentChange>,
}

impl Sent {
    /// The next message, if there is anything to tell. The first one is complete
    /// and always sent, even if the node shall have nothing. `are_tasks_dirty`:
    /// something of the node's tasks may have changed.
    pub(super) fn next(
        &mut self,
        store: &Store,
        node: NodeId,
        overlay: &Overlay,
        barrier: &Barrier,
        are_tasks_dirty: bool,
    ) -> Option<Assignments> {
        let is_complete = self.version == 0;
        let tasks = if are_tasks_dirty || is_complete { self.tasks(store, node, barrier) } else { Changes::default() };
        let delta = self.overlay.next(overlay, node);
        let is_overlay = !delta.is_empty();
        let changes = in_order(tasks, delta);
        if changes.is_empty() && !is_complete {
            return None;
        }
        let applies_to = self.version;
        self.version += 1;
        if is_overlay || is_complete {
            self.overlay_version = self.version;
        }
        Some(Assignments { is_complete, applies_to, results_in: self.version, changes })
    }

    /// What changed of the node's tasks and the files that they need.
    fn tasks(&mut self, store: &Store, node: NodeId, barrier: &Barrier) -> Changes {
        let tasks: Vec<&Arc<Task>> = store.tasks_of_node(node).filter(|task| self.is_relevant(task)).collect();
        let live = || tasks.iter().filter(|task| task.status.state <= TaskState::Running);
        let containers = || live().map(|task| &task.spec.container_spec);
        let secrets: BTreeSet<(SecretId, u64)> = containers()
            .flat_map(|container| &container.secrets)
            .filter_map(|reference| Some((reference.id, reference.version?)))
            .filter(|(id, n)| store.has_secret_version(*id, *n))
            .collect();
        let configs: BTreeSet<(ConfigId, u64)> = containers()
            .flat_map(|container| &container.configs)
            .filter_map(|reference| Some((reference.id, reference.version?)))
            .filter(|(id, n)| store.has_config_version(*id, *n))
            .collect();
        let ids: BTreeSet<TaskId> = tasks.iter().map(|task| task.id).collect();
        let may_stop: BTreeSet<TaskId> = live().filter(|task| may_stop(task, barrier)).map(|task| task.id).collect();

        let mut changes = Changes::default();
        changes.files.extend(secrets.difference(&self.secrets).map(|(id, n)| AssignmentChange::PutSecret(*id, *n)));
        changes.files.extend(configs.difference(&self.configs).map(|(id, n)| AssignmentChange::PutConfig(*id, *n)));
        let is_news = |task: &&&Arc<Task>| self.tasks.get(&task.id) != Some(&task.plan.version);
        changes.tasks.extend(tasks.iter().filter(is_news).map(|task| AssignmentChange::PutTask(Arc::clone(task))));
        changes.tasks.extend(may_stop.difference(&self.may_stop).map(|id| AssignmentChange::MayStop(*id)));
        let gone = self.tasks.keys().filter(|id| !ids.contains(id));
        changes.removals.extend(gone.map(|id| AssignmentChange::RemoveTask(*id)));
        changes.removals.extend(self.secrets.difference(&secrets).map(|(id, n)| AssignmentChange::RemoveSecret(*id, *n)));
        changes.removals.extend(self.configs.difference(&configs).map(|(id, n)| AssignmentChange::RemoveConfig(*id, *n)));
        self.tasks = tasks.iter().map(|task| (task.id, task.plan.version)).collect();
        (self.secrets, self.configs, self.may_stop) = (secrets, configs, may_stop);
        changes
    }

    /// Values that were named could not be sent: they count as not told.
    pub(super) fn left_out(&mut self, values: &[ValueRef]) {
        for value in values {
            match *value {
                ValueRef::Secret(id, n) => drop(self.secrets.remove(&(id, n))),
                ValueRef::Config(id, n) => drop(self.configs.remove(&(id, n))),
            }
        }
    }

    /// Whether a node is told of a task: once it was assigned, until it is
    /// removed. One that ended before this session began and left no container is
    /// of no use to it.
    fn is_relevant(&self, task: &Task) -> bool {
        let state = task.status.state;
        let is_known = self.tasks.contains_key(&task.id);
        state >= TaskState::Assigned && (!state.is_final() || is_known || task.status.container.is_some() || task.is_wanted())
    }
}

/// What is needed first comes first: files, then the network, then tasks; what
/// goes does so the other way round.
fn in_order(tasks: Changes, delta: Delta) -> Vec<AssignmentChange> {
    let is_task = |change: &AssignmentChange| matches!(change, AssignmentChange::RemoveTask(_));
    let (removed_tasks, removed_files): (Vec<_>, Vec<_>) = tasks.removals.into_iter().partition(is_task);
    let mut changes = tasks.files;
    changes.extend(delta.puts.into_iter().map(AssignmentChange::Overlay));
    changes.extend(tasks.tasks);
    changes.extend(removed_tasks);
    changes.extend(delta.removals.into_iter().map(AssignmentChange::Overlay));
    changes.extend(removed_files);
    changes
}

/// Whether a task that is to stop may begin to: nobody is led to it any more. One
/// that nobody was ever led to does not wait for this word.
fn may_stop(task: &Task, barrier: &Barrier) -> bool {
    !task.is_wanted() && task.plan.endpoint.publication == Publication::Withdrawn && barrier.passage(task) != Passage::Waiting
}
