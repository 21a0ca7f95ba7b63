//! The rules of a service's spec that need nothing but the spec. Those of its container
//! are in [`crate::container::check`]; what needs the cluster (names, networks, ports,
//! secrets and configs that must be there) is for admission to say.

use super::{FailureAction, NetworkMode, Placement, REPLICAS_MAX, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig};
use crate::constraint::Constraint;
use crate::name::check_name;
use crate::{Refusal, duration, text};
use std::time::Duration;

/// The shortest deadline of a deployment.
const DEADLINE_MIN: Duration = Duration::from_secs(1);

impl ServiceSpec {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("service name", &self.annotations.name)?;
        text::check_labels("service label", &self.annotations.labels)?;
        self.mode.check()?;
        self.task_template.resources.check()?;
        check_placement(&self.task_template.placement)?;
        check_update("update", &self.update_config)?;
        check_update("rollback", &self.rollback_config)?;
        if self.rollback_config.failure_action == FailureAction::Rollback {
            let reason = "a rollback is not rolled back: use pause or continue";
            return Err(Refusal::invalid("rollback failure action", "rollback", reason));
        }
        if let Some(deadline) = self.deadline.filter(|deadline| *deadline < DEADLINE_MIN) {
            return Err(Refusal::invalid("deadline", duration::print(deadline), "it must be at least 1s"));
        }
        self.task_template.container_spec.check()?;
        check_sysctls(&self.task_template)
    }
}

impl ServiceMode {
    /// Replicas are bounded.
    ///
    /// # Errors
    /// Names the limit.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Replicated { replicas } if *replicas > REPLICAS_MAX => {
                Err(Refusal::invalid("replicas", replicas.to_string(), format!("a service has at most {REPLICAS_MAX} replicas")))
            }
            Self::Replicated { .. } | Self::Global {} => Ok(()),
        }
    }
}

/// The network's parameters are those of the task's own namespace.
fn check_sysctls(template: &TaskSpec) -> Result<(), Refusal> {
    let of_network = template.container_spec.sysctls.keys().find(|key| key.starts_with("net."));
    match of_network.filter(|_| template.network == NetworkMode::Host) {
        Some(key) => Err(Refusal::invalid("sysctl", key, "net.* cannot be set for a task in the network of its node")),
        None => Ok(()),
    }
}

fn check_placement(placement: &Placement) -> Result<(), Refusal> {
    for constraint in &placement.constraints {
        text::check_length("placement constraint", constraint)?;
        Constraint::parse(constraint)?.check()?;
    }
    for descriptor in &placement.spread {
        text::check("placement preference spread", descriptor)?;
        let key = descriptor.strip_prefix("node.labels.").or(descriptor.strip_prefix("engine.labels."));
        if key.is_none_or(str::is_empty) {
            let reason = "tasks are spread over node.labels.KEY or engine.labels.KEY";
            return Err(Refusal::invalid("placement preference spread", descriptor, reason));
        }
    }
    for platform in &placement.platforms {
        text::check("platform", &platform.os)?;
        text::check("platform", &platform.architecture)?;
    }
    Ok(())
}

fn check_update(which: &str, config: &UpdateConfig) -> Result<(), Refusal> {
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        let field = format!("{which} max failure ratio");
        return Err(Refusal::invalid(field, config.max_failure_ratio.to_string(), "it must be between 0 and 1"));
    }
    Ok(())
}
