//! The brain of netd: what a node's kernel should hold for its overlay networks,
//! and the operations that bring it there.
//!
//! [`NodeOverlay`] is what the node was told: objects by key. [`DesiredRows`] derives the
//! rows of the kernel from it, one changed object at a time; [`Mirror`] is the last
//! known state of the kernel, as the same kind of rows; [`plan`] compares the two
//! at the dirty places and answers with ordered operations. What
//! is no row (tables, the answers to names) follows from the [`NodeOverlay`] alone, and
//! [`DirtyKeys`] says where it may have changed. It is level-triggered: a dirty
//! place says where to look, never what to do, so a place that is dirty
//! needlessly costs a comparison and nothing else.
//!
//! Invariants: a row has one place and one value, and only what is netd's own ever
//! becomes a row; a plan carried out leaves nothing to plan. Not in here: netlink,
//! interface indexes, namespaces' descriptors, and any wait or retry.

mod capabilities;
mod derive_tables;
mod desired;
mod dirty;
mod firewall;
mod gateway;
mod gone;
mod ingress_rows;
mod link_rows;
mod mark;
mod mirror;
mod name;
mod names;
mod object;
mod object_rows;
mod overlay;
mod plan;
mod probe;
mod row;
mod rows;
mod table;
#[cfg(test)]
mod testing;

pub use capabilities::Capabilities;
pub use derive_tables::{DirtyTables, dirty_services, dirty_tables, ingress_service, table_content, virtual_service};
pub use desired::{DesiredRows, Dirty};
pub use dirty::DirtyKeys;
pub use firewall::reaching;
pub use gateway::Gateway;
pub use gone::{Backends, Came, Turnover, Vanished};
pub use mark::{ingress_mark, is_ingress_mark};
pub use mirror::Mirror;
pub use name::{
    Mac, Name, NameTooLong, bridge_name, gateway_bridge_name, gateway_veth_name, interface_name, is_of_node, is_of_task,
    veth_name, vxlan_name,
};
pub use names::{NameAnswer, NameQuestion, Names};
pub use object::{Node, Object, ObjectKey, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6};
pub use overlay::NodeOverlay;
pub use plan::{Op, plan};
pub use probe::{Probe, ProbeQuestion, probes};
pub use row::{Family, FdbTable, FdbTarget, Key, Link, Namespace, Place, Port, Setting, Sysctl, TABLE_MAIN, Value};
pub use table::{
    Content, EgressSubnet, Guard, HostPort, IngressNode, IngressService, ListeningPort, PortKey, Sender, Senders, ServiceKey,
    TableName, VirtualService, WirePort,
};
