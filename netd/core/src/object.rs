//! What the manager's state says about this node's networks, one object at a time.

use ipnet::IpNet;
use skep_model::{Id, NetworkId, TaskId};
use std::fmt;
use std::net::IpAddr;

/// Bytes that VXLAN adds to a packet on a v4 underlay.
pub const VXLAN_OVERHEAD_V4: u32 = 50;
/// Bytes that VXLAN adds to a packet on a v6 underlay.
pub const VXLAN_OVERHEAD_V6: u32 = 70;
/// The smallest packet that every v6 link must carry; no network goes below it.
const MTU_MIN: u32 = 1280;
/// Addresses of one endpoint, and subnets of one network.
const ADDRESSES_MAX: usize = 8;
/// The range of a VXLAN network number.
const VNI_MAX: u32 = 0xff_ffff;

/// This node, as others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its address on the underlay.
    pub address: IpAddr,
    /// The UDP port of VXLAN.
    pub port: u16,
    /// The largest packet of the underlay, in bytes.
    pub mtu: u32,
}

/// An overlay network with tasks on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its number on the wire.
    pub vni: u32,
    /// Its subnets, one per family.
    pub subnets: Vec<IpNet>,
    /// The largest packet that a user asked for, in bytes; at most what the
    /// underlay leaves.
    pub mtu: Option<u32>,
}

/// One attachment of a task, or of a gateway, to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId {
    /// The network.
    pub network: NetworkId,
    /// The task, or the node whose gateway it is.
    pub owner: Id,
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// In a task of this node, whose id is the endpoint's owner.
    Here {
        /// The number of its interface: 0 = `eth0`.
        interface: u8,
    },
    /// On the node with this underlay address.
    There(IpAddr),
}

/// An endpoint; its hardware address follows from its first address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses, at least one, each in a subnet of the network.
    pub addresses: Vec<IpAddr>,
    /// Where it is.
    pub site: Site,
}

/// Names an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKey {
    /// This node.
    Node,
    /// A task with a namespace of its own.
    Task(TaskId),
    /// A network.
    Network(NetworkId),
    /// An endpoint.
    Endpoint(EndpointId),
}

/// An object with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// This node.
    Node(Node),
    /// A task with a namespace of its own.
    Task(TaskId),
    /// A network.
    Network(NetworkId, Network),
    /// An endpoint.
    Endpoint(EndpointId, Endpoint),
}

impl Object {
    /// Its key.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Node(_) => ObjectKey::Node,
            Self::Task(task) => ObjectKey::Task(*task),
            Self::Network(id, _) => ObjectKey::Network(*id),
            Self::Endpoint(id, _) => ObjectKey::Endpoint(*id),
        }
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// Names what does not.
    pub fn check(&self) -> Result<(), InvalidObject> {
        match self {
            Self::Task(_) => Ok(()),
            Self::Node(node) => node.check(),
            Self::Network(_, network) => network.check(),
            Self::Endpoint(_, endpoint) => endpoint.check(),
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
    /// An MTU below 1280 plus the overhead, or above 65535.
    Mtu(u32),
    /// A network number of 0 or beyond 24 bits.
    Vni(u32),
    /// None, or too many, of what there must be 1 to 8 of.
    Count(usize),
    /// A subnet whose address has host bits set.
    Subnet(IpNet),
}

impl fmt::Display for InvalidObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address} cannot be the address of an interface"),
            Self::Port => f.write_str("0 is not a UDP port"),
            Self::Mtu(mtu) => write!(f, "no overlay fits an MTU of {mtu}"),
            Self::Vni(vni) => write!(f, "a VXLAN network number is 1 to {VNI_MAX}, not {vni}"),
            Self::Count(count) => write!(f, "there must be 1 to {ADDRESSES_MAX} addresses or subnets, not {count}"),
            Self::Subnet(net) => write!(f, "{net} is not a subnet: it has host bits"),
        }
    }
}

impl std::error::Error for InvalidObject {}

fn check_address(address: IpAddr) -> Result<(), InvalidObject> {
    let unusable =
        address.is_unspecified() || address.is_multicast() || address.is_loopback() || address == IpAddr::from([255; 4]);
    if unusable { Err(InvalidObject::Address(address)) } else { Ok(()) }
}

fn check_count(count: usize) -> Result<(), InvalidObject> {
    if (1..=ADDRESSES_MAX).contains(&count) { Ok(()) } else { Err(InvalidObject::Count(count)) }
}

impl Node {
    fn check(&self) -> Result<(), InvalidObject> {
        check_address(self.address)?;
        if self.port == 0 {
            return Err(InvalidObject::Port);
        }
        if self.mtu < MTU_MIN + self.overhead() || self.mtu > 65535 {
            return Err(InvalidObject::Mtu(self.mtu));
        }
        Ok(())
    }

    fn overhead(&self) -> u32 {
        if self.address.is_ipv4() { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 }
    }

    /// The largest packet inside an overlay, in bytes.
    pub fn overlay_mtu(&self) -> u32 {
        self.mtu - self.overhead()
    }
}

impl Network {
    fn check(&self) -> Result<(), InvalidObject> {
        if self.vni == 0 || self.vni > VNI_MAX {
            return Err(InvalidObject::Vni(self.vni));
        }
        check_count(self.subnets.len())?;
        if let Some(mtu) = self.mtu.filter(|mtu| !(MTU_MIN..=65535).contains(mtu)) {
            return Err(InvalidObject::Mtu(mtu));
        }
        match self.subnets.iter().find(|net| net.trunc() != **net) {
            Some(net) => Err(InvalidObject::Subnet(*net)),
            None => Ok(()),
        }
    }

    /// The subnet that holds `address`.
    pub fn subnet_of(&self, address: IpAddr) -> Option<IpNet> {
        self.subnets.iter().copied().find(|net| net.contains(&address))
    }
}

impl Endpoint {
    fn check(&self) -> Result<(), InvalidObject> {
        check_count(self.addresses.len())?;
        self.addresses.iter().copied().try_for_each(check_address)?;
        match self.site {
            Site::Here { .. } => Ok(()),
            Site::There(address) => check_address(address),
        }
    }
}
