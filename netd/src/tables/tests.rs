//! One namespace whose events are not heard, and what a change costs.

use super::Services;
use super::namespace::{Found, Look, NamespaceTables};
use crate::nft::{Edit, Socket, Table, Transaction};
use crate::testing::Namespace as TestNamespace;
use skep_model::network::{Attachment, Pool};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, Peer, ServiceNetwork};
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use skep_netd_core::{DesiredRows, Namespace, Object, TableName};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const NOTHING: Found<'static> = Found { names: None, listening: &BTreeSet::new() };

fn id(number: u16) -> [u8; 16] {
    let mut bytes = [7; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn network() -> NetworkId {
    NetworkId::from_random(id(0))
}

fn task() -> TaskId {
    TaskId::from_random(id(9999))
}

fn endpoint(service: u16, number: u16, is_published: bool) -> Object {
    let [high, low] = number.to_be_bytes();
    Object::Endpoint(Endpoint {
        id: EndpointId { network: network(), task: TaskId::from_random(id(number)) },
        service: ServiceId::from_random(id(service)),
        node: NodeId::from_random(id(1)),
        addresses: vec![IpAddr::from([10, 1, high, low])],
        names: Vec::new(),
        is_published,
    })
}

/// One task that sees this many services of 10 tasks each.
fn told(n_services: u16) -> DesiredRows {
    let mut desired = DesiredRows::new();
    let mut put = |object| drop(desired.put(object).unwrap());
    put(Object::Peer(Peer { node: NodeId::from_random(id(1)), address: IpAddr::from([192, 0, 2, 1]), ingress: None }));
    put(Object::Network(NodeNetwork {
        id: network(),
        name: String::new(),
        vni: 4096,
        pools: vec![Pool { subnet: "10.0.0.0/14".parse().unwrap(), range: None, gateway: None }],
        mtu: None,
        internal: false,
        ingress: false,
    }));
    for service in 0..n_services {
        let [high, low] = service.to_be_bytes();
        let on =
            ServiceNetwork { network: network(), virtual_addresses: vec![IpAddr::from([10, 2, high, low])], aliases: Vec::new() };
        put(Object::Service(NodeService {
            id: ServiceId::from_random(id(service)),
            name: format!("s{service}"),
            networks: vec![on],
            ingress_ports: Vec::new(),
        }));
        (0..10).for_each(|n| put(endpoint(service, service * 10 + n, true)));
    }
    put(Object::Task(LocalTask {
        id: task(),
        service: ServiceId::from_random(id(0)),
        attachments: vec![Attachment {
            network: network(),
            addresses: vec![IpAddr::from([10, 3, 0, 1])],
            aliases: Vec::new(),
            any_source: false,
        }],
        has_gateway: false,
        host_ports: Vec::new(),
        hostname: String::new(),
        dns: Default::default(),
    }));
    desired
}

fn opened(namespace: &TestNamespace, desired: &DesiredRows) -> NamespaceTables {
    let mut scope = NamespaceTables::open(Namespace::Task(task()), Some(namespace.fd()), "seed".to_owned()).expect("the sockets");
    let look = Look { tables: TableName::OF_TASK.into(), ..Look::default() };
    let brought = scope.bring(&look, NOTHING, &mut Services::new(desired.overlay())).expect("the tables are written");
    assert_eq!(brought.repaired, [], "what was there before is nobody's fault");
    scope
}

#[test]
fn an_audit_finds_what_no_event_told_of() {
    let namespace = TestNamespace::new();
    let desired = told(3);
    let mut scope = opened(&namespace, &desired);
    assert_eq!(scope.audit(&TableName::OF_TASK).expect("an audit"), [].into());
    let mut stranger = Socket::open_in(namespace.fd()).expect("a socket");
    let mut damage = Transaction::new();
    damage.push(Edit::FlushChain(Table::new("skep_services"), "output".to_owned()));
    // A table that nobody wants is none of ours to have.
    damage.push(Edit::AddTable(Table::new("skep_mesh")));
    stranger.commit(&damage).expect("the damage is done");
    let found = scope.audit(&TableName::OF_TASK).expect("an audit");
    assert_eq!(found, [TableName::Services, TableName::Mesh].into());
    let look = Look { tables: found, ..Look::default() };
    let brought = scope.bring(&look, NOTHING, &mut Services::new(desired.overlay())).expect("the tables are written");
    assert_eq!(brought.repaired, [(TableName::Services, true), (TableName::Mesh, true)]);
    assert_eq!(stranger.fingerprint(&Table::new("skep_mesh")).expect("a dump"), None);
    assert_eq!(scope.audit(&TableName::OF_TASK).expect("an audit"), [].into());
}

#[test]
fn a_change_costs_what_its_service_costs() {
    for n_services in [10, 600] {
        let namespace = TestNamespace::new();
        let mut desired = told(n_services);
        let mut scope = opened(&namespace, &desired);
        let key = (network(), ServiceId::from_random(id(4)));
        let look = Look { services: [key].into(), ..Look::default() };
        let mut stranger = Socket::open_in(namespace.fd()).expect("a socket");
        let mut took = Duration::ZERO;
        for round in 0..100 {
            drop(desired.put(endpoint(4, 41, round % 2 == 1)).unwrap());
            let start = Instant::now();
            scope.bring(&look, NOTHING, &mut Services::new(desired.overlay())).expect("the table is changed");
            took += start.elapsed();
        }
        println!("one endpoint of {n_services} services changed in {:?}", took / 100);
        let whole = Look { tables: [TableName::Services].into(), ..Look::default() };
        let generation = stranger.generation().expect("a generation");
        scope.bring(&whole, NOTHING, &mut Services::new(desired.overlay())).expect("nothing is to be done");
        assert_eq!(stranger.generation().expect("a generation"), generation, "the parts made up the whole");
    }
}
