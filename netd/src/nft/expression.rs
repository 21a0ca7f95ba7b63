//! The expressions that a rule is made of, and their encoding.
//!
//! Expressions work on registers: four of sixteen bytes, addressable as sixteen of four. An address and a
//! port that a map returns together stand in one after the other.

use super::object::{Map, Value};
use super::wire::MessageWriter;

/// The address family of packets inside an `inet` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The kernel's number of the family.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Bytes in one address.
    pub fn address_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// The register that follows an address of this family which starts in the first one.
    pub fn after_address(self) -> Register {
        match self {
            Self::V4 => Register::word(1),
            Self::V6 => Register::word(4),
        }
    }
}

/// A register of the rule machine, by its 4-byte word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// Where every rule here starts to compute.
    pub const FIRST: Self = Self(8);

    /// The `index`-th word, 0 to 15.
    pub const fn word(index: u32) -> Self {
        assert!(index < 16);
        Self(8 + index)
    }

    fn number(self) -> u32 {
        self.0
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is discarded without a word.
    Drop,
    /// Back to the calling chain.
    Return,
    /// On to a chain, and back.
    Jump(String),
    /// On to a chain for good.
    Goto(String),
}

impl Verdict {
    pub(crate) fn encode(&self, kind: u16, out: &mut MessageWriter) {
        let (code, chain) = match self {
            Self::Drop => (0i32, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        out.nest(kind, |value| {
            value.nest(2, |verdict| {
                verdict.bytes(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    }
}

/// Where in a packet a payload is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// From the Ethernet header.
    Link,
    /// From the IP header.
    Network,
    /// From the TCP or UDP header.
    Transport,
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The packet mark, 4 bytes in the machine's order.
    Mark,
    /// The name of the interface it came in on, 16 bytes.
    InputName,
    /// The name of the interface it leaves by, 16 bytes.
    OutputName,
    /// ARPHRD_* of the interface it came in on, 2 bytes in the machine's order.
    InputKind,
    /// The family, 1 byte.
    Family,
    /// The transport protocol, 1 byte.
    Transport,
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputName => 6,
            Self::OutputName => 7,
            Self::InputKind => 8,
            Self::Family => 15,
            Self::Transport => 16,
        }
    }
}

/// What conntrack knows of a packet's connection; 4 bytes in the machine's order but for `Direction` (1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// A bit of its state: see [`STATE_NEW`].
    State,
    /// 0 for the side that opened it, 1 for replies.
    Direction,
    /// Bits of its status: see [`STATUS_DNAT`].
    Status,
    /// The connection mark.
    Mark,
}

/// [`Tracked::State`] of a connection's first packet.
pub const STATE_NEW: u32 = 8;
/// [`Tracked::State`] of packets of a connection that was answered, and of errors about one.
pub const STATE_KNOWN: u32 = 2 | 4;
/// [`Tracked::Status`] of a connection whose destination was rewritten.
pub const STATUS_DNAT: u32 = 1 << 5;
/// [`Expr::RouteKind`] of addresses elsewhere.
pub const ROUTE_UNICAST: u32 = 1;
/// [`Expr::RouteKind`] of the namespace's own addresses.
pub const ROUTE_LOCAL: u32 = 2;

impl Tracked {
    fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Direction => 1,
            Self::Status => 2,
            Self::Mark => 3,
        }
    }
}

/// One step of a rule. Every one ends the rule for the packet when it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are registers, offsets and lengths in bytes")]
pub enum Expr {
    /// Bytes of the packet into a register.
    Payload { to: Register, base: Base, offset: u32, length: u32 },
    /// A fact about the packet into a register.
    Meta { to: Register, key: Meta },
    /// A register into the packet mark.
    SetMark { from: Register },
    /// A fact about the connection into a register.
    Tracked { to: Register, key: Tracked },
    /// A register into the connection mark.
    SetTrackedMark { from: Register },
    /// The kind of route the packet's destination has, 4 bytes in the machine's order.
    RouteKind { to: Register },
    /// Holds when the namespace has a socket that waits for the packet; loads 1 byte, whether it waits at any
    /// address. A packet that a socket of the namespace sends has one always.
    SocketFound { to: Register },
    /// `(register & mask) ^ 0`; the mask's length is the value's.
    Mask { register: Register, mask: Vec<u8> },
    /// Holds when the register equals the value.
    Equal { register: Register, value: Vec<u8> },
    /// Holds when the register differs from the value.
    Differs { register: Register, value: Vec<u8> },
    /// Holds when the key is in the named set (or, inverted, is not).
    InSet { set: String, key: Register, inverted: bool },
    /// The value of a key in a named map into a register; a verdict map decides instead.
    Lookup { map: String, key: Register, to: Option<Register> },
    /// The same in a map that belongs to this rule alone.
    LookupOwn { map: Map, key: Register, to: Option<Register> },
    /// A constant into a register.
    Load { to: Register, value: Vec<u8> },
    /// The next number of 0 … modulus − 1 in turn, 4 bytes in the machine's order.
    Turn { to: Register, modulus: u32 },
    /// Rewrites the destination: address, port, or both.
    Dnat { family: Family, address: Option<Register>, port: Option<Register> },
    /// Rewrites the source to the address of the interface it leaves by.
    Masquerade,
    /// Keeps the packet out of conntrack; only before it is there.
    Untracked,
    /// Answers a TCP segment with a reset.
    RejectReset,
    /// Answers with "port unreachable" in the packet's own family.
    RejectUnreachable,
    /// Counts packets and bytes.
    Counter,
    /// Decides.
    Verdict(Verdict),
}

impl Expr {
    /// The kernel's name of the expression.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMark { .. } => "meta",
            Self::Tracked { .. } | Self::SetTrackedMark { .. } => "ct",
            Self::RouteKind { .. } => "fib",
            Self::SocketFound { .. } => "socket",
            Self::Mask { .. } => "bitwise",
            Self::Equal { .. } | Self::Differs { .. } => "cmp",
            Self::InSet { .. } | Self::Lookup { .. } | Self::LookupOwn { .. } => "lookup",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::Turn { .. } => "numgen",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Untracked => "notrack",
            Self::RejectReset | Self::RejectUnreachable => "reject",
            Self::Counter => "counter",
        }
    }

    /// Appends the expression as one element of a rule's list; `own_map` is the id under which the
    /// transaction has just created the map of a [`Expr::LookupOwn`].
    pub(crate) fn encode(&self, own_map: u32, out: &mut MessageWriter) {
        out.nest(1, |element| {
            element.text(1, self.name());
            element.nest(2, |data| self.encode_data(own_map, data));
        });
    }

    fn encode_data(&self, own_map: u32, data: &mut MessageWriter) {
        match self {
            Self::Payload { to, base, offset, length } => {
                let base = match base {
                    Base::Link => 0,
                    Base::Network => 1,
                    Base::Transport => 2,
                };
                data.be32(1, to.number()).be32(2, base).be32(3, *offset).be32(4, *length);
            }
            Self::Meta { to, key } => data.be32(1, to.number()).be32(2, key.number()).done(),
            Self::SetMark { from } => data.be32(2, Meta::Mark.number()).be32(3, from.number()).done(),
            Self::Tracked { to, key } => data.be32(1, to.number()).be32(2, key.number()).done(),
            Self::SetTrackedMark { from } => data.be32(2, Tracked::Mark.number()).be32(4, from.number()).done(),
            Self::RouteKind { to } => data.be32(1, to.number()).be32(2, 3).be32(3, 2).done(),
            // NFT_SOCKET_WILDCARD
            Self::SocketFound { to } => data.be32(1, 2).be32(2, to.number()).done(),
            Self::Mask { register, mask } => encode_mask(*register, mask, data),
            Self::Equal { register, value } => encode_compare(*register, 0, value, data),
            Self::Differs { register, value } => encode_compare(*register, 1, value, data),
            Self::InSet { set, key, inverted } => {
                data.text(1, set).be32(2, key.number());
                if *inverted {
                    data.be32(5, 1);
                }
            }
            Self::Lookup { map, key, to } => encode_lookup(map, 0, *key, *to, data),
            Self::LookupOwn { key, to, .. } => encode_lookup(Map::OWN_NAME, own_map, *key, *to, data),
            Self::Load { to, value } => data.be32(1, to.number()).nest(2, |v| v.bytes(1, value).done()).done(),
            Self::Turn { to, modulus } => data.be32(1, to.number()).be32(2, *modulus).be32(3, 0).done(),
            Self::Dnat { family, address, port } => {
                data.be32(1, 1).be32(2, u32::from(family.number()));
                if let Some(address) = address {
                    data.be32(3, address.number());
                }
                if let Some(port) = port {
                    data.be32(5, port.number());
                }
            }
            Self::Masquerade | Self::Untracked | Self::Counter => {}
            Self::RejectReset => data.be32(1, 1).done(),
            Self::RejectUnreachable => data.be32(1, 2).bytes(2, &[1]).done(),
            Self::Verdict(verdict) => {
                data.be32(1, 0);
                verdict.encode(2, data);
            }
        }
    }
}

fn encode_mask(register: Register, mask: &[u8], data: &mut MessageWriter) {
    let length = u32::try_from(mask.len()).expect("a register holds sixteen bytes");
    data.be32(1, register.number()).be32(2, register.number()).be32(3, length);
    data.nest(4, |value| value.bytes(1, mask).done());
    data.nest(5, |value| value.bytes(1, &vec![0; mask.len()]).done());
}

fn encode_compare(register: Register, operator: u32, value: &[u8], data: &mut MessageWriter) {
    data.be32(1, register.number()).be32(2, operator);
    data.nest(3, |nested| nested.bytes(1, value).done());
}

fn encode_lookup(map: &str, id: u32, key: Register, to: Option<Register>, data: &mut MessageWriter) {
    data.text(1, map).be32(2, key.number());
    // A verdict map writes to register 0: the packet's fate.
    data.be32(3, to.map_or(0, Register::number));
    if id != 0 {
        data.be32(4, id);
    }
}

/// Holds for packets of one family.
pub fn family_is(family: Family) -> Vec<Expr> {
    vec![
        Expr::Meta { to: Register::FIRST, key: Meta::Family },
        Expr::Equal { register: Register::FIRST, value: vec![family.number()] },
    ]
}

/// Holds for packets that came in on a link whose name begins so.
pub fn input_begins_with(prefix: &str) -> Vec<Expr> {
    vec![
        Expr::Meta { to: Register::FIRST, key: Meta::InputName },
        Expr::Equal { register: Register::FIRST, value: prefix.as_bytes().to_vec() },
    ]
}

/// Holds for packets of one transport protocol (6 TCP, 17 UDP).
pub fn transport_is(protocol: u8) -> Vec<Expr> {
    vec![
        Expr::Meta { to: Register::FIRST, key: Meta::Transport },
        Expr::Equal { register: Register::FIRST, value: vec![protocol] },
    ]
}

/// Holds for packets of whose connection any of these bits is true.
pub fn tracked_as(key: Tracked, bits: u32) -> Vec<Expr> {
    vec![
        Expr::Tracked { to: Register::FIRST, key },
        Expr::Mask { register: Register::FIRST, mask: bits.to_ne_bytes().to_vec() },
        Expr::Differs { register: Register::FIRST, value: vec![0; 4] },
    ]
}

/// The packet's source address, after [`family_is`].
pub fn source(family: Family, to: Register) -> Expr {
    let offset = if family == Family::V4 { 12 } else { 8 };
    Expr::Payload { to, base: Base::Network, offset, length: family.address_len() }
}

/// The packet's destination address, after [`family_is`].
pub fn destination(family: Family, to: Register) -> Expr {
    let offset = if family == Family::V4 { 16 } else { 24 };
    Expr::Payload { to, base: Base::Network, offset, length: family.address_len() }
}

/// The destination port of TCP and UDP alike, after [`transport_is`] or a map with the protocol in its key.
pub fn destination_port(to: Register) -> Expr {
    Expr::Payload { to, base: Base::Transport, offset: 2, length: 2 }
}

/// Holds when a register is in a subnet; the register is spent.
pub fn in_subnet(register: Register, network: std::net::IpAddr, prefix: u8) -> Vec<Expr> {
    let (mask, value) = masked(network, prefix);
    vec![Expr::Mask { register, mask }, Expr::Equal { register, value }]
}

/// Holds when a register is not in a subnet; the register is spent.
pub fn outside_subnet(register: Register, network: std::net::IpAddr, prefix: u8) -> Vec<Expr> {
    let (mask, value) = masked(network, prefix);
    vec![Expr::Mask { register, mask }, Expr::Differs { register, value }]
}

/// A subnet's mask, and its address under it.
fn masked(network: std::net::IpAddr, prefix: u8) -> (Vec<u8>, Vec<u8>) {
    let value = Value::from(network).into_bytes();
    let mask: Vec<u8> = (0..value.len())
        .map(|index| {
            let bits = usize::from(prefix).saturating_sub(index * 8).min(8);
            if bits == 0 { 0 } else { 0xffu8 << (8 - bits) }
        })
        .collect();
    let value = value.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    (mask, value)
}

/// An interface name as the kernel compares it: sixteen bytes, filled with zeros.
pub fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.truncate(15);
    bytes.resize(16, 0);
    bytes
}
