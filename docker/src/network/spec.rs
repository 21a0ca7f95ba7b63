//! The spec of a network, as a client sends it to create one; the same keys as those of
//! `network inspect`.

use super::{IPAM_DRIVER, SCOPE};
use crate::read::read;
use crate::scalar::is_zero;
use serde::{Deserialize, Serialize};
use skep_model::Refusal;
use skep_model::network::{self as model, Pool};
use skep_model::service::Annotations;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// The one driver of the cluster's networks.
const DRIVER: &str = "overlay";

/// What a user wants of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSpec {
    name: String,
    /// Names are always unique here.
    #[serde(skip_serializing_if = "is_zero")]
    check_duplicate: bool,
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

/// What gives out addresses. It has no options, which Docker shows as null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Ipam {
    driver: String,
    options: Option<BTreeMap<String, String>>,
    config: Vec<IpamConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "is_zero")]
    range: String,
    #[serde(skip_serializing_if = "is_zero")]
    gateway: String,
}

impl NetworkSpec {
    /// What was asked for. [`NetworkSpec::to_model`] gives the same spec back.
    pub fn of(spec: &model::NetworkSpec) -> Self {
        Self {
            name: spec.annotations.name.clone(),
            check_duplicate: false,
            driver: spec.driver.clone(),
            scope: SCOPE.into(),
            ipv4: Some(true),
            ipv6: spec.ipv6,
            ipam: Ipam::of(&spec.pools),
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: spec.ingress,
            options: spec.options.clone(),
            labels: spec.annotations.labels.clone(),
        }
    }

    /// Reads a spec, as a client sends it to create a network.
    ///
    /// # Errors
    /// Names the field, also one that this version does not know.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        read("network spec", text)
    }

    /// Back to the model. Admission decides whether it is valid in the cluster.
    ///
    /// # Errors
    /// Names the field.
    pub fn to_model(&self) -> Result<model::NetworkSpec, Refusal> {
        let only = |field: &str, text: &str, one: &str| {
            let reason = format!("it is {one} here: leave it out, or write that");
            if ["", one].contains(&text) { Ok(()) } else { Err(Refusal::invalid(field, text, reason)) }
        };
        only("Scope", &self.scope, SCOPE)?;
        only("IPAM.Driver", &self.ipam.driver, IPAM_DRIVER)?;
        if self.ipv4 == Some(false) {
            return Err(Refusal::invalid("EnableIPv4", "false", "every network of the cluster has IPv4: leave it out"));
        }
        if self.ipam.options.as_ref().is_some_and(|options| !options.is_empty()) {
            let reason = "they are not supported by this version of skep: leave them out";
            return Err(Refusal::invalid("IPAM.Options", "", reason));
        }
        Ok(model::NetworkSpec {
            annotations: Annotations { name: self.name.clone(), labels: self.labels.clone() },
            // Admission refuses another one by name.
            driver: if self.driver.is_empty() { DRIVER.into() } else { self.driver.clone() },
            internal: self.internal,
            attachable: self.attachable,
            ingress: self.ingress,
            ipv6: self.ipv6,
            pools: self.ipam.config.iter().map(IpamConfig::to_model).collect::<Result<_, _>>()?,
            options: self.options.clone(),
        })
    }
}

impl Ipam {
    pub(super) fn of(pools: &[Pool]) -> Self {
        let config = |pool: &Pool| IpamConfig {
            subnet: pool.subnet.to_string(),
            range: pool.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: pool.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        };
        Self { driver: IPAM_DRIVER.into(), options: None, config: pools.iter().map(config).collect() }
    }
}

impl IpamConfig {
    fn to_model(&self) -> Result<Pool, Refusal> {
        let subnet = parse("IPAM.Config.Subnet", &self.subnet, "10.0.9.0/24")?;
        let optional = |text: &str| !text.is_empty();
        let range = optional(&self.range).then(|| parse("IPAM.Config.IPRange", &self.range, "10.0.9.128/25")).transpose()?;
        let gateway = optional(&self.gateway).then(|| parse("IPAM.Config.Gateway", &self.gateway, "10.0.9.1")).transpose()?;
        Ok(Pool { subnet, range, gateway })
    }
}

fn parse<T: FromStr>(field: &str, text: &str, example: &str) -> Result<T, Refusal>
where
    T::Err: Display,
{
    text.parse().map_err(|_| Refusal::invalid(field, text, format!("write it as {example}")))
}
