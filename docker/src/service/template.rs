//! `TaskTemplate`: resources, restarts, placement and networks of a task.
//!
//! A task in the node's own namespace, or without a network, is on the network `host` or `none`,
//! as in Docker. Ours: `StartOffline`, and `AnySource` of a network.

use super::container::ContainerSpec;
use crate::scalar::{is_zero, nanos};
use crate::word::Word;
use serde::{Deserialize, Serialize};
use skep_model::Refusal;
use skep_model::network::NetworkRequest;
use skep_model::resources as amounts;
use skep_model::service::{self as model, NetworkMode, RestartCondition};
use std::time::Duration;

/// What runs tasks; Docker also has plugins.
const RUNTIME: &str = "container";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskSpec {
    container_spec: ContainerSpec,
    resources: Resources,
    #[serde(skip_serializing_if = "is_zero")]
    restart_policy: Option<RestartPolicy>,
    placement: Placement,
    #[serde(skip_serializing_if = "is_zero")]
    networks: Vec<Network>,
    force_update: u64,
    #[serde(skip_serializing_if = "is_zero")]
    runtime: String,
    #[serde(skip_serializing_if = "is_zero")]
    start_offline: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Resources {
    limits: Limits,
    reservations: Amounts,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Limits {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    nano_cpus: u64,
    #[serde(skip_serializing_if = "is_zero")]
    memory_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pids: u64,
}

/// What a node offers, or a task reserves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Amounts {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    nano_cpus: u64,
    #[serde(skip_serializing_if = "is_zero")]
    memory_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RestartPolicy {
    #[serde(skip_serializing_if = "is_zero")]
    condition: String,
    #[serde(skip_serializing_if = "is_zero")]
    delay: Option<u64>,
    max_attempts: u64,
    #[serde(skip_serializing_if = "is_zero")]
    window: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Placement {
    #[serde(skip_serializing_if = "is_zero")]
    constraints: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    preferences: Vec<Preference>,
    #[serde(skip_serializing_if = "is_zero")]
    max_replicas: u64,
    #[serde(skip_serializing_if = "is_zero")]
    platforms: Vec<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Preference {
    spread: Spread,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Spread {
    spread_descriptor: String,
}

/// What a node is, or an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Platform {
    #[serde(skip_serializing_if = "is_zero")]
    architecture: String,
    #[serde(rename = "OS", skip_serializing_if = "is_zero")]
    os: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    target: String,
    #[serde(skip_serializing_if = "is_zero")]
    aliases: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    any_source: bool,
}

impl TaskSpec {
    /// What was asked for, as the spec of a service has it.
    pub(crate) fn of(spec: &model::TaskSpec) -> Self {
        let own =
            (spec.network != NetworkMode::Bridge).then(|| Network { target: spec.network.word().into(), ..Network::default() });
        let request =
            |it: &NetworkRequest| Network { target: it.target.clone(), aliases: it.aliases.clone(), any_source: it.any_source };
        let (limits, reserved) = (spec.resources.limits, spec.resources.reservations);
        Self {
            container_spec: ContainerSpec::of(&spec.container_spec),
            resources: Resources {
                limits: Limits { nano_cpus: limits.nano_cpus, memory_bytes: limits.memory_bytes, pids: limits.pids },
                reservations: Amounts::of(reserved),
            },
            restart_policy: Some(RestartPolicy {
                condition: spec.restart_policy.condition.word().into(),
                delay: Some(nanos(spec.restart_policy.delay)),
                max_attempts: spec.restart_policy.max_attempts,
                window: nanos(spec.restart_policy.window),
            }),
            placement: Placement {
                constraints: spec.placement.constraints.clone(),
                preferences: spec
                    .placement
                    .spread
                    .iter()
                    .map(|label| Preference { spread: Spread { spread_descriptor: label.clone() } })
                    .collect(),
                max_replicas: spec.placement.max_replicas,
                platforms: spec.placement.platforms.iter().map(Platform::of).collect(),
            },
            networks: own.into_iter().chain(spec.networks.iter().map(request)).collect(),
            force_update: spec.force_update,
            runtime: RUNTIME.into(),
            start_offline: spec.start_offline,
        }
    }

    /// The spec of a task: without its runtime, nor a restart policy that is the default.
    pub(crate) fn of_task(spec: &model::TaskSpec) -> Self {
        let mut shown = Self::of(spec);
        shown.container_spec = shown.container_spec.with_init();
        shown.runtime.clear();
        if spec.restart_policy == model::RestartPolicy::default() {
            shown.restart_policy = None;
        }
        shown
    }

    /// Writes down the defaults that count where nothing was asked for.
    pub(crate) fn with_defaults(mut self) -> Self {
        self.container_spec = self.container_spec.with_init().with_grace();
        self
    }

    /// Back to the model.
    ///
    /// # Errors
    /// Names the field.
    pub(crate) fn to_model(&self) -> Result<model::TaskSpec, Refusal> {
        if !["", RUNTIME].contains(&self.runtime.as_str()) {
            let reason = "it is not supported by this version of skep: leave it out, or write container";
            return Err(Refusal::invalid("TaskTemplate.Runtime", &self.runtime, reason));
        }
        let mut mode = NetworkMode::Bridge;
        let mut networks = Vec::new();
        for network in &self.networks {
            // The node's own networks have no other names.
            match NetworkMode::parse("TaskTemplate.Networks", &network.target) {
                Ok(own) if network.aliases.is_empty() && !network.any_source => mode = own,
                _ => networks.push(NetworkRequest {
                    target: network.target.clone(),
                    aliases: network.aliases.clone(),
                    any_source: network.any_source,
                }),
            }
        }
        let (limits, reserved) = (&self.resources.limits, &self.resources.reservations);
        Ok(model::TaskSpec {
            container_spec: self.container_spec.to_model()?,
            resources: amounts::ResourceRequirements {
                limits: amounts::Limits { nano_cpus: limits.nano_cpus, memory_bytes: limits.memory_bytes, pids: limits.pids },
                reservations: amounts::Resources { nano_cpus: reserved.nano_cpus, memory_bytes: reserved.memory_bytes },
            },
            restart_policy: self.restart_policy.as_ref().map_or_else(|| Ok(Default::default()), RestartPolicy::to_model)?,
            placement: model::Placement {
                constraints: self.placement.constraints.clone(),
                spread: self.placement.preferences.iter().map(|it| it.spread.spread_descriptor.clone()).collect(),
                max_replicas: self.placement.max_replicas,
                platforms: self
                    .placement
                    .platforms
                    .iter()
                    .map(|it| model::Platform { architecture: it.architecture.clone(), os: it.os.clone() })
                    .collect(),
            },
            network: mode,
            networks,
            force_update: self.force_update,
            start_offline: self.start_offline,
        })
    }
}

impl RestartPolicy {
    fn to_model(&self) -> Result<model::RestartPolicy, Refusal> {
        let default = model::RestartPolicy::default();
        Ok(model::RestartPolicy {
            condition: RestartCondition::parse_or_default("RestartPolicy.Condition", &self.condition)?,
            delay: self.delay.map_or(default.delay, Duration::from_nanos),
            max_attempts: self.max_attempts,
            window: Duration::from_nanos(self.window),
        })
    }
}

impl Amounts {
    pub(crate) fn of(amounts: amounts::Resources) -> Self {
        Self { nano_cpus: amounts.nano_cpus, memory_bytes: amounts.memory_bytes }
    }
}

impl Platform {
    pub(crate) fn of(platform: &model::Platform) -> Self {
        Self { architecture: platform.architecture.clone(), os: platform.os.clone() }
    }
}
