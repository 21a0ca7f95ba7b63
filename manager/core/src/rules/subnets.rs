//! Addresses and subnets as numbers.

use ipnet::IpNet;
pub(crate) use skep_model::network::hosts;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// A number as an address of a family.
pub(crate) fn address(number: u128, ipv4: bool) -> IpAddr {
    match (ipv4, u32::try_from(number)) {
        (true, Ok(number)) => IpAddr::V4(Ipv4Addr::from(number)),
        (true, Err(_)) => IpAddr::V4(Ipv4Addr::BROADCAST),
        (false, _) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Whether a network is of IPv4.
pub(crate) fn is_ipv4(net: IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}
