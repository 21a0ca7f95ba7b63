//! What the tables of rules in a node's namespaces should hold, as values.
//!
//! There is one table per concern, so that each can be written anew without the
//! others noticing. What follows from what is in [`crate::table_content`]; how it is said to
//! the kernel is the shell's.

use crate::name::{Mac, Name};
use crate::row::Namespace;
use ipnet::IpNet;
use skep_model::endpoint::{INGRESS_PORTS_MAX, Transport};
use skep_model::{NetworkId, ServiceId};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A table, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableName {
    /// In a task: from virtual addresses to tasks.
    Services,
    /// In a task: from 127.0.0.11 to netd's listeners.
    Names,
    /// In a task: from wire ports to the ports it listens on, and back.
    Mesh,
    /// On the node: from published ports to tasks anywhere.
    Ingress,
    /// On the node: from ports in mode `host` to its own tasks.
    HostPorts,
    /// On the node: the way out for tasks.
    Egress,
    /// On the node: who may send to the overlays.
    Underlay,
}

impl TableName {
    /// The tables of a task's namespace.
    pub const OF_TASK: [Self; 3] = [Self::Services, Self::Names, Self::Mesh];
    /// The tables of the node's namespace.
    pub const OF_NODE: [Self; 4] = [Self::Ingress, Self::HostPorts, Self::Egress, Self::Underlay];

    /// Those that are made of services, of whichever namespace.
    pub const OF_SERVICES: [Self; 2] = [Self::Services, Self::Ingress];

    /// The tables of a namespace.
    pub fn of(namespace: Namespace) -> &'static [Self] {
        match namespace {
            Namespace::Task(_) => &Self::OF_TASK,
            Namespace::Node => &Self::OF_NODE,
        }
    }

    /// What it is called in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Services => "skep_services",
            Self::Names => "skep_names",
            Self::Mesh => "skep_mesh",
            Self::Ingress => "skep_ingress",
            Self::HostPorts => "skep_host_ports",
            Self::Egress => "skep_egress",
            Self::Underlay => "skep_underlay",
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A service on one network.
pub type ServiceKey = (NetworkId, ServiceId);

/// A service with virtual addresses, as every task on its network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// Its virtual addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its published tasks, both families mixed, sorted.
    pub backends: Vec<IpAddr>,
}

/// A port that this node answers on.
pub type PortKey = (Transport, u16);

/// Where a port that this node answers on for a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPort {
    /// The service.
    pub service: ServiceId,
    /// The port that this node's packets have on the overlay.
    pub wire_port: u16,
    /// The ingress addresses of the published tasks, both families mixed, sorted.
    pub backends: Vec<IpAddr>,
}

/// An ingress node as a task sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressNode {
    /// The hardware address of its gateway on the ingress network.
    pub hardware: Mac,
    /// The connection mark by which answers are routed to it; never 0.
    pub mark: u32,
}

/// The bits of a wire port that say which of the service's ports it means; the
/// others say by which node it came.
pub const WIRE_PORT_MASK: u16 = INGRESS_PORTS_MAX as u16 - 1;

/// What the wire ports of one published port mean to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WirePort {
    /// Its protocol.
    pub transport: Transport,
    /// The place of the port among the service's ingress ports: the bits of
    /// [`WIRE_PORT_MASK`] of its wire port, whatever node it comes from.
    pub index: u16,
    /// The port that the task listens on.
    pub target_port: u16,
}

/// Where a port that this node answers on for one task of its own leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The task's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The port that the task listens on.
    pub target_port: u16,
}

/// A subnet of tasks that may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EgressSubnet {
    /// The bridge that leads to it; what stays on it keeps its source address.
    pub bridge: Name,
    /// The subnet.
    pub subnet: IpNet,
}

/// What a table should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Of [`TableName::Services`].
    Services(BTreeMap<ServiceKey, Arc<VirtualService>>),
    /// Of [`TableName::Names`]: the ports of netd's listeners.
    Names {
        /// For datagrams.
        udp_port: u16,
        /// For streams.
        tcp_port: u16,
    },
    /// Of [`TableName::Mesh`].
    Mesh {
        /// Every node that may send something here.
        nodes: Vec<IngressNode>,
        /// The ports of the task's service.
        ports: Vec<WirePort>,
        /// The addresses that the task's own packets to anywhere have: a process
        /// that takes datagrams on any address answers with these.
        outward: Vec<IpAddr>,
        /// The subnets of the ingress network: what comes from there is answered
        /// over it, so with the address that was asked.
        near: Vec<IpNet>,
    },
    /// Of [`TableName::Ingress`].
    Ingress {
        /// The bridge of the ingress network.
        bridge: Name,
        /// Every port that the node answers on.
        ports: BTreeMap<PortKey, IngressPort>,
    },
    /// Of [`TableName::HostPorts`].
    HostPorts {
        /// Where the tasks are.
        subnets: Vec<EgressSubnet>,
        /// Every port that the node answers on.
        ports: BTreeMap<PortKey, HostPort>,
    },
    /// Of [`TableName::Egress`].
    Egress(Vec<EgressSubnet>),
    /// Of [`TableName::Underlay`].
    Underlay {
        /// The UDP port of VXLAN.
        port: u16,
        /// The addresses of all nodes, sorted.
        members: Vec<IpAddr>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::endpoint::{INGRESS_NODES_MAX, wire_port};

    #[test]
    fn a_wire_port_tells_its_place_whatever_the_node() {
        for number in [1, 2, 17, INGRESS_NODES_MAX] {
            for index in 0..INGRESS_PORTS_MAX {
                assert_eq!(usize::from(wire_port(number, index) & WIRE_PORT_MASK), index);
            }
        }
    }
}
