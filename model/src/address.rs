//! The addresses of a node, as users name them.
//!
//! One check for whoever takes one: the command line, the node's daemon, the leader that
//! admits a node, and the leader that hears what a node says of itself.

use crate::network::InvalidField;
use std::net::{IpAddr, Ipv4Addr};

/// The longest name of a network interface, in bytes (`IFNAMSIZ` of Linux, without its end).
const INTERFACE_MAX: usize = 15;

/// An address that a user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// By itself.
    Address(IpAddr),
    /// As the one of an interface.
    Interface(String),
}

/// Addresses at which a newcomer says that others reach it, and what speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClaimedAddresses {
    /// The advertised one.
    pub advertise: Option<IpAddr>,
    /// The one for overlay traffic, if it is another.
    pub data_path: Option<IpAddr>,
    /// Where its connection comes from.
    pub seen: Option<IpAddr>,
}

/// Checks an address that a node shall be reached at. A loopback address is one for a
/// cluster of one node; who joins others refuses it as well ([`check_underlay_of_several`]).
///
/// # Errors
/// Says what kind of address it is.
pub fn check_underlay(address: IpAddr) -> Result<(), InvalidField> {
    let kind = match address {
        _ if address.is_unspecified() => "it is the unspecified address",
        _ if address.is_multicast() => "it is a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "it is the broadcast address",
        // RFC 1112, 4 and RFC 6890, table 1: no interface has one.
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => "it is a reserved address (240.0.0.0/4)",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "it is an address of no network (0.0.0.0/8)",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "it is a link-local address, which means nothing without its link",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "it is an IPv4 address in IPv6 form: write it as IPv4",
        _ => return Ok(()),
    };
    Err(InvalidField::new("data path address", address, format!("{kind}; name an address of this node that other nodes reach")))
}

/// As [`check_underlay`], for a node that has others to reach.
///
/// # Errors
/// Says what kind of address it is.
pub fn check_underlay_of_several(address: IpAddr) -> Result<(), InvalidField> {
    check_underlay(address)?;
    if !address.is_loopback() {
        return Ok(());
    }
    let reason = "it is a loopback address, at which no other node reaches this one; name an address that they do";
    Err(InvalidField::new("data path address", address, reason))
}

/// Reads an address that a user names for a node with `--advertise-addr`: an address or an
/// interface, with a port or without.
///
/// # Errors
/// If it can be none.
pub fn advertised(text: &str) -> Result<(Named, Option<u16>), InvalidField> {
    named("--advertise-addr", text, "with an optional port")
}

/// Reads an address that a user names for a node with `--data-path-addr`: an address or an
/// interface.
///
/// # Errors
/// If it can be none.
pub fn data_path(text: &str) -> Result<Named, InvalidField> {
    match named("--data-path-addr", text, "without a port")? {
        (named, None) => Ok(named),
        (_, Some(_)) => Err(malformed("--data-path-addr", text, "without a port")),
    }
}

fn named(flag: &'static str, text: &str, port: &str) -> Result<(Named, Option<u16>), InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new(flag, text, "it is empty: name an IP address or network interface, or leave the flag out"));
    }
    let (host, port) = split(text).ok_or_else(|| malformed(flag, text, port)).and_then(|(host, found)| {
        let is_name = !host.contains('/') && !host.contains(char::is_whitespace) && host.len() <= INTERFACE_MAX;
        let is_address = host.parse::<IpAddr>().is_ok();
        (is_address || is_name).then_some((host, found)).ok_or_else(|| malformed(flag, text, port))
    })?;
    match host.parse::<IpAddr>() {
        Ok(address) => {
            check_underlay(address).map_err(|invalid| InvalidField::new(flag, text, invalid.reason))?;
            Ok((Named::Address(address), port))
        }
        Err(_) => Ok((Named::Interface(host), port)),
    }
}

fn malformed(flag: &'static str, text: &str, port: &str) -> InvalidField {
    InvalidField::new(flag, text, format!("it must be a non-zero IP address or network interface, {port}"))
}

/// Host and port; none if the port is no number from 1, or there is no host.
pub fn split(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<IpAddr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host.to_owned(), Some(port_of(port)?))),
            None => rest.is_empty().then(|| (host.to_owned(), None)),
        };
    }
    match text.split_once(':') {
        None => (!text.is_empty()).then(|| (text.to_owned(), None)),
        Some((host, port)) => {
            (!host.is_empty()).then_some(()).and_then(|()| port_of(port)).map(|port| (host.to_owned(), Some(port)))
        }
    }
}

fn port_of(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_node_is_one_that_others_can_reach_it_at() {
        let table = [
            ("10.0.0.1", ""),
            ("fd00::9", ""),
            ("203.0.113.7", ""),
            // A cluster of one node may be on loopback.
            ("127.0.0.1", ""),
            ("::1", ""),
            ("0.0.0.0", "it is the unspecified address"),
            ("::", "it is the unspecified address"),
            ("0.0.0.1", "it is an address of no network (0.0.0.0/8)"),
            ("224.0.0.1", "it is a multicast address"),
            ("ff02::1", "it is a multicast address"),
            ("239.255.255.255", "it is a multicast address"),
            ("240.0.0.1", "it is a reserved address (240.0.0.0/4)"),
            ("255.255.255.254", "it is a reserved address (240.0.0.0/4)"),
            ("255.255.255.255", "it is the broadcast address"),
            ("fe80::1", "it is a link-local address"),
            ("::ffff:10.0.0.1", "it is an IPv4 address in IPv6 form"),
        ];
        for (text, expected) in table {
            let found = check_underlay(text.parse().unwrap()).err().map(|invalid| invalid.reason).unwrap_or_default();
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
            for refused in [advertised(text).err(), data_path(text).err()] {
                assert_eq!(refused.map(|invalid| (invalid.value, invalid.reason)).unwrap_or_default().1, found, "{text}");
            }
        }
        assert!(check_underlay_of_several([127, 0, 0, 1].into()).is_err());
    }

    #[test]
    fn what_a_user_names_is_an_address_or_an_interface() {
        let address = |text: &str| Named::Address(text.parse().unwrap());
        let interface = |text: &str| Named::Interface(text.into());
        let shape = "it must be a non-zero IP address or network interface, with an optional port";
        let empty = "it is empty: name an IP address or network interface, or leave the flag out";
        let table = [
            ("10.0.0.1", Ok((address("10.0.0.1"), None))),
            ("10.0.0.1:99", Ok((address("10.0.0.1"), Some(99)))),
            ("[fd00::9]:55", Ok((address("fd00::9"), Some(55)))),
            ("eth0:7", Ok((interface("eth0"), Some(7)))),
            ("", Err(empty)),
            (" ", Err(shape)),
            ("10.0.0.1:0", Err(shape)),
            ("10.0.0.1:+5", Err(shape)),
            ("10.0.0.1:70000", Err(shape)),
            ("10.0.0.0/8", Err(shape)),
            ("a-name-of-sixteen", Err(shape)),
            (":2377", Err(shape)),
            (
                "240.0.0.1:2377",
                Err("it is a reserved address (240.0.0.0/4); name an address of this node that other nodes reach"),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(advertised(text).map_err(|invalid| invalid.reason), expected.map_err(str::to_owned), "{text:?}");
        }
        assert_eq!(data_path("eth0"), Ok(interface("eth0")));
        assert!(data_path("10.0.0.1:4789").is_err_and(|invalid| invalid.reason.ends_with("without a port")));
        assert!(data_path("").is_err_and(|invalid| invalid.to_string() == format!("invalid --data-path-addr \"\": {empty}")));
    }
}
