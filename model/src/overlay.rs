//! What one node is told of the overlay networks that it takes part in.
//!
//! A node takes part in a network while it has a task on it that has not ended,
//! and in the ingress network while any service publishes a port through it. It
//! is told of every peer, and of every service and endpoint on its networks; all
//! of it follows from the store. The agent hands it on to the network daemon as
//! it is, with [`LocalTask`]s of its own making.

use crate::address::check_underlay;
use crate::container::DnsConfig;
use crate::endpoint::{NodeIngress, PublishedPort};
use crate::network::{ATTACHMENTS_MAX, Attachment, InvalidField, Pool, check_address, check_mtu, check_vni};
use crate::{NetworkId, NodeId, ServiceId, TaskId};
use std::net::IpAddr;

/// One change of what a node is told. An object is replaced whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant holds the type of its name, or the id of one that goes")]
pub enum OverlayChange {
    PutPeer(Peer),
    PutNetwork(NodeNetwork),
    PutService(NodeService),
    PutEndpoint(Endpoint),
    RemoveEndpoint(EndpointId),
    RemoveService(ServiceId),
    RemoveNetwork(NetworkId),
    RemovePeer(NodeId),
}

/// A node of the cluster, the told one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// Its part in the routing mesh.
    pub ingress: Option<NodeIngress>,
}

impl Peer {
    /// Whether it makes sense by itself. A peer with a loopback address is one that only
    /// itself reaches: its own node can work with that, no other one can.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), InvalidField> {
        check_underlay(self.address)?;
        self.ingress.iter().flat_map(|ingress| &ingress.addresses).copied().try_for_each(check_address)
    }
}

/// A network that the node takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its number on the wire.
    pub vni: u32,
    /// Its subnets.
    pub pools: Vec<Pool>,
    /// The largest packet that a user asked for, in bytes.
    pub mtu: Option<u32>,
    /// No way out.
    pub internal: bool,
    /// Published ports are reached over it.
    pub ingress: bool,
}

impl NodeNetwork {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), InvalidField> {
        check_vni(self.vni)?;
        self.pools.iter().try_for_each(|pool| pool.checked().map(drop))?;
        self.mtu.map_or(Ok(()), |mtu| check_mtu(mtu, self.pools.iter().any(|pool| pool.subnet.addr().is_ipv6())))
    }
}

/// A service, as it is on the node's networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeService {
    /// Its id.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// By network, sorted by id.
    pub networks: Vec<ServiceNetwork>,
    /// Its ports in ingress mode, in the order of the spec: the place of a port is
    /// the `index` of its wire port.
    pub ingress_ports: Vec<PublishedPort>,
}

impl NodeService {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), InvalidField> {
        self.networks.iter().flat_map(|on| &on.virtual_addresses).copied().try_for_each(check_address)
    }
}

/// A service on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceNetwork {
    /// The network.
    pub network: NetworkId,
    /// What its names are answered with; empty = the addresses of its tasks.
    pub virtual_addresses: Vec<IpAddr>,
    /// More names of it on this network.
    pub aliases: Vec<String>,
}

/// Names an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId {
    /// The network.
    pub network: NetworkId,
    /// The task.
    pub task: TaskId,
}

/// A task on a network, on whatever node. It can be reached by address from the
/// moment it is told of, and by name, virtual address and published port while it
/// is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The service of the task.
    pub service: ServiceId,
    /// Its node.
    pub node: NodeId,
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// Names of this one task: the container's, and its host name if the user set one.
    pub names: Vec<String>,
    /// Whether it is to be found.
    pub is_published: bool,
}

impl Endpoint {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), InvalidField> {
        self.addresses.iter().copied().try_for_each(check_address)
    }
}

/// A task of this node with a network namespace of its own: between agent and
/// network daemon only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTask {
    /// Its id.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// Its networks in the order of its interfaces.
    pub attachments: Vec<Attachment>,
    /// It has an interface to the gateway bridge, the last one, and its default
    /// route over it.
    pub has_gateway: bool,
    /// Ports that this node answers on for it (mode `host`).
    pub host_ports: Vec<PublishedPort>,
    /// Its host name, a name of its own to itself.
    pub hostname: String,
    /// Servers to forward to, instead of the node's own; search domains and
    /// options are in its `resolv.conf`.
    pub dns: DnsConfig,
}

impl LocalTask {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), InvalidField> {
        let count = self.attachments.len();
        if count > ATTACHMENTS_MAX {
            return Err(InvalidField::new("number of networks", count, format!("a task has at most {ATTACHMENTS_MAX}")));
        }
        self.attachments.iter().flat_map(|attachment| &attachment.addresses).copied().try_for_each(check_address)
    }
}
