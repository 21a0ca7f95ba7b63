//! Networks, and how tasks and services are on them.
//!
//! What users ask for is in the spec; the number on the wire and the subnets that
//! were settled for it are the plan, written once. No two networks share a number
//! or an address, no two owners share an address of one network.

use crate::service::Annotations;
use crate::{Meta, NetworkId, Refusal, Section};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// The first number on the wire (VNI) that a network gets. Swarm's begin at 4096 and
/// share a node's UDP port with ours: a kernel has one device for a number and a port.
pub const VNI_FIRST: u32 = 1 << 20;
/// The last one: the field has 24 bits.
pub const VNI_LAST: u32 = 0xff_ffff;
/// The name of the network over which published ports are reached.
pub const INGRESS_NAME: &str = "ingress";
/// The option that sets the largest packet of a network, in bytes.
pub const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// The least MTU of a network, in bytes: what every IPv4 host can take (RFC 791).
pub const MTU_MIN: u32 = 576;
/// The least MTU of a link that carries IPv6, in bytes (RFC 8200).
pub const MTU_MIN_IPV6: u32 = 1_280;
/// The largest MTU, in bytes: an IP packet has no more, and no link of the kernel.
pub const MTU_MAX: u32 = 65_535;
/// The most networks of one task, the ingress network included: its interfaces are
/// numbered in one byte, and the gateway's is the last.
pub const ATTACHMENTS_MAX: usize = 255;
/// The most networks that a service may ask for: one place is the ingress network's.
pub const SERVICE_NETWORKS_MAX: usize = ATTACHMENTS_MAX - 1;
/// The prefix lengths of an IPv4 subnet. A longer one has no room for a task; in a
/// shorter one a task's place does not fit the 24 bits that its link's name has for it.
pub const IPV4_PREFIXES: RangeInclusive<u8> = 8..=30;
/// The prefix lengths of an IPv6 subnet; see [`IPV4_PREFIXES`].
pub const IPV6_PREFIXES: RangeInclusive<u8> = 1..=124;

/// Checks an MTU that was asked for.
///
/// # Errors
/// Names the range.
pub fn check_mtu(mtu: u32, has_ipv6: bool) -> Result<(), InvalidField> {
    let least = if has_ipv6 { MTU_MIN_IPV6 } else { MTU_MIN };
    if (least..=MTU_MAX).contains(&mtu) {
        return Ok(());
    }
    let of_family = if has_ipv6 { " for a network with IPv6" } else { "" };
    Err(InvalidField::new("MTU", mtu, format!("it is a number of bytes between {least} and {MTU_MAX}{of_family}")))
}

/// Checks the number of a network on the wire. Clusters give [`VNI_FIRST`] to
/// [`VNI_LAST`]; the field has 24 bits, and 0 is none.
///
/// # Errors
/// Names the range.
pub fn check_vni(vni: u32) -> Result<(), InvalidField> {
    let is_valid = (1..=VNI_LAST).contains(&vni);
    is_valid.then_some(()).ok_or_else(|| InvalidField::new("network number (VNI)", vni, format!("it is 1 to {VNI_LAST}")))
}

/// Checks an address that an interface of a task or service shall have.
///
/// # Errors
/// Says what kind of address it is.
pub fn check_address(address: IpAddr) -> Result<(), InvalidField> {
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        _ => return Ok(()),
    };
    Err(InvalidField::new("address", address, format!("{kind} cannot be an interface's")))
}

/// A field that has a value which it cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidField {
    /// The field, as users know it.
    pub field: &'static str,
    /// The value.
    pub value: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl InvalidField {
    /// A value that the field cannot have.
    pub fn new(field: &'static str, value: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} {:?}: {}", self.field, self.value, self.reason)
    }
}

impl std::error::Error for InvalidField {}

impl From<InvalidField> for Refusal {
    fn from(invalid: InvalidField) -> Self {
        Self::invalid(invalid.field, invalid.value, invalid.reason)
    }
}

/// A network. Writers: users (`spec`), the leader (`plan`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// What users want.
    pub spec: Section<NetworkSpec>,
    /// What was settled for it.
    pub plan: Section<NetworkPlan>,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NetworkSpec {
    /// Name and labels.
    pub annotations: Annotations,
    /// `overlay`; `host`, `none` and `bridge` are every node's own.
    pub driver: String,
    /// No way out.
    pub internal: bool,
    /// Containers that are no tasks may join.
    pub attachable: bool,
    /// Published ports are reached over it; there is one.
    pub ingress: bool,
    /// Tasks also get an IPv6 address.
    pub ipv6: bool,
    /// Subnets asked for; empty = one of the cluster's pool.
    pub pools: Vec<Pool>,
    /// Of the driver: `com.docker.network.driver.mtu` and the like.
    pub options: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// The largest packet that was asked for, in bytes; admission has checked it.
    pub fn mtu(&self) -> Option<u32> {
        self.options.get(MTU_OPTION)?.parse().ok()
    }
}

/// A subnet, and what of it is given to tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// Only these addresses are given; `None` = any of the subnet.
    pub range: Option<IpNet>,
    /// Never given to a task; in a plan always there.
    pub gateway: Option<IpAddr>,
}

impl Pool {
    /// The pool without host bits and with its gateway: the one given, or the first
    /// address that a host may have.
    ///
    /// # Errors
    /// Names the field, and what would be right.
    pub fn checked(&self) -> Result<Self, InvalidField> {
        let subnet = self.subnet.trunc();
        let lengths = if matches!(subnet, IpNet::V4(_)) { IPV4_PREFIXES } else { IPV6_PREFIXES };
        if !lengths.contains(&subnet.prefix_len()) {
            let reason = format!("its prefix length must be between {} and {}", lengths.start(), lengths.end());
            return Err(InvalidField::new("subnet", subnet, reason));
        }
        if is_special(subnet) {
            let reason = "loopback, link-local, multicast and reserved addresses cannot be given to tasks";
            return Err(InvalidField::new("subnet", subnet, reason));
        }
        let (first, last) = hosts(subnet);
        let gateway = self.gateway.unwrap_or(first);
        if !subnet.contains(&gateway) {
            return Err(InvalidField::new("gateway", gateway, format!("subnet {subnet} does not contain it")));
        }
        if gateway < first || gateway > last {
            return Err(InvalidField::new("gateway", gateway, format!("it is no host's address in {subnet}")));
        }
        let range = self.range.map(|range| range.trunc());
        if let Some(range) = range {
            if !subnet.contains(&range) {
                return Err(InvalidField::new("ip-range", range, format!("subnet {subnet} does not contain it")));
            }
            let (low, high) = (range.network().max(first), range.broadcast().min(last));
            if low > high || (low == high && low == gateway) {
                return Err(InvalidField::new("ip-range", range, "it has no address for a task"));
            }
        }
        Ok(Self { subnet, range, gateway: Some(gateway) })
    }
}

/// Checks a pool that the subnets of networks are taken from, each of them by the rules
/// of [`Pool::checked`].
///
/// # Errors
/// Says why no subnet of it could be a network's.
pub fn check_address_pool(pool: IpNet) -> Result<(), InvalidField> {
    let (first, last) = match pool {
        // A subnet of IPv6 has 64 bits.
        IpNet::V6(_) => (*IPV6_PREFIXES.start(), 64),
        IpNet::V4(_) => (*IPV4_PREFIXES.start(), *IPV4_PREFIXES.end()),
    };
    if !(first..=last).contains(&pool.prefix_len()) {
        return Err(InvalidField::new("address pool", pool, format!("its prefix length must be between {first} and {last}")));
    }
    if is_special(pool) {
        let reason = "loopback, link-local, multicast and reserved addresses cannot be given to tasks";
        return Err(InvalidField::new("address pool", pool, reason));
    }
    Ok(())
}

/// The first and the last address that a host may have.
pub fn hosts(subnet: IpNet) -> (IpAddr, IpAddr) {
    match subnet {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            (Ipv4Addr::from(first.saturating_add(1)).into(), Ipv4Addr::from(last.saturating_sub(1)).into())
        }
        // IPv6 has no broadcast address; its first one is every router's.
        IpNet::V6(net) => (Ipv6Addr::from(u128::from(net.network()).saturating_add(1)).into(), net.broadcast().into()),
    }
}

fn is_special(subnet: IpNet) -> bool {
    let special = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"];
    special.iter().filter_map(|net| net.parse::<IpNet>().ok()).any(|net| net.contains(&subnet) || subnet.contains(&net))
}

/// The section that the leader writes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NetworkPlan {
    /// Its number on the wire; 0 = not settled yet.
    pub vni: u32,
    /// Its subnets, at most one of each family.
    pub pools: Vec<Pool>,
}

/// A network that a service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The network; admission turns a name into an id.
    pub target: String,
    /// More names of the service on this network.
    pub aliases: Vec<String>,
    /// Its tasks may send under other addresses than their own there.
    pub any_source: bool,
}

/// A task's place on a network, settled when the task is made. The place in the
/// task's list is the number of its interface: the first is `eth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The network.
    pub network: NetworkId,
    /// At most one of each family, the task's alone while it is not final.
    pub addresses: Vec<IpAddr>,
    /// More names of the service on this network.
    pub aliases: Vec<String>,
    /// What the task sends there may have other addresses than its own.
    pub any_source: bool,
}
