//! Rows of links: bridges, VXLAN ports, veth pairs, and who is reached over them.
//!
//! No object is known here, but where a network or an attachment says which addresses
//! and MTU a link has.

use crate::capabilities::{carries, carries_ipv6};
use crate::name::{Mac, Name, interface_name, veth_name, vxlan_name};
use crate::overlay::NodeOverlay;
use crate::row::{FdbTable, FdbTarget, Key, Link, Namespace, Place, Port, Setting, Sysctl, Value};
use ipnet::IpNet;
use skep_model::TaskId;
use skep_model::network::Attachment;
use skep_model::overlay::NodeNetwork;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A place, and the value that it should have.
pub type Row = (Place, Value);

/// FDB and neighbour rows of an interface with these addresses on another node.
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

/// Whether a task can have an interface there.
pub fn is_attachable(network: &NodeNetwork, attachment: &Attachment) -> bool {
    attachment.addresses.iter().any(|address| offset(network, *address).is_some())
}

/// The name of a task's interface by its number, counted from 0; the limit of
/// attachments leaves the number a byte.
pub fn interface(number: usize) -> Name {
    interface_name(u8::try_from(number).expect("the limit of attachments was checked"))
}

/// A bridge port (brport): no row but ours says who is behind it, so it neither learns nor
/// floods.
pub fn port_of(bridge: Name, isolated: bool) -> Value {
    Value::Port(Port { bridge: Some(bridge), learning: false, flood: false, isolated })
}

/// bridge-nf-call-iptables and bridge-nf-call-ip6tables, off: frames between ports of a
/// bridge do not pass the node's iptables rules. Its own firewall would drop some of
/// them, its NAT change some, and looking at all of them costs a fifth of the bytes a
/// second.
pub fn bridge_nf_call_off() -> [Row; 2] {
    [Sysctl::BridgeNfCallIptables, Sysctl::BridgeNfCallIp6tables]
        .map(|sysctl| (Place::node(Key::Sysctl(sysctl)), Value::Setting(0)))
}

/// A link of the node that has no address.
pub fn link_of_node(link: Name, mtu: u32) -> Vec<Row> {
    let mut rows = vec![(Place::node(Key::Mtu(link)), Value::Mtu(mtu)), (Place::node(Key::Up(link)), Value::Present)];
    // A link without IPv6 has no settings of it.
    if carries_ipv6(mtu) {
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
    if carries_ipv6(mtu) {
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
pub fn has_rows(overlay: &NodeOverlay, network: &NodeNetwork) -> bool {
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

/// All addresses of the family of this one.
pub fn everything(address: IpAddr) -> IpNet {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpNet::new(any, 0).expect("0 is a prefix length of both families")
}

/// A pair from a bridge of the node into a task.
pub fn pair(
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
    if carries_ipv6(mtu) {
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
