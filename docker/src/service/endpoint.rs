//! `EndpointSpec`, what was asked for, and `Endpoint`, what was settled.

use crate::networks::Networks;
use crate::scalar::is_zero;
use crate::word::Word;
use serde::{Deserialize, Serialize};
use skep_model::Refusal;
use skep_model::endpoint::{self as model, EndpointMode, PublishMode, PublishedPort, Transport};
use skep_model::service::Service;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EndpointSpec {
    #[serde(skip_serializing_if = "is_zero")]
    mode: String,
    #[serde(skip_serializing_if = "is_zero")]
    ports: Vec<Port>,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Port {
    #[serde(skip_serializing_if = "is_zero")]
    protocol: String,
    #[serde(skip_serializing_if = "is_zero")]
    target_port: u32,
    #[serde(skip_serializing_if = "is_zero")]
    published_port: u32,
    #[serde(skip_serializing_if = "is_zero")]
    publish_mode: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Endpoint {
    spec: EndpointSpec,
    #[serde(skip_serializing_if = "is_zero")]
    ports: Vec<Port>,
    #[serde(rename = "VirtualIPs", skip_serializing_if = "is_zero")]
    virtual_ips: Vec<VirtualIp>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct VirtualIp {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "Addr")]
    address: String,
}

impl Endpoint {
    /// Nothing of a service that is on no network of the cluster and publishes nothing.
    pub(crate) fn of(service: &Service, networks: &Networks) -> Self {
        let (spec, settled) = (&service.spec.spec, &service.plan.endpoint);
        let mut virtual_ips = Vec::new();
        for (network, owned) in &settled.virtual_addresses {
            for address in &owned.addresses {
                let address = networks.with_prefix(*network, *address);
                virtual_ips.push(VirtualIp { network_id: network.to_string(), address });
            }
        }
        let is_reached = !(spec.task_template.networks.is_empty() && spec.endpoint_spec.ports.is_empty());
        Self {
            spec: if is_reached { EndpointSpec::of(&spec.endpoint_spec) } else { EndpointSpec::default() },
            ports: settled.ports.iter().map(Port::of).collect(),
            virtual_ips,
        }
    }
}

impl EndpointSpec {
    pub(crate) fn of(spec: &model::EndpointSpec) -> Self {
        Self { mode: spec.mode.word().into(), ports: spec.ports.iter().map(Port::of).collect() }
    }

    pub(crate) fn to_model(&self) -> Result<model::EndpointSpec, Refusal> {
        let mode = EndpointMode::parse_or_default("EndpointSpec.Mode", &self.mode)?;
        let ports = self.ports.iter().map(Port::to_model).collect::<Result<_, _>>()?;
        Ok(model::EndpointSpec { mode, ports })
    }
}

impl Port {
    pub(crate) fn of(port: &PublishedPort) -> Self {
        Self {
            protocol: port.transport.word().into(),
            target_port: port.target_port.into(),
            published_port: port.published_port.into(),
            publish_mode: port.publish_mode.word().into(),
        }
    }

    fn to_model(&self) -> Result<PublishedPort, Refusal> {
        let number = |field: &str, number: u32| {
            let refusal = |_| Refusal::invalid(field, number.to_string(), "a port is a number from 0 to 65535");
            u16::try_from(number).map_err(refusal)
        };
        Ok(PublishedPort {
            transport: Transport::parse_or_default("EndpointSpec.Ports.Protocol", &self.protocol)?,
            target_port: number("EndpointSpec.Ports.TargetPort", self.target_port)?,
            published_port: number("EndpointSpec.Ports.PublishedPort", self.published_port)?,
            publish_mode: PublishMode::parse_or_default("EndpointSpec.Ports.PublishMode", &self.publish_mode)?,
        })
    }
}
