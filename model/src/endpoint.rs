//! How a service is reached: its mode, its published ports, its virtual
//! addresses, and whether a task of it is to be found.
//!
//! Published ports have a form in JSON, since nodes keep theirs on disk.

use crate::{NetworkId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Ports that are chosen for a user who names none, first and last.
pub const DYNAMIC_PORTS: (u16, u16) = (30_000, 32_767);
/// The most ports in ingress mode that one service may publish.
pub const INGRESS_PORTS_MAX: usize = 16_384;
/// The highest number of an ingress node (see [`NodeIngress`]).
pub const INGRESS_NODES_MAX: u32 = 1_000;
/// No wire port is below.
const WIRE_PORT_FIRST: u32 = 1_024;
/// Wire ports of one service and node, at least.
const WIRE_PORTS_MIN: u32 = 64;

/// How names of a service are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
#[derive(Clone, Debug, PartialEq, Eq, Default)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
    /// Since when, in cluster time; the barrier's timeout runs from here.
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
/// the port at place `index` among the service's `n_ports` ingress ports. Two nodes
/// do not share one, so that a client's connections with one source port through
/// both are two connections to the task. With more than 64 ports there are too few
/// of them for 1,000 nodes: then nodes whose numbers lie `65,536 ÷` [`wire_width`]` - 1`
/// (for 1,024 ports 63) or a multiple of it apart do share them.
pub fn wire_port(number: u32, index: usize, n_ports: usize) -> u16 {
    let width = wire_width(n_ports);
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    assert!((1..=INGRESS_NODES_MAX).contains(&number) && index < width, "admission keeps to the limits");
    let first = WIRE_PORT_FIRST.max(width);
    let n_blocks = (u32::from(u16::MAX) + 1 - first) / width;
    let port = first + (number - 1) % n_blocks * width + index;
    u16::try_from(port).expect("the last block ends at 65535")
}

/// How many wire ports of each node a service with so many ingress ports has: a power
/// of two, and their places are the lower bits of their numbers.
pub fn wire_width(n_ports: usize) -> u32 {
    let n_ports = u32::try_from(n_ports.min(INGRESS_PORTS_MAX)).expect("the limit is far below 2^32");
    n_ports.next_power_of_two().max(WIRE_PORTS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_ports_are_of_one_node_and_port() {
        assert_eq!(wire_port(1, 0, 1), 1024);
        assert_eq!(wire_port(1, 63, 64) + 1, wire_port(2, 0, 64));
        assert_eq!(wire_port(INGRESS_NODES_MAX, 63, 64), 65023);
        assert_eq!((wire_width(64), wire_width(65), wire_width(INGRESS_PORTS_MAX)), (64, 128, 16_384));
        for (n_ports, n_nodes) in [(64, 1_000), (65, 504), (1_000, 63), (10_000, 3), (INGRESS_PORTS_MAX, 3)] {
            let ports = (1..=n_nodes).flat_map(|number| [0, n_ports - 1].map(|index| wire_port(number, index, n_ports)));
            let found: std::collections::BTreeSet<u16> = ports.collect();
            assert_eq!(found.len(), 2 * n_nodes as usize, "{n_ports} ports of {n_nodes} nodes are all different");
            assert!(found.first().is_some_and(|first| *first >= 1_024));
            let mask = wire_width(n_ports) as u16 - 1;
            for number in [1, 2, n_nodes, INGRESS_NODES_MAX] {
                for index in [0, 1, n_ports / 2, n_ports - 1] {
                    assert_eq!(usize::from(wire_port(number, index, n_ports) & mask), index);
                }
            }
        }
    }
}
