//! From one object, and those it refers to, to its rows.

use crate::name::{Mac, Name, bridge_name, interface_name, veth_name, vxlan_name};
use crate::object::{Endpoint, EndpointId, Network, Node, Site};
use crate::row::{FdbTable, FdbTarget, Key, Link, Namespace, Place, Port, Setting, Value};
use ipnet::IpNet;
use skep_model::TaskId;
use std::net::IpAddr;

pub type Row = (Place, Value);

/// A namespace with its loopback link up.
pub fn task(task: TaskId) -> Vec<Row> {
    vec![(Place::task(task, Key::Namespace), Value::Present), (Place::task(task, Key::Up(Name::LOOPBACK)), Value::Present)]
}

/// The bridge and the VXLAN device of a network.
pub fn network(node: &Node, network: &Network) -> Vec<Row> {
    let (bridge, vxlan) = (bridge_name(network.vni), vxlan_name(network.vni));
    let mtu = mtu(node, network);
    let mut rows = vec![
        (Place::node(Key::Link(bridge)), Value::Link(Link::Bridge)),
        (Place::node(Key::Link(vxlan)), Value::Link(Link::Vxlan { vni: network.vni, local: node.address, port: node.port })),
        (Place::node(Key::Port(vxlan)), port_of(bridge)),
    ];
    for link in [bridge, vxlan] {
        rows.extend(link_of_node(link, mtu));
    }
    rows
}

/// What an endpoint needs: the pair into its task, or the rows that lead to it.
pub fn endpoint(node: &Node, network: &Network, id: EndpointId, endpoint: &Endpoint) -> Vec<Row> {
    match endpoint.site {
        Site::Here { interface } => local(node, network, id, endpoint, interface),
        Site::There(address) => remote(network, endpoint, address),
    }
}

/// An MTU that a user asked for is a wish for smaller packets; larger ones than
/// the underlay leaves would vanish on the way.
fn mtu(node: &Node, network: &Network) -> u32 {
    network.mtu.map_or(node.overlay_mtu(), |wish| wish.min(node.overlay_mtu()))
}

/// No row but ours says who is behind a port, so it neither learns nor floods.
fn port_of(bridge: Name) -> Value {
    Value::Port(Port { bridge: Some(bridge), learning: false, flood: false })
}

/// The node itself is not on the overlay: its links there get no address.
fn link_of_node(link: Name, mtu: u32) -> [Row; 3] {
    [
        (Place::node(Key::Mtu(link)), Value::Mtu(mtu)),
        (Place::node(Key::Setting(link, Setting::AddressGeneration)), Value::Setting(1)),
        (Place::node(Key::Up(link)), Value::Present),
    ]
}

fn local(node: &Node, network: &Network, id: EndpointId, endpoint: &Endpoint, interface: u8) -> Vec<Row> {
    // Without an address inside the network there is nothing to attach.
    let Some(offset) = endpoint.addresses.iter().find_map(|address| offset(network, *address)) else { return Vec::new() };
    let (task, mtu) = (TaskId(id.owner), mtu(node, network));
    let (outer, inner) = (veth_name(network.vni, offset), interface_name(interface));
    let mac = Mac::of(endpoint.addresses[0]);
    let inside = |key| Place::task(task, key);
    let pair = |peer| Value::Link(Link::Veth { peer: Some(peer) });
    let mut rows = vec![
        (Place::node(Key::Link(outer)), pair((Namespace::Task(task), inner))),
        (inside(Key::Link(inner)), pair((Namespace::Node, outer))),
        (Place::node(Key::Port(outer)), port_of(bridge_name(network.vni))),
        (Place::node(Key::Fdb(outer, mac, FdbTable::Bridge)), Value::Fdb(FdbTarget::Here)),
        (inside(Key::Mtu(inner)), Value::Mtu(mtu)),
        (inside(Key::Mac(inner)), Value::Mac(mac)),
        (inside(Key::Setting(inner, Setting::AcceptAdvertisements)), Value::Setting(0)),
        (inside(Key::Up(inner)), Value::Present),
    ];
    rows.extend(link_of_node(outer, mtu));
    for (address, subnet) in endpoint.addresses.iter().filter_map(|address| Some((*address, network.subnet_of(*address)?))) {
        let net = IpNet::new(address, subnet.prefix_len()).expect("the prefix is of the address's family");
        rows.push((inside(Key::Address(inner, net)), Value::Present));
        rows.push((inside(Key::Route(inner, subnet)), Value::Route(None)));
    }
    rows
}

fn remote(network: &Network, endpoint: &Endpoint, address: IpAddr) -> Vec<Row> {
    let vxlan = vxlan_name(network.vni);
    let mac = Mac::of(endpoint.addresses[0]);
    let mut rows = vec![
        (Place::node(Key::Fdb(vxlan, mac, FdbTable::Vxlan)), Value::Fdb(FdbTarget::Node(address))),
        (Place::node(Key::Fdb(vxlan, mac, FdbTable::Bridge)), Value::Fdb(FdbTarget::Here)),
    ];
    let reachable = endpoint.addresses.iter().filter(|address| network.subnet_of(**address).is_some());
    rows.extend(reachable.map(|address| (Place::node(Key::Neighbour(vxlan, *address)), Value::Mac(mac))));
    rows
}

/// The place of an address in the network's first subnet, if it fits 24 bits:
/// that is what the name of its pair has room for.
fn offset(network: &Network, address: IpAddr) -> Option<u32> {
    let first = network.subnets.first().filter(|net| net.contains(&address))?;
    let distance = match (address, first.network()) {
        (IpAddr::V4(address), IpAddr::V4(base)) => u128::from(u32::from(address) - u32::from(base)),
        (IpAddr::V6(address), IpAddr::V6(base)) => u128::from(address) - u128::from(base),
        _ => return None,
    };
    u32::try_from(distance).ok().filter(|distance| *distance < 1 << 24)
}
