//! The rules of a service's spec, field by field; those of its container are in
//! [`super::container`], those of its ports in [`super::port`], those of what it
//! refers to in [`super::files`] and [`super::attachment`].

use super::{container, files, port, text};
use crate::leader::estimate_spec;
use crate::store::Store;
use skep_model::Refusal;
use skep_model::constraint::Constraint;
use skep_model::name::check_name;
use skep_model::resources::{MEMORY_MIN, NANO_CPUS_MIN};
use skep_model::service::{FailureAction, Placement, REPLICAS_MAX, RestartPolicy, ServiceMode, ServiceSpec, UpdateConfig};
use std::time::Duration;

/// The largest task template, in bytes: many tasks are made in one transaction.
const TEMPLATE_MAX: usize = 256 * 1024;
/// The shortest deadline of a deployment.
const DEADLINE_MIN: Duration = Duration::from_secs(1);

/// Checks everything about a spec.
pub(super) fn check(store: &Store, spec: &ServiceSpec) -> Result<(), Refusal> {
    check_name("service name", &spec.annotations.name)?;
    text::check_labels("service label", &spec.annotations.labels)?;
    check_mode(&spec.mode)?;
    check_resources(spec)?;
    check_placement(&spec.task_template.placement)?;
    check_restart(&spec.task_template.restart_policy)?;
    check_update("update", &spec.update_config)?;
    check_update("rollback", &spec.rollback_config)?;
    if spec.rollback_config.failure_action == FailureAction::Rollback {
        let reason = "a rollback is not rolled back: use pause or continue";
        return Err(Refusal::invalid("rollback failure action", "rollback", reason));
    }
    if let Some(deadline) = spec.deadline.filter(|deadline| *deadline < DEADLINE_MIN) {
        return Err(Refusal::invalid("deadline", format!("{deadline:?}"), "it must be at least 1s"));
    }
    container::check(&spec.task_template.container_spec)?;
    files::check(store, &spec.task_template.container_spec)?;
    port::check(spec)?;
    let size = estimate_spec(&spec.task_template);
    if size > TEMPLATE_MAX {
        return Err(Refusal::TooLarge {
            what: format!("the service's spec (about {size} bytes)"),
            limit: format!("{TEMPLATE_MAX} bytes"),
        });
    }
    Ok(())
}

/// Replicas are bounded.
pub(super) fn check_mode(mode: &ServiceMode) -> Result<(), Refusal> {
    match mode {
        ServiceMode::Replicated { replicas } if *replicas > REPLICAS_MAX => {
            Err(Refusal::invalid("replicas", replicas.to_string(), format!("a service has at most {REPLICAS_MAX} replicas")))
        }
        ServiceMode::Replicated { .. } | ServiceMode::Global {} => Ok(()),
    }
}

fn check_resources(spec: &ServiceSpec) -> Result<(), Refusal> {
    let resources = &spec.task_template.resources;
    let cpus = [("cpu limit", resources.limits.nano_cpus), ("cpu reservation", resources.reservations.nano_cpus)];
    for (field, value) in cpus {
        if value != 0 && value < NANO_CPUS_MIN {
            let cpus = format!("{:.9}", value as f64 / 1e9);
            return Err(Refusal::invalid(field, cpus, "it must be at least 0.001 (a thousandth of a core)"));
        }
    }
    let memory = [("memory limit", resources.limits.memory_bytes), ("memory reservation", resources.reservations.memory_bytes)];
    for (field, value) in memory {
        if value != 0 && value < MEMORY_MIN {
            return Err(Refusal::invalid(field, value.to_string(), "it must be at least 4MiB"));
        }
    }
    let (limits, reserved) = (&resources.limits, &resources.reservations);
    if limits.nano_cpus != 0 && reserved.nano_cpus > limits.nano_cpus {
        let cpus = |nanos: u64| (nanos as f64 / 1e9).to_string();
        let limit = cpus(limits.nano_cpus);
        let reason =
            format!("it exceeds the cpu limit of {limit}, so that a task could never use it: lower one or raise the other");
        return Err(Refusal::invalid("cpu reservation", cpus(reserved.nano_cpus), reason));
    }
    if limits.memory_bytes != 0 && reserved.memory_bytes > limits.memory_bytes {
        let limit = limits.memory_bytes;
        let reason = format!(
            "it exceeds the memory limit of {limit} bytes, so that a task could never use it: lower one or raise the other"
        );
        return Err(Refusal::invalid("memory reservation", reserved.memory_bytes.to_string(), reason));
    }
    Ok(())
}

fn check_placement(placement: &Placement) -> Result<(), Refusal> {
    for constraint in &placement.constraints {
        Constraint::parse(constraint)?.check()?;
    }
    for descriptor in &placement.spread {
        let key = descriptor.strip_prefix("node.labels.").or(descriptor.strip_prefix("engine.labels."));
        if key.is_none_or(str::is_empty) {
            let reason = "tasks are spread over node.labels.KEY or engine.labels.KEY";
            return Err(Refusal::invalid("placement preference spread", descriptor, reason));
        }
    }
    Ok(())
}

/// A limit of restarts within a window in which there never are so many is none.
fn check_restart(policy: &RestartPolicy) -> Result<(), Refusal> {
    let attempts = u32::try_from(policy.max_attempts).unwrap_or(u32::MAX);
    let shortest = policy.delay.saturating_mul(attempts);
    if policy.max_attempts == 0 || policy.window.is_zero() || policy.window >= shortest {
        return Ok(());
    }
    let reason = format!(
        "with a restart delay of {:?} it never holds {} restarts, so that the limit of max attempts is never reached: \
         it must be at least {shortest:?}, or 0 to count all restarts",
        policy.delay, policy.max_attempts
    );
    Err(Refusal::invalid("restart window", format!("{:?}", policy.window), reason))
}

fn check_update(which: &str, config: &UpdateConfig) -> Result<(), Refusal> {
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        let field = format!("{which} max failure ratio");
        return Err(Refusal::invalid(field, config.max_failure_ratio.to_string(), "it must be between 0 and 1"));
    }
    Ok(())
}
