//! What is asked to find out whether the networks of this node work.

use crate::overlay::NodeOverlay;
use crate::row::Namespace;
use skep_model::network::Attachment;
use skep_model::overlay::{LocalTask, NodeNetwork, NodeService};
use skep_model::{NetworkId, NodeId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The network's name.
    pub network: String,
    /// Where it is asked: a task that is on the network, or the node itself where
    /// it has an address there.
    pub from: Namespace,
    /// The id of a node, or the name of a service.
    pub about: String,
    /// What is asked.
    pub question: ProbeQuestion,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeQuestion {
    /// Does an address on another node answer?
    Reach(IpAddr),
    /// Does it answer a packet of this size, in bytes, that may not be cut?
    Mtu(IpAddr, u32),
    /// Does the underlay address of another node answer by the way out, which the node
    /// forwards?
    Forward(IpAddr),
    /// Is a name answered as the state says?
    Dns(String),
    /// Does every backend behind a virtual address answer?
    Vip(IpAddr, usize),
}

impl ProbeQuestion {
    /// Its name, as users read it. A network of both families is asked about each,
    /// under names of their own.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reach(IpAddr::V4(_)) => "reach",
            Self::Reach(IpAddr::V6(_)) => "reach6",
            Self::Mtu(IpAddr::V4(_), _) => "mtu",
            Self::Mtu(IpAddr::V6(_), _) => "mtu6",
            Self::Forward(_) => "forward",
            Self::Dns(_) => "dns",
            Self::Vip(IpAddr::V4(_), _) => "vip",
            Self::Vip(IpAddr::V6(_), _) => "vip6",
        }
    }
}

/// What there is to ask on these networks, or on all. `can_ask` says of a task of
/// this node whether its namespace is there.
pub fn probes(overlay: &NodeOverlay, networks: &BTreeSet<NetworkId>, can_ask: impl Fn(TaskId) -> bool) -> Vec<Probe> {
    let chosen = overlay.networks().filter(|network| networks.is_empty() || networks.contains(&network.id));
    chosen.flat_map(|network| on_network(overlay, network, &can_ask)).collect()
}

fn on_network(overlay: &NodeOverlay, network: &NodeNetwork, can_ask: &impl Fn(TaskId) -> bool) -> Vec<Probe> {
    let task = overlay.tasks_on(network.id).find(|task| can_ask(task.id));
    let attachment = task.and_then(|task| task.attachments.iter().find(|attachment| attachment.network == network.id));
    let ingress = overlay.here().and_then(|here| here.ingress.as_ref()).filter(|_| network.ingress);
    let (from, own) = match (task, attachment, ingress) {
        (Some(task), Some(Attachment { addresses, .. }), _) => (Namespace::Task(task.id), addresses),
        (_, _, Some(ingress)) => (Namespace::Node, &ingress.addresses),
        _ => return Vec::new(),
    };
    let has_family = |address: &IpAddr| own.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    let probe = |about: String, question| Probe { network: network.name.clone(), from, about, question };
    let mut probes = Vec::new();
    for (node, address) in targets(overlay, network).into_iter().filter(|(_, address)| has_family(address)) {
        probes.push(probe(node.to_string(), ProbeQuestion::Reach(address)));
        let mtu = overlay.mtu(network).map(|mtu| probe(node.to_string(), ProbeQuestion::Mtu(address, mtu)));
        probes.extend(mtu);
    }
    for (node, address) in task.into_iter().flat_map(|task| ways_out(overlay, network, task)) {
        probes.push(probe(node.to_string(), ProbeQuestion::Forward(address)));
    }
    if let Namespace::Task(_) = from {
        for (service, on) in overlay.services_on(network.id) {
            let name = format!("{}.{}", service.name, network.name);
            probes.push(probe(service.name.clone(), ProbeQuestion::Dns(name)));
            let virtual_addresses = on.virtual_addresses.iter().filter(|address| has_family(address));
            let questions = virtual_addresses.filter_map(|address| vip(overlay, network.id, service, *address));
            probes.extend(questions.map(|question| probe(service.name.clone(), question)));
        }
    }
    probes
}

/// The other nodes on a network, as a task reaches them by the gateway: what another
/// firewall does not let the node forward is blocked there as well.
fn ways_out(overlay: &NodeOverlay, network: &NodeNetwork, task: &LocalTask) -> Vec<(NodeId, IpAddr)> {
    let Some(gateway) = overlay.gateway().filter(|_| task.has_gateway) else { return Vec::new() };
    let own = gateway.addresses(task.id);
    let nodes: BTreeSet<NodeId> = targets(overlay, network).into_iter().map(|(node, _)| node).collect();
    let peers = nodes.into_iter().filter_map(|node| overlay.peer(node));
    let reached = peers.filter(|peer| overlay.why_unreachable(peer).is_none());
    let of_family = reached.filter(|peer| own.iter().any(|own| own.addr().is_ipv4() == peer.address.is_ipv4()));
    of_family.map(|peer| (peer.node, peer.address)).collect()
}

/// A service without backends is refused at once, and there is nothing to ask.
fn vip(overlay: &NodeOverlay, network: NetworkId, service: &NodeService, address: IpAddr) -> Option<ProbeQuestion> {
    let published = overlay.endpoints_of(network, service.id).filter(|endpoint| endpoint.is_published);
    let backends = published.flat_map(|endpoint| &endpoint.addresses).filter(|backend| backend.is_ipv4() == address.is_ipv4());
    Some(backends.count()).filter(|n_backends| *n_backends > 0).map(|n_backends| ProbeQuestion::Vip(address, n_backends))
}

/// For each other node one address of each family that it has on the network: that
/// of a task, and best of one that is to be found; on the ingress network its own.
fn targets(overlay: &NodeOverlay, network: &NodeNetwork) -> Vec<(NodeId, IpAddr)> {
    let here = overlay.node().map(|node| node.id);
    let mut found = BTreeMap::<(NodeId, bool), (bool, IpAddr)>::new();
    let of_nodes = overlay.peers().filter(|_| network.ingress).filter_map(|peer| Some((peer.node, peer.ingress.as_ref()?)));
    let of_nodes = of_nodes.flat_map(|(node, ingress)| ingress.addresses.iter().map(move |address| (node, true, *address)));
    let of_tasks = overlay
        .endpoints_on(network.id)
        .flat_map(|endpoint| endpoint.addresses.iter().map(move |address| (endpoint.node, endpoint.is_published, *address)));
    for (node, is_best, address) in of_nodes.chain(of_tasks).filter(|(node, ..)| Some(*node) != here) {
        let place = found.entry((node, address.is_ipv6())).or_insert((is_best, address));
        if is_best && !place.0 {
            *place = (true, address);
        }
    }
    found.into_iter().map(|((node, _), (_, address))| (node, address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::DirtyKeys;
    use crate::object::{Node, Object};
    use skep_model::container::DnsConfig;
    use skep_model::endpoint::NodeIngress;
    use skep_model::overlay::{Endpoint, EndpointId, Peer, ServiceNetwork};
    use skep_model::{Id, ServiceId};

    fn id(n: u8) -> Id {
        Id::from_random([n; 16])
    }

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|address| address.parse().expect("an address")).collect()
    }

    fn network(n: u8, name: &str, ingress: bool) -> Object {
        let (pools, vni) = (Vec::new(), 4096 + u32::from(n));
        Object::Network(NodeNetwork { id: NetworkId(id(n)), name: name.into(), vni, pools, mtu: None, internal: false, ingress })
    }

    fn endpoint(network: u8, task: u8, node: u8, on: &str, is_published: bool) -> Object {
        Object::Endpoint(Endpoint {
            id: EndpointId { network: NetworkId(id(network)), task: TaskId(id(task)) },
            service: ServiceId(id(11)),
            node: NodeId(id(node)),
            addresses: addresses(on),
            names: Vec::new(),
            is_published,
        })
    }

    /// This node is 1 and has task 21 on `front`; `ingress` it serves alone.
    fn overlay() -> NodeOverlay {
        let mut overlay = NodeOverlay::default();
        let peer = |n: u8| {
            let ingress = NodeIngress { number: n.into(), addresses: addresses(&format!("10.9.0.{n}")) };
            Object::Peer(Peer { node: NodeId(id(n)), address: IpAddr::from([192, 0, 2, n]), ingress: Some(ingress) })
        };
        let on =
            ServiceNetwork { network: NetworkId(id(5)), virtual_addresses: addresses("10.5.0.2 fd00::2"), aliases: Vec::new() };
        let attachment =
            Attachment { network: NetworkId(id(5)), addresses: addresses("10.5.0.21"), aliases: Vec::new(), any_source: false };
        let objects = [
            Object::Node(Node { id: NodeId(id(1)), address: IpAddr::from([192, 0, 2, 1]), port: 4789, is_isolated: false }),
            peer(1),
            peer(2),
            peer(3),
            network(5, "front", false),
            network(6, "ingress", true),
            Object::Service(NodeService {
                id: ServiceId(id(11)),
                name: "web".into(),
                networks: vec![on],
                ingress_ports: Vec::new(),
            }),
            endpoint(5, 21, 1, "10.5.0.21", true),
            endpoint(5, 22, 2, "10.5.0.22 fd00::22", false),
            endpoint(5, 23, 2, "10.5.0.23", true),
            endpoint(5, 24, 3, "10.5.0.24", false),
            Object::Task(LocalTask {
                id: TaskId(id(21)),
                service: ServiceId(id(11)),
                attachments: vec![attachment],
                has_gateway: true,
                host_ports: Vec::new(),
                hostname: "h".into(),
                dns: DnsConfig::default(),
            }),
        ];
        let mut dirty = DirtyKeys::default();
        objects.into_iter().for_each(|object| overlay.put(object, &mut dirty));
        overlay.capabilities_mut().set_underlay_mtu(Some(1500));
        overlay
    }

    fn said(probes: Vec<Probe>) -> Vec<String> {
        let name = |about: &str| (1..4).find(|n| id(*n).as_str() == about).map_or(about.to_owned(), |n| format!("node {n}"));
        let place = |from| if from == Namespace::Node { "node" } else { "task" };
        probes
            .into_iter()
            .map(|probe| format!("{} {} {} {:?}", probe.network, place(probe.from), name(&probe.about), probe.question))
            .collect()
    }

    #[test]
    fn no_two_rows_of_a_network_of_both_families_have_the_same_label() {
        let attachment = Attachment {
            network: NetworkId(id(5)),
            addresses: addresses("10.5.0.21 fd00::21"),
            aliases: Vec::new(),
            any_source: false,
        };
        let mut overlay = overlay();
        let task = LocalTask {
            id: TaskId(id(21)),
            service: ServiceId(id(11)),
            attachments: vec![attachment],
            has_gateway: true,
            host_ports: Vec::new(),
            hostname: "h".into(),
            dns: DnsConfig::default(),
        };
        overlay.put(Object::Task(task), &mut DirtyKeys::default());
        overlay.put(endpoint(5, 25, 2, "10.5.0.25 fd00::25", true), &mut DirtyKeys::default());
        let labels: Vec<(String, &str)> = probes(&overlay, &BTreeSet::from([NetworkId(id(5))]), |_| true)
            .into_iter()
            .map(|probe| (probe.about, probe.question.name()))
            .collect();
        let of =
            |about: &str| -> Vec<&str> { labels.iter().filter(|(other, _)| other == about).map(|(_, label)| *label).collect() };
        assert_eq!(of(id(2).as_str()), ["reach", "mtu", "reach6", "mtu6"]);
        assert_eq!(of("web"), ["dns", "vip", "vip6"]);
    }

    #[test]
    fn every_other_node_and_every_service_is_asked_for() {
        let all = BTreeSet::new();
        let of_ingress = [
            "ingress node node 2 Reach(10.9.0.2)",
            "ingress node node 2 Mtu(10.9.0.2, 1450)",
            "ingress node node 3 Reach(10.9.0.3)",
            "ingress node node 3 Mtu(10.9.0.3, 1450)",
        ];
        let of_front = [
            "front task node 2 Reach(10.5.0.23)",
            "front task node 2 Mtu(10.5.0.23, 1450)",
            "front task node 3 Reach(10.5.0.24)",
            "front task node 3 Mtu(10.5.0.24, 1450)",
            "front task web Dns(\"web.front\")",
            "front task web Vip(10.5.0.2, 2)",
        ];
        let overlay = overlay();
        assert_eq!(said(probes(&overlay, &all, |_| true)), [&of_front[..], &of_ingress].concat());
        assert_eq!(said(probes(&overlay, &BTreeSet::from([NetworkId(id(5))]), |_| true)), of_front);
        assert_eq!(said(probes(&overlay, &all, |_| false)), of_ingress, "nobody is on front");
    }

    #[test]
    fn who_has_a_way_out_asks_whether_the_node_forwards() {
        let front = BTreeSet::from([NetworkId(id(5))]);
        for has_gateway in [true, false] {
            let mut overlay = overlay();
            let mut task = overlay.task(TaskId(id(21))).expect("the task").clone();
            let dirty = &mut DirtyKeys::default();
            overlay.remove(crate::object::ObjectKey::Task(task.id), dirty);
            overlay.set_gateway(Some(crate::gateway::Gateway::new("172.18.0.0/16".parse().expect("a subnet"), None)), dirty);
            task.has_gateway = has_gateway;
            overlay.put(Object::Task(task), dirty);
            let said = said(probes(&overlay, &front, |_| true));
            let asked: Vec<&str> = said.iter().map(String::as_str).filter(|text| text.contains("Forward")).collect();
            let both = ["front task node 2 Forward(192.0.2.2)", "front task node 3 Forward(192.0.2.3)"];
            assert_eq!(asked, if has_gateway { &both[..] } else { &[] });
        }
    }
}
