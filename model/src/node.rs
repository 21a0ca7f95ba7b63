//! Nodes: the machines of the cluster.

use crate::endpoint::NodeIngress;
use crate::network::MTU_MIN_IPV6;
use crate::place::PlaceFaults;
use crate::resources::Resources;
use crate::service::Platform;
use crate::{Meta, NodeId, Section, Time};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A node. Writers: users (`spec`), its agent (`description`), the leader
/// (`status`, `plan`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id; the common name of its certificate.
    pub id: NodeId,
    /// When it joined and last changed.
    pub meta: Meta,
    /// What users want.
    pub spec: Section<NodeSpec>,
    /// What its agent says of it.
    pub description: Section<NodeDescription>,
    /// Whether it is there.
    pub status: Section<NodeStatus>,
    /// Its part in the cluster.
    pub plan: Section<NodePlan>,
}

impl Node {
    /// Whether an address is this node's. One that is down has none: whoever has it now may
    /// take it.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let is_underlay = self.description.underlay.as_ref().is_some_and(|underlay| underlay.address == address);
        let is_host = |manager: &ManagerStatus| {
            crate::address::split(&manager.address).and_then(|(host, _)| host.parse().ok()) == Some(address)
        };
        let is_session = self.status.address.parse() == Ok(address);
        let is_manager = self.plan.manager.as_ref().is_some_and(is_host);
        self.status.state != NodeState::Down && (is_underlay || is_session || is_manager)
    }
}

/// Worker or manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Role {
    /// Runs tasks.
    #[default]
    Worker,
    /// Also keeps the cluster's state.
    Manager,
}

/// Whether a node takes tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Keeps what it has and takes no more.
    Pause,
    /// Loses what it has.
    Drain,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeSpec {
    /// Labels for placement.
    pub labels: BTreeMap<String, String>,
    /// The role it shall have.
    pub desired_role: Role,
    /// Whether it takes tasks.
    pub availability: Availability,
    /// A host name other than at its join that a user accepted; empty if none was.
    pub hostname: String,
}

/// The section that the node's agent writes, through its session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Operating system and architecture.
    pub platform: Platform,
    /// What it offers.
    pub resources: Resources,
    /// Release of skep it runs.
    pub engine_version: String,
    /// Labels set on the daemon.
    pub engine_labels: BTreeMap<String, String>,
    /// Its place on the network that carries the overlays; `None` = not told yet.
    pub underlay: Option<Underlay>,
}

/// A node's place on the network that carries the overlays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The address at which other nodes reach it.
    pub address: IpAddr,
    /// Networks that it uses itself (addresses, routes, resolvers): no overlay may
    /// overlap one that the cluster chose.
    pub occupied: Vec<IpNet>,
    /// Why its tasks are reached over IPv4 only; empty if they have IPv6 as well.
    pub lacks_ipv6: String,
}

/// Bytes that VXLAN adds to a packet on an IPv4 underlay.
pub const VXLAN_OVERHEAD_V4: u32 = 50;
/// Bytes that VXLAN adds to a packet on an IPv6 underlay.
pub const VXLAN_OVERHEAD_V6: u32 = 70;

/// Why the link with an underlay address is too small for IPv6 inside VXLAN, if it is.
pub fn lacks_room(underlay: IpAddr, mtu: u32) -> Option<String> {
    let overhead = if underlay.is_ipv4() { VXLAN_OVERHEAD_V4 } else { VXLAN_OVERHEAD_V6 };
    let least = MTU_MIN_IPV6 + overhead;
    (mtu < least).then(|| format!("the link with the address {underlay} carries {mtu} bytes, and IPv6 needs {least} there"))
}

/// Why a namespace of a node has no IPv6, if it has none, by its settings; `read` gives
/// a file below `/proc/sys/net/ipv6/conf`.
pub fn lacks_ipv6(read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let is_off = |setting: &str| read(setting).map(|text| text.trim() != "0");
    match (is_off("all/disable_ipv6"), is_off("default/disable_ipv6")) {
        (None, _) => Some("the kernel was started without IPv6 (ipv6.disable=1)".into()),
        (Some(true), _) => Some("IPv6 is switched off (net.ipv6.conf.all.disable_ipv6=1)".into()),
        (_, Some(true)) => Some("IPv6 is switched off for new links (net.ipv6.conf.default.disable_ipv6=1)".into()),
        _ => None,
    }
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NodeState {
    /// The leader is new and has not heard of it yet.
    #[default]
    Unknown,
    /// Silent for longer than the grace period.
    Down,
    /// Has a session.
    Ready,
    /// Said goodbye.
    Disconnected,
}

/// The section that the leader's dispatcher writes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeStatus {
    /// Whether it is there.
    pub state: NodeState,
    /// Why it is in this state; of a ready node what it lacks, empty if nothing.
    pub message: String,
    /// Its address as its sessions show it, without port.
    pub address: String,
    /// Since when it is in this state, in cluster time.
    pub since: Time,
    /// The same in wall time, for people; zero in what was stored before there was
    /// cluster time. See [`NodeStatus::wall`].
    pub since_wall: Time,
    /// What of its network does not work, as its newest session said.
    pub faults: PlaceFaults,
}

impl NodeStatus {
    /// Since when it is in this state, in wall time.
    pub fn wall(&self) -> Time {
        if self.since_wall == Time::ZERO { self.since } else { self.since_wall }
    }
}

/// The section that the leader writes for the node's part in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodePlan {
    /// The role that its next certificate says.
    pub role: Role,
    /// Its place in raft, while it has one.
    pub manager: Option<ManagerStatus>,
    /// The public half of its unsealing key (X25519, 32 bytes), for managers.
    pub unsealing_key: Vec<u8>,
    /// When its newest certificate ends.
    pub certificate_expires: Time,
    /// Its part in the routing mesh.
    pub ingress: Option<NodeIngress>,
}

/// A node's place in raft.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ManagerStatus {
    /// Its raft id, never reused; not 0.
    pub raft_id: u64,
    /// `host:port` at which other nodes reach it.
    pub address: String,
    /// The newest stored format it can read.
    pub format_max: u32,
    /// It does not count for the quorum now: it has no vote yet, or the leader's raft has
    /// not heard of it lately.
    pub unreachable: bool,
}
