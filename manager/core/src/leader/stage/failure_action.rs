//! Acts when more of an update's tasks failed than may: pauses it, or rolls it back.

use crate::leader::turn::draft::Draft;
use crate::rules::deployment::{self, exceeds, is_open};
use crate::rules::steps::config;
use crate::rules::wanted::Wanted;
use crate::rules::{ports, references};
use skep_model::TaskId;
use skep_model::deployment::{DeploymentKind, DeploymentState};
use skep_model::endpoint::PublishedPort;
use skep_model::service::{FailureAction, ServiceRecord};

/// Carries out the failure action if more of the update's tasks failed than may.
pub(crate) fn act(draft: &mut Draft<'_>, wanted: &Wanted) {
    let config = config(wanted, draft.deployment());
    let Some(deployment) = draft.deployment() else { return };
    let is_update = deployment.kind != DeploymentKind::Create && is_open(deployment);
    if !is_update || !exceeds(deployment.failures, deployment, config.max_failure_ratio) {
        return;
    }
    let culprit = deployment.failed_task.as_ref().map(|failed| failed.task);
    let name = if deployment.kind.is_rollback() { "rollback" } else { "update" };
    let previous = wanted.service.spec.previous.as_ref().filter(|_| !deployment.kind.is_rollback());
    // What the previous spec refers to may have been removed since, and its ports be another's.
    let ports = previous
        .filter(|previous| references::all_exist(draft.store, previous))
        .and_then(|previous| ports::settle(draft.store, Some(&wanted.service), &previous.endpoint_spec).ok());
    match (config.failure_action, ports) {
        (FailureAction::Continue, _) => {}
        (FailureAction::Rollback, Some(ports)) => roll_back(draft, wanted, ports, culprit),
        // A rollback is never rolled back.
        (FailureAction::Rollback | FailureAction::Pause, _) => {
            let cause = format!("{name} paused due to failure or early termination of task{}", named(culprit));
            draft.end_deployment(DeploymentState::Paused, cause);
        }
    }
}

fn roll_back(draft: &mut Draft<'_>, wanted: &Wanted, ports: Vec<PublishedPort>, culprit: Option<TaskId>) {
    let record = &wanted.service.spec.value;
    let Some(previous) = record.previous.clone() else { return };
    let spec_version = record.spec_version + 1;
    let mut deployment = deployment::begin(spec_version, DeploymentKind::AutomaticRollback, draft.now);
    deployment.cause = format!("update rolled back due to failure or early termination of task{}", named(culprit));
    deployment.failed_task = draft.deployment().and_then(|failed| failed.failed_task.clone());
    draft.replace_spec(ServiceRecord { spec: *previous, previous: None, spec_version }, ports, deployment);
}

fn named(task: Option<TaskId>) -> String {
    task.map(|task| format!(" {task}")).unwrap_or_default()
}
