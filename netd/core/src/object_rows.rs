//! From one object, and those it refers to, to its rows.

use crate::capabilities::carries;
use crate::gateway::Gateway;
use crate::ingress_rows;
use crate::link_rows::{
    Row, attached_port, bridge_nf_call_off, bridge_with_addresses, everything, far, interface, link_of_node, pair, port_of,
    subnet_of, with_prefix_of,
};
use crate::name::{Mac, Name, bridge_name, gateway_veth_name, vxlan_name};
use crate::object::Node;
use crate::overlay::NodeOverlay;
use crate::row::{Key, Link, Place, TABLE_MAIN, Value};
use ipnet::IpNet;
use skep_model::TaskId;
use skep_model::network::Attachment;
use skep_model::overlay::{Endpoint, LocalTask, NodeNetwork};
use std::net::IpAddr;

/// A namespace with its loopback link up.
pub fn namespace(task: TaskId) -> Vec<Row> {
    vec![(Place::task(task, Key::Namespace), Value::Present), (Place::task(task, Key::Up(Name::LOOPBACK)), Value::Present)]
}

/// The bridge and the VXLAN device of a network, and the node's place on it if it
/// is the one that published ports are reached over.
pub fn network(overlay: &NodeOverlay, node: &Node, network: &NodeNetwork) -> Vec<Row> {
    let Some(mtu) = overlay.mtu(network) else { return Vec::new() };
    let (bridge, vxlan) = (bridge_name(network.vni), vxlan_name(network.vni));
    let gateway = overlay.here().and_then(|here| here.ingress.as_ref()).filter(|_| network.ingress);
    let mut rows = vec![
        (Place::node(Key::Link(bridge)), Value::Link(Link::Bridge)),
        (Place::node(Key::Link(vxlan)), Value::Link(Link::Vxlan { vni: network.vni, local: node.address, port: node.port })),
        (Place::node(Key::Port(vxlan)), port_of(bridge, false)),
    ];
    rows.extend(bridge_nf_call_off());
    rows.extend(link_of_node(vxlan, mtu));
    match gateway {
        Some(ingress) => rows.extend(ingress_rows::own_gateway(network, &ingress.addresses, bridge, mtu)),
        None => rows.extend(link_of_node(bridge, mtu)),
    }
    rows
}

/// FDB and neighbour rows of an endpoint on another node.
pub fn remote(network: &NodeNetwork, endpoint: &Endpoint, at: IpAddr, mtu: u32) -> Vec<Row> {
    far(network, &endpoint.addresses, at, mtu)
}

/// The interfaces of a task of this node.
pub fn task(overlay: &NodeOverlay, task: &LocalTask) -> Vec<Row> {
    let mut rows = Vec::new();
    for (place, attachment) in task.attachments.iter().enumerate() {
        let Some(network) = overlay.network(attachment.network) else { continue };
        let Some(mtu) = overlay.mtu(network) else { continue };
        let inner = interface(place);
        rows.extend(attached(network, task.id, attachment, inner, mtu));
        if network.ingress {
            rows.extend(ingress_rows::settings(task.id, inner));
        }
    }
    let behind = overlay.gateway().filter(|_| task.has_gateway).zip(overlay.capabilities().underlay_mtu());
    if let Some((gateway, mtu)) = behind {
        rows.extend(behind_gateway(gateway, task, mtu));
    }
    rows
}

fn attached(network: &NodeNetwork, task: TaskId, attachment: &Attachment, inner: Name, mtu: u32) -> Vec<Row> {
    let Some((outer, mac, own)) = attached_port(network, attachment) else { return Vec::new() };
    let within = |address: &IpAddr| with_prefix_of(*address, subnet_of(network, *address)?);
    let addresses: Vec<IpNet> = own.iter().filter_map(within).collect();
    pair(task, (outer, inner), (bridge_name(network.vni), false), mac, &addresses, mtu)
}

fn behind_gateway(gateway: &Gateway, task: &LocalTask, mtu: u32) -> Vec<Row> {
    let Some(offset) = gateway.offset(task.id) else { return Vec::new() };
    let (outer, inner) = (gateway_veth_name(offset), interface(task.attachments.len()));
    let (addresses, own) = (gateway.addresses(task.id), gateway.own());
    let mac = Mac::of(addresses[0].addr());
    let mut rows = vec![(Place::node(Key::Link(gateway.bridge())), Value::Link(Link::Bridge))];
    rows.extend(bridge_nf_call_off());
    rows.extend(bridge_with_addresses(gateway.bridge(), &own, mtu));
    rows.extend(pair(task.id, (outer, inner), (gateway.bridge(), true), mac, &addresses, mtu));
    rows.extend(own.iter().filter(|hop| carries(mtu, hop.addr())).map(|hop| {
        let everything = everything(hop.addr());
        (Place::task(task.id, Key::Via(inner, TABLE_MAIN, everything)), Value::Hop(hop.addr()))
    }));
    rows
}
