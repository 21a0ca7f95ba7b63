//! The flags that `service create` and `service update` have in common: what is
//! given is set in the spec, what is not given stays.

use crate::failure::Failure;
use crate::flags::{bytes, capability, choice, duration, number};
use skep_model::container::HealthConfig;
use skep_model::endpoint::EndpointMode;
use skep_model::service::{FailureAction, RestartCondition, ServiceMode, ServiceSpec, UpdateConfig, UpdateOrder};
use std::time::Duration;

/// The shortest time of a health check that is not 0.
const HEALTH_MIN: Duration = Duration::from_millis(1);

/// What both commands can set.
#[derive(Debug, Default, PartialEq, clap::Args)]
pub struct Shared {
    /// Add Linux capabilities
    #[arg(long, value_parser = capability::normalise, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_parser = capability::normalise, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Endpoint mode (vip, dnsrr) (default vip)
    #[arg(long, value_parser = choice::endpoint_mode, value_name = "MODE")]
    endpoint_mode: Option<EndpointMode>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, allow_hyphen_values = true)]
    entrypoint: Option<String>,
    /// Container hostname
    #[arg(long)]
    hostname: Option<String>,
    /// Maximum CPUs, such as 0.5
    #[arg(long, value_parser = number::cpus, value_name = "CPUS")]
    limit_cpu: Option<u64>,
    /// Maximum memory, such as 512m
    #[arg(long, value_parser = bytes::parse, value_name = "BYTES")]
    limit_memory: Option<u64>,
    /// Maximum number of processes (0 = unlimited)
    #[arg(long, value_parser = number::pids, value_name = "N")]
    limit_pids: Option<u64>,
    /// Keep set-uid programs from gaining privileges
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    no_new_privileges: Option<bool>,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, allow_negative_numbers = true, value_parser = number::oom_score_adj, value_name = "N")]
    oom_score_adj: Option<i32>,
    /// Mount the container's root filesystem as read only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    read_only: Option<bool>,
    /// Number of tasks
    #[arg(long, value_parser = number::replicas, value_name = "N", allow_negative_numbers = true)]
    replicas: Option<u64>,
    /// Maximum number of tasks per node (0 = unlimited)
    #[arg(long, value_parser = number::count, value_name = "N", allow_negative_numbers = true)]
    replicas_max_per_node: Option<u64>,
    /// Reserve CPUs
    #[arg(long, value_parser = number::cpus, value_name = "CPUS")]
    reserve_cpu: Option<u64>,
    /// Reserve memory
    #[arg(long, value_parser = bytes::parse, value_name = "BYTES")]
    reserve_memory: Option<u64>,
    /// After a reboot of their node, start tasks before a manager is reached, although they may have
    /// been replaced elsewhere
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    start_offline: Option<bool>,
    /// How long busy connections may go on before the stop signal; 0 = not at all (default: the
    /// stop grace period, at most 10s)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    stop_drain: Option<Duration>,
    /// Time to wait before force killing a container (default 10s)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    stop_grace_period: Option<Duration>,
    /// Signal to stop the container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(long, short)]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    #[command(flatten)]
    health: Health,
    #[command(flatten)]
    restart: Restart,
    #[command(flatten)]
    update: Update,
    #[command(flatten)]
    rollback: Rollback,
}

#[derive(Debug, Default, PartialEq, clap::Args)]
struct Health {
    /// Command to run to check health
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    health_cmd: Option<String>,
    /// Time between running the check
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    health_interval: Option<Duration>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_parser = number::count32, value_name = "N")]
    health_retries: Option<u32>,
    /// Time between running the check during the start period
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    health_start_interval: Option<Duration>,
    /// Start period for the container to initialize before counting retries towards unstable
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    health_start_period: Option<Duration>,
    /// Maximum time to allow one check to run
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    health_timeout: Option<Duration>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    no_healthcheck: Option<bool>,
}

#[derive(Debug, Default, PartialEq, clap::Args)]
struct Restart {
    /// Restart when condition is met (none, on-failure, any) (default any)
    #[arg(long, value_parser = choice::restart_condition, value_name = "CONDITION")]
    restart_condition: Option<RestartCondition>,
    /// Delay between restart attempts (default 5s)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    restart_delay: Option<Duration>,
    /// Maximum number of restarts before giving up
    #[arg(long, value_parser = number::count, value_name = "N")]
    restart_max_attempts: Option<u64>,
    /// Window used to evaluate the restart policy
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    restart_window: Option<Duration>,
}

#[derive(Debug, Default, PartialEq, clap::Args)]
struct Update {
    /// Delay between updates (default 0s)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    update_delay: Option<Duration>,
    /// Action on update failure (pause, continue, rollback) (default pause)
    #[arg(long, value_parser = choice::failure_action, value_name = "ACTION")]
    update_failure_action: Option<FailureAction>,
    /// Failure rate to tolerate during an update (default 0)
    #[arg(long, value_parser = number::ratio, value_name = "RATIO")]
    update_max_failure_ratio: Option<f32>,
    /// Duration after each task update, and each start of a new service's tasks, to monitor for
    /// failure; 0 = not at all (default 5s)
    #[arg(long, alias = "monitor", value_parser = duration::parse, value_name = "DURATION")]
    update_monitor: Option<Duration>,
    /// Update order (start-first, stop-first) (default stop-first)
    #[arg(long, value_parser = choice::order, value_name = "ORDER")]
    update_order: Option<UpdateOrder>,
    /// Maximum number of tasks updated simultaneously (0 to update all at once)
    #[arg(long, value_parser = number::count, value_name = "N")]
    update_parallelism: Option<u64>,
}

#[derive(Debug, Default, PartialEq, clap::Args)]
struct Rollback {
    /// Delay between task rollbacks (default 0s)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    rollback_delay: Option<Duration>,
    /// Action on rollback failure (pause, continue) (default pause)
    #[arg(long, value_parser = choice::rollback_failure_action, value_name = "ACTION")]
    rollback_failure_action: Option<FailureAction>,
    /// Failure rate to tolerate during a rollback (default 0)
    #[arg(long, value_parser = number::ratio, value_name = "RATIO")]
    rollback_max_failure_ratio: Option<f32>,
    /// Duration after each task rollback to monitor for failure (default 5s)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    rollback_monitor: Option<Duration>,
    /// Rollback order (start-first, stop-first) (default stop-first)
    #[arg(long, value_parser = choice::order, value_name = "ORDER")]
    rollback_order: Option<UpdateOrder>,
    /// Maximum number of tasks rolled back simultaneously (0 to roll back all at once)
    #[arg(long, value_parser = number::count, value_name = "N")]
    rollback_parallelism: Option<u64>,
}

/// Sets a place if there is something to set.
pub fn set<T: Clone>(place: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        *place = value.clone();
    }
}

impl Shared {
    /// Sets in the spec what was given.
    pub fn apply(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        self.apply_replicas(spec)?;
        self.apply_container(spec)?;
        set(&mut spec.endpoint_spec.mode, &self.endpoint_mode);
        let template = &mut spec.task_template;
        set(&mut template.resources.limits.nano_cpus, &self.limit_cpu);
        set(&mut template.resources.limits.memory_bytes, &self.limit_memory);
        set(&mut template.resources.limits.pids, &self.limit_pids);
        set(&mut template.resources.reservations.nano_cpus, &self.reserve_cpu);
        set(&mut template.resources.reservations.memory_bytes, &self.reserve_memory);
        set(&mut template.placement.max_replicas, &self.replicas_max_per_node);
        set(&mut template.start_offline, &self.start_offline);
        let policy = &mut template.restart_policy;
        set(&mut policy.condition, &self.restart.restart_condition);
        set(&mut policy.delay, &self.restart.restart_delay);
        set(&mut policy.max_attempts, &self.restart.restart_max_attempts);
        set(&mut policy.window, &self.restart.restart_window);
        self.health.apply(&mut template.container_spec.healthcheck)?;
        self.update.apply(&mut spec.update_config);
        self.rollback.apply(&mut spec.rollback_config);
        Ok(())
    }

    fn apply_replicas(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        match (&mut spec.mode, self.replicas) {
            (ServiceMode::Replicated { replicas }, Some(wanted)) => *replicas = wanted,
            (ServiceMode::Global {}, Some(_)) => {
                return Err(Failure::usage("replicas can only be used with replicated or replicated-job mode"));
            }
            (_, None) => {}
        }
        if matches!(spec.mode, ServiceMode::Global {}) && self.replicas_max_per_node.is_some_and(|max| max > 0) {
            return Err(Failure::usage("replicas-max-per-node can only be used with replicated or replicated-job mode"));
        }
        Ok(())
    }

    fn apply_container(&self, spec: &mut ServiceSpec) -> Result<(), Failure> {
        let container = &mut spec.task_template.container_spec;
        if let Some(entrypoint) = &self.entrypoint {
            container.command = words("--entrypoint", entrypoint)?;
        }
        capability::apply(&mut container.capability_add, &mut container.capability_drop, &self.cap_add, &self.cap_drop);
        set(&mut container.hostname, &self.hostname);
        set(&mut container.no_new_privileges, &self.no_new_privileges);
        set(&mut container.oom_score_adj, &self.oom_score_adj);
        set(&mut container.read_only, &self.read_only);
        set(&mut container.stop_signal, &self.stop_signal);
        set(&mut container.user, &self.user);
        set(&mut container.dir, &self.workdir);
        if self.stop_grace_period.is_some() {
            container.stop_grace_period = self.stop_grace_period;
        }
        if self.stop_drain.is_some() {
            container.stop_drain = self.stop_drain;
        }
        Ok(())
    }
}

impl Health {
    fn apply(&self, check: &mut Option<HealthConfig>) -> Result<(), Failure> {
        let times = [
            ("--health-interval", self.health_interval),
            ("--health-timeout", self.health_timeout),
            ("--health-start-period", self.health_start_period),
            ("--health-start-interval", self.health_start_interval),
        ];
        for (flag, time) in times {
            if time.is_some_and(|time| !time.is_zero() && time < HEALTH_MIN) {
                return Err(Failure::usage(format!("{flag} cannot be less than 1ms")));
            }
        }
        let has_times = times.iter().any(|(_, time)| time.is_some());
        let is_given = self.health_cmd.is_some() || self.health_retries.is_some() || has_times;
        if self.no_healthcheck == Some(true) {
            if is_given {
                return Err(Failure::usage("--no-healthcheck conflicts with --health-* options"));
            }
            *check = Some(HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() });
            return Ok(());
        }
        if self.no_healthcheck == Some(false) && check.as_ref().is_some_and(|check| check.test == ["NONE"]) {
            *check = None;
        }
        if !is_given {
            return Ok(());
        }
        let check = check.get_or_insert_default();
        if check.test == ["NONE"] {
            check.test.clear();
        }
        if let Some(command) = &self.health_cmd {
            check.test = if command.is_empty() { Vec::new() } else { vec!["CMD-SHELL".into(), command.clone()] };
        }
        set(&mut check.retries, &self.health_retries);
        for (place, (_, time)) in
            [&mut check.interval, &mut check.timeout, &mut check.start_period, &mut check.start_interval].into_iter().zip(times)
        {
            if time.is_some() {
                *place = time;
            }
        }
        Ok(())
    }
}

impl Update {
    fn apply(&self, config: &mut UpdateConfig) {
        set(&mut config.delay, &self.update_delay);
        set(&mut config.failure_action, &self.update_failure_action);
        set(&mut config.max_failure_ratio, &self.update_max_failure_ratio);
        set(&mut config.monitor, &self.update_monitor);
        set(&mut config.order, &self.update_order);
        set(&mut config.parallelism, &self.update_parallelism);
    }
}

impl Rollback {
    fn apply(&self, config: &mut UpdateConfig) {
        set(&mut config.delay, &self.rollback_delay);
        set(&mut config.failure_action, &self.rollback_failure_action);
        set(&mut config.max_failure_ratio, &self.rollback_max_failure_ratio);
        set(&mut config.monitor, &self.rollback_monitor);
        set(&mut config.order, &self.rollback_order);
        set(&mut config.parallelism, &self.rollback_parallelism);
    }
}

/// Splits text as a shell does.
pub fn words(flag: &str, text: &str) -> Result<Vec<String>, Failure> {
    shlex::split(text).ok_or_else(|| Failure::usage(format!("{flag}: {text:?} has a quote that does not end")))
}
