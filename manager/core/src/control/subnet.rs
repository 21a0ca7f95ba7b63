//! Which subnets a network gets: those that its maker asks for, checked, or the
//! next free ones of the cluster's pools.
//!
//! Freed subnets are given late: the search begins after the newest network's. A
//! subnet that any node uses itself is chosen last, and never for the ingress network,
//! whose addresses nodes reach themselves; one that is asked for is the asker's own
//! decision. The beginning of 10.0.0.0/8 is chosen after all else, so that the subnets
//! which documents and stack files name are free.

use crate::rules::subnets::{address, hosts, is_ipv4, number};
use crate::store::Store;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::Refusal;
use skep_model::cluster::ClusterSpec;
use skep_model::network::{NetworkSpec, Pool};
use skep_model::node::Node;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Where IPv6 subnets are taken from unless the cluster's pools have some: a
/// unique local prefix (RFC 4193).
const ULA_POOL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd53, 0x6b65, 0x7000, 0, 0, 0, 0, 0), 48);
/// What users name most: given by the cluster only when the rest of its pools is.
const LEFT_TO_USERS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 10);
/// The prefix length of an IPv6 subnet.
const IPV6_SUBNET: u8 = 64;

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
    let pool = pool.checked()?;
    if let Some((other, network)) = store.indexes.claims.overlapping(subnet) {
        let name = store.network(network).map_or_else(String::new, |network| network.spec.annotations.name.clone());
        return refused(format!("Pool overlaps with other one on this address space: network {name} has {other}"));
    }
    Ok(pool)
}

/// The next subnet of the pools that overlaps nothing.
fn chosen(store: &Store, cluster: &ClusterSpec, spec: &NetworkSpec, ipv4: bool) -> Result<Pool, Refusal> {
    let mut bases: Vec<IpNet> = cluster.address_pools.iter().copied().filter(|pool| is_ipv4(*pool) == ipv4).collect();
    let length = if ipv4 { u8::try_from(cluster.subnet_size).unwrap_or(u8::MAX) } else { IPV6_SUBNET };
    if bases.is_empty() && !ipv4 {
        bases.push(IpNet::V6(ULA_POOL));
    }
    let newest = store.indexes.claims.newest_subnet(ipv4);
    let start = newest.and_then(|newest| bases.iter().position(|base| base.contains(&newest)));
    // First the rest of the newest one's pool, then the pools after it and those before it, last its beginning.
    let from = newest.filter(|_| start.is_some()).map_or(0, |newest| number(newest.broadcast()).saturating_add(1));
    let find = |taken: &[IpNet]| {
        let in_turn = bases.iter().cycle().skip(start.unwrap_or(0)).take(bases.len() + 1).enumerate();
        let mut places = in_turn.map(|(turn, base)| (*base, if turn == 0 { from } else { 0 }));
        places.find_map(|(base, from)| first_free(store, base, from, length, taken))
    };
    let addresses = family(store.nodes().filter_map(|node| Some(IpNet::from(node.description.underlay.as_ref()?.address))), ipv4);
    let own = family(spec.pools.iter().map(|pool| pool.subnet.trunc()), ipv4);
    let used = family(uses(store).map(|(_, net)| net), ipv4);
    let needed = [own, addresses].concat();
    let routed = [&needed[..], &used[..]].concat();
    let left_to_users = [&routed[..], &[IpNet::V4(LEFT_TO_USERS)]].concat();
    // What is only on the network itself is not in the way of a node's own routes, nor they in its way: better such
    // a subnet than none. Published ports are reached from the node itself, so the ingress network's is the node's own.
    let anyway = || if spec.ingress { None } else { find(&IpNet::aggregate(&needed)) };
    let found = find(&IpNet::aggregate(&left_to_users)).or_else(|| find(&IpNet::aggregate(&routed))).or_else(anyway);
    let Some(subnet) = found else {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        let pools = bases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let name = &spec.annotations.name;
        let in_the_way = in_the_way(store, &bases);
        let text = format!(
            "could not find an available, non-overlapping {family} address pool of size /{length} among {pools} to assign to network {name}{in_the_way}"
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

/// What nodes use themselves, each with the node's name. A default route is no network.
fn uses(store: &Store) -> impl Iterator<Item = (&str, IpNet)> {
    let nets = |node: &Node| node.description.underlay.as_ref().map(|underlay| underlay.occupied.clone()).unwrap_or_default();
    let of_node = store.nodes().flat_map(move |node| nets(node).into_iter().map(|net| (node.description.hostname.as_str(), net)));
    of_node.filter(|(_, net)| net.prefix_len() > 0)
}

fn family(nets: impl Iterator<Item = IpNet>, ipv4: bool) -> Vec<IpNet> {
    nets.filter(|net| is_ipv4(*net) == ipv4).collect()
}

/// Which node's network takes most of the pools, for the refusal.
fn in_the_way(store: &Store, pools: &[IpNet]) -> String {
    let overlaps = |net: &IpNet| pools.iter().any(|pool| pool.contains(net) || net.contains(pool));
    let widest = uses(store).filter(|(_, net)| overlaps(net)).min_by_key(|(hostname, net)| (net.prefix_len(), *hostname));
    widest.map_or_else(String::new, |(hostname, net)| {
        format!(
            ": node {hostname} has a route to {net}; name a subnet (--subnet), or other pools with swarm init --default-addr-pool"
        )
    })
}
