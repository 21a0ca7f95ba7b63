//! The firewall of the node's bridges: anti-spoofing on their ports, and the filters for
//! input and forward.
//!
//! A task may be hostile and have raw sockets. What it sends is believed on its
//! bridge only if it comes from its own port with its own hardware address and one
//! of its own addresses ([`senders`]), unless the attachment says `any-source`; what leaves the bridge into the node meets
//! [`guard`]. Both are closed by default: a port of ours that nothing is known of
//! passes nothing.

use crate::link_rows::{attached_port, has_rows};
use crate::name::{Mac, Name, bridge_name, gateway_veth_name, vxlan_name};
use crate::overlay::NodeOverlay;
use crate::table::{Content, Guard, Sender, Senders};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

/// What the node takes from its bridges and passes on to them; none while the node
/// is not known.
pub fn guard(overlay: &NodeOverlay) -> Option<Content> {
    let node = overlay.node()?;
    let bridges = overlay.networks().filter(|network| has_rows(overlay, network)).map(|network| bridge_name(network.vni));
    let gateway = overlay.gateway().map(|gateway| gateway.bridge());
    Some(Content::Guard(Guard { data_path_port: node.port, overlays: bridges.collect(), gateway, is_isolated: node.is_isolated }))
}

/// The bridges that packets to tasks and from them are routed over: other firewalls
/// of the node must let them pass.
pub fn reaching(overlay: &NodeOverlay) -> Vec<Name> {
    let ingress = overlay.here().and_then(|here| here.ingress.as_ref()).and_then(|_| overlay.ingress());
    let ingress = ingress.filter(|network| has_rows(overlay, network)).map(|network| bridge_name(network.vni));
    overlay.gateway().map(|gateway| gateway.bridge()).into_iter().chain(ingress).collect()
}

/// Who may send what through the ports of this node's bridges.
pub fn senders(overlay: &NodeOverlay) -> Option<Content> {
    overlay.node()?;
    let networks = overlay.networks().filter(|network| has_rows(overlay, network));
    let trusted: BTreeSet<Name> = networks.map(|network| vxlan_name(network.vni)).collect();
    let (mut senders, mut any_source) = (BTreeSet::new(), BTreeSet::new());
    for task in overlay.tasks() {
        for (attachment, network) in overlay.visible_to(task.id) {
            match attached_port(network, attachment) {
                Some((port, ..)) if attachment.any_source => drop(any_source.insert(port)),
                found => senders.extend(found.map(|(port, mac, own)| sender(port, mac, own))),
            }
        }
        let gateway = overlay.gateway().filter(|_| task.has_gateway);
        if let Some((gateway, offset)) = gateway.and_then(|gateway| Some((gateway, gateway.offset(task.id)?))) {
            let own: Vec<IpAddr> = gateway.addresses(task.id).iter().map(ipnet::IpNet::addr).collect();
            senders.extend(own.first().map(|first| sender(gateway_veth_name(offset), Mac::of(*first), own.clone())));
        }
    }
    Some(Content::Senders(Senders { trusted, senders, any_source }))
}

fn sender(port: Name, hardware: Mac, mut addresses: Vec<IpAddr>) -> Sender {
    addresses.push(link_local(hardware).into());
    Sender { port, hardware, addresses }
}

/// RFC 4291, appendix A: the address that an interface gives itself.
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_the_link_local_address_of_its_hardware_address() {
        assert_eq!(link_local(Mac([0x02, 0x42, 0x0a, 0x07, 0x00, 0x0c])).to_string(), "fe80::42:aff:fe07:c");
        assert_eq!(link_local(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])).to_string(), "fe80::5054:ff:fe12:3456");
    }
}
