//! The expressions that a rule is made of, and their encoding.
//!
//! Expressions work on registers: four of sixteen bytes, addressable as sixteen of four. An address and a
//! port that a map returns together stand in one after the other.

use super::object::{Map, Value};
use crate::netlink::uapi::*;
use crate::netlink::wire::MessageWriter;
pub use skep_netd_core::Family;

/// The kernel's number of a family (`NFPROTO_*`).
pub fn nfproto(family: Family) -> u8 {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    number as u8
}

/// The register that follows an address of this family which starts in the first one.
pub fn after_address(family: Family) -> Register {
    Register::word(family.address_len() / 4)
}

/// A register of the rule machine, by its 4-byte word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// Where every rule here starts to compute.
    pub const FIRST: Self = Self::word(0);

    /// The `index`-th word, 0 to 15.
    pub const fn word(index: u32) -> Self {
        assert!(index < 16);
        Self(libc::NFT_REG32_00 as u32 + index)
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
            Self::Drop => (libc::NF_DROP, None),
            Self::Accept => (libc::NF_ACCEPT, None),
            Self::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
            Self::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
            Self::Return => (libc::NFT_RETURN, None),
        };
        out.nest(kind, |value| {
            value.nest(NFTA_DATA_VERDICT, |verdict| {
                verdict.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    verdict.text(NFTA_VERDICT_CHAIN, chain);
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
        let key = match self {
            Self::Mark => libc::NFT_META_MARK,
            Self::InputName => libc::NFT_META_IIFNAME,
            Self::OutputName => libc::NFT_META_OIFNAME,
            Self::InputKind => libc::NFT_META_IIFTYPE,
            Self::Family => libc::NFT_META_NFPROTO,
            Self::Transport => libc::NFT_META_L4PROTO,
        };
        key as u32
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
        let key = match self {
            Self::State => libc::NFT_CT_STATE,
            Self::Direction => libc::NFT_CT_DIRECTION,
            Self::Status => libc::NFT_CT_STATUS,
            Self::Mark => libc::NFT_CT_MARK,
        };
        key as u32
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
        out.nest(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, self.name());
            element.nest(NFTA_EXPR_DATA, |data| self.encode_data(own_map, data));
        });
    }

    fn encode_data(&self, own_map: u32, data: &mut MessageWriter) {
        match self {
            Self::Payload { to, base, offset, length } => {
                let base = match base {
                    Base::Link => libc::NFT_PAYLOAD_LL_HEADER,
                    Base::Network => libc::NFT_PAYLOAD_NETWORK_HEADER,
                    Base::Transport => libc::NFT_PAYLOAD_TRANSPORT_HEADER,
                };
                data.be32(NFTA_PAYLOAD_DREG, to.number()).be32(NFTA_PAYLOAD_BASE, base as u32);
                data.be32(NFTA_PAYLOAD_OFFSET, *offset).be32(NFTA_PAYLOAD_LEN, *length);
            }
            Self::Meta { to, key } => data.be32(NFTA_META_DREG, to.number()).be32(NFTA_META_KEY, key.number()).done(),
            Self::SetMark { from } => data.be32(NFTA_META_KEY, Meta::Mark.number()).be32(NFTA_META_SREG, from.number()).done(),
            Self::Tracked { to, key } => data.be32(NFTA_CT_DREG, to.number()).be32(NFTA_CT_KEY, key.number()).done(),
            Self::SetTrackedMark { from } => {
                data.be32(NFTA_CT_KEY, Tracked::Mark.number()).be32(NFTA_CT_SREG, from.number());
            }
            Self::RouteKind { to } => {
                data.be32(NFTA_FIB_DREG, to.number()).be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                data.be32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
            }
            Self::SocketFound { to } => {
                data.be32(NFTA_SOCKET_KEY, NFT_SOCKET_WILDCARD).be32(NFTA_SOCKET_DREG, to.number());
            }
            Self::Mask { register, mask } => encode_mask(*register, mask, data),
            Self::Equal { register, value } => encode_compare(*register, libc::NFT_CMP_EQ, value, data),
            Self::Differs { register, value } => encode_compare(*register, libc::NFT_CMP_NEQ, value, data),
            Self::InSet { set, key, inverted } => {
                data.text(NFTA_LOOKUP_SET, set).be32(NFTA_LOOKUP_SREG, key.number());
                if *inverted {
                    data.be32(NFTA_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32);
                }
            }
            Self::Lookup { map, key, to } => encode_lookup(map, 0, *key, *to, data),
            Self::LookupOwn { key, to, .. } => encode_lookup(Map::OWN_NAME, own_map, *key, *to, data),
            Self::Load { to, value } => {
                data.be32(NFTA_IMMEDIATE_DREG, to.number());
                data.nest(NFTA_IMMEDIATE_DATA, |nested| nested.bytes(NFTA_DATA_VALUE, value).done());
            }
            Self::Turn { to, modulus } => {
                data.be32(NFTA_NG_DREG, to.number()).be32(NFTA_NG_MODULUS, *modulus);
                data.be32(NFTA_NG_TYPE, libc::NFT_NG_INCREMENTAL as u32);
            }
            Self::Dnat { family, address, port } => {
                data.be32(NFTA_NAT_TYPE, libc::NFT_NAT_DNAT as u32).be32(NFTA_NAT_FAMILY, u32::from(nfproto(*family)));
                if let Some(address) = address {
                    data.be32(NFTA_NAT_REG_ADDR_MIN, address.number());
                }
                if let Some(port) = port {
                    data.be32(NFTA_NAT_REG_PROTO_MIN, port.number());
                }
            }
            Self::Masquerade | Self::Untracked | Self::Counter => {}
            Self::RejectReset => data.be32(NFTA_REJECT_TYPE, libc::NFT_REJECT_TCP_RST as u32).done(),
            Self::RejectUnreachable => {
                data.be32(NFTA_REJECT_TYPE, libc::NFT_REJECT_ICMPX_UNREACH as u32);
                data.bytes(NFTA_REJECT_ICMP_CODE, &[libc::NFT_REJECT_ICMPX_PORT_UNREACH as u8]);
            }
            Self::Verdict(verdict) => {
                data.be32(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32);
                verdict.encode(NFTA_IMMEDIATE_DATA, data);
            }
        }
    }
}

fn encode_mask(register: Register, mask: &[u8], data: &mut MessageWriter) {
    let length = u32::try_from(mask.len()).expect("a register holds sixteen bytes");
    data.be32(NFTA_BITWISE_SREG, register.number()).be32(NFTA_BITWISE_DREG, register.number()).be32(NFTA_BITWISE_LEN, length);
    data.nest(NFTA_BITWISE_MASK, |value| value.bytes(NFTA_DATA_VALUE, mask).done());
    data.nest(NFTA_BITWISE_XOR, |value| value.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]).done());
}

fn encode_compare(register: Register, operator: libc::c_int, value: &[u8], data: &mut MessageWriter) {
    data.be32(NFTA_CMP_SREG, register.number()).be32(NFTA_CMP_OP, operator as u32);
    data.nest(NFTA_CMP_DATA, |nested| nested.bytes(NFTA_DATA_VALUE, value).done());
}

fn encode_lookup(map: &str, id: u32, key: Register, to: Option<Register>, data: &mut MessageWriter) {
    data.text(NFTA_LOOKUP_SET, map).be32(NFTA_LOOKUP_SREG, key.number());
    data.be32(NFTA_LOOKUP_DREG, to.map_or(libc::NFT_REG_VERDICT as u32, Register::number));
    if id != 0 {
        data.be32(NFTA_LOOKUP_SET_ID, id);
    }
}

/// Holds for packets of one family.
pub fn family_is(family: Family) -> Vec<Expr> {
    vec![
        Expr::Meta { to: Register::FIRST, key: Meta::Family },
        Expr::Equal { register: Register::FIRST, value: vec![nfproto(family)] },
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
