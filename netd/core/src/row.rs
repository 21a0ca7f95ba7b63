//! The rows of the kernel that are netd's: a place (namespace and key) and a value.
//!
//! The order of [`Key`]'s variants is the order of creation; a later one may need
//! an earlier one of the same link, and never the other way round.

use crate::name::{Mac, Name};
use ipnet::IpNet;
use skep_model::TaskId;
use std::fmt;
use std::net::IpAddr;

/// A network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// The one netd runs in.
    Node,
    /// That of a task.
    Task(TaskId),
}

/// Which of the two tables a forwarding row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdbTable {
    /// That of the bridge the link is a port of: by which port an address is reached.
    Bridge,
    /// That of the VXLAN device itself: by which node an address is reached.
    Vxlan,
}

/// A setting of one link, under `/proc/sys/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// addr_gen_mode: how the link gets a link-local v6 address by itself; 1 = not at all.
    AddressGeneration,
    /// accept_ra: whether it takes router advertisements.
    AcceptAdvertisements,
    /// accept_dad: whether it looks for others with an address before it uses it.
    DuplicateDetection,
    /// rp_filter: whether it drops packets that come another way than answers would leave.
    ReversePath,
    /// route_localnet: whether packets from and to 127.0.0.0/8 may be routed over it.
    LoopbackRouted,
    /// disable_ipv6: whether somebody switched IPv6 off on it. It is read and never written.
    Ipv6Disabled,
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AddressGeneration,
        Self::AcceptAdvertisements,
        Self::DuplicateDetection,
        Self::ReversePath,
        Self::LoopbackRouted,
        Self::Ipv6Disabled,
    ];
}

/// A setting of a whole namespace, under `/proc/sys/net`. It is never taken back:
/// nobody knows what it would be without us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sysctl {
    /// ip_forward: whether v4 packets are forwarded.
    Forward4,
    /// forwarding, of `all`: whether v6 packets are forwarded.
    Forward6,
    /// As [`Setting::ReversePath`], for all links; the higher of both counts.
    ReversePath,
    /// tcp_fwmark_accept: whether a connection that is accepted has the mark of its first packet.
    MarkAccepted,
    /// fwmark_reflect: whether answers of the kernel have the mark of what they answer, v4.
    MarkReflected4,
    /// The same, v6.
    MarkReflected6,
    /// bridge-nf-call-iptables: whether v4 frames between ports of a bridge pass the
    /// node's IP tables.
    BridgeNfCallIptables,
    /// bridge-nf-call-ip6tables: the same, v6.
    BridgeNfCallIp6tables,
}

impl Sysctl {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Forward4,
        Self::Forward6,
        Self::ReversePath,
        Self::MarkAccepted,
        Self::MarkReflected4,
        Self::MarkReflected6,
        Self::BridgeNfCallIptables,
        Self::BridgeNfCallIp6tables,
    ];

    /// The file below `/proc/sys/net` that holds it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Forward4 => "ipv4/ip_forward",
            Self::Forward6 => "ipv6/conf/all/forwarding",
            Self::ReversePath => "ipv4/conf/all/rp_filter",
            Self::MarkAccepted => "ipv4/tcp_fwmark_accept",
            Self::MarkReflected4 => "ipv4/fwmark_reflect",
            Self::MarkReflected6 => "ipv6/fwmark_reflect",
            Self::BridgeNfCallIptables => "bridge/bridge-nf-call-iptables",
            Self::BridgeNfCallIp6tables => "bridge/bridge-nf-call-ip6tables",
        }
    }

    /// What holds where the kernel has no such setting, if anything does.
    pub fn absent(self) -> Option<u32> {
        match self {
            // It comes with `br_netfilter`, without which no frame passes IP tables.
            Self::BridgeNfCallIptables | Self::BridgeNfCallIp6tables => Some(0),
            _ => None,
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes in one address.
    pub fn address_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// The number of the main routing table.
pub const TABLE_MAIN: u32 = 254;

impl Setting {
    /// The file below `/proc/sys/net` that holds the setting of `link`.
    pub fn path(self, link: Name) -> String {
        match self {
            Self::AddressGeneration => format!("ipv6/conf/{link}/addr_gen_mode"),
            Self::AcceptAdvertisements => format!("ipv6/conf/{link}/accept_ra"),
            Self::DuplicateDetection => format!("ipv6/conf/{link}/accept_dad"),
            Self::ReversePath => format!("ipv4/conf/{link}/rp_filter"),
            Self::LoopbackRouted => format!("ipv4/conf/{link}/route_localnet"),
            Self::Ipv6Disabled => format!("ipv6/conf/{link}/disable_ipv6"),
        }
    }
}

/// What a row is about, within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The namespace itself.
    Namespace,
    /// A setting of the whole namespace.
    Sysctl(Sysctl),
    /// A link, with what cannot be changed about it.
    Link(Name),
    /// Its largest packet.
    Mtu(Name),
    /// Its hardware address.
    Mac(Name),
    /// The bridge it is a port of.
    Port(Name),
    /// A setting of it.
    Setting(Name, Setting),
    /// That it is up.
    Up(Name),
    /// An address of it, with the length of its subnet.
    Address(Name, IpNet),
    /// A route to what is on the link itself, in the main table.
    Route(Name, IpNet),
    /// A route by a next hop on the link, in the table with this number.
    Via(Name, u32, IpNet),
    /// That packets with this mark are routed by a table of their own.
    Rule(Family, u32),
    /// A forwarding row.
    Fdb(Name, Mac, FdbTable),
    /// A permanent neighbour.
    Neighbour(Name, IpAddr),
}

impl Key {
    /// The link that the row vanishes with.
    pub fn link(&self) -> Option<Name> {
        match self {
            Self::Namespace | Self::Sysctl(_) | Self::Rule(..) => None,
            Self::Link(name) | Self::Mtu(name) | Self::Mac(name) | Self::Port(name) | Self::Up(name) => Some(*name),
            Self::Setting(name, _) | Self::Address(name, _) | Self::Route(name, _) => Some(*name),
            Self::Via(name, _, _) | Self::Fdb(name, _, _) | Self::Neighbour(name, _) => Some(*name),
        }
    }

    /// Whether it always has some value, so that it cannot be removed by itself.
    pub fn is_property(&self) -> bool {
        matches!(self, Self::Sysctl(_) | Self::Mtu(_) | Self::Mac(_) | Self::Setting(..))
    }

    /// Whether there can be such a row only where there is IPv6.
    pub fn needs_ipv6(&self) -> bool {
        match self {
            Self::Address(_, net) | Self::Route(_, net) | Self::Via(_, _, net) => matches!(net, IpNet::V6(_)),
            Self::Neighbour(_, address) => address.is_ipv6(),
            Self::Rule(family, _) => *family == Family::V6,
            Self::Setting(_, setting) => {
                matches!(setting, Setting::AddressGeneration | Setting::AcceptAdvertisements | Setting::DuplicateDetection)
            }
            Self::Sysctl(sysctl) => matches!(sysctl, Sysctl::Forward6 | Sysctl::MarkReflected6),
            _ => false,
        }
    }

    /// Whether the kernel drops the row when its link goes down.
    pub fn needs_up(&self) -> bool {
        match self {
            Self::Address(_, net) => matches!(net, IpNet::V6(_)),
            Self::Route(..) | Self::Via(..) | Self::Neighbour(..) => true,
            _ => false,
        }
    }

    /// What kind of row it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Link(_) => "link",
            Self::Mtu(_) => "mtu",
            Self::Mac(_) => "mac",
            Self::Port(_) => "port",
            Self::Sysctl(_) | Self::Setting(..) => "setting",
            Self::Up(_) => "up",
            Self::Address(..) => "address",
            Self::Route(..) | Self::Via(..) => "route",
            Self::Rule(..) => "rule",
            Self::Fdb(..) => "fdb",
            Self::Neighbour(..) => "neighbour",
        }
    }
}

/// Where a row is. Places sort by the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What it is about.
    pub key: Key,
    /// In which namespace.
    pub namespace: Namespace,
}

impl Place {
    /// A place in the node's namespace.
    pub fn node(key: Key) -> Self {
        Self { key, namespace: Namespace::Node }
    }

    /// A place in a task's namespace.
    pub fn task(task: TaskId, key: Key) -> Self {
        Self { key, namespace: Namespace::Task(task) }
    }
}

/// What a link is; none of it can be changed while the link lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A bridge.
    Bridge,
    /// A VXLAN device that learns nothing, floods nothing and answers for the
    /// neighbours in its table.
    Vxlan {
        /// The network's number on the wire.
        vni: u32,
        /// Our address on the underlay, the source of every packet.
        local: IpAddr,
        /// The UDP port.
        port: u16,
    },
    /// One end of a pair.
    Veth {
        /// Where the other end is: in the desired rows always, in the mirror when it
        /// is ours and was found.
        peer: Option<(Namespace, Name)>,
    },
    /// Anything else, which is never desired.
    Foreign,
}

/// A port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The bridge; absent if it is not ours.
    pub bridge: Option<Name>,
    /// Whether it notes who sends through it.
    pub learning: bool,
    /// Whether it gets packets for hardware addresses that no row names.
    pub flood: bool,
    /// Whether it is cut off from other isolated ports.
    pub isolated: bool,
}

/// Where a forwarding row leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdbTarget {
    /// Out of the port it is on.
    Here,
    /// To the node with this underlay address.
    Node(IpAddr),
}

/// The value at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// There is nothing more to say than that it is there.
    Present,
    /// A link.
    Link(Link),
    /// A number of bytes.
    Mtu(u32),
    /// A hardware address: of a link, or of a neighbour.
    Mac(Mac),
    /// A port.
    Port(Port),
    /// A setting.
    Setting(u32),
    /// A route's next hop.
    Hop(IpAddr),
    /// The number of a routing table.
    Table(u32),
    /// A forwarding row.
    Fdb(FdbTarget),
}

impl Value {
    /// Whether what was seen in the kernel is what is desired. The far end of a
    /// pair cannot always be seen, and then counts as right.
    pub fn is_satisfied_by(&self, seen: &Self) -> bool {
        match (self, seen) {
            (Self::Link(Link::Veth { .. }), Self::Link(Link::Veth { peer: None })) => true,
            _ => self == seen,
        }
    }

    /// Of one end of a pair, where the other is; none if that is not known.
    pub fn other_end(&self) -> Option<Place> {
        match self {
            Self::Link(Link::Veth { peer: Some((namespace, name)) }) => {
                Some(Place { key: Key::Link(*name), namespace: *namespace })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Task(task) => write!(f, "task {task}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Namespace => Ok(()),
            Self::Sysctl(sysctl) => write!(f, " {}", sysctl.path()),
            Self::Rule(family, mark) => write!(f, " {} mark {mark:#x}", if *family == Family::V4 { "v4" } else { "v6" }),
            Self::Via(name, TABLE_MAIN, net) => write!(f, " {net} on {name}"),
            Self::Via(name, table, net) => write!(f, " {net} on {name} in table {table:#x}"),
            Self::Link(name) | Self::Mtu(name) | Self::Mac(name) | Self::Port(name) | Self::Up(name) => write!(f, " {name}"),
            Self::Setting(name, setting) => write!(f, " {}", setting.path(*name)),
            Self::Address(name, net) | Self::Route(name, net) => write!(f, " {net} on {name}"),
            Self::Fdb(name, mac, FdbTable::Bridge) => write!(f, " {mac} on port {name}"),
            Self::Fdb(name, mac, FdbTable::Vxlan) => write!(f, " {mac} on {name}"),
            Self::Neighbour(name, address) => write!(f, " {address} on {name}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.namespace, self.key)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => Ok(()),
            Self::Link(Link::Bridge) => f.write_str(" = bridge"),
            Self::Link(Link::Vxlan { vni, local, port }) => write!(f, " = vxlan {vni} from {local} port {port}"),
            Self::Link(Link::Veth { peer: Some((namespace, name)) }) => write!(f, " = pair with {name} of {namespace}"),
            Self::Link(Link::Veth { peer: None }) => f.write_str(" = pair"),
            Self::Link(Link::Foreign) => f.write_str(" = foreign"),
            Self::Mtu(bytes) => write!(f, " = {bytes}"),
            Self::Mac(mac) => write!(f, " = {mac}"),
            Self::Port(Port { bridge, learning, flood, isolated }) => {
                match bridge {
                    Some(bridge) => write!(f, " = of {bridge}")?,
                    None => f.write_str(" = of a stranger")?,
                }
                if *learning {
                    f.write_str(", learning")?
                }
                if *flood {
                    f.write_str(", flooded")?
                }
                if *isolated {
                    f.write_str(", isolated")?
                }
                Ok(())
            }
            Self::Setting(value) => write!(f, " = {value}"),
            Self::Hop(via) => write!(f, " = via {via}"),
            Self::Table(number) => write!(f, " = table {number:#x}"),
            Self::Fdb(FdbTarget::Here) => f.write_str(" = here"),
            Self::Fdb(FdbTarget::Node(address)) => write!(f, " = at {address}"),
        }
    }
}
