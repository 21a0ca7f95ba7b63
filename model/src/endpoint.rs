//! How a service is reached: its mode, its published ports, its virtual
//! addresses, and whether a task of it is to be found.

use crate::{NetworkId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Ports that are chosen for a user who names none, first and last.
pub const DYNAMIC_PORTS: (u16, u16) = (30_000, 32_767);
/// The most ports in ingress mode that one service may publish.
pub const INGRESS_PORTS_MAX: usize = 64;
/// The highest number of an ingress node (see [`NodeIngress`]).
pub const INGRESS_NODES_MAX: u32 = 1_000;
/// The first wire port.
const WIRE_PORT_FIRST: u32 = 1_024;

/// How names of a service are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// By a virtual address.
    #[default]
    Vip,
    /// By the addresses of its tasks.
    Dnsrr,
}

/// A transport protocol that ports are published for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Where a published port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node.
    #[default]
    Ingress,
    /// On the nodes of its tasks.
    Host,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PublishedPort {
    /// TCP or UDP.
    #[serde(rename = "Protocol")]
    pub transport: Transport,
    /// The port that tasks listen on; not 0.
    pub target_port: u16,
    /// The port that clients use; 0 in a spec = the cluster chooses (ingress) or
    /// the kernel does (host).
    pub published_port: u16,
    /// Where it answers.
    pub publish_mode: PublishMode,
}

/// How a service wants to be reached.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    /// How its names are answered.
    pub mode: EndpointMode,
    /// Its ports, in the order given.
    pub ports: Vec<PublishedPort>,
}

/// What was settled for a service, in its plan.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceEndpoint {
    /// A virtual address of each family by network; nothing in mode `dnsrr`.
    pub virtual_addresses: BTreeMap<NetworkId, Addresses>,
    /// The ports of the spec, in the same order, with every ingress port chosen.
    pub ports: Vec<PublishedPort>,
}

/// Addresses of one owner on one network, at most one of each family.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// Whether a task is to be found by names, virtual addresses and published ports.
/// It follows from the task's states and its node's, and is written by the leader
/// alone, so that everybody sees one truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publication {
    /// Not yet: it does not run, or is not healthy.
    #[default]
    Unpublished,
    /// To be found.
    Published,
    /// Not any more: it is to stop, has ended, or its node is down.
    Withdrawn,
}

/// Whether a task is to be found, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EndpointState {
    /// Whether.
    pub publication: Publication,
    /// Since when; the barrier's timeout runs from here.
    pub since: Time,
}

/// A node's part in the routing mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIngress {
    /// 1 to [`INGRESS_NODES_MAX`], no other node's; tells its connections from
    /// those of other nodes.
    pub number: u32,
    /// Its addresses on the ingress network.
    pub addresses: Vec<IpAddr>,
}

/// The port that the packets of ingress node `number` have on the overlay, for
/// the port at place `index` among the service's ingress ports. Two nodes never
/// share one: a client's connections with one source port through both are two
/// connections to the task.
pub fn wire_port(number: u32, index: usize) -> u16 {
    assert!((1..=INGRESS_NODES_MAX).contains(&number) && index < INGRESS_PORTS_MAX, "admission keeps to the limits");
    let port = WIRE_PORT_FIRST + (number - 1) * INGRESS_PORTS_MAX as u32 + index as u32;
    u16::try_from(port).expect("the limits leave every wire port below 65536")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_ports_are_of_one_node_and_port() {
        assert_eq!(wire_port(1, 0), 1024);
        assert_eq!(wire_port(1, 63) + 1, wire_port(2, 0));
        assert_eq!(wire_port(INGRESS_NODES_MAX, INGRESS_PORTS_MAX - 1), 65023);
    }
}
