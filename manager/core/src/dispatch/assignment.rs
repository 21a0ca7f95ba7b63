//! What one node shall have, and how that differs from what it was told.
//!
//! The first message of a session is complete, every later one an increment that
//! names the version it applies to. Secrets and configs come before the tasks
//! that need them and go after the last of them has ended.

use crate::store::Store;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::task::Task;
use skep_model::{ConfigId, NodeId, SecretId, TaskId, TaskState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a session was told so far.
#[derive(Debug, Default)]
pub(super) struct Sent {
    version: u64,
    /// Tasks and the version of the plan that was sent.
    tasks: BTreeMap<TaskId, u64>,
    secrets: BTreeSet<(SecretId, u64)>,
    configs: BTreeSet<(ConfigId, u64)>,
}

impl Sent {
    /// The next message, if there is anything to tell. The first one is complete
    /// and always sent, even if the node shall have nothing.
    pub(super) fn next(&mut self, store: &Store, node: NodeId) -> Option<Assignments> {
        let is_complete = self.version == 0;
        let tasks: Vec<&Arc<Task>> = store.tasks_of_node(node).filter(|task| self.is_relevant(task)).collect();
        let live = || tasks.iter().filter(|task| task.status.state <= TaskState::Running);
        let containers = || live().map(|task| &task.spec.container_spec);
        let secrets: BTreeSet<(SecretId, u64)> = containers()
            .flat_map(|container| &container.secrets)
            .filter_map(|reference| Some((reference.id, reference.version?)))
            .collect();
        let configs: BTreeSet<(ConfigId, u64)> = containers()
            .flat_map(|container| &container.configs)
            .filter_map(|reference| Some((reference.id, reference.version?)))
            .collect();
        let ids: BTreeSet<TaskId> = tasks.iter().map(|task| task.id).collect();

        let mut changes = Vec::new();
        changes.extend(secrets.difference(&self.secrets).map(|(id, n)| AssignmentChange::PutSecret(*id, *n)));
        changes.extend(configs.difference(&self.configs).map(|(id, n)| AssignmentChange::PutConfig(*id, *n)));
        let is_news = |task: &&&Arc<Task>| self.tasks.get(&task.id) != Some(&task.plan.version);
        changes.extend(tasks.iter().filter(is_news).map(|task| AssignmentChange::PutTask(Arc::clone(task))));
        let gone = self.tasks.keys().filter(|id| !ids.contains(id));
        changes.extend(gone.map(|id| AssignmentChange::RemoveTask(*id)));
        changes.extend(self.secrets.difference(&secrets).map(|(id, n)| AssignmentChange::RemoveSecret(*id, *n)));
        changes.extend(self.configs.difference(&configs).map(|(id, n)| AssignmentChange::RemoveConfig(*id, *n)));
        if changes.is_empty() && !is_complete {
            return None;
        }
        self.tasks = tasks.iter().map(|task| (task.id, task.plan.version)).collect();
        (self.secrets, self.configs) = (secrets, configs);
        let applies_to = self.version;
        self.version += 1;
        Some(Assignments { is_complete, applies_to, results_in: self.version, changes })
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
