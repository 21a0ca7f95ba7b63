//! Networks, and how tasks and services are on them.
//!
//! What users ask for is in the spec; the number on the wire and the subnets that
//! were settled for it are the plan, written once. No two networks share a number
//! or an address, no two owners share an address of one network.

use crate::service::Annotations;
use crate::{Meta, NetworkId, Section};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The first number on the wire (VNI) that a network gets, as Swarm's.
pub const VNI_FIRST: u32 = 4096;
/// The last one: the field has 24 bits.
pub const VNI_LAST: u32 = 0xff_ffff;
/// The name of the network over which published ports are reached.
pub const INGRESS_NAME: &str = "ingress";
/// The option that sets the largest packet of a network, in bytes.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// A network. Writers: users (`spec`), the leader (`plan`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// What users want.
    pub spec: Section<NetworkSpec>,
    /// What was settled for it.
    pub plan: Section<NetworkPlan>,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSpec {
    /// Name and labels.
    #[serde(flatten)]
    pub annotations: Annotations,
    /// `overlay`; `host`, `none` and `bridge` are every node's own.
    pub driver: String,
    /// No way out.
    pub internal: bool,
    /// Containers that are no tasks may join.
    pub attachable: bool,
    /// Published ports are reached over it; there is one.
    pub ingress: bool,
    /// Tasks also get an IPv6 address.
    #[serde(rename = "EnableIPv6")]
    pub ipv6: bool,
    /// Subnets asked for; empty = one of the cluster's pool.
    pub pools: Vec<Pool>,
    /// Of the driver: `com.docker.network.driver.mtu` and the like.
    pub options: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// The largest packet that was asked for, in bytes; admission has checked it.
    pub fn mtu(&self) -> Option<u32> {
        self.options.get(MTU_OPTION)?.parse().ok()
    }
}

/// A subnet, and what of it is given to tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pool {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// Only these addresses are given; `None` = any of the subnet.
    #[serde(rename = "IPRange")]
    pub range: Option<IpNet>,
    /// Never given to a task; in a plan always there.
    pub gateway: Option<IpAddr>,
}

/// The section that the leader writes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NetworkPlan {
    /// Its number on the wire; 0 = not settled yet.
    pub vni: u32,
    /// Its subnets, at most one of each family.
    pub pools: Vec<Pool>,
}

/// A network that a service asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkRequest {
    /// The network; admission turns a name into an id.
    pub target: String,
    /// More names of the service on this network.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// A task's place on a network, settled when the task is made. The place in the
/// task's list is the number of its interface: the first is `eth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The network.
    pub network: NetworkId,
    /// At most one of each family, the task's alone while it is not final.
    pub addresses: Vec<IpAddr>,
    /// More names of the service on this network.
    pub aliases: Vec<String>,
}
