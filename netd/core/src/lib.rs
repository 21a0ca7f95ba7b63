//! The brain of netd: what a node's kernel should hold for its overlay networks,
//! and the operations that bring it there.
//!
//! Three values and one function. [`Desired`] takes objects (the node, networks,
//! tasks, endpoints) one at a time and derives the rows of the kernel from them;
//! [`Mirror`] is the last known state of the kernel, as the same kind of rows;
//! [`plan`] compares the two at the places that either side touched and answers
//! with ordered operations. It is level-triggered: a touched place says where to
//! look, never what to do, so a place that is touched needlessly costs a
//! comparison and nothing else.
//!
//! Invariants: a row has one place and one value, and only what is netd's own ever
//! becomes a row; a plan carried out leaves nothing to plan. Not in here: netlink,
//! interface indexes, namespaces' descriptors, and any wait or retry.

mod desired;
mod endpoint_rows;
mod mark;
mod mirror;
mod name;
mod names;
mod object;
mod plan;
mod row;
mod rows;
mod table;
#[cfg(test)]
mod testing;

pub use desired::Desired;
pub use mark::ingress_mark;
pub use mirror::Mirror;
pub use name::{Mac, Name, NameTooLong, bridge_name, interface_name, is_of_node, is_of_task, veth_name, vxlan_name};
pub use names::{NameAnswer, NameQuestion, Names};
pub use object::{
    Endpoint, EndpointId, InvalidObject, Network, Node, Object, ObjectKey, Site, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6,
};
pub use plan::{Op, plan};
pub use row::{FdbTable, FdbTarget, Key, Link, Namespace, Place, Port, Setting, Value};
pub use table::{
    Content, EgressSubnet, HostPort, IngressNode, IngressPort, ServiceKey, TableName, VirtualService, WIRE_PORT_MASK, WirePort,
};
