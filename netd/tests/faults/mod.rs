//! netd on the real kernel with objects and namespaces that something is wrong with:
//! each is left out and named at its place, and everything else works.

use crate::cluster::*;
use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use skep_model::network::{ATTACHMENTS_MAX, Attachment, MTU_MAX, MTU_MIN, MTU_MIN_IPV6, Pool, VNI_LAST};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, OverlayChange, Peer, ServiceNetwork};
use skep_model::place::PlaceFaults;
use skep_model::{NetworkId, NodeId, ServiceId};
use skep_netd_core::{bridge_name, interface_name, vxlan_name};
use skep_proto::v1;
use skep_proto::v1::netd_change::Change;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What a version may take although something is wrong beside it: less than the pause
/// before what failed is tried again.
const SOON: Duration = Duration::from_millis(900);

/// What does not work on a node, as `place: reason`.
async fn faults(node: &Node) -> Vec<String> {
    let faults = PlaceFaults::from(node.status().await.faults.unwrap_or_default());
    faults.faults.iter().map(|fault| format!("{}: {}", fault.place, fault.reason)).collect()
}

fn write(setting: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap_or_else(|error| panic!("{setting}: {error}"));
}

/// A connection over IPv4 from the first node's task to the second's.
fn assert_reach_v4(nodes: &[Node; 2]) {
    echo(&mut across(nodes, addresses(0, 1)[0]));
}

fn put(network: NodeNetwork) -> Change {
    overlay(&OverlayChange::PutNetwork(network))
}

fn extra(number: u8) -> NodeNetwork {
    let pool = |subnet: String| Pool { subnet: subnet.parse().unwrap(), range: None, gateway: None };
    NodeNetwork {
        id: network_id(100 + number),
        name: format!("extra{number}"),
        vni: 5000 + u32::from(number),
        pools: vec![pool(format!("10.200.{number}.0/24"))],
        mtu: None,
        internal: false,
        ingress: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_odd_object_is_left_out_and_named_and_the_rest_works() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let bad_address: IpAddr = "224.0.0.9".parse().unwrap();
    let stranger = NodeId::from_random([77; 16]);
    let on = ServiceNetwork { network: network_id(0), virtual_addresses: vec![bad_address], aliases: Vec::new() };
    let odd = [
        put(NodeNetwork { mtu: Some(MTU_MIN - 1), ..extra(1) }),
        put(NodeNetwork { mtu: Some(MTU_MAX + 1), ..extra(2) }),
        put(NodeNetwork { vni: 0, ..extra(3) }),
        put(NodeNetwork { vni: VNI_LAST + 1, ..extra(4) }),
        put(NodeNetwork { pools: vec![Pool { subnet: "127.0.0.0/8".parse().unwrap(), range: None, gateway: None }], ..extra(5) }),
        put(NodeNetwork { pools: vec![Pool { subnet: "10.0.0.0/31".parse().unwrap(), range: None, gateway: None }], ..extra(6) }),
        overlay(&OverlayChange::PutPeer(Peer { node: stranger, address: "0.0.0.0".parse().unwrap(), ingress: None })),
        overlay(&OverlayChange::PutService(NodeService {
            id: ServiceId::from_random([78; 16]),
            name: "odd".into(),
            networks: vec![on],
            ingress_ports: Vec::new(),
        })),
        overlay(&OverlayChange::PutEndpoint(Endpoint {
            id: EndpointId { network: network_id(0), task: task(20) },
            service: service(),
            node: node_id(1),
            addresses: vec![bad_address],
            names: Vec::new(),
            is_published: true,
        })),
        Change::PutTask(v1::LocalTask { id: task(21).to_string(), ..v1::LocalTask::default() }),
        Change::Overlay(v1::OverlayChange { change: None }),
        Change::RemoveTask("no id".into()),
    ];
    nodes[0].send(odd.into(), 2).await;
    assert_reach(&nodes, PLAIN.overlay_mtu());
    let found = faults(&nodes[0]).await;
    let id = |n: u8| network_id(100 + n);
    for (place, words) in [
        (format!("network {}", id(1)), "invalid MTU \"575\""),
        (format!("network {}", id(2)), "invalid MTU \"65536\""),
        (format!("network {}", id(3)), "invalid network number (VNI) \"0\""),
        (format!("network {}", id(4)), "invalid network number (VNI) \"16777216\""),
        (format!("network {}", id(5)), "invalid subnet \"127.0.0.0/8\""),
        (format!("network {}", id(6)), "invalid subnet \"10.0.0.0/31\""),
        ("node".into(), &format!("the node {stranger} is left out: object: invalid data path address")),
        (format!("service {}", ServiceId::from_random([78; 16])), "invalid address \"224.0.0.9\""),
        (format!("task {}", task(20)), "invalid address \"224.0.0.9\""),
        (format!("task {}", task(21)), "it is left out: task: malformed message"),
    ] {
        let named = found.iter().any(|fault| fault.starts_with(&place) && fault.contains(words));
        assert!(named, "{place}: {words} is not among {found:#?}");
    }
    // A good one in place of an odd one is taken, and its fault is over.
    nodes[0].send(vec![put(extra(1)), Change::Overlay(v1::OverlayChange::from(&OverlayChange::RemoveNetwork(id(2))))], 3).await;
    let found = faults(&nodes[0]).await;
    let is_over = |n: u8| !found.iter().any(|fault| fault.contains(id(n).as_str()));
    assert!(is_over(1) && is_over(2) && !is_over(3), "{found:#?}");
    assert!(nodes[0].links().await.contains(&bridge_name(5001).to_string()) || nodes[0].status().await.failures.is_empty());
}

/// Every field of a network at each of its bounds, on one task.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_admitted_is_made() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let v4 = |subnet: &str, address: &str| (vec![subnet.to_owned()], vec![address.to_owned()]);
    let both = |subnet: &str, address: &str| {
        (vec!["10.201.9.0/24".to_owned(), subnet.to_owned()], vec!["10.201.9.2".to_owned(), address.to_owned()])
    };
    let bounds = [
        (1, Some(MTU_MIN), v4("10.201.1.0/30", "10.201.1.2")),
        (2, Some(MTU_MIN_IPV6 - 1), v4("10.201.2.0/24", "10.201.2.254")),
        (3, Some(MTU_MIN_IPV6), both("fd99::/124", "fd99::f")),
        (VNI_LAST, Some(MTU_MAX), v4("12.0.0.0/8", "12.255.255.254")),
    ];
    let mut local: LocalTask = local_task(0);
    let mut changes = Vec::new();
    for (place, (vni, mtu, (subnets, addresses))) in bounds.iter().enumerate() {
        let pools = subnets.iter().map(|subnet| Pool { subnet: subnet.parse().unwrap(), range: None, gateway: None }).collect();
        changes.push(put(NodeNetwork { vni: *vni, mtu: *mtu, pools, ..extra(place as u8) }));
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        local.attachments.push(Attachment {
            network: network_id(100 + place as u8),
            addresses,
            aliases: Vec::new(),
            any_source: false,
        });
    }
    changes.push(Change::PutTask(v1::LocalTask::from(&local)));
    nodes[0].send(changes, 2).await;
    assert_eq!(faults(&nodes[0]).await, Vec::<String>::new());
    assert_eq!(nodes[0].status().await.failures, Vec::<String>::new());
    for (place, (vni, mtu, (_, addresses))) in bounds.iter().enumerate() {
        let name = interface_name(place as u8 + 2);
        let (found, bound) = nodes[0].in_task(|| {
            let mtu = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/forwarding")).is_ok();
            let bound =
                addresses.iter().all(|address| std::net::UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).is_ok());
            (mtu, bound)
        });
        assert!(found && bound, "interface {name} of network {vni} has {addresses:?}");
        let links = nodes[0].links().await;
        assert!(links.contains(&vxlan_name(*vni).to_string()), "{vni} with MTU {mtu:?}: {links:?}");
    }
    assert_reach(&nodes, PLAIN.overlay_mtu());
    // As many networks as a task may have; the gateway has the last number.
    let many: Vec<NetworkId> = (0..ATTACHMENTS_MAX - 2)
        .map(|n| NetworkId::from_random([(n % 250) as u8 + 1, 200, (n / 250) as u8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]))
        .collect();
    let mut local: LocalTask = local_task(0);
    let mut changes = Vec::new();
    for (n, id) in many.iter().enumerate() {
        let (high, low) = (210 + (n / 250) as u8, (n % 250) as u8);
        let pools = vec![Pool { subnet: format!("10.{high}.{low}.0/24").parse().unwrap(), range: None, gateway: None }];
        changes.push(put(NodeNetwork { id: *id, vni: 9000 + n as u32, pools, ..extra(0) }));
        local.attachments.push(Attachment {
            network: *id,
            addresses: vec![IpAddr::from([10, high, low, 2])],
            aliases: Vec::new(),
            any_source: false,
        });
    }
    changes.push(Change::PutTask(v1::LocalTask::from(&local)));
    nodes[0].send(changes, 3).await;
    assert_eq!(faults(&nodes[0]).await, Vec::<String>::new());
    let last = interface_name(255);
    assert!(nodes[0].in_task(|| nix::net::if_::if_nametoindex(last.as_str()).is_ok()), "{last} leads to the gateway");
}

/// The case that was seen: IPv6 switched off in one task held up every later version of
/// its node.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_that_switched_ipv6_off_holds_nobody_up_and_works_over_ipv4() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    nodes[0].in_task(|| write("ipv6/conf/all/disable_ipv6", "1"));
    let begin = Instant::now();
    nodes[0].send(vec![put(extra(1))], 2).await;
    assert!(begin.elapsed() < within(SOON), "the next version took {:?}", begin.elapsed());
    assert_reach_v4(&nodes);
    let named = until_faults(&nodes[0], |faults| faults.iter().any(|fault| is_without_ipv6(fault))).await;
    assert!(named.iter().all(|fault| is_without_ipv6(fault)), "{named:#?}");
    assert_eq!(nodes[0].status().await.failures, Vec::<String>::new(), "what is not wanted does not fail");
    // Switched on again, it comes back with the next audit, which may take half a minute.
    if std::env::var_os("SKEP_FULL").is_some() {
        nodes[0].in_task(|| write("ipv6/conf/all/disable_ipv6", "0"));
        until_faults(&nodes[0], |faults| faults.is_empty()).await;
        nodes[0].send(vec![put(extra(2))], 3).await;
        assert_reach(&nodes, PLAIN.overlay_mtu());
    }
}

fn is_without_ipv6(fault: &str) -> bool {
    fault.starts_with(&format!("task {}: the task has no IPv6 on eth", task(0)))
}

/// Waits until a node's faults are so.
async fn until_faults(node: &Node, is: impl Fn(&[String]) -> bool) -> Vec<String> {
    let mut progress = tokio::time::interval(Duration::from_millis(50));
    let deadline = Instant::now() + 3 * DEADLINE;
    loop {
        let found = faults(node).await;
        if is(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:#?}");
        progress.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_without_ipv6_works_over_ipv4_and_says_so() {
    let pins = Pins::new();
    let switch_off = |number| {
        if number == 0 {
            write("ipv6/conf/all/disable_ipv6", "1");
            write("ipv6/conf/default/disable_ipv6", "1");
        }
    };
    let nodes = prepared(&pins, PLAIN, switch_off).await;
    assert_reach_v4(&nodes);
    let said = ["node: networks work over IPv4 only: IPv6 is switched off (net.ipv6.conf.all.disable_ipv6=1)".to_owned()];
    assert_eq!(faults(&nodes[0]).await, said);
    assert_eq!(nodes[0].status().await.failures, Vec::<String>::new());
    assert_eq!(nodes[0].status().await.repaired, Default::default());
    assert_eq!(faults(&nodes[1]).await, Vec::<String>::new(), "the other node has it");
}

/// Tailscale's links carry 1280 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_underlay_too_small_for_ipv6_carries_ipv4() {
    for mtu in [1329, 1280, 700] {
        let pins = Pins::new();
        let nodes = cluster(&pins, Underlay { is_v6: false, mtu }).await;
        assert_reach_v4(&nodes);
        for node in &nodes {
            let own = node.underlay.address(node.number);
            let said = format!(
                "node: networks work over IPv4 only: the link with the address {own} carries {mtu} bytes, and IPv6 needs 1330 there"
            );
            assert_eq!((faults(node).await, node.status().await.failures), (vec![said], Vec::new()));
        }
    }
    let pins = Pins::new();
    let nodes = cluster(&pins, Underlay { is_v6: false, mtu: 1330 }).await;
    assert_reach(&nodes, 1280);
    assert_eq!(faults(&nodes[0]).await, Vec::<String>::new());
}

/// A cluster of one node on loopback, as `swarm init --advertise-addr 127.0.0.1` makes it;
/// and a node that another one cannot reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_loopback_underlay_works_for_one_node_and_costs_the_others_nothing() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let stray = NodeId::from_random([77; 16]);
    let strays = ["127.0.0.1", "2001:db8::9"]
        .map(|address| overlay(&OverlayChange::PutPeer(Peer { node: stray, address: address.parse().unwrap(), ingress: None })));
    let [loopback, of_other_family] = strays;
    let there = Endpoint {
        id: EndpointId { network: network_id(0), task: task(20) },
        service: service(),
        node: stray,
        addresses: vec!["10.77.0.50".parse().unwrap()],
        names: Vec::new(),
        is_published: true,
    };
    nodes[0].send(vec![loopback, overlay(&OverlayChange::PutEndpoint(there))], 2).await;
    assert_reach(&nodes, PLAIN.overlay_mtu());
    let found = faults(&nodes[0]).await;
    assert!(found.len() == 1 && found[0].contains("a loopback address, at which no other node reaches"), "{found:#?}");
    nodes[0].send(vec![of_other_family], 3).await;
    assert_reach(&nodes, PLAIN.overlay_mtu());
    let found = faults(&nodes[0]).await;
    assert!(found.len() == 1 && found[0].contains("2001:db8::9 is of IPv6, this node's 192.0.2.1 of IPv4"), "{found:#?}");
    assert_eq!(nodes[0].status().await.failures, Vec::<String>::new());
    // The node itself on loopback: its tasks have their interfaces.
    let own = v1::NetdNode { id: node_id(0).to_string(), address: "127.0.0.1".into(), port: 4789, is_isolated: false };
    nodes[0].send(vec![Change::Node(own)], 4).await;
    assert_eq!(nodes[0].status().await.failures, Vec::<String>::new());
    let bound = nodes[0].in_task(|| std::net::UdpSocket::bind((addresses(0, 0)[0], 0)).is_ok());
    assert!(bound, "the task has its address");
}

/// An address that no link has stops what needs it, is named, and what does not need it
/// goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_missing_underlay_address_is_named_at_each_network_and_versions_go_on() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let own = v1::NetdNode { id: node_id(0).to_string(), address: "198.51.100.7".into(), port: 4789, is_isolated: false };
    let begin = Instant::now();
    nodes[0].send(vec![Change::Node(own)], 2).await;
    assert!(begin.elapsed() < within(SOON), "the version took {:?}", begin.elapsed());
    let found = faults(&nodes[0]).await;
    let why = "no link of this node has the address 198.51.100.7";
    let mut expected = vec![format!("node: {why}")];
    expected.extend([0, 1].map(|n| format!("network {}: {why}", network_id(n))));
    expected.sort();
    let mut found = found;
    found.sort();
    assert_eq!(found, expected);
    let back = nodes[0].node();
    nodes[0].send(vec![back], 3).await;
    until_faults(&nodes[0], |faults| faults.is_empty()).await;
    assert_reach(&nodes, PLAIN.overlay_mtu());
}

/// Half of a network daemon would acknowledge what it does not do. What the kernel holds stays
/// with a daemon that ends, and is its successor's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_ends_netd_with_its_sentence_and_its_successor_takes_over() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let mut pair = across(&nodes, addresses(0, 1)[0]);
    let service = NodeService { id: service(), name: "boom".into(), networks: Vec::new(), ingress_ports: Vec::new() };
    let in_loop = vec![Change::Reset(v1::NetdReset {}), nodes[0].node(), overlay(&OverlayChange::PutService(service))];
    let in_call = v1::LocalTask::from(&LocalTask { hostname: "boom".into(), ..local_task(0) });
    for (place, sentence) in
        [("netd", "the network daemon's loop panicked"), ("netd-call", "a thread of this daemon at netd/src/server.rs:")]
    {
        let node = &mut nodes[0];
        node.process.kill().unwrap();
        node.process.wait().unwrap();
        // The keeper of names, which outlives netd, has its words in the same file.
        let words = pins.folder.path().join(place);
        node.restart_planted(&format!("{place}=boom"), std::fs::File::create(&words).unwrap().into()).await;
        if place == "netd" {
            node.begin(in_loop.clone(), 1).await;
        } else {
            let namespace = v1::NetdNamespace { task: Some(in_call.clone()), after: 0 };
            node.client.make_namespace(namespace).await.expect_err("it ends without an answer");
        }
        assert_eq!(node.ended().await, Some(skep_host::process::EXIT_FAULT), "{place}");
        let words = std::fs::read_to_string(words).unwrap();
        let is_said = |line: &str| line.starts_with(sentence) && line.contains("panicked: planted in") && line.contains(place);
        assert!(words.lines().any(|line| is_said(line) && line.contains("for boom; this process ends")), "{place}: {words}");
        echo(&mut pair);
    }
    nodes[0].restart().await;
    nodes[0].apply_all().await;
    assert_eq!(nodes[0].status().await.operations, 0, "all was there");
    assert_reach(&nodes, PLAIN.overlay_mtu());
}

/// The default route that a router advertised stays when the first published port makes
/// the node forward, and the router may go on; also over an uplink that is made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_route_that_a_router_advertised_survives_forwarding() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    // No forwarding: as on a node where nothing is published yet.
    nodes[0].in_node(|| {
        write("ipv6/conf/all/forwarding", "0");
        write("ipv6/conf/underlay/accept_ra", "1");
    });
    hear_router(&nodes).await;
    // It looks at settings anew.
    anew(&mut nodes[0]).await;
    let setting = |node: &Node, path: &str| node.in_node(|| std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap());
    assert_eq!(setting(&nodes[0], "ipv6/conf/all/forwarding").trim(), "1", "the node forwards now");
    assert_eq!(nodes[0].in_node(|| default_routes("underlay")), 1, "and still has its way out");
    assert_eq!(setting(&nodes[0], "ipv6/conf/underlay/accept_ra").trim(), "2");
    for is_restarted in [false, true] {
        if is_restarted {
            anew(&mut nodes[0]).await;
        }
        let index = index_of_underlay(&nodes[0].namespace);
        nodes[0].handle.link().del(index).execute().await.unwrap();
        assert_eq!(nodes[0].in_node(|| default_routes("underlay")), 0, "the route went with its link");
        make_underlay([0, 1].map(|number| (&nodes[number].namespace, &nodes[number].handle)), PLAIN).await;
        hear_router(&nodes).await;
        assert_eq!(setting(&nodes[0], "ipv6/conf/underlay/accept_ra").trim(), "2");
    }
}

/// netd is killed and started again.
async fn anew(node: &mut Node) {
    node.process.kill().unwrap();
    node.process.wait().unwrap();
    node.restart().await;
    node.apply_all().await;
}

/// The second node advertises itself until the first has a default route.
async fn hear_router(nodes: &[Node; 2]) {
    // The router's link-local address is its own some time after the link is up.
    let mut addresses = nodes[1].events(MulticastGroup::Ipv6Ifaddr);
    let mut routes = nodes[0].events(MulticastGroup::Ipv6Route);
    let taken = async {
        while nodes[0].in_node(|| default_routes("underlay")) == 0 {
            nodes[1].in_node(|| advertise("underlay"));
            tokio::select! {
                event = addresses.next() => event.map(drop),
                event = routes.next() => event.map(drop),
            }
            .expect("the kernel tells");
        }
    };
    tokio::time::timeout(DEADLINE, taken).await.expect("the kernel takes the advertisement");
}

/// How many default routes lead over a link.
fn default_routes(link: &str) -> usize {
    // Of this thread's namespace, which is not that of the process.
    let table = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    let is_default =
        |line: &&str| line.starts_with(&"0".repeat(32)) && line.ends_with(link) && line.split_whitespace().nth(1) == Some("00");
    table.lines().filter(is_default).count()
}

/// Sends a router advertisement (RFC 4861, 4.2) to all nodes on a link; errors are for
/// the caller's next attempt.
fn advertise(link: &str) {
    let index = nix::net::if_::if_nametoindex(link).unwrap() as i32;
    // SAFETY: a plain system call; the descriptor is owned at once.
    let socket =
        unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMPV6)) };
    set_option(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, 255);
    set_option(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index);
    let mut message = [0_u8; 16];
    message[0] = 134;
    message[4] = 64;
    message[6..8].copy_from_slice(&1800_u16.to_be_bytes());
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    // SAFETY: all bytes of the structure may be zero.
    let mut to: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    to.sin6_addr.s6_addr = all_nodes.octets();
    to.sin6_scope_id = index as u32;
    let length = size_of_val(&to) as libc::socklen_t;
    // SAFETY: message and address live across the call, and their lengths are given.
    let _ =
        unsafe { libc::sendto(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0, (&raw const to).cast(), length) };
}
