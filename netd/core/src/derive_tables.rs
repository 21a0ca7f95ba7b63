//! From the objects to what the tables should hold, and where to look again after
//! a change.
//!
//! A service is derived once for all tasks on its network, and a change of one of
//! its endpoints concerns its key alone: what it costs does not grow with the number
//! of services. What an object refers to and is not known is left out until it
//! comes.

use crate::mark::ingress_mark;
use crate::name::{Mac, bridge_name};
use crate::overlay::Overlay;
use crate::row::Namespace;
use crate::table::{
    Content, EgressSubnet, HostPort, IngressNode, IngressPort, PortKey, ServiceKey, TableName, VirtualService, WirePort,
};
use crate::touched::Touched;
use skep_model::endpoint::{INGRESS_NODES_MAX, INGRESS_PORTS_MAX, PublishedPort, wire_port};
use skep_model::overlay::{LocalTask, NodeService};
use skep_model::{NetworkId, ServiceId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Where the tables of one namespace may have to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesTouched {
    /// Tables that may differ in anything.
    pub tables: BTreeSet<TableName>,
    /// Of tables that are made of services, only these may differ.
    pub services: BTreeSet<ServiceKey>,
}

/// By namespace, where to look after a change of the objects.
pub fn tables_touched(overlay: &Overlay, touched: &Touched) -> BTreeMap<Namespace, TablesTouched> {
    let mut found = BTreeMap::<Namespace, TablesTouched>::new();
    let mut look = |namespace, tables: &[TableName]| found.entry(namespace).or_default().tables.extend(tables);
    let ways_changed = touched.node || !touched.peers.is_empty();
    if ways_changed {
        look(Namespace::Node, &TableName::OF_NODE);
    }
    for task in overlay.ingress().into_iter().flat_map(|network| overlay.tasks_on(network.id)) {
        let ports_changed = touched.ports && touched.services.iter().any(|(_, service)| *service == task.service);
        if ways_changed || ports_changed {
            look(Namespace::Task(task.id), &[TableName::Mesh]);
        }
    }
    for network in &touched.networks {
        look(Namespace::Node, &[TableName::Ingress, TableName::Egress]);
        for task in overlay.tasks_on(*network) {
            look(Namespace::Task(task.id), &TableName::OF_TASK);
        }
    }
    for task in &touched.tasks {
        look(Namespace::Task(*task), &TableName::OF_TASK);
        look(Namespace::Node, &[TableName::HostPorts]);
    }
    for key in services_touched(overlay, touched) {
        found.entry(Namespace::Node).or_default().services.insert(key);
        for task in overlay.tasks_on(key.0) {
            found.entry(Namespace::Task(task.id)).or_default().services.insert(key);
        }
    }
    found
}

/// The services whose backends may be others than before: those that changed, and
/// those of tasks on nodes that came or went.
pub fn services_touched(overlay: &Overlay, touched: &Touched) -> BTreeSet<ServiceKey> {
    let at_nodes = touched.peers.iter().flat_map(|node| overlay.endpoints_at(*node));
    let of_nodes = at_nodes.map(|endpoint| (endpoint.id.network, endpoint.service));
    touched.services.iter().copied().chain(of_nodes).collect()
}

/// What a table should hold; `None` = there should be no such table. The names'
/// table follows from netd's own listeners and is not here.
pub fn table_content(overlay: &Overlay, namespace: Namespace, table: TableName) -> Option<Content> {
    match (namespace, table) {
        (Namespace::Task(task), TableName::Services) => services(overlay, task),
        (Namespace::Task(task), TableName::Mesh) => mesh(overlay, overlay.task(task)?),
        (Namespace::Node, TableName::Ingress) => ingress(overlay),
        (Namespace::Node, TableName::HostPorts) => host_ports(overlay),
        (Namespace::Node, TableName::Egress) => Some(Content::Egress(gateway_subnets(overlay)?)),
        (Namespace::Node, TableName::Underlay) => underlay(overlay),
        _ => None,
    }
}

/// A service as tasks on a network see it; `None` = it is not there, or has no
/// virtual address.
pub fn virtual_service(overlay: &Overlay, (network, service): ServiceKey) -> Option<VirtualService> {
    overlay.network(network)?;
    let on = overlay.service(service)?.networks.iter().find(|on| on.network == network)?;
    if on.virtual_addresses.is_empty() {
        return None;
    }
    Some(VirtualService { addresses: on.virtual_addresses.clone(), backends: backends(overlay, network, service) })
}

/// The ports that this node answers on for a service; none if it takes no part in
/// the routing mesh.
pub fn ingress_ports(overlay: &Overlay, service: ServiceId) -> Vec<(PortKey, IngressPort)> {
    let number = overlay.here().and_then(|here| here.ingress.as_ref()).map(|ingress| ingress.number);
    let number = number.filter(|number| (1..=INGRESS_NODES_MAX).contains(number));
    let (Some(number), Some(network), Some(service)) = (number, overlay.ingress(), overlay.service(service)) else {
        return Vec::new();
    };
    let backends = backends(overlay, network.id, service.id);
    let port = |(index, port): (usize, &PublishedPort)| {
        let key = (port.transport, port.published_port);
        (key, IngressPort { service: service.id, wire_port: wire_port(number, index), backends: backends.clone() })
    };
    numbered_ports(service).map(port).collect()
}

/// The ports of a service that are published, with their places.
fn numbered_ports(service: &NodeService) -> impl Iterator<Item = (usize, &PublishedPort)> + '_ {
    service.ingress_ports.iter().enumerate().take(INGRESS_PORTS_MAX).filter(|(_, port)| port.published_port != 0)
}

/// The addresses of the published tasks of a service, on nodes that are known.
fn backends(overlay: &Overlay, network: NetworkId, service: ServiceId) -> Vec<IpAddr> {
    let published = overlay.endpoints_of(network, service).filter(|endpoint| endpoint.is_published);
    let reachable = published.filter(|endpoint| overlay.peer(endpoint.node).is_some());
    let addresses: BTreeSet<IpAddr> = reachable.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
    addresses.into_iter().collect()
}

fn services(overlay: &Overlay, task: TaskId) -> Option<Content> {
    overlay.task(task).filter(|task| !task.attachments.is_empty())?;
    let keys = overlay
        .visible_to(task)
        .flat_map(|(_, network)| overlay.services_on(network.id).map(move |(service, _)| (network.id, service.id)));
    let found = keys.filter_map(|key| Some((key, Arc::new(virtual_service(overlay, key)?))));
    Some(Content::Services(found.collect()))
}

fn mesh(overlay: &Overlay, task: &LocalTask) -> Option<Content> {
    overlay.visible_to(task.id).find(|(_, network)| network.ingress)?;
    let node = |ingress: &skep_model::endpoint::NodeIngress| {
        let is_usable = (1..=INGRESS_NODES_MAX).contains(&ingress.number);
        let first = ingress.addresses.first().filter(|_| is_usable)?;
        Some((Mac::of(*first), ingress_mark(ingress.number)))
    };
    // Of two nodes that seem to have one address the first counts.
    let mut nodes = BTreeMap::<Mac, u32>::new();
    for (hardware, mark) in overlay.peers().filter_map(|peer| node(peer.ingress.as_ref()?)) {
        nodes.entry(hardware).or_insert(mark);
    }
    let nodes = nodes.into_iter().map(|(hardware, mark)| IngressNode { hardware, mark }).collect();
    let ports = overlay.service(task.service).into_iter().flat_map(numbered_ports);
    let ports = ports.map(|(index, port)| WirePort {
        transport: port.transport,
        index: u16::try_from(index).expect("there are at most INGRESS_PORTS_MAX"),
        target_port: port.target_port,
    });
    let gateway = overlay.gateway().filter(|_| task.has_gateway);
    let outward = gateway.map(|gateway| gateway.addresses(task.id)).unwrap_or_default();
    Some(Content::Mesh { nodes, ports: ports.collect(), outward: outward.iter().map(ipnet::IpNet::addr).collect() })
}

fn ingress(overlay: &Overlay) -> Option<Content> {
    overlay.here()?.ingress.as_ref()?;
    let bridge = bridge_name(overlay.ingress()?.vni);
    let mut ports = BTreeMap::new();
    for (key, port) in overlay.services().flat_map(|service| ingress_ports(overlay, service.id)) {
        // Admission lets nobody publish what another has; the first counts.
        ports.entry(key).or_insert(port);
    }
    Some(Content::Ingress { bridge, ports })
}

fn host_ports(overlay: &Overlay) -> Option<Content> {
    let gateway = overlay.gateway()?;
    let mut ports = BTreeMap::new();
    for task in overlay.tasks().filter(|task| task.has_gateway) {
        let addresses: Vec<IpAddr> = gateway.addresses(task.id).iter().map(ipnet::IpNet::addr).collect();
        for port in task.host_ports.iter().filter(|port| port.published_port != 0 && !addresses.is_empty()) {
            let addresses = addresses.clone();
            let leads = HostPort { addresses, target_port: port.target_port };
            ports.entry((port.transport, port.published_port)).or_insert(leads);
        }
    }
    (!ports.is_empty()).then_some(Content::HostPorts { subnets: gateway_subnets(overlay)?, ports })
}

fn gateway_subnets(overlay: &Overlay) -> Option<Vec<EgressSubnet>> {
    let gateway = overlay.gateway()?;
    Some(gateway.subnets().map(|subnet| EgressSubnet { bridge: gateway.bridge(), subnet }).collect())
}

fn underlay(overlay: &Overlay) -> Option<Content> {
    let port = overlay.node()?.port;
    let members: BTreeSet<IpAddr> = overlay.peers().map(|peer| peer.address).collect();
    Some(Content::Underlay { port, members: members.into_iter().collect() })
}
