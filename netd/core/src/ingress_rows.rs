//! The rows of the routing mesh: the ingress gateways of nodes, and the policy routes
//! (by fwmark) back to them for the replies of tasks.
//!
//! A task's answers must leave through the node that the question came in by: the
//! tables mark a connection with that node's number ([`ingress_mark`]), and the mark
//! chooses a routing table whose one route leads to that node's gateway. All ways
//! are there beforehand: one that is made for a first packet comes too late for its
//! answer, and the client waits a second before it asks again.

use crate::capabilities::carries;
use crate::link_rows::{Row, bridge_with_addresses, everything, far, interface, is_attachable, subnet_of, with_prefix_of};
use crate::mark::ingress_mark;
use crate::name::{Mac, Name};
use crate::overlay::NodeOverlay;
use crate::row::{Family, Key, Place, Setting, Sysctl, Value};
use ipnet::IpNet;
use skep_model::TaskId;
use skep_model::overlay::{LocalTask, NodeNetwork, Peer};
use std::net::IpAddr;

/// This node's own gateway: its bridge of the ingress network, with addresses.
pub fn own_gateway(network: &NodeNetwork, addresses: &[IpAddr], bridge: Name, mtu: u32) -> Vec<Row> {
    let within = |address: &IpAddr| with_prefix_of(*address, subnet_of(network, *address)?);
    let addresses: Vec<IpNet> = addresses.iter().filter_map(within).collect();
    bridge_with_addresses(bridge, &addresses, mtu)
}

/// FDB and neighbour rows of another node's gateway.
pub fn far_gateway(overlay: &NodeOverlay, peer: &Peer) -> Vec<Row> {
    let place = overlay.ingress().and_then(|network| Some((network, peer.ingress.as_ref()?, overlay.mtu(network)?)));
    match place {
        Some((network, ingress, mtu)) if overlay.why_unreachable(peer).is_none() => {
            far(network, &ingress.addresses, peer.address, mtu)
        }
        _ => Vec::new(),
    }
}

/// What a task needs to answer by whatever way it was asked.
pub fn settings(task: TaskId, interface: Name) -> Vec<Row> {
    let inside = |key, value| (Place::task(task, key), Value::Setting(value));
    vec![
        inside(Key::Sysctl(Sysctl::ReversePath), 0),
        inside(Key::Sysctl(Sysctl::MarkAccepted), 1),
        inside(Key::Sysctl(Sysctl::MarkReflected4), 1),
        inside(Key::Sysctl(Sysctl::MarkReflected6), 1),
        inside(Key::Setting(interface, Setting::ReversePath), 0),
    ]
}

/// The way of a task's answers to one ingress node.
pub fn way_back(overlay: &NodeOverlay, task: &LocalTask, peer: &Peer) -> Vec<Row> {
    let Some((ingress, network)) = peer.ingress.as_ref().zip(overlay.ingress()) else { return Vec::new() };
    let place = task.attachments.iter().position(|attachment| attachment.network == network.id);
    let Some((place, attachment)) = place.map(|place| (place, &task.attachments[place])) else { return Vec::new() };
    let (interface, mark) = (interface(place), ingress_mark(ingress.number));
    let Some(mac) = ingress.addresses.first().map(|first| Mac::of(*first)) else { return Vec::new() };
    let inside = |key, value| (Place::task(task.id, key), value);
    // The interface must be there, and have an address beside the gateway's.
    let Some(mtu) = overlay.mtu(network).filter(|_| is_attachable(network, attachment)) else { return Vec::new() };
    let is_usable = |address: &&IpAddr| {
        let subnet = subnet_of(network, **address).filter(|_| carries(mtu, **address));
        subnet.is_some_and(|subnet| attachment.addresses.iter().any(|own| subnet.contains(own)))
    };
    let mut rows = Vec::new();
    for address in ingress.addresses.iter().filter(is_usable) {
        let family = Family::of(*address);
        rows.push(inside(Key::Neighbour(interface, *address), Value::Mac(mac)));
        rows.push(inside(Key::Rule(family, mark), Value::Table(mark)));
        rows.push(inside(Key::Via(interface, mark, everything(*address)), Value::Hop(*address)));
    }
    rows
}
