//! The beginning of a deployment, and which failures are too many for it.

use skep_model::Time;
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState};

/// A deployment that begins now; wall time is stamped when it is proposed.
pub(crate) fn begin(spec_version: u64, kind: DeploymentKind, now: Time) -> Deployment {
    Deployment {
        spec_version,
        kind,
        state: DeploymentState::Progressing,
        cause: String::new(),
        failed_task: None,
        started_at: now,
        started_wall: Time::ZERO,
        progressed_at: now,
        ended_at: None,
        failures: 0,
        next_step_at: None,
        wanted: 0,
        running: 0,
        stragglers: Vec::new(),
        completed: 0,
        slots: 0,
        lost_nodes: Vec::new(),
    }
}

/// Whether failures still count: an update that was late goes on, and is watched.
pub(crate) fn is_open(deployment: &Deployment) -> bool {
    use DeploymentState::{Converged, Paused, RolledBack};
    !matches!(deployment.state, Converged | Paused | RolledBack)
}

/// Whether more of the slots that a deployment changes failed than may.
pub(crate) fn exceeds(failures: u64, deployment: &Deployment, ratio: f32) -> bool {
    failures as f64 / deployment.slots.max(1) as f64 > f64::from(ratio)
}
