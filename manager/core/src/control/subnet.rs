//! Which subnets a network gets: those that its maker asks for, checked, or the
//! next free ones of the cluster's pools.
//!
//! Freed subnets are given late: the search begins after the newest network's. A
//! subnet that any node uses itself is never chosen, for its traffic would go
//! astray there; one that is asked for is the asker's own decision.

use crate::store::Store;
use ipnet::{IpNet, Ipv6Net};
use skep_model::Refusal;
use skep_model::cluster::ClusterSpec;
use skep_model::network::{NetworkSpec, Pool};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where IPv6 subnets are taken from unless the cluster's pools have some: a
/// unique local prefix (RFC 4193).
const ULA_POOL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd53, 0x6b65, 0x7000, 0, 0, 0, 0, 0), 48);
/// The prefix length of an IPv6 subnet.
const IPV6_SUBNET: u8 = 64;
/// The longest prefixes that leave room for tasks.
const IPV4_PREFIX_MAX: u8 = 30;
const IPV6_PREFIX_MAX: u8 = 124;

/// The subnets of a new network, each with a gateway, IPv4 first.
pub(super) fn settle(store: &Store, cluster: &ClusterSpec, spec: &NetworkSpec) -> Result<Vec<Pool>, Refusal> {
    let mut pools: Vec<Pool> = Vec::new();
    for pool in &spec.pools {
        let pool = checked(store, spec, pool)?;
        if pools.iter().any(|other| is_ipv4(other.subnet) == is_ipv4(pool.subnet)) {
            let reason = "a network has at most one subnet of each family";
            return Err(Refusal::invalid("subnet", pool.subnet.to_string(), reason));
        }
        pools.push(pool);
    }
    let has = |pools: &[Pool], ipv4: bool| pools.iter().any(|pool| is_ipv4(pool.subnet) == ipv4);
    if !has(&pools, true) {
        pools.push(chosen(store, cluster, spec, true)?);
    }
    if spec.ipv6 && !has(&pools, false) {
        pools.push(chosen(store, cluster, spec, false)?);
    }
    pools.sort_by_key(|pool| pool.subnet);
    Ok(pools)
}

/// A subnet that was asked for, without host bits and with its gateway.
fn checked(store: &Store, spec: &NetworkSpec, pool: &Pool) -> Result<Pool, Refusal> {
    let subnet = pool.subnet.trunc();
    let text = subnet.to_string();
    let refused = |reason: String| Err(Refusal::invalid("subnet", &text, reason));
    if !is_ipv4(subnet) && !spec.ipv6 {
        return refused("an IPv6 subnet needs a network with IPv6 (--ipv6)".into());
    }
    let longest = if is_ipv4(subnet) { IPV4_PREFIX_MAX } else { IPV6_PREFIX_MAX };
    if subnet.prefix_len() == 0 || subnet.prefix_len() > longest {
        return refused(format!("its prefix length must be between 1 and {longest}"));
    }
    if is_special(subnet) {
        return refused("loopback, link-local, multicast and reserved addresses cannot be given to tasks".into());
    }
    if let Some((other, network)) = store.indexes.claims.overlapping(subnet) {
        let name = store.network(network).map_or_else(String::new, |network| network.spec.annotations.name.clone());
        return refused(format!("Pool overlaps with other one on this address space: network {name} has {other}"));
    }
    let (first, last) = hosts(subnet);
    let gateway = pool.gateway.unwrap_or(first);
    if !subnet.contains(&gateway) {
        return Err(Refusal::invalid("gateway", gateway.to_string(), format!("subnet {subnet} does not contain it")));
    }
    if gateway < first || gateway > last {
        return Err(Refusal::invalid("gateway", gateway.to_string(), format!("it is no host's address in {subnet}")));
    }
    let range = pool.range.map(|range| range.trunc());
    if let Some(range) = range {
        if !subnet.contains(&range) {
            return Err(Refusal::invalid("ip-range", range.to_string(), format!("subnet {subnet} does not contain it")));
        }
        let (low, high) = (range.network().max(first), range.broadcast().min(last));
        if low > high || (low == high && low == gateway) {
            return Err(Refusal::invalid("ip-range", range.to_string(), "it has no address for a task"));
        }
    }
    Ok(Pool { subnet, range, gateway: Some(gateway) })
}

/// The next subnet of the pools that overlaps nothing.
fn chosen(store: &Store, cluster: &ClusterSpec, spec: &NetworkSpec, ipv4: bool) -> Result<Pool, Refusal> {
    let mut bases: Vec<IpNet> = cluster.address_pools.iter().copied().filter(|pool| is_ipv4(*pool) == ipv4).collect();
    let length = if ipv4 { u8::try_from(cluster.subnet_size).unwrap_or(u8::MAX) } else { IPV6_SUBNET };
    if bases.is_empty() && !ipv4 {
        bases.push(IpNet::V6(ULA_POOL));
    }
    let taken = occupied(store, spec, ipv4);
    let newest = store.indexes.claims.newest_subnet(ipv4);
    let start = newest.and_then(|newest| bases.iter().position(|base| base.contains(&newest)));
    // First the rest of the newest one's pool, then the pools after it and those before it, last its beginning.
    let from = newest.filter(|_| start.is_some()).map_or(0, |newest| number(newest.broadcast()).saturating_add(1));
    let in_turn = bases.iter().cycle().skip(start.unwrap_or(0)).take(bases.len() + 1).enumerate();
    let mut places = in_turn.map(|(turn, base)| (*base, if turn == 0 { from } else { 0 }));
    let found = places.find_map(|(base, from)| first_free(store, base, from, length, &taken));
    let Some(subnet) = found else {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        let pools = bases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let name = &spec.annotations.name;
        let text = format!(
            "could not find an available, non-overlapping {family} address pool of size /{length} among {pools} to assign to network {name}"
        );
        return Err(Refusal::Exhausted(text));
    };
    Ok(Pool { subnet, range: None, gateway: Some(hosts(subnet).0) })
}

/// The first subnet of `length` in a pool, from the address `from` on, that
/// overlaps no network and nothing of `taken`. What overlaps is skipped whole.
fn first_free(store: &Store, base: IpNet, from: u128, length: u8, taken: &[IpNet]) -> Option<IpNet> {
    if length < base.prefix_len() || length > base.max_prefix_len() {
        return None;
    }
    let size = 1_u128 << (base.max_prefix_len() - length);
    let last = number(base.broadcast());
    let mut at = from.max(number(base.network())).checked_next_multiple_of(size)?;
    while at <= last {
        let subnet = IpNet::new(address(at, is_ipv4(base)), length).ok()?;
        let other = store.indexes.claims.overlapping(subnet).map(|(other, _)| other);
        let in_the_way = other.or_else(|| taken.iter().copied().find(|net| net.contains(&subnet) || subnet.contains(net)));
        let Some(in_the_way) = in_the_way else { return Some(subnet) };
        at = number(in_the_way.broadcast()).max(number(subnet.broadcast())).checked_add(1)?.checked_next_multiple_of(size)?;
    }
    None
}

/// What nodes use themselves and what the network's own other subnet has. A
/// default route is no network.
fn occupied(store: &Store, spec: &NetworkSpec, ipv4: bool) -> Vec<IpNet> {
    let underlays = store.nodes().filter_map(|node| node.description.underlay.as_ref());
    let of_nodes = underlays.flat_map(|underlay| {
        let address = IpNet::from(underlay.address);
        underlay.occupied.iter().copied().chain([address])
    });
    let mut all: Vec<IpNet> = of_nodes.chain(spec.pools.iter().map(|pool| pool.subnet.trunc())).collect();
    all.retain(|net| is_ipv4(*net) == ipv4 && net.prefix_len() > 0);
    IpNet::aggregate(&all)
}

/// The first and the last address that a host may have.
pub(crate) fn hosts(subnet: IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = (number(subnet.network()), number(subnet.broadcast()));
    let ipv4 = is_ipv4(subnet);
    // IPv6 has no broadcast address; its first one is every router's.
    (address(first + 1, ipv4), address(if ipv4 { last - 1 } else { last }, ipv4))
}

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

fn is_special(subnet: IpNet) -> bool {
    let special = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"];
    special.iter().filter_map(|net| net.parse::<IpNet>().ok()).any(|net| net.contains(&subnet) || subnet.contains(&net))
}
