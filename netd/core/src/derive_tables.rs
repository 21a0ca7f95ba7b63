//! From the objects to what the tables should hold, and where to look again after
//! a change.
//!
//! A service is derived once for all tasks on its network, and a change of one of
//! its endpoints concerns its key alone: what it costs does not grow with the number
//! of services. What an object refers to and is not known is left out until it
//! comes.

use crate::dirty::DirtyKeys;
use crate::firewall;
use crate::mark::ingress_mark;
use crate::name::Mac;
use crate::overlay::NodeOverlay;
use crate::row::Namespace;
use crate::table::{
    Content, EgressSubnet, HostPort, IngressNode, IngressService, PortKey, ServiceKey, TableName, VirtualService, WirePort,
};
use skep_model::endpoint::{INGRESS_NODES_MAX, INGRESS_PORTS_MAX, PublishedPort, wire_port, wire_width};
use skep_model::overlay::{LocalTask, NodeService};
use skep_model::{NetworkId, ServiceId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Where the tables of one namespace may have to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyTables {
    /// Tables that may differ in anything.
    pub tables: BTreeSet<TableName>,
    /// Of tables that are made of services, only these may differ.
    pub services: BTreeSet<ServiceKey>,
}

/// By namespace, where to look after a change of the objects.
pub fn dirty_tables(overlay: &NodeOverlay, dirty: &DirtyKeys) -> BTreeMap<Namespace, DirtyTables> {
    let mut found = BTreeMap::<Namespace, DirtyTables>::new();
    let mut look = |namespace, tables: &[TableName]| found.entry(namespace).or_default().tables.extend(tables);
    let ways_changed = dirty.node || !dirty.peers.is_empty();
    if ways_changed {
        look(Namespace::Node, &TableName::OF_NODE);
    }
    for task in overlay.ingress().into_iter().flat_map(|network| overlay.tasks_on(network.id)) {
        let ports_changed = dirty.ports && dirty.services.iter().any(|(_, service)| *service == task.service);
        if ways_changed || ports_changed {
            look(Namespace::Task(task.id), &[TableName::Mesh]);
        }
    }
    for network in &dirty.networks {
        look(Namespace::Node, &[TableName::Ingress, TableName::Egress, TableName::Guard, TableName::Senders]);
        for task in overlay.tasks_on(*network) {
            look(Namespace::Task(task.id), &TableName::OF_TASK);
        }
    }
    for task in &dirty.tasks {
        look(Namespace::Task(*task), &TableName::OF_TASK);
        look(Namespace::Node, &[TableName::HostPorts, TableName::Senders]);
    }
    for key in dirty_services(overlay, dirty) {
        found.entry(Namespace::Node).or_default().services.insert(key);
        for task in overlay.tasks_on(key.0) {
            found.entry(Namespace::Task(task.id)).or_default().services.insert(key);
        }
    }
    found
}

/// The services whose backends may be others than before: those that changed, and
/// those of tasks on nodes that came or went.
pub fn dirty_services(overlay: &NodeOverlay, dirty: &DirtyKeys) -> BTreeSet<ServiceKey> {
    let at_nodes = dirty.peers.iter().flat_map(|node| overlay.endpoints_at(*node));
    let of_nodes = at_nodes.map(|endpoint| (endpoint.id.network, endpoint.service));
    dirty.services.iter().copied().chain(of_nodes).collect()
}

/// What a table should hold; `None` = there should be no such table. The names'
/// table follows from netd's own listeners and is not here.
pub fn table_content(overlay: &NodeOverlay, namespace: Namespace, table: TableName) -> Option<Content> {
    match (namespace, table) {
        (Namespace::Task(task), TableName::Services) => services(overlay, task),
        (Namespace::Task(task), TableName::Mesh) => mesh(overlay, overlay.task(task)?),
        (Namespace::Node, TableName::Ingress) => ingress(overlay),
        (Namespace::Node, TableName::HostPorts) => host_ports(overlay),
        (Namespace::Node, TableName::Egress) => Some(Content::Egress(gateway_subnets(overlay)?)),
        (Namespace::Node, TableName::Underlay) => underlay(overlay),
        (Namespace::Node, TableName::Guard) => firewall::guard(overlay),
        (Namespace::Node, TableName::Senders) => firewall::senders(overlay),
        _ => None,
    }
}

/// A service as tasks on a network see it; `None` = it is not there, or has no
/// virtual address.
pub fn virtual_service(overlay: &NodeOverlay, (network, service): ServiceKey) -> Option<VirtualService> {
    overlay.network(network)?;
    let on = overlay.service(service)?.networks.iter().find(|on| on.network == network)?;
    if on.virtual_addresses.is_empty() {
        return None;
    }
    Some(VirtualService { addresses: on.virtual_addresses.clone(), backends: backends(overlay, network, service) })
}

/// What this node answers on for a service; `None` = on nothing, or it takes no part
/// in the routing mesh.
pub fn ingress_service(overlay: &NodeOverlay, service: ServiceId) -> Option<IngressService> {
    let number = overlay.here()?.ingress.as_ref()?.number;
    let (network, service) = (overlay.ingress()?, overlay.service(service)?);
    if !(1..=INGRESS_NODES_MAX).contains(&number) {
        return None;
    }
    let n_ports = service.ingress_ports.len();
    let port =
        |(index, port): (usize, &PublishedPort)| ((port.transport, port.published_port), wire_port(number, index, n_ports));
    let ports: BTreeMap<PortKey, u16> = numbered_ports(service).map(port).collect();
    let backends = backends(overlay, network.id, service.id);
    (!ports.is_empty()).then_some(IngressService { ports, backends })
}

/// The ports of a service that are published, with their places.
fn numbered_ports(service: &NodeService) -> impl Iterator<Item = (usize, &PublishedPort)> + '_ {
    service.ingress_ports.iter().enumerate().take(INGRESS_PORTS_MAX).filter(|(_, port)| port.published_port != 0)
}

/// The addresses of the published tasks of a service, on nodes that are known.
fn backends(overlay: &NodeOverlay, network: NetworkId, service: ServiceId) -> Vec<IpAddr> {
    let published = overlay.endpoints_of(network, service).filter(|endpoint| endpoint.is_published);
    let reachable = published.filter(|endpoint| overlay.peer(endpoint.node).is_some());
    let addresses: BTreeSet<IpAddr> = reachable.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
    addresses.into_iter().collect()
}

fn services(overlay: &NodeOverlay, task: TaskId) -> Option<Content> {
    overlay.task(task).filter(|task| !task.attachments.is_empty())?;
    let keys = overlay
        .visible_to(task)
        .flat_map(|(_, network)| overlay.services_on(network.id).map(move |(service, _)| (network.id, service.id)));
    let found = keys.filter_map(|key| Some((key, Arc::new(virtual_service(overlay, key)?))));
    Some(Content::Services(found.collect()))
}

fn mesh(overlay: &NodeOverlay, task: &LocalTask) -> Option<Content> {
    let (_, network) = overlay.visible_to(task.id).find(|(_, network)| network.ingress)?;
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
    let outward = outward.iter().map(ipnet::IpNet::addr).collect();
    let near = network.pools.iter().map(|pool| pool.subnet).collect();
    let n_ports = overlay.service(task.service).map_or(0, |service| service.ingress_ports.len());
    let mask = u16::try_from(wire_width(n_ports) - 1).expect("there are at most INGRESS_PORTS_MAX");
    Some(Content::Mesh { nodes, ports: ports.collect(), mask, outward, near })
}

fn ingress(overlay: &NodeOverlay) -> Option<Content> {
    overlay.here()?.ingress.as_ref()?;
    overlay.ingress()?;
    let (mut services, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for id in overlay.services().map(|service| service.id) {
        let Some(mut found) = ingress_service(overlay, id) else { continue };
        // Admission lets nobody publish what another has; the first counts.
        found.ports.retain(|key, _| taken.insert(*key));
        if !found.ports.is_empty() {
            services.insert(id, found);
        }
    }
    Some(Content::Ingress { services, listening: BTreeSet::new() })
}

fn host_ports(overlay: &NodeOverlay) -> Option<Content> {
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

fn gateway_subnets(overlay: &NodeOverlay) -> Option<Vec<EgressSubnet>> {
    let gateway = overlay.gateway()?;
    Some(gateway.subnets().map(|subnet| EgressSubnet { bridge: gateway.bridge(), subnet }).collect())
}

fn underlay(overlay: &NodeOverlay) -> Option<Content> {
    let port = overlay.node()?.port;
    let members: BTreeSet<IpAddr> = overlay.peers().map(|peer| peer.address).collect();
    Some(Content::Underlay { port, members: members.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gone::{Backends, Came, Turnover, Vanished};
    use crate::object::{Node, Object, ObjectKey};
    use crate::{DesiredRows, Gateway};
    use skep_model::endpoint::{NodeIngress, PublishMode, Transport};
    use skep_model::network::{Attachment, Pool};
    use skep_model::overlay::{Endpoint, EndpointId, NodeNetwork, Peer, ServiceNetwork};
    use skep_model::{NodeId, TaskId};

    fn network(number: u8) -> NetworkId {
        NetworkId::from_random([number; 16])
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_random([number; 16])
    }

    fn task(number: u8) -> TaskId {
        TaskId::from_random([number; 16])
    }

    fn service(number: u8) -> ServiceId {
        ServiceId::from_random([number; 16])
    }

    fn address(network: u8, host: u8) -> IpAddr {
        IpAddr::from([10, network, 0, host])
    }

    fn peer(number: u8) -> Object {
        let ingress = NodeIngress { number: u32::from(number), addresses: vec![address(1, 100 + number)] };
        Object::Peer(Peer { node: node(number), address: IpAddr::from([192, 0, 2, number]), ingress: Some(ingress) })
    }

    fn endpoint(network_number: u8, number: u8, is_published: bool) -> Object {
        Object::Endpoint(Endpoint {
            id: EndpointId { network: network(network_number), task: task(number) },
            service: service(1),
            // Odd tasks are here, even ones there.
            node: node(2 - number % 2),
            addresses: vec![address(network_number, number)],
            names: Vec::new(),
            is_published,
        })
    }

    fn port(transport: Transport, published_port: u16, target_port: u16) -> PublishedPort {
        PublishedPort { transport, target_port, published_port, publish_mode: PublishMode::Ingress }
    }

    /// Network 0, the ingress network 1, nodes 1 (this) and 2, service 1 with tasks
    /// 1 (here) and 2 (there), and task 3 of another service here, on network 0.
    fn told() -> DesiredRows {
        let mut desired = DesiredRows::new();
        desired.set_gateway(Some(Gateway::new("172.18.0.0/16".parse().unwrap(), None)));
        let mut put = |object| drop(desired.put(object).unwrap());
        put(Object::Node(Node { id: node(1), address: IpAddr::from([192, 0, 2, 1]), port: 4789, is_isolated: false }));
        put(peer(1));
        put(peer(2));
        for number in 0..2 {
            let pool = Pool { subnet: format!("10.{number}.0.0/20").parse().unwrap(), range: None, gateway: None };
            put(Object::Network(NodeNetwork {
                id: network(number),
                name: String::new(),
                vni: 4096 + u32::from(number),
                pools: vec![pool],
                mtu: None,
                internal: false,
                ingress: number == 1,
            }));
        }
        let on =
            |number, addresses| ServiceNetwork { network: network(number), virtual_addresses: addresses, aliases: Vec::new() };
        put(Object::Service(NodeService {
            id: service(1),
            name: "web".to_owned(),
            networks: vec![on(0, vec![address(0, 200)]), on(1, Vec::new())],
            ingress_ports: vec![port(Transport::Udp, 0, 1), port(Transport::Tcp, 8080, 80)],
        }));
        for number in 1..3 {
            put(endpoint(0, number, true));
            put(endpoint(1, number, number == 2));
        }
        for (number, of, networks) in [(1, 1, 0..2), (3, 2, 0..1)] {
            let attachment = |on| Attachment {
                network: network(on),
                addresses: vec![address(on, number)],
                aliases: Vec::new(),
                any_source: false,
            };
            put(Object::Task(LocalTask {
                id: task(number),
                service: service(of),
                attachments: networks.map(attachment).collect(),
                has_gateway: true,
                host_ports: vec![port(Transport::Tcp, 9000, u16::from(number)), port(Transport::Tcp, 0, 7)],
                hostname: String::new(),
                dns: Default::default(),
            }));
        }
        desired
    }

    #[test]
    fn tables_follow_from_what_was_told() {
        let desired = told();
        let overlay = desired.overlay();
        let web = VirtualService { addresses: vec![address(0, 200)], backends: vec![address(0, 1), address(0, 2)] };
        let services = Content::Services([((network(0), service(1)), Arc::new(web))].into());
        for number in [1, 3] {
            assert_eq!(table_content(overlay, Namespace::Task(task(number)), TableName::Services), Some(services.clone()));
        }
        let mesh = Content::Mesh {
            nodes: [1, 2].map(|n| IngressNode { hardware: Mac::of(address(1, 100 + n)), mark: ingress_mark(n.into()) }).into(),
            // The first port is not published; places stay what they are.
            ports: vec![WirePort { transport: Transport::Tcp, index: 1, target_port: 80 }],
            mask: 63,
            outward: vec![IpAddr::from([172, 18, 0, 2])],
            near: overlay.ingress().unwrap().pools.iter().map(|pool| pool.subnet).collect(),
        };
        assert_eq!(table_content(overlay, Namespace::Task(task(1)), TableName::Mesh), Some(mesh));
        assert_eq!(table_content(overlay, Namespace::Task(task(3)), TableName::Mesh), None, "it is not on the ingress network");
        let ports = [((Transport::Tcp, 8080), wire_port(1, 1, 2))].into();
        let leads = IngressService { ports, backends: vec![address(1, 2)] };
        let ingress = Content::Ingress { services: [(service(1), leads)].into(), listening: BTreeSet::new() };
        assert_eq!(table_content(overlay, Namespace::Node, TableName::Ingress), Some(ingress));
        let subnets = vec![EgressSubnet { bridge: crate::gateway_bridge_name(), subnet: "172.18.0.0/16".parse().unwrap() }];
        // Both tasks ask for one port: the first has it.
        let leads = HostPort { addresses: vec![IpAddr::from([172, 18, 0, 2])], target_port: 1 };
        let host_ports = Content::HostPorts { subnets: subnets.clone(), ports: [((Transport::Tcp, 9000), leads)].into() };
        assert_eq!(table_content(overlay, Namespace::Node, TableName::HostPorts), Some(host_ports));
        assert_eq!(table_content(overlay, Namespace::Node, TableName::Egress), Some(Content::Egress(subnets)));
        let members = [1, 2].map(|n| IpAddr::from([192, 0, 2, n])).into();
        assert_eq!(table_content(overlay, Namespace::Node, TableName::Underlay), Some(Content::Underlay { port: 4789, members }));
    }

    #[test]
    fn a_changed_endpoint_concerns_its_service_alone() {
        let mut desired = told();
        let check = |desired: &DesiredRows, change: crate::Dirty, expected: &[(Namespace, &[TableName], bool)]| {
            let found = dirty_tables(desired.overlay(), &change.keys);
            let found: Vec<_> = found.iter().map(|(at, look)| (*at, look.tables.clone(), !look.services.is_empty())).collect();
            let expected: Vec<_> =
                expected.iter().map(|(at, tables, some)| (*at, tables.iter().copied().collect(), *some)).collect();
            assert_eq!(found, expected);
        };
        let change = desired.put(endpoint(0, 2, false)).unwrap();
        let tasks = [1, 3].map(|n| Namespace::Task(task(n)));
        check(&desired, change, &[(Namespace::Node, &[], true), (tasks[0], &[], true), (tasks[1], &[], true)]);
        let change = desired.put(endpoint(1, 2, false)).unwrap();
        check(&desired, change, &[(Namespace::Node, &[], true), (tasks[0], &[TableName::Mesh], true)]);
    }

    #[test]
    fn only_who_is_gone_is_cut_off_and_datagrams_of_who_is_withdrawn() {
        let mut desired = told();
        let mut backends = Backends::default();
        let key = (network(0), service(1));
        let other = address(0, 2);
        let gone = |transport| Turnover { gone: [Vanished { backend: other, transport }].into(), came: [].into() };
        let came = |is_published| Turnover { gone: [].into(), came: [Came { backend: other, is_published }].into() };
        let mut look = |desired: &DesiredRows| backends.look(desired.overlay(), [key]).remove(&network(0)).unwrap_or_default();
        assert_eq!(look(&desired).gone, [].into());
        desired.put(endpoint(0, 2, false)).unwrap();
        assert_eq!(look(&desired), gone(Some(Transport::Udp)));
        assert_eq!(look(&desired), Turnover::default());
        desired.put(endpoint(0, 2, true)).unwrap();
        assert_eq!(look(&desired), came(true));
        let change = desired.remove(ObjectKey::Peer(node(2)));
        assert!(dirty_services(desired.overlay(), &change.keys).contains(&key), "its services are looked at");
        assert_eq!(look(&desired), gone(None), "with its node");
        desired.put(endpoint(0, 2, false)).unwrap();
        desired.put(peer(2)).unwrap();
        assert_eq!(look(&desired), came(false), "and back with it");
        desired.remove(ObjectKey::Peer(node(2)));
        assert_eq!(look(&desired), gone(None));
        let left = virtual_service(desired.overlay(), key).unwrap().backends;
        assert_eq!(left, [address(0, 1)]);
    }

    #[test]
    fn who_is_back_is_not_forgotten() {
        let backend = address(0, 2);
        let all = Vanished { backend, transport: None };
        let datagrams = Vanished { backend, transport: Some(Transport::Udp) };
        let other = Vanished { backend: address(0, 3), transport: None };
        let check = |gone: &[Vanished], is_published, left: &[Vanished]| {
            let mut gone: BTreeSet<Vanished> = gone.iter().copied().collect();
            Vanished::spare(&mut gone, backend, is_published);
            assert_eq!(gone, left.iter().copied().collect());
        };
        check(&[all, other], true, &[other]);
        check(&[datagrams, other], true, &[other]);
        check(&[all, other], false, &[datagrams, other]);
        check(&[datagrams], false, &[datagrams]);
        check(&[other], false, &[other]);
    }

    #[test]
    fn an_address_that_passes_to_another_service_is_not_forgotten() {
        let mut desired = told();
        let mut backends = Backends::default();
        let keys = [1, 2].map(|number| (network(0), service(number)));
        backends.look(desired.overlay(), keys);
        let Object::Endpoint(before) = endpoint(0, 2, true) else { unreachable!() };
        desired.remove(ObjectKey::Endpoint(before.id));
        let id = EndpointId { network: network(0), task: task(4) };
        desired.put(Object::Endpoint(Endpoint { id, service: service(2), ..before })).unwrap();
        let came = Came { backend: address(0, 2), is_published: true };
        let expected = Turnover { gone: [].into(), came: [came].into() };
        assert_eq!(backends.look(desired.overlay(), keys), [(network(0), expected)].into());
    }
}
