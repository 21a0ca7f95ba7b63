//! The spec of a service, both ways.
//!
//! Ours: `Deadline`.

use super::endpoint::EndpointSpec;
use super::template::TaskSpec;
use crate::read::read;
use crate::scalar::{Float, is_zero, nanos};
use crate::word::Word;
use serde::{Deserialize, Serialize};
use skep_model::Refusal;
use skep_model::service::{self as model, Annotations, FailureAction, ServiceMode, UpdateOrder};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a user wants of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    name: String,
    labels: BTreeMap<String, String>,
    task_template: TaskSpec,
    mode: Mode,
    #[serde(skip_serializing_if = "is_zero")]
    update_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    rollback_config: Option<UpdateConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    endpoint_spec: Option<EndpointSpec>,
    #[serde(skip_serializing_if = "is_zero")]
    deadline: Option<u64>,
}

/// One of the two is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Mode {
    #[serde(skip_serializing_if = "is_zero")]
    replicated: Option<Replicated>,
    #[serde(skip_serializing_if = "is_zero")]
    global: Option<Global>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Replicated {
    #[serde(skip_serializing_if = "is_zero")]
    replicas: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Global {}

/// A monitor period that is absent is the default; 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateConfig {
    parallelism: u64,
    #[serde(skip_serializing_if = "is_zero")]
    delay: u64,
    #[serde(skip_serializing_if = "is_zero")]
    failure_action: String,
    #[serde(skip_serializing_if = "is_zero")]
    monitor: Option<u64>,
    max_failure_ratio: Float,
    order: String,
}

impl ServiceSpec {
    /// What was asked for. [`ServiceSpec::to_model`] gives the same spec back.
    pub fn of(spec: &model::ServiceSpec) -> Self {
        let (replicated, global) = match spec.mode {
            ServiceMode::Replicated { replicas } => (Some(Replicated { replicas: Some(replicas) }), None),
            ServiceMode::Global {} => (None, Some(Global {})),
        };
        Self {
            name: spec.annotations.name.clone(),
            labels: spec.annotations.labels.clone(),
            task_template: TaskSpec::of(&spec.task_template),
            mode: Mode { replicated, global },
            update_config: Some(UpdateConfig::of(&spec.update_config)),
            rollback_config: Some(UpdateConfig::of(&spec.rollback_config)),
            endpoint_spec: Some(EndpointSpec::of(&spec.endpoint_spec)),
            deadline: spec.deadline.map(nanos),
        }
    }

    /// The same with the defaults that count where nothing was asked for, which `inspect` shows.
    pub fn with_defaults(mut self) -> Self {
        self.task_template = self.task_template.with_defaults();
        self
    }

    /// Reads a spec, as a client sends it to create or update a service.
    ///
    /// # Errors
    /// Names the field, also one that this version does not know.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        read("service spec", text)
    }

    /// Back to the model. Admission decides whether it is valid in the cluster.
    ///
    /// # Errors
    /// Names the field.
    pub fn to_model(&self) -> Result<model::ServiceSpec, Refusal> {
        let update = |config: &Option<UpdateConfig>, field: &str| {
            config.as_ref().map_or_else(|| Ok(model::UpdateConfig::default()), |config| config.to_model(field))
        };
        let mode = match (&self.mode.replicated, &self.mode.global) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("Mode", "", "a service is either Replicated or Global: name one of them"));
            }
            (replicated, None) => {
                let replicas = replicated.as_ref().and_then(|it| it.replicas).unwrap_or(1);
                ServiceMode::Replicated { replicas }
            }
            (None, Some(_)) => ServiceMode::Global {},
        };
        Ok(model::ServiceSpec {
            annotations: Annotations { name: self.name.clone(), labels: self.labels.clone() },
            task_template: self.task_template.to_model()?,
            mode,
            update_config: update(&self.update_config, "UpdateConfig")?,
            rollback_config: update(&self.rollback_config, "RollbackConfig")?,
            endpoint_spec: self.endpoint_spec.as_ref().map_or_else(|| Ok(Default::default()), EndpointSpec::to_model)?,
            deadline: self.deadline.map(Duration::from_nanos),
        })
    }
}

impl UpdateConfig {
    fn of(config: &model::UpdateConfig) -> Self {
        Self {
            parallelism: config.parallelism,
            delay: nanos(config.delay),
            failure_action: config.failure_action.word().into(),
            monitor: Some(nanos(config.monitor)),
            max_failure_ratio: Float(config.max_failure_ratio),
            order: config.order.word().into(),
        }
    }

    fn to_model(&self, field: &str) -> Result<model::UpdateConfig, Refusal> {
        let default = model::UpdateConfig::default();
        let action = FailureAction::parse_or_default(&format!("{field}.FailureAction"), &self.failure_action)?;
        Ok(model::UpdateConfig {
            parallelism: self.parallelism,
            delay: Duration::from_nanos(self.delay),
            failure_action: action,
            monitor: self.monitor.map_or(default.monitor, Duration::from_nanos),
            max_failure_ratio: self.max_failure_ratio.0,
            order: UpdateOrder::parse_or_default(&format!("{field}.Order"), &self.order)?,
        })
    }
}
