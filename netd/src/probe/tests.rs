//! Questions across real links, good and bad.

use super::{Plan, run};
use crate::dns::NameServer;
use crate::nft::{Socket, names, services};
use crate::testing::Namespace as Place;
use skep_model::container::DnsConfig;
use skep_model::network::Attachment;
use skep_model::overlay::{LocalTask, NodeNetwork, NodeService, ServiceNetwork};
use skep_model::{Id, NetworkId, ServiceId, TaskId};
use skep_netd_core::{Namespace, Probe, ProbeQuestion};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn id(n: u8) -> Id {
    Id::from_random([n; 16])
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Service `web` on network `front`, and task 1 that asks.
fn server() -> NameServer {
    let server = NameServer::new(PathBuf::from("/nonexistent"));
    let network = NetworkId(id(5));
    let on = ServiceNetwork { network, virtual_addresses: vec![address("10.5.0.2")], aliases: Vec::new() };
    server.change(|names| {
        names.put_network(NodeNetwork {
            id: network,
            name: "front".into(),
            vni: 4096,
            pools: Vec::new(),
            mtu: None,
            internal: false,
            ingress: false,
        });
        names.put_service(NodeService {
            id: ServiceId(id(11)),
            name: "web".into(),
            networks: vec![on],
            ingress_ports: Vec::new(),
        });
        names.put_task(LocalTask {
            id: TaskId(id(1)),
            service: ServiceId(id(11)),
            attachments: vec![Attachment {
                network,
                addresses: vec![address("10.5.0.1")],
                aliases: Vec::new(),
                any_source: false,
            }],
            has_gateway: false,
            host_ports: Vec::new(),
            hostname: "h".into(),
            dns: DnsConfig::default(),
        });
    });
    server
}

/// Asks with so many seconds for all of it.
async fn ask(from: &Place, server: &NameServer, seconds: u64, questions: Vec<ProbeQuestion>) -> Vec<String> {
    let namespace = Arc::new(from.fd().try_clone_to_owned().expect("a descriptor"));
    let probe = |question| Probe { network: "front".into(), from: Namespace::Task(TaskId(id(1))), about: "it".into(), question };
    let probes = questions.into_iter().map(|question| (probe(question), Some(namespace.clone()))).collect();
    let rows = run(Plan { probes, server: server.clone() }, Duration::from_secs(seconds)).await;
    rows.into_iter()
        .map(|row| {
            assert_eq!((row.network.as_str(), row.about.as_str()), ("front", "it"));
            assert_eq!(row.error.is_empty(), row.micros > 0, "{row:?}");
            format!("{}: {}", row.question, if row.error.is_empty() { "good" } else { &row.error })
        })
        .collect()
}

#[tokio::test]
async fn what_works_is_good_and_what_does_not_is_named() {
    let (task, other) = (Place::new(), Place::new());
    task.connect("eth0", &["10.5.0.1/24", "fd05::1/64"], &other, "eth1", &["10.5.0.22/24", "10.5.0.23/24", "fd05::22/64"]);
    let server = server();
    let listeners = server.open(TaskId(id(1)), task.fd()).expect("the sockets open");
    let mut socket = Socket::open_in(task.fd()).expect("a socket");
    socket.commit(&names::replace(listeners.udp, listeners.tcp)).expect("the kernel takes the table");
    let balanced = |backends: &[&str]| services::Service {
        key: "web".into(),
        addresses: vec![address("10.5.0.2")],
        backends: backends.iter().map(|backend| address(backend)).collect(),
    };
    socket.commit(&services::replace_all("seed", &[balanced(&["10.5.0.22", "10.5.0.23"])])).expect("the kernel takes it");
    let questions = || {
        vec![
            ProbeQuestion::Reach(address("10.5.0.22")),
            ProbeQuestion::Reach(address("fd05::22")),
            ProbeQuestion::Mtu(address("10.5.0.22"), 1500),
            ProbeQuestion::Mtu(address("fd05::22"), 1500),
            ProbeQuestion::Dns("web.front".into()),
            ProbeQuestion::Vip(address("10.5.0.2"), 2),
        ]
    };
    let good = ["reach: good", "reach6: good", "mtu: good", "mtu6: good", "dns: good", "vip: good"];
    assert_eq!(ask(&task, &server, 30, questions()).await, good);
    // More than the link takes, at either end.
    let larger = vec![ProbeQuestion::Mtu(address("10.5.0.22"), 1501), ProbeQuestion::Mtu(address("fd05::22"), 1501)];
    let refused =
        |label: &str, target: &str| format!("{label}: 1501 bytes to {target}: the packet is too large for a link on the way");
    assert_eq!(ask(&task, &server, 30, larger).await, [refused("mtu", "10.5.0.22"), refused("mtu6", "fd05::22")]);
    // One backend of two is a hole; an address is nobody's; nobody answers names.
    socket.commit(&services::replace_all("seed", &[balanced(&["10.5.0.22", "10.5.0.99"])])).expect("the kernel takes it");
    server.close(TaskId(id(1))).await;
    let begun = Instant::now();
    let said = ask(
        &task,
        &server,
        1,
        vec![
            ProbeQuestion::Reach(address("10.5.0.99")),
            ProbeQuestion::Dns("web.front".into()),
            ProbeQuestion::Vip(address("10.5.0.2"), 2),
            ProbeQuestion::Reach(address("10.6.0.1")),
        ],
    )
    .await;
    assert!(begun.elapsed() < Duration::from_secs(3), "everything has an end: {:?}", begun.elapsed());
    assert_eq!(said[0], "reach: 10.5.0.99: no answer");
    // Queries to a resolver that is gone vanish, so that a program asks again.
    assert_eq!(said[1], "dns: no answer");
    assert!(said[2].starts_with("vip: 10.5.0.2, connection ") && said[2].ends_with(" of 4: no answer"), "{}", said[2]);
    assert!(said[3].starts_with("reach: 10.6.0.1: Network is unreachable"), "{}", said[3]);
    // A service without a backend refuses at once.
    socket.commit(&services::replace_all("seed", &[balanced(&[])])).expect("the kernel takes it");
    let vacant = ask(&task, &server, 30, vec![ProbeQuestion::Vip(address("10.5.0.2"), 1)]).await;
    assert!(vacant[0].starts_with("vip: 10.5.0.2, connection 1 of 2: "), "{vacant:?}");
}
