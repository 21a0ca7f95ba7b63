//! Decides how a deployment ends.
//!
//! Converged: every wanted task runs (and is healthy), has done so for the monitor
//! period and is found wherever it is to be, or has completed and is not to be restarted. Failed: tasks
//! ended and are not replaced any more. Paused or rolled back: too many tasks of
//! an update failed early. Deadline exceeded: no task advanced for its length.
//!
//! A failure is counted in the very transaction that retires the task, so it is
//! counted once, whoever is the leader.

use super::allocate::Wanted;
use super::draft::Draft;
use super::publish::is_reachable;
use super::restart::{ended_by_itself, should_restart};
use super::slot::{Slot, SlotKey, slots};
use super::update::{config, is_dirty, is_slot_dirty};
use crate::control::{references_exist, settle_ports};
use crate::timing;
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState, FailedTask};
use skep_model::endpoint::PublishedPort;
use skep_model::service::{FailureAction, ServiceMode, ServiceRecord};
use skep_model::task::Task;
use skep_model::{TaskId, TaskState, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// A deployment that begins now.
pub(crate) fn begin(spec_version: u64, kind: DeploymentKind, now: Time) -> Deployment {
    Deployment {
        spec_version,
        kind,
        state: DeploymentState::Progressing,
        cause: String::new(),
        failed_task: None,
        started_at: now,
        progressed_at: now,
        ended_at: None,
        failures: 0,
        next_step_at: None,
        wanted: 0,
        running: 0,
        stragglers: Vec::new(),
    }
}

/// Notes a task of `slot` that ended while it was wanted, and counts it if it was
/// made by the deployment under way and ended within its monitor period.
pub(crate) fn count_failure(draft: &mut Draft<'_>, wanted: &Wanted, slot: &Slot, task: &Task) {
    let monitor = monitor(draft, wanted);
    // Only the first task of a spec version in its slot counts; its restarts do not.
    let first = slot.tasks.iter().find(|other| other.spec_version == task.spec_version);
    let is_first = first.is_some_and(|first| first.id == task.id);
    let Some(deployment) = draft.deployment_mut() else { return };
    if deployment.state.is_final() || task.spec_version != deployment.spec_version || !ended_by_itself(task) {
        return;
    }
    let is_early = task.status.running_since.is_none_or(|since| task.status.applied_at.since(since) <= monitor);
    if is_early && is_first {
        deployment.failures += 1;
    }
    if is_early && task.status.state != TaskState::Complete {
        deployment.failed_task = Some(FailedTask {
            task: task.id,
            node: task.plan.node,
            error: task.status.error.clone(),
            log_tail: task.status.log_tail.clone(),
        });
    }
}

/// Carries out the failure action if more of the update's tasks failed than may.
pub(crate) fn act_on_failures(draft: &mut Draft<'_>, wanted: &Wanted) {
    let config = config(draft, wanted);
    let n_wanted = n_wanted(draft, wanted).max(1);
    let Some(deployment) = draft.deployment() else { return };
    let is_update = deployment.kind != DeploymentKind::Create && !deployment.state.is_final();
    if !is_update || deployment.failures as f64 / n_wanted as f64 <= f64::from(config.max_failure_ratio) {
        return;
    }
    let culprit = deployment.failed_task.as_ref().map(|failed| failed.task);
    let name = if deployment.kind.is_rollback() { "rollback" } else { "update" };
    let previous = wanted.service.spec.previous.as_ref().filter(|_| !deployment.kind.is_rollback());
    // What the previous spec refers to may have been removed since, and its ports be another's.
    let ports = previous
        .filter(|previous| references_exist(draft.store, previous))
        .and_then(|previous| settle_ports(draft.store, Some(&wanted.service), &previous.endpoint_spec).ok());
    match (config.failure_action, ports) {
        (FailureAction::Continue, _) => {}
        (FailureAction::Rollback, Some(ports)) => roll_back(draft, wanted, ports, culprit),
        // A rollback is never rolled back.
        (FailureAction::Rollback | FailureAction::Pause, _) => {
            let cause = format!("{name} paused due to failure or early termination of task{}", named(culprit));
            end(draft, DeploymentState::Paused, cause);
        }
    }
}

fn roll_back(draft: &mut Draft<'_>, wanted: &Wanted, ports: Vec<PublishedPort>, culprit: Option<TaskId>) {
    let record = &wanted.service.spec.value;
    let Some(previous) = record.previous.clone() else { return };
    let spec_version = record.spec_version + 1;
    let mut deployment = begin(spec_version, DeploymentKind::AutomaticRollback, draft.now);
    deployment.cause = format!("update rolled back due to failure or early termination of task{}", named(culprit));
    deployment.failed_task = draft.deployment().and_then(|failed| failed.failed_task.clone());
    draft.replace_spec(ServiceRecord { spec: *previous, previous: None, spec_version }, ports, deployment);
}

fn named(task: Option<TaskId>) -> String {
    task.map(|task| format!(" {task}")).unwrap_or_default()
}

/// Brings the deployment's counts up to date and ends it if it is over.
pub(crate) fn judge(draft: &mut Draft<'_>, wanted: &Wanted) {
    if draft.deployment().is_none_or(|deployment| deployment.state.is_final()) {
        return;
    }
    let slots = slots(draft);
    let standing = Standing::of(draft, wanted, &slots);
    let n_wanted = n_wanted(draft, wanted);
    let progressed_at = progressed_at(draft, wanted.spec_version());
    let now = draft.now;
    let Some(deployment) = draft.deployment_mut() else { return };
    deployment.wanted = n_wanted;
    deployment.running = standing.n_running;
    deployment.progressed_at = deployment.progressed_at.max(progressed_at).min(now);
    deployment.next_step_at = standing.next_step_at;
    let deadline_at = deployment.progressed_at + wanted.service.spec.spec.deadline.unwrap_or(timing::DEPLOYMENT_DEADLINE);
    let is_rollback = deployment.kind.is_rollback();
    let cause = deployment.cause.clone();
    if standing.n_settled >= n_wanted && standing.n_unsettled == 0 {
        let state = if is_rollback { DeploymentState::RolledBack } else { DeploymentState::Converged };
        end(draft, state, cause);
    } else if let (Some(exhausted), 0) = (&standing.exhausted, standing.n_unsettled - standing.n_exhausted) {
        let cause = failure_text(draft, exhausted);
        end(draft, DeploymentState::Failed, cause);
    } else if deadline_at <= now {
        let cause = deadline_text(draft, wanted);
        end(draft, DeploymentState::DeadlineExceeded, cause);
    } else {
        draft.wake_at(deadline_at);
        if let Some(at) = standing.next_step_at {
            draft.wake_at(at);
        }
    }
}

/// Where the slots of a deployment stand.
#[derive(Debug, Default)]
struct Standing {
    /// Have a running task of the wanted spec.
    n_running: u64,
    /// Have outlived the monitor period, or completed.
    n_settled: u64,
    /// Have not.
    n_unsettled: u64,
    /// Of those: had a task that failed and is not replaced.
    n_exhausted: u64,
    /// One such task.
    exhausted: Option<Task>,
    next_step_at: Option<Time>,
}

impl Standing {
    fn of(draft: &Draft<'_>, wanted: &Wanted, slots: &BTreeMap<SlotKey, Slot>) -> Self {
        let mut standing = Self::default();
        let monitor = monitor(draft, wanted);
        for (key, slot) in slots {
            // A global service's stopped slot on a node that takes no tasks is not wanted.
            if key.node.is_some() && slot.active().next().is_none() && !counts(draft, wanted, key) {
                continue;
            }
            if standing.add(draft, wanted, slot, monitor) {
                standing.n_settled += 1;
            } else {
                standing.n_unsettled += 1;
            }
        }
        standing
    }

    fn add(&mut self, draft: &Draft<'_>, wanted: &Wanted, slot: &Slot, monitor: Duration) -> bool {
        if is_slot_dirty(draft, wanted, slot) {
            return false;
        }
        let mut active = slot.active();
        match (active.next_back(), active.next()) {
            (Some(task), other) if !is_dirty(draft, wanted, task) => {
                let Some(since) = running_since(task) else { return false };
                self.n_running += 1;
                let settled_at = since + monitor;
                if settled_at > draft.now {
                    self.next_step_at = Some(self.next_step_at.map_or(settled_at, |at| at.min(settled_at)));
                }
                settled_at <= draft.now && other.is_none() && is_reachable(draft, task)
            }
            _ => match slot.newest() {
                Some(newest) if should_restart(newest, slot) => false,
                Some(newest) if newest.status.state == TaskState::Complete => true,
                Some(newest) if ended_by_itself(newest) => {
                    self.n_exhausted += 1;
                    self.exhausted.get_or_insert_with(|| Task::clone(newest));
                    false
                }
                _ => false,
            },
        }
    }
}

fn running_since(task: &Task) -> Option<Time> {
    (task.status.state == TaskState::Running).then(|| task.status.running_since.unwrap_or(task.status.applied_at))
}

fn monitor(draft: &Draft<'_>, wanted: &Wanted) -> Duration {
    let is_create = draft.deployment().is_some_and(|deployment| deployment.kind == DeploymentKind::Create);
    if is_create { timing::CREATE_MONITOR } else { config(draft, wanted).monitor }
}

fn counts(draft: &Draft<'_>, wanted: &Wanted, key: &SlotKey) -> bool {
    key.node.and_then(|node| draft.store.node(node)).is_some_and(|node| super::orchestrate::takes_new(wanted, node))
}

/// How many tasks the service should have.
fn n_wanted(draft: &Draft<'_>, wanted: &Wanted) -> u64 {
    match wanted.service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global {} => {
            let slots = slots(draft);
            let is_wanted = |(key, slot): &(&SlotKey, &Slot)| slot.active().next().is_some() || counts(draft, wanted, key);
            slots.iter().filter(is_wanted).count() as u64
        }
    }
}

/// When a task of the spec version last advanced. The tasks of a crash loop do
/// not: a restart only counts once it has outlived what ended its predecessor.
fn progressed_at(draft: &Draft<'_>, spec_version: u64) -> Time {
    let of_version = draft.tasks().filter(|task| task.spec_version == spec_version && !task.plan.is_restart);
    let advanced = of_version.filter_map(|task| match task.status.state {
        state if state < TaskState::Assigned => None,
        state if state.is_final() => task.status.running_since,
        _ => Some(task.status.running_since.unwrap_or(task.status.applied_at)),
    });
    advanced.max().unwrap_or(Time::ZERO)
}

fn end(draft: &mut Draft<'_>, state: DeploymentState, cause: String) {
    let now = draft.now;
    if let Some(deployment) = draft.deployment_mut() {
        deployment.state = state;
        deployment.cause = cause;
        deployment.ended_at = Some(now);
        deployment.next_step_at = None;
    }
}

fn failure_text(draft: &mut Draft<'_>, task: &Task) -> String {
    let node = task.plan.node.and_then(|node| draft.store.node(node));
    let place = node.map(|node| format!(" on node {}", node.description.hostname)).unwrap_or_default();
    if let Some(deployment) = draft.deployment_mut() {
        deployment.failed_task = Some(FailedTask {
            task: task.id,
            node: task.plan.node,
            error: task.status.error.clone(),
            log_tail: task.status.log_tail.clone(),
        });
    }
    let error = if task.status.error.is_empty() { task.status.message.as_str() } else { task.status.error.as_str() };
    format!("task {} {}{place} and is not restarted: {error}", task.name(), task.status.state)
}

fn deadline_text(draft: &Draft<'_>, wanted: &Wanted) -> String {
    let deadline = wanted.service.spec.spec.deadline.unwrap_or(timing::DEPLOYMENT_DEADLINE);
    let pending = draft.tasks().find(|task| task.is_active() && task.status.state < TaskState::Assigned);
    let reason = match (pending, draft.deployment().and_then(|deployment| deployment.failed_task.as_ref())) {
        (Some(task), _) if !task.status.error.is_empty() => format!(": task {} waits: {}", task.name(), task.status.error),
        (_, Some(failed)) => format!(": task {} failed: {}", failed.task, failed.error),
        _ => String::new(),
    };
    format!("no task advanced for {}s{reason}", deadline.as_secs())
}
