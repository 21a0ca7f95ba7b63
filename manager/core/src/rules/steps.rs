//! The steps of a deployment: how many at once, how long each is watched, and when a task
//! has lived long enough.

use super::dirtiness::is_dirty;
use super::ending::{ended_at, ended_by_itself, is_success};
use super::wanted::Wanted;
use crate::store::Store;
use skep_model::deployment::{Deployment, DeploymentKind};
use skep_model::service::UpdateConfig;
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::time::Duration;

/// How the deployment under way proceeds.
pub(crate) fn config(wanted: &Wanted, deployment: Option<&Deployment>) -> UpdateConfig {
    let spec = &wanted.service.spec.spec;
    let is_rollback = deployment.is_some_and(|deployment| deployment.kind.is_rollback());
    if is_rollback { spec.rollback_config } else { spec.update_config }
}

/// Whether a task took another's place, and not because that had ended.
pub(crate) fn is_step(task: &Task) -> bool {
    task.plan.replaces.is_some() && !task.plan.is_restart
}

/// How long a new task of the deployment has to live to count as good. A step of an
/// update is watched at least until the next one is due.
pub(crate) fn watch(wanted: &Wanted, deployment: Option<&Deployment>, task: &Task) -> Duration {
    let config = config(wanted, deployment);
    if is_step(task) { config.monitor.max(config.delay) } else { config.monitor }
}

/// Since when a task runs, if it does.
pub(crate) fn running_since(task: &Task) -> Option<Time> {
    (task.status.state == TaskState::Running).then(|| task.status.running_since.unwrap_or(task.status.applied_at))
}

/// When a task that runs since then has done so for long enough. A created service need
/// not be watched when a health check has said good; an update is watched all the same,
/// as in Swarm.
pub(crate) fn settled_at(wanted: &Wanted, deployment: Option<&Deployment>, task: &Task, since: Time) -> Time {
    let is_create = deployment.is_some_and(|deployment| deployment.kind == DeploymentKind::Create);
    if is_create && task.status.is_healthy { since } else { since + watch(wanted, deployment, task) }
}

/// Whether a task of the wanted spec ended by itself before it had run long enough.
pub(crate) fn ended_early(store: &Store, wanted: &Wanted, deployment: Option<&Deployment>, task: &Task) -> bool {
    let watch = watch(wanted, deployment, task);
    let is_early = task.status.running_since.is_none_or(|since| ended_at(task).since(since) <= watch);
    is_early && ended_by_itself(task) && !is_success(task) && !is_dirty(store, wanted, task)
}
