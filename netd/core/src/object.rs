//! What netd is told, one object at a time: this node, and the cluster's state as
//! it concerns it.

use skep_model::address::check_underlay;
use skep_model::network::InvalidField;
pub use skep_model::node::{VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, Peer};
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use std::net::IpAddr;

/// This node, as others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its address on the underlay.
    pub address: IpAddr,
    /// The UDP port of VXLAN.
    pub port: u16,
    /// No task opens a connection to an address of the node.
    pub is_isolated: bool,
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

    /// Whether it makes sense by itself, by the limits of the model: whatever a manager
    /// accepts is accepted here.
    ///
    /// # Errors
    /// Names the field that does not.
    pub fn check(&self) -> Result<(), InvalidField> {
        match self {
            Self::Node(node) if node.port == 0 => Err(InvalidField::new("port", 0, "0 is not a UDP port")),
            Self::Node(node) => check_underlay(node.address),
            Self::Peer(peer) => peer.check(),
            Self::Network(network) => network.check(),
            Self::Service(service) => service.check(),
            Self::Endpoint(endpoint) => endpoint.check(),
            Self::Task(task) => task.check(),
        }
    }
}
