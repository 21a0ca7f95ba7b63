//! What the tables of rules in a node's namespaces should hold, as values.
//!
//! There is one table per concern, so that each can be written anew without the
//! others noticing. What follows from what is in [`crate::table_content`]; how it is said to
//! the kernel is the shell's.

use crate::name::{Mac, Name};
use crate::row::Namespace;
use ipnet::IpNet;
use skep_model::endpoint::Transport;
use skep_model::{NetworkId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
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
    /// On the node: what it takes from its bridges, and what it passes on to them.
    Guard,
    /// On the node's bridges: who may send what through which port.
    Senders,
}

impl TableName {
    /// The tables of a task's namespace.
    pub const OF_TASK: [Self; 3] = [Self::Services, Self::Names, Self::Mesh];
    /// The tables of the node's namespace.
    pub const OF_NODE: [Self; 6] = [Self::Ingress, Self::HostPorts, Self::Egress, Self::Underlay, Self::Guard, Self::Senders];

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
            Self::Guard => "skep_guard",
            Self::Senders => "skep_senders",
        }
    }

    /// Whether it is asked about the frames on bridges, and not about packets.
    pub fn is_of_bridges(self) -> bool {
        self == Self::Senders
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

/// A service whose published ports this node answers on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressService {
    /// Its published ports, each with the wire port that this node's packets have on
    /// the overlay.
    pub ports: BTreeMap<PortKey, u16>,
    /// The ingress addresses of the published tasks, both families mixed, sorted.
    pub backends: Vec<IpAddr>,
}

/// A port that a process of the node listens on: published or not, it is the
/// process's there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningPort {
    /// Protocol and number.
    pub key: PortKey,
    /// The one address that it listens at; all when `None`.
    pub address: Option<IpAddr>,
}

/// An ingress node as a task sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressNode {
    /// The hardware address of its gateway on the ingress network.
    pub hardware: Mac,
    /// The connection mark by which answers are routed to it; never 0.
    pub mark: u32,
}

/// What the wire ports of one published port mean to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WirePort {
    /// Its protocol.
    pub transport: Transport,
    /// The place of the port among the service's ingress ports: the lower bits of its
    /// wire port, whatever node it comes from.
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

/// What the node takes from its bridges, and passes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The UDP port of VXLAN: nobody behind a bridge may send to it.
    pub data_path_port: u16,
    /// The bridges of overlays, that of the ingress network included.
    pub overlays: BTreeSet<Name>,
    /// The bridge by which tasks leave the node.
    pub gateway: Option<Name>,
    /// By the gateway, too, the node takes no connection.
    pub is_isolated: bool,
}

/// A task, as the bridge knows it behind one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sender {
    /// The port.
    pub port: Name,
    /// Its hardware address.
    pub hardware: Mac,
    /// Its addresses, the link-local one included.
    pub addresses: Vec<IpAddr>,
}

/// Who sends through the ports of bridges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Senders {
    /// Ports that lead to other nodes, which check their own tasks.
    pub trusted: BTreeSet<Name>,
    /// The tasks of this node.
    pub senders: BTreeSet<Sender>,
    /// Ports of tasks that may send under any address.
    pub any_source: BTreeSet<Name>,
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
        /// The bits of a wire port that say which of them it means; the others say by
        /// which node it came.
        mask: u16,
        /// The addresses that the task's own packets to anywhere have: a process
        /// that takes datagrams on any address answers with these.
        outward: Vec<IpAddr>,
        /// The subnets of the ingress network: what comes from there is answered
        /// over it, so with the address that was asked.
        near: Vec<IpNet>,
    },
    /// Of [`TableName::Ingress`].
    Ingress {
        /// Whose ports the node answers on. No port is of two of them.
        services: BTreeMap<ServiceId, IngressService>,
        /// Those that processes of the node have, as far as they were seen.
        listening: BTreeSet<ListeningPort>,
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
    /// Of [`TableName::Guard`].
    Guard(Guard),
    /// Of [`TableName::Senders`].
    Senders(Senders),
}
