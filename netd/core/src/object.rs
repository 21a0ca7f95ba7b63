//! What netd is told, one object at a time: this node, and the cluster's state as
//! it concerns it.

use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, Peer};
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use std::fmt;
use std::net::IpAddr;

/// Bytes that VXLAN adds to a packet on a v4 underlay.
pub const VXLAN_OVERHEAD_V4: u32 = 50;
/// Bytes that VXLAN adds to a packet on a v6 underlay.
pub const VXLAN_OVERHEAD_V6: u32 = 70;
/// The smallest packet that every v6 link must carry; no user may ask for less.
const MTU_MIN: u32 = 1280;
/// The range of a VXLAN network number.
const VNI_MAX: u32 = 0xff_ffff;
/// Networks of one task: its interfaces are numbered in one byte, and the gateway
/// bridge's is the last.
const ATTACHMENTS_MAX: usize = 255;

/// This node, as others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// The UDP port of VXLAN.
    pub port: u16,
}

/// Names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant holds the id of the object of its name")]
pub enum ObjectKey {
    Node,
    Peer(NodeId),
    Network(NetworkId),
    Service(ServiceId),
    Endpoint(EndpointId),
    Task(TaskId),
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant holds the type of its name")]
pub enum Object {
    Node(Node),
    Peer(Peer),
    Network(NodeNetwork),
    Service(NodeService),
    Endpoint(Endpoint),
    Task(LocalTask),
}

impl Object {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Node(_) => ObjectKey::Node,
            Self::Peer(peer) => ObjectKey::Peer(peer.node),
            Self::Network(network) => ObjectKey::Network(network.id),
            Self::Service(service) => ObjectKey::Service(service.id),
            Self::Endpoint(endpoint) => ObjectKey::Endpoint(endpoint.id),
            Self::Task(task) => ObjectKey::Task(task.id),
        }
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names what does not.
    pub fn check(&self) -> Result<(), InvalidObject> {
        match self {
            Self::Node(node) if node.port == 0 => Err(InvalidObject::Port),
            Self::Node(node) => check_address(node.address),
            Self::Peer(peer) => {
                check_address(peer.address)?;
                peer.ingress.iter().flat_map(|ingress| &ingress.addresses).copied().try_for_each(check_address)
            }
            Self::Network(network) => check_network(network),
            Self::Service(service) => {
                let addresses = service.networks.iter().flat_map(|on| &on.virtual_addresses);
                addresses.copied().try_for_each(check_address)
            }
            Self::Endpoint(endpoint) => endpoint.addresses.iter().copied().try_for_each(check_address),
            Self::Task(task) if task.attachments.len() > ATTACHMENTS_MAX => {
                Err(InvalidObject::Attachments(task.attachments.len()))
            }
            Self::Task(task) => {
                task.attachments.iter().flat_map(|attachment| &attachment.addresses).copied().try_for_each(check_address)
            }
        }
    }
}

/// Why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidObject {
    /// An address that cannot be an interface's.
    Address(IpAddr),
    /// A UDP port of 0.
    Port,
    /// A packet size below 1280 or above 65535 bytes.
    Mtu(u32),
    /// A network number of 0 or beyond 24 bits.
    Vni(u32),
    /// More networks than a task can have interfaces.
    Attachments(usize),
}

impl fmt::Display for InvalidObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address} cannot be the address of an interface"),
            Self::Port => f.write_str("0 is not a UDP port"),
            Self::Mtu(mtu) => write!(f, "the MTU of a network is {MTU_MIN} to 65535, not {mtu}"),
            Self::Vni(vni) => write!(f, "a VXLAN network number is 1 to {VNI_MAX}, not {vni}"),
            Self::Attachments(count) => write!(f, "a task may have {ATTACHMENTS_MAX} networks, not {count}"),
        }
    }
}

impl std::error::Error for InvalidObject {}

fn check_address(address: IpAddr) -> Result<(), InvalidObject> {
    let unusable =
        address.is_unspecified() || address.is_multicast() || address.is_loopback() || address == IpAddr::from([255; 4]);
    if unusable { Err(InvalidObject::Address(address)) } else { Ok(()) }
}

fn check_network(network: &NodeNetwork) -> Result<(), InvalidObject> {
    if network.vni == 0 || network.vni > VNI_MAX {
        return Err(InvalidObject::Vni(network.vni));
    }
    match network.mtu.filter(|mtu| !(MTU_MIN..=65535).contains(mtu)) {
        Some(mtu) => Err(InvalidObject::Mtu(mtu)),
        None => Ok(()),
    }
}
