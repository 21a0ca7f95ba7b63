//! From one object, and those it refers to, to its rows.

use crate::gateway::Gateway;
use crate::ingress_rows;
use crate::name::{Mac, Name, bridge_name, gateway_veth_name, interface_name, veth_name, vxlan_name};
use crate::object::Node;
use crate::overlay::Overlay;
use crate::row::{FdbTable, FdbTarget, Key, Link, Namespace, Place, Port, Setting, Sysctl, TABLE_MAIN, Value};
use ipnet::IpNet;
use skep_model::TaskId;
use skep_model::network::{Attachment, MTU_MIN_IPV6};
use skep_model::overlay::{Endpoint, LocalTask, NodeNetwork};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Row = (Place, Value);

/// A namespace with its loopback link up.
pub fn namespace(task: TaskId) -> Vec<Row> {
    vec![(Place::task(task, Key::Namespace), Value::Present), (Place::task(task, Key::Up(Name::LOOPBACK)), Value::Present)]
}

/// The bridge and the VXLAN device of a network, and the node's place on it if it
/// is the one that published ports are reached over.
pub fn network(overlay: &Overlay, node: &Node, network: &NodeNetwork) -> Vec<Row> {
    let Some(mtu) = overlay.mtu(network) else { return Vec::new() };
    let (bridge, vxlan) = (bridge_name(network.vni), vxlan_name(network.vni));
    let gateway = overlay.here().and_then(|here| here.ingress.as_ref()).filter(|_| network.ingress);
    let mut rows = vec![
        (Place::node(Key::Link(bridge)), Value::Link(Link::Bridge)),
        (Place::node(Key::Link(vxlan)), Value::Link(Link::Vxlan { vni: network.vni, local: node.address, port: node.port })),
        (Place::node(Key::Port(vxlan)), port_of(bridge, false)),
    ];
    rows.extend(bridged_unshown());
    rows.extend(link_of_node(vxlan, mtu));
    match gateway {
        Some(ingress) => rows.extend(ingress_rows::own_gateway(network, &ingress.addresses, bridge, mtu)),
        None => rows.extend(link_of_node(bridge, mtu)),
    }
    rows
}

/// The rows that lead to an endpoint on another node.
pub fn remote(network: &NodeNetwork, endpoint: &Endpoint, at: IpAddr, mtu: u32) -> Vec<Row> {
    far(network, &endpoint.addresses, at, mtu)
}

/// Whether links with this MTU carry the family of an address: the kernel takes IPv6
/// away from a link that is too small for it.
pub fn carries(mtu: u32, address: IpAddr) -> bool {
    address.is_ipv4() || mtu >= MTU_MIN_IPV6
}

/// The rows that lead to an interface with these addresses on another node.
pub fn far(network: &NodeNetwork, addresses: &[IpAddr], at: IpAddr, mtu: u32) -> Vec<Row> {
    let vxlan = vxlan_name(network.vni);
    let Some(mac) = addresses.first().map(|first| Mac::of(*first)) else { return Vec::new() };
    let mut rows = vec![
        (Place::node(Key::Fdb(vxlan, mac, FdbTable::Vxlan)), Value::Fdb(FdbTarget::Node(at))),
        (Place::node(Key::Fdb(vxlan, mac, FdbTable::Bridge)), Value::Fdb(FdbTarget::Here)),
    ];
    let reachable = addresses.iter().filter(|address| carries(mtu, **address) && subnet_of(network, **address).is_some());
    rows.extend(reachable.map(|address| (Place::node(Key::Neighbour(vxlan, *address)), Value::Mac(mac))));
    rows
}

/// The interfaces of a task of this node.
pub fn task(overlay: &Overlay, task: &LocalTask) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, attachment) in task.attachments.iter().enumerate() {
        let Some(network) = overlay.network(attachment.network) else { continue };
        let Some(mtu) = overlay.mtu(network) else { continue };
        let inner = interface_name(number(place));
        rows.extend(attached(network, task.id, attachment, inner, mtu));
        if network.ingress {
            rows.extend(ingress_rows::settings(task.id, inner));
        }
    }
    let behind = overlay.gateway().filter(|_| task.has_gateway).zip(overlay.underlay_mtu());
    if let Some((gateway, mtu)) = behind {
        rows.extend(behind_gateway(gateway, task, mtu));
    }
    rows
}

/// Whether a task can have an interface there.
pub fn is_attachable(network: &NodeNetwork, attachment: &Attachment) -> bool {
    attachment.addresses.iter().any(|address| offset(network, *address).is_some())
}

/// The number of an interface; the limit of attachments leaves it a byte.
pub fn number(place: usize) -> u8 {
    u8::try_from(place).expect("the limit of attachments was checked")
}

/// No row but ours says who is behind a port, so it neither learns nor floods.
fn port_of(bridge: Name, isolated: bool) -> Value {
    Value::Port(Port { bridge: Some(bridge), learning: false, flood: false, isolated })
}

/// What only passes through a bridge is none of the node's: its own firewall would
/// drop some of it, its NAT change some of it, and looking at all of it costs a
/// fifth of the bytes a second.
fn bridged_unshown() -> [Row; 2] {
    [Sysctl::BridgedShown4, Sysctl::BridgedShown6].map(|sysctl| (Place::node(Key::Sysctl(sysctl)), Value::Setting(0)))
}

/// A link of the node that has no address.
fn link_of_node(link: Name, mtu: u32) -> Vec<Row> {
    let mut rows = vec![(Place::node(Key::Mtu(link)), Value::Mtu(mtu)), (Place::node(Key::Up(link)), Value::Present)];
    // A link without IPv6 has no settings of it.
    if mtu >= MTU_MIN_IPV6 {
        rows.push((Place::node(Key::Setting(link, Setting::AddressGeneration)), Value::Setting(1)));
    }
    rows
}

/// A bridge by which the node itself is reached. It asks for its neighbours' v6
/// addresses with one of its own, which it must not wait for.
pub fn bridge_with_addresses(bridge: Name, addresses: &[IpNet], mtu: u32) -> Vec<Row> {
    let mut rows = vec![
        (Place::node(Key::Mtu(bridge)), Value::Mtu(mtu)),
        (Place::node(Key::Setting(bridge, Setting::LoopbackRouted)), Value::Setting(1)),
        (Place::node(Key::Up(bridge)), Value::Present),
    ];
    if mtu >= MTU_MIN_IPV6 {
        rows.push((Place::node(Key::Setting(bridge, Setting::AddressGeneration)), Value::Setting(0)));
        rows.push((Place::node(Key::Setting(bridge, Setting::DuplicateDetection)), Value::Setting(0)));
    }
    if let Some(first) = addresses.first() {
        rows.push((Place::node(Key::Mac(bridge)), Value::Mac(Mac::of(first.addr()))));
    }
    for address in addresses.iter().filter(|address| carries(mtu, address.addr())) {
        rows.push((Place::node(Key::Address(bridge, *address)), Value::Present));
        rows.push((Place::node(Key::Route(bridge, address.trunc())), Value::Present));
        let forward = if address.addr().is_ipv4() { Sysctl::Forward4 } else { Sysctl::Forward6 };
        rows.push((Place::node(Key::Sysctl(forward)), Value::Setting(1)));
    }
    rows
}

/// Whether a network has rows on this node.
pub fn has_rows(overlay: &Overlay, network: &NodeNetwork) -> bool {
    overlay.mtu(network).is_some()
}

/// The node's end of the pair that attaches a task to a network, the hardware
/// address of the task's end, and the addresses that the task has there. Without an
/// address inside the network there is nothing to attach.
pub fn attached_port(network: &NodeNetwork, attachment: &Attachment) -> Option<(Name, Mac, Vec<IpAddr>)> {
    let offset = attachment.addresses.iter().find_map(|address| offset(network, *address))?;
    let own = attachment.addresses.iter().copied().filter(|address| subnet_of(network, *address).is_some());
    Some((veth_name(network.vni, offset), Mac::of(attachment.addresses[0]), own.collect()))
}

fn attached(network: &NodeNetwork, task: TaskId, attachment: &Attachment, inner: Name, mtu: u32) -> Vec<Row> {
    let Some((outer, mac, own)) = attached_port(network, attachment) else { return Vec::new() };
    let within = |address: &IpAddr| with_prefix_of(*address, subnet_of(network, *address)?);
    let addresses: Vec<IpNet> = own.iter().filter_map(within).collect();
    pair(task, (outer, inner), (bridge_name(network.vni), false), mac, &addresses, mtu)
}

fn behind_gateway(gateway: &Gateway, task: &LocalTask, mtu: u32) -> Vec<Row> {
    let Some(offset) = gateway.offset(task.id) else { return Vec::new() };
    let (outer, inner) = (gateway_veth_name(offset), interface_name(number(task.attachments.len())));
    let (addresses, own) = (gateway.addresses(task.id), gateway.own());
    let mac = Mac::of(addresses[0].addr());
    let mut rows = vec![(Place::node(Key::Link(gateway.bridge())), Value::Link(Link::Bridge))];
    rows.extend(bridged_unshown());
    rows.extend(bridge_with_addresses(gateway.bridge(), &own, mtu));
    rows.extend(pair(task.id, (outer, inner), (gateway.bridge(), true), mac, &addresses, mtu));
    rows.extend(own.iter().filter(|hop| carries(mtu, hop.addr())).map(|hop| {
        let everything = everything(hop.addr());
        (Place::task(task.id, Key::Via(inner, TABLE_MAIN, everything)), Value::Hop(hop.addr()))
    }));
    rows
}

/// All addresses of the family of this one.
pub fn everything(address: IpAddr) -> IpNet {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpNet::new(any, 0).expect("0 is a prefix length of both families")
}

/// A pair from a bridge of the node into a task.
fn pair(
    task: TaskId,
    (outer, inner): (Name, Name),
    (bridge, isolated): (Name, bool),
    mac: Mac,
    addresses: &[IpNet],
    mtu: u32,
) -> Vec<Row> {
    let inside = |key| Place::task(task, key);
    let end = |peer| Value::Link(Link::Veth { peer: Some(peer) });
    let mut rows = vec![
        (Place::node(Key::Link(outer)), end((Namespace::Task(task), inner))),
        (inside(Key::Link(inner)), end((Namespace::Node, outer))),
        (Place::node(Key::Port(outer)), port_of(bridge, isolated)),
        (Place::node(Key::Fdb(outer, mac, FdbTable::Bridge)), Value::Fdb(FdbTarget::Here)),
        (inside(Key::Mtu(inner)), Value::Mtu(mtu)),
        (inside(Key::Mac(inner)), Value::Mac(mac)),
        (inside(Key::Up(inner)), Value::Present),
    ];
    if mtu >= MTU_MIN_IPV6 {
        rows.push((inside(Key::Setting(inner, Setting::AcceptAdvertisements)), Value::Setting(0)));
    }
    rows.extend(link_of_node(outer, mtu));
    for address in addresses.iter().filter(|address| carries(mtu, address.addr())) {
        rows.push((inside(Key::Address(inner, *address)), Value::Present));
        rows.push((inside(Key::Route(inner, address.trunc())), Value::Present));
    }
    rows
}

/// The subnet of a network that holds an address.
pub fn subnet_of(network: &NodeNetwork, address: IpAddr) -> Option<IpNet> {
    network.pools.iter().map(|pool| pool.subnet).find(|subnet| subnet.contains(&address))
}

/// An address with the length of its subnet.
pub fn with_prefix_of(address: IpAddr, subnet: IpNet) -> Option<IpNet> {
    IpNet::new(address, subnet.prefix_len()).ok()
}

/// The place of an address in the network's first subnet, if it fits 24 bits:
/// that is what the name of its pair has room for.
fn offset(network: &NodeNetwork, address: IpAddr) -> Option<u32> {
    let first = network.pools.first().map(|pool| pool.subnet).filter(|net| net.contains(&address))?;
    let distance = match (address, first.network()) {
        (IpAddr::V4(address), IpAddr::V4(base)) => u128::from(u32::from(address) - u32::from(base)),
        (IpAddr::V6(address), IpAddr::V6(base)) => u128::from(address) - u128::from(base),
        _ => return None,
    };
    u32::try_from(distance).ok().filter(|distance| *distance < 1 << 24)
}
