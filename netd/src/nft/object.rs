//! Tables, chains, sets, maps and rules, as values.
//!
//! A table is of the `inet` family, where one serves IPv4 and IPv6, or of the `bridge` family,
//! which sees the frames that pass a bridge of the node.

use super::expression::{Expr, Verdict};
use std::net::IpAddr;

pub(crate) const INET: u8 = libc::NFPROTO_INET as u8;
pub(crate) const BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;

/// A table by its name and family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The number of its family (`NFPROTO_*`).
    pub(crate) family: u8,
}

impl Table {
    /// A table of the `inet` family.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), family: INET }
    }

    /// A table of the `bridge` family.
    pub fn bridge(name: impl Into<String>) -> Self {
        Self { name: name.into(), family: BRIDGE }
    }
}

/// Where a base chain hangs in a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Came in, not yet routed.
    Prerouting,
    /// For this namespace itself.
    Input,
    /// Passing through.
    Forward,
    /// Made by this namespace.
    Output,
    /// About to leave.
    Postrouting,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Look and decide.
    Filter,
    /// Rewrite addresses; sees a connection's first packet only.
    Nat,
    /// A change of mark routes the packet anew.
    Route,
}

/// Priority before conntrack.
pub const PRIORITY_RAW: i32 = -300;
/// Priority of mangling, before address rewriting.
pub const PRIORITY_MANGLE: i32 = -150;
/// Priority of rewriting destinations.
pub const PRIORITY_DNAT: i32 = -100;
/// Priority of our decisions on what may pass: after other filters of the node, which may answer with a refusal.
pub const PRIORITY_GUARD: i32 = 10;
/// Priority in the `bridge` family before everything else.
pub const PRIORITY_BRIDGE_FIRST: i32 = -300;
/// Priority of filtering.
pub const PRIORITY_FILTER: i32 = 0;
/// Priority of rewriting sources.
pub const PRIORITY_SNAT: i32 = 100;

/// A chain: a base chain with a hook, or one that others go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: String,
    /// Kind, hook and priority of a base chain.
    pub base: Option<(ChainKind, Hook, i32)>,
}

impl Chain {
    /// A chain that other chains go to.
    pub fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), base: None }
    }

    /// A chain that the kernel enters; its policy is accept.
    pub fn base(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        Self { name: name.into(), base: Some((kind, hook, priority)) }
    }
}

/// A key or value of a set, as bytes in the order that the kernel compares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(Vec<u8>);

impl Value {
    /// A number in the machine's order, as marks and [`Expr::Turn`] are.
    pub fn number(value: u32) -> Self {
        Self(value.to_ne_bytes().to_vec())
    }

    /// A port in network order.
    pub fn port(port: u16) -> Self {
        Self(port.to_be_bytes().to_vec())
    }

    /// A transport protocol.
    pub fn protocol(protocol: u8) -> Self {
        Self(vec![protocol])
    }

    /// The name of an interface.
    pub fn interface(name: &str) -> Self {
        Self(super::expression::interface_name(name))
    }

    /// A hardware address.
    pub fn hardware(address: [u8; 6]) -> Self {
        Self(address.to_vec())
    }

    /// This value, then another in the next 4-byte register.
    pub fn then(mut self, next: Self) -> Self {
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
        self.0.extend_from_slice(&next.0);
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
        self
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self(address.octets().to_vec()),
            IpAddr::V6(address) => Self(address.octets().to_vec()),
        }
    }
}

/// The kernel's and `nft`'s idea of what bytes mean; the length of one in a key of several is padded to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 4 bytes.
    Ipv4,
    /// 16 bytes.
    Ipv6,
    /// 6 bytes.
    Hardware,
    /// 16 bytes, filled with zeros.
    Interface,
    /// 1 byte.
    Protocol,
    /// 2 bytes.
    Port,
    /// 4 bytes in the machine's order.
    Mark,
    /// 4 bytes in the machine's order. Not in a concatenation: `nft list` has no size for it there and aborts, so take
    /// [`Kind::Mark`] instead.
    Number,
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Hardware => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Interface => 41,
        }
    }

    fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Hardware => 6,
            Self::Ipv6 | Self::Interface => 16,
            Self::Ipv4 | Self::Mark | Self::Number => 4,
        }
    }
}

/// The type number and length in bytes of a value of these kinds in a row.
pub(crate) fn layout(kinds: &[Kind]) -> (u32, u32) {
    match kinds {
        [one] => (one.number(), one.length()),
        several => several
            .iter()
            .fold((0, 0), |(number, length), kind| ((number << 6) | kind.number(), length + kind.length().next_multiple_of(4))),
    }
}

/// What a map gives for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Nothing: it is a set.
    Membership,
    /// Bytes of these kinds.
    Values(Vec<Kind>),
    /// The packet's fate.
    Verdicts,
}

/// One entry of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// A member of a set.
    Member(Value),
    /// A key and its value.
    Entry(Value, Value),
    /// A key and what it decides.
    Decision(Value, Verdict),
}

/// A set or map: named, or, within one rule, its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name in the table; [`Map::OWN_NAME`] for a rule's own.
    pub name: String,
    /// What the key is made of.
    pub key: Vec<Kind>,
    /// What it gives.
    pub gives: Gives,
    /// Its entries when it is made.
    pub elements: Vec<Element>,
}

impl Map {
    /// The kernel replaces the placeholder by a free number.
    pub const OWN_NAME: &'static str = "__map%d";

    /// A named set or map.
    pub fn named(name: impl Into<String>, key: Vec<Kind>, gives: Gives) -> Self {
        Self { name: name.into(), key, gives, elements: Vec::new() }
    }

    /// A constant map of one rule.
    pub fn own(key: Vec<Kind>, gives: Gives, elements: Vec<Element>) -> Self {
        Self { name: Self::OWN_NAME.to_owned(), key, gives, elements }
    }

    /// The same with entries.
    pub fn with(mut self, elements: Vec<Element>) -> Self {
        self.elements = elements;
        self
    }
}

/// A rule: it is appended to a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain.
    pub chain: String,
    /// Its steps in order.
    pub expressions: Vec<Expr>,
}

impl Rule {
    /// A rule of steps given in groups.
    pub fn new(chain: impl Into<String>, groups: impl IntoIterator<Item = Vec<Expr>>) -> Self {
        Self { chain: chain.into(), expressions: groups.into_iter().flatten().collect() }
    }
}
