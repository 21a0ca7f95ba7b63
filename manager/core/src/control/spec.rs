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
use skep_model::service::{
    FailureAction, NetworkMode, Placement, REPLICAS_MAX, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig,
};
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
    check_sysctls(&spec.task_template)?;
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

fn check_update(which: &str, config: &UpdateConfig) -> Result<(), Refusal> {
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        let field = format!("{which} max failure ratio");
        return Err(Refusal::invalid(field, config.max_failure_ratio.to_string(), "it must be between 0 and 1"));
    }
    Ok(())
}
