//! Services: what a user wants to run.

mod check;

use crate::container::ContainerSpec;
use crate::deployment::Deployment;
use crate::duration::print;
use crate::endpoint::{EndpointSpec, PublishedPort, ServiceEndpoint};
use crate::network::NetworkRequest;
use crate::resources::ResourceRequirements;
use crate::{Meta, Section, ServiceId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The most replicas one service may have.
pub const REPLICAS_MAX: u64 = 100_000;

/// A service. Writers: users (`spec`), the leader (`plan`).
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// What users want.
    pub spec: Section<ServiceRecord>,
    /// Where the leader has got to.
    pub plan: Section<ServicePlan>,
}

/// The section that users write. The leader writes it in one case only: to carry
/// out the failure action `rollback`, which is a user's standing order.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRecord {
    /// What is wanted now.
    pub spec: ServiceSpec,
    /// What was wanted before, with every secret and config version pinned to
    /// the number it had then. A rollback swaps the two.
    pub previous: Option<Box<ServiceSpec>>,
    /// Counts changes that may call for new tasks; tasks carry the number they
    /// were made for.
    pub spec_version: u64,
}

/// Names and labels of an object.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Annotations {
    /// Unique within its kind.
    pub name: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// What a user wants of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Name and labels.
    pub annotations: Annotations,
    /// The template of its tasks.
    pub task_template: TaskSpec,
    /// How many, and where.
    pub mode: ServiceMode,
    /// How to go from one spec to the next.
    pub update_config: UpdateConfig,
    /// How to go back.
    pub rollback_config: UpdateConfig,
    /// How it is reached.
    pub endpoint_spec: EndpointSpec,
    /// Until a deployment must have converged, from its last progress; `None` = 10 min.
    pub deadline: Option<Duration>,
}

/// How many tasks a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceMode {
    /// This many, wherever they fit.
    Replicated {
        /// Number of slots.
        replicas: u64,
    },
    /// One on each eligible node.
    Global {},
}

/// The template of a task; a task carries a copy with all versions resolved.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TaskSpec {
    /// What runs.
    pub container_spec: ContainerSpec,
    /// Limits and reservations.
    pub resources: ResourceRequirements,
    /// What to do when it ends.
    pub restart_policy: RestartPolicy,
    /// Where it may run.
    pub placement: Placement,
    /// Its network namespace.
    pub network: NetworkMode,
    /// The overlay networks it is on; only with [`NetworkMode::Bridge`].
    pub networks: Vec<NetworkRequest>,
    /// Raised to restart tasks although nothing else changed.
    pub force_update: u64,
    /// After a restart of its machine a task is started before a manager is reached,
    /// although it may have been replaced on another node meanwhile.
    pub start_offline: bool,
}

/// The network namespace of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// A namespace with a loopback device only.
    #[default]
    None,
    /// The node's own namespace.
    Host,
    /// One of its own, with overlay networks and a way out through the node.
    Bridge,
}

/// When a task that ended is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RestartCondition {
    /// Never.
    None,
    /// After an error.
    OnFailure,
    /// Always.
    #[default]
    Any,
}

/// The restart policy of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When.
    pub condition: RestartCondition,
    /// From the end of a task to the start of its replacement.
    pub delay: Duration,
    /// How many restarts in `window`; 0 = any number.
    pub max_attempts: u64,
    /// The window in which restarts count; 0 = since the spec was set.
    pub window: Duration,
}

impl RestartPolicy {
    /// A limit of restarts within a window in which there never are so many is none. It is
    /// accepted, as in Swarm, but worth a word.
    pub fn warning(&self) -> Option<String> {
        let attempts = u32::try_from(self.max_attempts).unwrap_or(u32::MAX);
        let shortest = self.delay.saturating_mul(attempts);
        if self.max_attempts == 0 || self.window.is_zero() || self.window >= shortest {
            return None;
        }
        Some(format!(
            "the restart window of {} never holds {} restarts with a restart delay of {}, so that the limit of max \
             attempts is never reached: make it at least {}, or 0 to count all restarts",
            print(self.window),
            self.max_attempts,
            print(self.delay),
            print(shortest)
        ))
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay: Duration::from_secs(5), max_attempts: 0, window: Duration::ZERO }
    }
}

/// Where tasks may run.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Placement {
    /// Expressions `key==value` or `key!=value`; all must hold.
    pub constraints: Vec<String>,
    /// Labels to spread over, outermost first: `node.labels.X` or `engine.labels.X`.
    pub spread: Vec<String>,
    /// How many of the service's tasks one node may have; 0 = any number.
    pub max_replicas: u64,
    /// What the image can run on; empty = anything.
    pub platforms: Vec<Platform>,
}

/// An operating system and architecture, as Go names them (`linux`, `amd64`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Platform {
    /// Architecture; empty matches any.
    pub architecture: String,
    /// Operating system; empty matches any.
    pub os: String,
}

/// What to do when a task of an update fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailureAction {
    /// Stop and wait for the user.
    #[default]
    Pause,
    /// Go on.
    Continue,
    /// Return to the previous spec.
    Rollback,
}

/// Whether the old task of a slot stops before the new one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UpdateOrder {
    /// A slot never has two running tasks.
    #[default]
    StopFirst,
    /// The new one runs before the old one stops.
    StartFirst,
}

/// How a rolling update proceeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateConfig {
    /// Slots at a time; 0 = all at once.
    pub parallelism: u64,
    /// Between two batches.
    pub delay: Duration,
    /// What a failure leads to.
    pub failure_action: FailureAction,
    /// How long after it started a task's end counts as a failure of the update.
    pub monitor: Duration,
    /// Share of failures to tolerate, 0 to 1.
    pub max_failure_ratio: f32,
    /// Order within a slot.
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// The section that the leader writes.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ServicePlan {
    /// The deployment of the newest spec version; its predecessors are gone.
    pub deployment: Option<Deployment>,
    /// The service was removed: its tasks are being stopped, and the object goes
    /// with the last of them.
    pub removed_at: Option<Time>,
    /// Its virtual addresses and ports.
    pub endpoint: ServiceEndpoint,
}

/// The beginning of a deployment: the part of [`ServicePlan`] that goes with a new
/// spec. The rest of the plan, which the leader may be changing meanwhile, stays.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceDeployment {
    /// The deployment.
    pub deployment: Deployment,
    /// The ports of the spec, in the same order, with every ingress port chosen.
    pub ports: Vec<PublishedPort>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_limit_that_its_window_never_holds_is_warned_of() {
        let seconds = Duration::from_secs;
        let table = [
            (seconds(3), 2, seconds(2), "window of 2s never holds 2 restarts with a restart delay of 3s"),
            (seconds(3), 2, seconds(5), "make it at least 6s, or 0"),
            (seconds(3), u64::MAX, seconds(5), "the restart window of 5s"),
            (seconds(3), 2, seconds(6), ""),
            (seconds(3), 0, seconds(2), ""),
            (seconds(3), 2, Duration::ZERO, ""),
            (Duration::ZERO, 2, Duration::from_millis(1), ""),
        ];
        for (delay, max_attempts, window, expected) in table {
            let policy = RestartPolicy { delay, max_attempts, window, ..RestartPolicy::default() };
            let warning = policy.warning();
            assert_eq!(warning.is_some(), !expected.is_empty(), "{policy:?}");
            assert!(warning.unwrap_or_default().contains(expected), "{policy:?}");
        }
    }
}
