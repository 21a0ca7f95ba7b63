//! Names of links and hardware addresses, both derived and never stored: whoever
//! knows the network number and the address knows them.

use std::fmt;
use std::net::IpAddr;

/// The kernel's limit for the name of a link, in bytes.
pub const NAME_MAX: usize = 15;

/// The name of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name([u8; NAME_MAX]);

/// A text that cannot name a link: empty, longer than 15 bytes, or not printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTooLong;

impl fmt::Display for NameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of a link has 1 to {NAME_MAX} printable characters")
    }
}

impl std::error::Error for NameTooLong {}

impl Name {
    /// The loopback link.
    pub const LOOPBACK: Self = Self(*b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0");

    /// A name from text.
    ///
    /// # Errors
    /// If the kernel would not take it.
    pub fn new(text: &str) -> Result<Self, NameTooLong> {
        let fits = !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !fits {
            return Err(NameTooLong);
        }
        let mut bytes = [0; NAME_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_MAX);
        std::str::from_utf8(&self.0[..length]).expect("a name holds ASCII only")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn derived(text: &str) -> Name {
    Name::new(text).expect("derived names fit by their construction")
}

/// The bridge of the network `vni` on this node.
pub fn bridge_name(vni: u32) -> Name {
    derived(&format!("sk{vni:06x}b"))
}

/// The VXLAN device of the network `vni` on this node.
pub fn vxlan_name(vni: u32) -> Name {
    derived(&format!("sk{vni:06x}x"))
}

/// The node's end of the pair that leads to the endpoint at `offset` in the first
/// subnet of its network; `offset` is below 2^24, so the name is the endpoint's
/// alone.
pub fn veth_name(vni: u32, offset: u32) -> Name {
    derived(&format!("sk{vni:06x}e{offset:06x}"))
}

/// The bridge over which this node's tasks leave it.
pub fn gateway_bridge_name() -> Name {
    derived("skgwbr")
}

/// The node's end of the pair that leads from the gateway bridge to the task with
/// this number behind it, which is below 2^24.
pub fn gateway_veth_name(offset: u32) -> Name {
    derived(&format!("skgwe{offset:06x}"))
}

/// The name of a task's interface.
pub fn interface_name(number: u8) -> Name {
    derived(&format!("eth{number}"))
}

/// Whether a link of the node's namespace is netd's.
pub fn is_of_node(name: &str) -> bool {
    let hex = |text: &str| text.len() == 6 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let Some(rest) = name.strip_prefix("sk") else { return false };
    match rest.len() {
        4 => rest == "gwbr",
        9 => rest.strip_prefix("gwe").is_some_and(hex),
        7 => rest.is_char_boundary(6) && hex(&rest[..6]) && matches!(&rest[6..], "b" | "x"),
        13 => rest.is_char_boundary(6) && rest.is_char_boundary(7) && hex(&rest[..6]) && &rest[6..7] == "e" && hex(&rest[7..]),
        _ => false,
    }
}

/// Whether a link of a task's namespace is netd's.
pub fn is_of_task(name: &str) -> bool {
    name == "lo"
        || name.strip_prefix("eth").is_some_and(|number| number.parse::<u8>().is_ok_and(|parsed| parsed.to_string() == number))
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The one address that an interface with this IP has, wherever it runs: a
    /// neighbour's cache then outlives a move of the task without being wrong.
    /// v4 as Swarm makes it; v6 folds all 16 bytes into four.
    pub fn of(address: IpAddr) -> Self {
        let tail = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => fold(v6.octets()),
        };
        let second = if address.is_ipv4() { 0x42 } else { 0x46 };
        Self([0x02, second, tail[0], tail[1], tail[2], tail[3]])
    }
}

/// FNV-1a over the first 12 bytes, added to the last four: neighbours in one
/// subnet differ in the last four bytes, so they can never collide.
fn fold(octets: [u8; 16]) -> [u8; 4] {
    let prefix = octets[..12].iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let last = u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]);
    prefix.wrapping_add(last).to_be_bytes()
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_recognised() {
        let (gateway, behind) = (gateway_bridge_name(), gateway_veth_name(0xff_ffff));
        for name in [bridge_name(0xff_ffff), vxlan_name(4096), veth_name(0xff_ffff, 0xff_ffff), gateway, behind] {
            assert!(name.as_str().len() <= NAME_MAX && is_of_node(name.as_str()), "{name}");
        }
        for (name, node, task) in [
            ("lo", false, true),
            ("eth0", false, true),
            ("eth007", false, false),
            ("eth", false, false),
            ("sk001000q", false, false),
            ("sk00100éb", false, false),
            ("skeleton", false, false),
            ("sk001000e00000g", false, false),
            ("skgwe00000g", false, false),
            ("skgwbx", false, false),
        ] {
            assert_eq!((is_of_node(name), is_of_task(name)), (node, task), "{name}");
        }
        assert_eq!(Name::new("0123456789abcdef"), Err(NameTooLong));
        assert_eq!(Name::LOOPBACK, Name::new("lo").unwrap());
    }

    #[test]
    fn hardware_addresses_follow_addresses() {
        assert_eq!(Mac::of("10.7.0.12".parse().unwrap()).to_string(), "02:42:0a:07:00:0c");
        let one = Mac::of("fd07::12".parse().unwrap());
        assert_ne!(one, Mac::of("fd07::13".parse().unwrap()));
        assert_ne!(one, Mac::of("fd08::12".parse().unwrap()));
        assert_eq!(one.0[0] & 3, 2, "locally administered and not a group");
    }
}
