//! A task's place on a network, with the network as Swarm stores it, which has other keys than
//! what `network inspect` prints.

use crate::meta::Meta;
use crate::network::{IPAM_DRIVER, SCOPE, driver_options};
use crate::networks::Networks;
use crate::scalar::is_zero;
use serde::Serialize;
use skep_model::network::{self as model, NetworkPlan, NetworkSpec, Pool};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Attachment {
    network: Network,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    aliases: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(flatten)]
    meta: Meta,
    spec: Spec,
    driver_state: Driver,
    #[serde(rename = "IPAMOptions")]
    ipam: Ipam,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    name: String,
    labels: BTreeMap<String, String>,
    driver_configuration: Driver,
    #[serde(rename = "IPv6Enabled", skip_serializing_if = "is_zero")]
    ipv6: bool,
    #[serde(skip_serializing_if = "is_zero")]
    internal: bool,
    #[serde(skip_serializing_if = "is_zero")]
    attachable: bool,
    #[serde(skip_serializing_if = "is_zero")]
    ingress: bool,
    #[serde(rename = "IPAMOptions")]
    ipam: Ipam,
    scope: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Driver {
    #[serde(skip_serializing_if = "is_zero")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: Driver,
    #[serde(skip_serializing_if = "is_zero")]
    configs: Vec<IpamConfig>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    subnet: String,
    #[serde(skip_serializing_if = "is_zero")]
    range: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    gateway: Option<String>,
}

impl Attachment {
    /// Of a network that is gone there is its id.
    pub(crate) fn of(attachment: &model::Attachment, networks: &Networks) -> Self {
        let id = attachment.network;
        let network = match networks.get(id) {
            Some(network) => Network::of(Meta::of(id, &network.meta), &network.spec, &network.plan),
            None => Network::of(Meta::of(id, &skep_model::Meta::default()), &NetworkSpec::default(), &NetworkPlan::default()),
        };
        Self {
            network,
            addresses: attachment.addresses.iter().map(|address| networks.with_prefix(id, *address)).collect(),
            aliases: attachment.aliases.clone(),
        }
    }
}

impl Network {
    fn of(meta: Meta, spec: &NetworkSpec, plan: &NetworkPlan) -> Self {
        // The ingress network is made by the cluster itself, which asks for nothing.
        let is_asked_for = !(spec.ingress && spec.pools.is_empty() && spec.options.is_empty());
        let driver = Driver { name: spec.driver.clone(), options: spec.options.clone() };
        let ipam = if is_asked_for { Ipam::of(&spec.pools) } else { Ipam::default() };
        Self {
            meta,
            spec: Spec {
                name: spec.annotations.name.clone(),
                labels: spec.annotations.labels.clone(),
                driver_configuration: if is_asked_for { driver } else { Driver::default() },
                ipv6: spec.ipv6,
                internal: spec.internal,
                attachable: spec.attachable,
                ingress: spec.ingress,
                ipam,
                scope: SCOPE,
            },
            driver_state: Driver { name: spec.driver.clone(), options: driver_options(spec, plan) },
            ipam: Ipam::of(&plan.pools),
        }
    }
}

impl Ipam {
    fn of(pools: &[Pool]) -> Self {
        let config = |pool: &Pool| IpamConfig {
            subnet: pool.subnet.to_string(),
            range: pool.range.map(|range| range.to_string()),
            gateway: pool.gateway.map(|gateway| gateway.to_string()),
        };
        Self {
            driver: Driver { name: IPAM_DRIVER.into(), options: BTreeMap::new() },
            configs: pools.iter().map(config).collect(),
        }
    }
}
