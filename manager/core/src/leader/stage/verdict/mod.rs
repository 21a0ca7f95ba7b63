//! Decides how a deployment ends.
//!
//! Converged: every wanted task runs (and is healthy), has done so for as long as it
//! is watched and is found wherever it is to be, or has completed and is not to be
//! restarted; what is not wanted any more has stopped. Failed: tasks ended and are not
//! replaced any more, or those of a created service end early again and again. Paused
//! or rolled back: too many tasks of an update failed early. Deadline exceeded: no task
//! advanced for its length.
//!
//! What is late or failed and comes to be as it is wanted after all has converged. How
//! many tasks run is counted on when all is over, so that a service that falls says so.

mod reasons;

use crate::leader::turn::draft::Draft;
use crate::leader::turn::slots::{Goal, Slot, SlotKey};
use crate::rules::deployment::exceeds;
use crate::rules::dirtiness::{is_dirty, is_slot_dirty};
use crate::rules::ending::{Ending, ended_by_itself, failed_task};
use crate::rules::restart::should_restart;
use crate::rules::steps::{ended_early, running_since, settled_at, watch};
use crate::rules::stopping::is_stopping;
use crate::rules::wanted::Wanted;
use crate::timing;
use skep_model::deployment::{DeploymentKind, DeploymentState, FailedTask};
use skep_model::service::FailureAction;
use skep_model::task::Task;
use skep_model::{TaskState, Time};
use std::collections::BTreeMap;

/// Brings the deployment's counts up to date and ends it if it is over; `goal` is what its
/// mode wants there to be.
pub(crate) fn judge(draft: &mut Draft<'_>, wanted: &Wanted, goal: &Goal) {
    let tally = SlotTally::of(draft, wanted, goal);
    let Some(deployment) = draft.deployment_mut() else { return };
    deployment.wanted = tally.n_wanted;
    deployment.running = tally.n_running;
    deployment.completed = tally.n_completed;
    match deployment.state {
        DeploymentState::Progressing => decide(draft, wanted, &goal.slots, &tally),
        DeploymentState::DeadlineExceeded | DeploymentState::Failed => come_true(draft, &tally),
        DeploymentState::Converged | DeploymentState::Paused | DeploymentState::RolledBack => {}
    }
}

/// Decides on a deployment that is under way.
fn decide(draft: &mut Draft<'_>, wanted: &Wanted, slots: &BTreeMap<SlotKey, Slot>, tally: &SlotTally) {
    let progressed_at = progressed_at(draft, wanted.spec_version());
    let (now, deadline) = (draft.now, wanted.service.spec.spec.deadline.unwrap_or(timing::DEPLOYMENT_DEADLINE));
    let Some(deployment) = draft.deployment_mut() else { return };
    deployment.progressed_at = deployment.progressed_at.max(progressed_at).min(now);
    deployment.next_step_at = tally.next_step_at;
    let late_at = deployment.progressed_at + deadline;
    let cause = deployment.cause.clone();
    let deadline_at = late_at.max(planned_until(draft, wanted));
    if tally.is_settled() {
        draft.end_deployment(good_end(draft), cause);
    } else if let (Some(exhausted), 0) = (&tally.exhausted, tally.n_unsettled - tally.n_exhausted) {
        fail(draft, exhausted);
    } else if let Some((failed, cause)) = does_not_come_up(draft, wanted, slots.values()) {
        if let Some(deployment) = draft.deployment_mut() {
            deployment.failed_task = Some(failed);
        }
        draft.end_deployment(DeploymentState::Failed, cause);
    } else if deadline_at <= now {
        let reason = reasons::of(draft, wanted, slots);
        let cause = format!("no task advanced for {}s: {reason}", deadline.as_secs());
        draft.end_deployment(DeploymentState::DeadlineExceeded, cause);
    } else {
        draft.wake_at(deadline_at);
    }
    tally.wake(draft);
}

/// Why a created service does not come up, if too many of its slots have had enough
/// early ends; they go on being restarted. Whoever named a deadline, or asked to
/// continue, waits for it.
fn does_not_come_up<'a>(
    draft: &Draft<'_>,
    wanted: &Wanted,
    slots: impl Iterator<Item = &'a Slot>,
) -> Option<(FailedTask, String)> {
    let (spec, deployment) = (&wanted.service.spec.spec, draft.deployment()?);
    let is_patient = spec.deadline.is_some() || spec.update_config.failure_action == FailureAction::Continue;
    if deployment.kind != DeploymentKind::Create || is_patient || deployment.failures == 0 {
        return None;
    }
    let (mut n_failing, mut last) = (0, None);
    for slot in slots {
        let ends = || slot.tasks.iter().filter(|task| ended_early(draft.store, wanted, Some(deployment), task));
        if ends().count() >= timing::CREATE_FAILURES_MAX {
            n_failing += 1;
            last = ends().next_back().or(last);
        }
    }
    let failed = last.filter(|_| exceeds(n_failing, deployment, spec.update_config.max_failure_ratio))?;
    let told = failed_task(failed);
    let n_before = timing::CREATE_FAILURES_MAX - 1;
    let cause = format!(
        "task {} ended early, as {n_before} before it in its slot, and is restarted again: {}",
        failed.name(),
        told.error
    );
    Some((told, cause))
}

/// A deployment that failed or was late, and has come to be as it is wanted.
fn come_true(draft: &mut Draft<'_>, tally: &SlotTally) {
    let Some(deployment) = draft.deployment() else { return };
    if tally.is_settled() {
        let what = if deployment.state == DeploymentState::Failed { "it had failed" } else { "its deadline" };
        let cause = format!("converged after {what}: {}", deployment.cause);
        draft.end_deployment(good_end(draft), cause);
    }
    tally.wake(draft);
}

fn good_end(draft: &Draft<'_>) -> DeploymentState {
    let is_rollback = draft.deployment().is_some_and(|deployment| deployment.kind.is_rollback());
    if is_rollback { DeploymentState::RolledBack } else { DeploymentState::Converged }
}

/// Where the slots of a deployment stand.
#[derive(Debug, Default)]
struct SlotTally {
    /// Are wanted.
    n_wanted: u64,
    /// Have a running task of the wanted spec.
    n_running: u64,
    /// Have one that completed and is not to run again.
    n_completed: u64,
    /// Have outlived the time in which they are watched, or completed.
    n_settled: u64,
    /// Have not.
    n_unsettled: u64,
    /// Of those: had a task that ended and is not replaced.
    n_exhausted: u64,
    /// One such task.
    exhausted: Option<Task>,
    /// A task that is not wanted any more has yet to stop.
    is_leaving: bool,
    /// When the first of the tasks that are watched has lived long enough.
    next_step_at: Option<Time>,
    /// When to look again although nothing happens.
    wake_at: Option<Time>,
}

impl SlotTally {
    fn of(draft: &Draft<'_>, wanted: &Wanted, goal: &Goal) -> Self {
        let mut tally = Self { n_wanted: goal.n_wanted, ..Self::default() };
        for slot in goal.slots.values() {
            if tally.add(draft, wanted, slot) {
                tally.n_settled += 1;
            } else {
                tally.n_unsettled += 1;
            }
        }
        tally.wake_at = tally.next_step_at;
        for (_, until) in draft.leaving() {
            tally.is_leaving = true;
            tally.wake_at = Some(tally.wake_at.map_or(until, |at| at.min(until)));
        }
        tally
    }

    fn is_settled(&self) -> bool {
        self.n_settled >= self.n_wanted && self.n_unsettled == 0 && !self.is_leaving
    }

    fn wake(&self, draft: &mut Draft<'_>) {
        if let Some(at) = self.wake_at {
            draft.wake_at(at);
        }
    }

    fn add(&mut self, draft: &Draft<'_>, wanted: &Wanted, slot: &Slot) -> bool {
        if is_slot_dirty(draft.store, wanted, &slot.tasks) {
            return false;
        }
        let mut active = slot.active();
        match (active.next_back(), active.next()) {
            (Some(task), other) if !is_dirty(draft.store, wanted, task) => {
                let Some(since) = running_since(task) else { return false };
                self.n_running += 1;
                let settled_at = settled_at(wanted, draft.deployment(), task, since);
                if settled_at > draft.now {
                    self.next_step_at = Some(self.next_step_at.map_or(settled_at, |at| at.min(settled_at)));
                }
                settled_at <= draft.now && other.is_none() && draft.barrier.reached(task)
            }
            // With start-first an old task may outlive the new one.
            _ => self.add_ended(slot),
        }
    }

    /// A slot whose tasks of the wanted spec have all ended, or are to.
    fn add_ended(&mut self, slot: &Slot) -> bool {
        match slot.newest() {
            Some(newest) if newest.is_active() => false,
            Some(newest) if should_restart(newest, &slot.tasks) => false,
            Some(newest) if newest.status.state == TaskState::Complete => {
                self.n_completed += 1;
                true
            }
            Some(newest) => {
                self.n_exhausted += 1;
                self.exhausted.get_or_insert_with(|| Task::clone(newest));
                false
            }
            None => false,
        }
    }
}

/// When a task of the spec version last advanced, or was told to start. The tasks of a
/// crash loop do not: a restart only counts once it has outlived what ended its
/// predecessor.
fn progressed_at(draft: &Draft<'_>, spec_version: u64) -> Time {
    let of_version = draft.tasks().filter(|task| task.spec_version == spec_version && !task.plan.is_restart);
    let told_at = |task: &Task| if task.plan.desired == TaskState::Running { task.plan.desired_since } else { Time::ZERO };
    let advanced = of_version.filter_map(|task| match task.status.state {
        state if state < TaskState::Assigned => None,
        state if state.is_final() => task.status.running_since,
        _ => Some(task.status.running_since.unwrap_or(task.status.applied_at.max(told_at(task)))),
    });
    advanced.max().unwrap_or(Time::ZERO)
}

/// Until when there is a wait that the spec asks for, which is no lack of progress: for
/// tasks that are watched and the delay between steps, and where no deadline is named
/// for old tasks to stop.
fn planned_until(draft: &Draft<'_>, wanted: &Wanted) -> Time {
    let of_version = || draft.tasks().filter(|task| task.spec_version == wanted.spec_version() && !task.plan.is_restart);
    let watched = of_version().filter_map(|task| Some(task.status.running_since? + watch(wanted, draft.deployment(), task)));
    let watched = watched.max().unwrap_or(Time::ZERO);
    if wanted.service.spec.spec.deadline.is_some() {
        return watched;
    }
    let waits = of_version().filter(|task| task.plan.desired == TaskState::Ready).map(|task| draft.old_stopped_at(task));
    waits.chain(draft.leaving().map(|(_, until)| until)).max().unwrap_or(Time::ZERO).max(watched)
}

/// Ends the deployment because a task ended, as all others that are missing, and is not replaced.
fn fail(draft: &mut Draft<'_>, task: &Task) {
    let (name, place, mut failed) = (task.name(), reasons::place(draft, task), failed_task(task));
    let is_own_end = ended_by_itself(task);
    if !is_own_end {
        let is_lost = !is_stopping(draft.store, task) && Ending::of(task) != Some(Ending::Stopped);
        failed.error = if is_lost { "it was lost with its node" } else { "it had to leave its node" }.into();
    }
    let cause = match is_own_end {
        true => format!("task {name} {}{place} and is not restarted: {}", task.status.state, failed.error),
        false => format!("task {name}{place} is not restarted: {}, and its restart condition is none", failed.error),
    };
    if let Some(deployment) = draft.deployment_mut() {
        deployment.failed_task = Some(failed);
    }
    draft.end_deployment(DeploymentState::Failed, cause);
}
