//! The node's place on the network that carries the overlays, and what of the
//! address space it uses itself: no overlay whose subnet the cluster chooses may
//! overlap that, or the node would lose its way there.
//!
//! Read from the kernel's own tables under `/proc`; our own links do not count.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::node::Underlay;
use skep_model::said::OCCUPIED_MAX;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How the names of our own links begin.
const OWN_LINKS: &str = "sk";

/// The node's address, and the networks that it uses now.
pub fn of(address: IpAddr) -> Underlay {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut occupied = BTreeSet::new();
    occupied.extend(addresses());
    occupied.extend(routes_v4(&read("/proc/net/route")));
    occupied.extend(routes_v6(&read("/proc/net/ipv6_route")));
    occupied.extend(resolvers(&read("/etc/resolv.conf")));
    occupied.retain(is_of_interest);
    if occupied.len() > OCCUPIED_MAX {
        tracing::warn!(networks = occupied.len(), "this node uses more networks than it can tell of");
    }
    Underlay {
        address,
        // One too many, so that the manager knows that there are more.
        occupied: occupied.into_iter().take(OCCUPIED_MAX + 1).collect(),
        lacks_ipv6: lacks_ipv6(address).unwrap_or_default(),
    }
}

/// Why tasks of this node have no IPv6 over VXLAN, if they have none: by the same rules
/// as the network daemon's, so that no node is told of addresses that are not there.
fn lacks_ipv6(address: IpAddr) -> Option<String> {
    let read = |path: String| std::fs::read_to_string(path).ok();
    let of_node = skep_model::node::lacks_ipv6(|setting| read(format!("/proc/sys/net/ipv6/conf/{setting}")));
    of_node.or_else(|| {
        let link = link_of(address)?;
        // Too small a link has no such file: the kernel took its IPv6 away.
        let mtu = read(format!("/proc/sys/net/ipv6/conf/{link}/mtu")).and_then(|text| text.trim().parse().ok());
        skep_model::node::lacks_room(address, mtu.unwrap_or(0))
    })
}

/// The link with an address.
fn link_of(address: IpAddr) -> Option<String> {
    let mut links = nix::ifaddrs::getifaddrs().ok()?;
    links.find(|entry| entry.address.as_ref().and_then(ip) == Some(address)).map(|entry| entry.interface_name)
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Overlays are never cut from these anyway.
fn is_of_interest(network: &IpNet) -> bool {
    let address = network.addr();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    network.prefix_len() > 0 && !address.is_loopback() && !address.is_multicast() && !is_link_local
}

fn is_own(link: &str) -> bool {
    link.starts_with(OWN_LINKS)
}

/// The subnets of the addresses of this node's links.
fn addresses() -> Vec<IpNet> {
    let Ok(found) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let subnet = |entry: nix::ifaddrs::InterfaceAddress| {
        if is_own(&entry.interface_name) {
            return None;
        }
        let (address, mask) = (entry.address.as_ref().and_then(ip)?, entry.netmask.as_ref().and_then(ip)?);
        IpNet::with_netmask(address, mask).ok().map(|network| network.trunc())
    };
    found.filter_map(subnet).collect()
}

/// Destinations in `/proc/net/route`: numbers in hexadecimal, in the machine's order.
fn routes_v4(table: &str) -> Vec<IpNet> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (link, to, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        let address = |text: &str| u32::from_str_radix(text, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()));
        let network = Ipv4Net::with_netmask(address(to)?, address(mask)?).ok()?;
        (!is_own(link)).then(|| IpNet::V4(network.trunc()))
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// Destinations in `/proc/net/ipv6_route`.
fn routes_v6(table: &str) -> Vec<IpNet> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (to, length, link) = (fields.first()?, fields.get(1)?, fields.last()?);
        let address = Ipv6Addr::from(u128::from_str_radix(to, 16).ok()?);
        let network = Ipv6Net::new(address, u8::from_str_radix(length, 16).ok()?).ok()?;
        (!is_own(link) && *link != "lo").then(|| IpNet::V6(network.trunc()))
    };
    table.lines().filter_map(route).collect()
}

/// The servers in a `resolv.conf`, each a network of one address.
fn resolvers(text: &str) -> Vec<IpNet> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        // A link-local one names its link behind a `%`.
        let address = words.next()?.split('%').next()?.parse::<IpAddr>().ok()?;
        is_server.then(|| IpNet::from(address))
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: Vec<IpNet>, expected: &[&str]) {
        let found: Vec<String> = found.iter().filter(|network| is_of_interest(network)).map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_the_node_uses_is_read_from_the_kernels_tables() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        // As a little-endian machine writes them, which is what this one must be.
        let v4 = "eth0\t00000000\t0101000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth0\t0001000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  sk4097b\t0000640A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                  eth1\tbad\n";
        #[cfg(target_endian = "little")]
        check(routes_v4(&format!("{head}{v4}")), &["10.0.1.0/24"]);
        let zero = "00000000000000000000000000000000 00 00000000000000000000000000000000";
        let route =
            |to: &str, length: &str, link: &str| format!("{to} {length} {zero} 00000400 00000001 00000000 00000001 {link}\n");
        let v6 = [
            route("fd000000000000000000000000000000", "40", "eth0"),
            route("fe800000000000000000000000000000", "40", "eth0"),
            route("00000000000000000000000000000000", "00", "eth0"),
            route("fd010000000000000000000000000000", "40", "skgw"),
            route("fd020000000000000000000000000001", "80", "lo"),
        ];
        check(routes_v6(&v6.concat()), &["fd00::/64"]);
        let text = "# a comment\nsearch example\nnameserver 10.0.0.53\nnameserver 127.0.0.53\nnameserver fd00::53\nnameserver fe80::1%eth0\n";
        check(resolvers(text), &["10.0.0.53/32", "fd00::53/128"]);
    }

    #[test]
    fn this_machines_address_stays_as_given() {
        let underlay = of("192.0.2.1".parse().unwrap());
        assert_eq!(underlay.address.to_string(), "192.0.2.1");
        assert!(underlay.occupied.iter().all(|network| network.prefix_len() > 0));
    }
}
