//! netd on the real kernel: tasks reach each other, whatever drifts is repaired,
//! a restart changes nothing, and what is removed leaves nothing.

mod cluster;
mod faults;

use cluster::*;
use futures_util::StreamExt as _;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use rtnetlink::{LinkUnspec, MulticastGroup};
use skep_model::TaskId;
use skep_model::overlay::{EndpointId, LocalTask, OverlayChange};
use skep_netd::kernel::Kernel;
use skep_netd::namespace::Namespaces;
use skep_netd::netlink::namespace::inside;
use skep_netd_core::{
    FdbTable, FdbTarget, Key, Mac, Mirror, Name, Op, Place, Port, Setting, Sysctl, Value, ingress_mark, interface_name,
    vxlan_name,
};
use skep_proto::v1;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

async fn assert_quiet(nodes: &[Node; 2]) {
    for node in nodes {
        let status = node.status().await;
        assert_eq!((status.repaired, status.failures), (Default::default(), Vec::new()), "nothing drifted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_reach_each_other_with_exactly_the_promised_packet_size() {
    for underlay in [PLAIN, Underlay { is_v6: false, mtu: 1450 }, Underlay { is_v6: false, mtu: 9000 }] {
        let pins = Pins::new();
        let nodes = cluster(&pins, underlay).await;
        assert_reach(&nodes, underlay.overlay_mtu());
        assert_quiet(&nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_underlay_without_v4_carries_both_families() {
    let pins = Pins::new();
    let underlay = Underlay { is_v6: true, mtu: 1500 };
    let nodes = cluster(&pins, underlay).await;
    assert_eq!(underlay.overlay_mtu(), 1430);
    assert_reach(&nodes, 1430);
    assert_quiet(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn packets_become_larger_when_the_underlay_does() {
    let pins = Pins::new();
    let nodes = cluster(&pins, PLAIN).await;
    let mut pair = across(&nodes, addresses(0, 1)[0]);
    for node in &nodes {
        let index = node.index("underlay").await;
        node.handle.link().set(LinkUnspec::new_with_index(index).mtu(9000).build()).execute().await.unwrap();
        let place = Place::task(task(node.number), Key::Mtu(interface_name(0)));
        let took =
            node.with_view(async |view| view.until(DEADLINE, |view| view.mirror.get(&place) == Some(&Value::Mtu(8950))).await);
        took.expect("the interfaces follow");
    }
    echo(&mut pair);
    assert_reach(&nodes, 8950);
    assert_quiet(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_reaches_its_node_through_the_gateway_bridge_and_no_other_task() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let own = nodes[0].underlay.address(0);
    let (from, bridge): (IpAddr, IpAddr) = ("172.18.0.2".parse().unwrap(), "172.18.0.1".parse().unwrap());
    // What is on no network of the task goes the same way as the bridge itself.
    for to in [bridge, own] {
        let mut pair = connect(|bind| nodes[0].in_node(bind), |open, target| nodes[0].in_task(|| open(target)), to);
        assert_eq!(pair.1.peer_addr().unwrap().ip(), from);
        echo(&mut pair);
    }
    let mut other = local_task(0);
    other.id = task(7);
    other.attachments.clear();
    let message = v1::NetdNamespace { task: Some(v1::LocalTask::from(&other)), after: 1 };
    let path = nodes[0].client.make_namespace(message).await.unwrap().into_inner().path;
    let pin = std::fs::File::open(path).unwrap();
    let server = nodes[0].in_task(|| std::net::TcpListener::bind((from, 0)).unwrap());
    let target = server.local_addr().unwrap();
    let open = || std::net::TcpStream::connect_timeout(&target, 4 * SECOND);
    nodes[0].in_node(open).expect("the node reaches the task");
    let refused = inside(pin.as_fd(), open).unwrap().expect_err("tasks do not reach each other behind the gateway");
    assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable, "{refused}");
    let forwards = nodes[0].in_node(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    assert_eq!(forwards.trim(), "1");
    assert_quiet(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ingress_node_reaches_every_task_and_marked_answers_go_back_through_it() {
    let pins = Pins::new();
    let nodes = cluster(&pins, PLAIN).await;
    // An address that only the second node has, and no route of the task leads to.
    for address in ["203.0.113.5", "2001:db8:cafe::5"] {
        let address: IpAddr = address.parse().unwrap();
        let group = if address.is_ipv4() { MulticastGroup::Ipv4Ifaddr } else { MulticastGroup::Ipv6Ifaddr };
        let mut told = nodes[1].events(group);
        let mut request = nodes[1].handle.address().add(1, address, if address.is_ipv4() { 32 } else { 128 });
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request.execute().await.unwrap();
        // The kernel takes packets for a v6 address some time after it took the address.
        let is_there = async {
            while let Some((message, _)) = told.next().await {
                let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(new)) = message.payload else { continue };
                if new.attributes.contains(&AddressAttribute::Address(address)) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, is_there).await.unwrap();
    }
    for family in 0..2 {
        for at in 0..2 {
            let to = addresses(1, at)[family];
            let mut pair = connect(|bind| nodes[at].in_task(bind), |open, target| nodes[0].in_node(|| open(target)), to);
            assert_eq!(pair.1.peer_addr().unwrap().ip(), gateway(0)[family]);
            echo(&mut pair);
        }
        let client: IpAddr = if family == 0 { "203.0.113.5" } else { "2001:db8:cafe::5" }.parse().unwrap();
        let server = nodes[1].in_node(|| std::net::UdpSocket::bind((client, 0)).unwrap());
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let own = addresses(1, 0)[family];
        let marked = nodes[0].in_task(|| std::net::UdpSocket::bind((own, 0)).unwrap());
        marked.set_read_timeout(Some(DEADLINE)).unwrap();
        set_option(marked.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, ingress_mark(2) as i32);
        // The node takes over the ingress network what answers it, and nothing else.
        server.send_to(b"question", marked.local_addr().unwrap()).unwrap();
        assert_eq!(marked.recv_from(&mut [0; 16]).unwrap().1, server.local_addr().unwrap());
        marked.send_to(b"answer", server.local_addr().unwrap()).unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap_or_else(|error| panic!("nothing came to {client}: {error}"));
        assert_eq!(from, marked.local_addr().unwrap(), "the task's own address, by the node of the mark");
    }
    assert_quiet(&nodes).await;
}

/// A row that others broke, and how.
fn broken(place: Place, value: Value) -> Option<Op> {
    let elsewhere = IpAddr::from([192, 0, 2, 77]);
    Some(match (place.key, value) {
        (Key::Namespace | Key::Setting(..) | Key::Sysctl(_), _) => return None,
        (Key::Up(link), _) if link == skep_netd_core::Name::LOOPBACK => return None,
        (_, Value::Mtu(bytes)) => Op::Make(place, Value::Mtu(bytes - 100)),
        (Key::Mac(_), _) => Op::Make(place, Value::Mac(Mac([2, 6, 6, 6, 6, 6]))),
        (_, Value::Port(port)) => Op::Make(place, Value::Port(Port { flood: true, learning: true, ..port })),
        (_, Value::Fdb(FdbTarget::Node(_))) => Op::Make(place, Value::Fdb(FdbTarget::Node(elsewhere))),
        (Key::Neighbour(..), _) => Op::Make(place, Value::Mac(Mac([2, 6, 6, 6, 6, 6]))),
        (_, Value::Table(_)) => Op::Make(place, Value::Table(9)),
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_deleted_or_corrupted_is_back_within_a_second_and_named() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    assert_quiet(&nodes).await;
    let drifts = nodes[0].with_view(async |view| {
        let right = view.rows();
        let mut drifts: Vec<(Place, Duration)> = Vec::new();
        // Every row once, in an order that mixes kinds and namespaces.
        let mut ops: Vec<Op> = right.iter().filter_map(|(place, value)| broken(*place, *value)).collect();
        let removable = |place: &&Place| {
            !place.key.is_property() && place.key != Key::Namespace && place.key.link() != Some(skep_netd_core::Name::LOOPBACK)
        };
        ops.extend(right.keys().filter(removable).map(|place| Op::Remove(*place)));
        let count = ops.len();
        for number in 0..count {
            let op = ops[number * 37 % count];
            view.kernel.execute(&op, &mut view.mirror).await.unwrap();
            let took = view.until(3 * within(SECOND), |view| view.rows() == right).await;
            let Some(took) = took else {
                let is: BTreeMap<Place, Value> = view.rows();
                let missing: Vec<_> = right.iter().filter(|(place, value)| is.get(place) != Some(value)).collect();
                panic!("not repaired after {op}: {missing:?}");
            };
            drifts.push((op.place(), took));
        }
        drifts
    });
    let status = nodes[0].status().await;
    let slowest = drifts.iter().max_by_key(|(_, took)| *took).unwrap();
    let mut sorted: Vec<Duration> = drifts.iter().map(|(_, took)| *took).collect();
    sorted.sort();
    eprintln!("{} drifts, median {:?}, slowest {:?} ({})", drifts.len(), sorted[sorted.len() / 2], slowest.1, slowest.0);
    assert!(slowest.1 < within(SECOND), "{} took {:?}", slowest.0, slowest.1);
    for kind in ["link", "mtu", "mac", "port", "up", "address", "route", "rule", "fdb", "neighbour"] {
        assert!(status.repaired.contains_key(kind), "{kind} is not in {:?}", status.repaired);
    }
    assert_eq!((status.repaired_by_audit, status.failures), (0, Vec::new()));
    assert_reach(&nodes, 1450);
    // What netd did itself is news to it, too: turns over it, in which nothing may happen at all.
    let before = nodes[0].status().await;
    for version in 2..12 {
        nodes[0].send(Vec::new(), version).await;
    }
    let after = nodes[0].status().await;
    assert_eq!((after.operations, after.repaired), (before.operations, before.repaired));
}

/// One call of the poller names 64 of them; planning relies on all queues being empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_of_many_namespaces_are_all_taken_at_once() {
    let pins = Pins::new();
    let tasks: Vec<TaskId> = (0..70).map(task).collect();
    for task in &tasks {
        pins.namespaces.make(*task).unwrap();
    }
    let folder = pins.folder.path().join("nodes");
    let mut kernel = Kernel::open(Namespaces::open(&folder).unwrap()).unwrap();
    let mut mirror = Mirror::new();
    kernel.catch_up(&mut mirror).await.unwrap();
    let is_up = |mirror: &Mirror, task: TaskId| mirror.get(&Place::task(task, Key::Up(Name::LOOPBACK))).is_some();
    assert!(!tasks.iter().any(|task| is_up(&mirror, *task)));
    for task in &tasks {
        let handle = connection(&pins.namespaces.get(*task).unwrap());
        handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
    }
    let (touched, unreadable) = kernel.catch_up(&mut mirror).await.unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let missed = tasks.iter().filter(|task| !is_up(&mirror, **task)).count();
    assert_eq!((missed, touched.len() >= tasks.len()), (0, true), "of {}", tasks.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deleted_row_is_named_once() {
    let pins = Pins::new();
    let nodes = cluster(&pins, PLAIN).await;
    let place = Place::node(Key::Fdb(vxlan_name(4096), Mac::of(addresses(0, 1)[0]), FdbTable::Vxlan));
    nodes[0].with_view(async |view| {
        let right = view.rows();
        view.kernel.execute(&Op::Remove(place), &mut view.mirror).await.unwrap();
        view.until(within(SECOND), |view| view.rows() == right).await.expect("the row is back in time");
    });
    echo(&mut across(&nodes, addresses(0, 1)[0]));
    let status = nodes[0].status().await;
    assert_eq!(status.repaired, [("fdb".to_owned(), 1)].into());
    assert_eq!(status.repairs, ["make   node: fdb 02:42:0a:4d:00:03 on sk001000x = at 192.0.2.2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_network_number_that_another_program_of_the_node_uses_is_named() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let theirs = rtnetlink::LinkVxlan::new("theirs", 4098).port(4789).build();
    nodes[0].handle.link().add(theirs).execute().await.unwrap();
    nodes[0].begin(vec![overlay(&network(2))], 2).await;
    let named = async {
        loop {
            let failures = nodes[0].status().await.failures.join("; ");
            if failures.contains("the network number 4098 on UDP port 4789, which another VXLAN device of this node has") {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, named).await.expect("it is named");
    nodes[0].handle.link().del(nodes[0].index("theirs").await).execute().await.unwrap();
    nodes[0].reach(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_task_adds_to_its_own_links_stays_its_own() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let runtime = tokio::runtime::Handle::current();
    let handle = nodes[0].in_task(|| {
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        runtime.spawn(connection);
        handle
    });
    let index = nodes[0].in_task(|| nix::net::if_::if_nametoindex("eth0").unwrap());
    // As keepalived does, and OpenVPN; and a neighbour for good.
    let (own, host, neighbour) = (IpAddr::from([10, 77, 0, 88]), IpAddr::from([203, 0, 113, 7]), IpAddr::from([10, 77, 0, 89]));
    handle.address().add(index, own, 32).execute().await.unwrap();
    let route = || rtnetlink::RouteMessageBuilder::<IpAddr>::new().destination_prefix(host, 32).unwrap();
    handle.route().add(route().gateway(addresses(0, 1)[0]).unwrap().build()).execute().await.unwrap();
    let request = handle.neighbours().add(index, neighbour).link_layer_address(&[2, 6, 6, 6, 6, 6]);
    request.state(NeighbourState::Permanent).execute().await.unwrap();
    // One table after the other: a socket reads one at a time (EBUSY), and whoever makes a request has sent it.
    let count = async || {
        let addresses = handle.address().get().execute().filter(|found| {
            let attributes = &found.as_ref().unwrap().attributes;
            std::future::ready(attributes.contains(&AddressAttribute::Address(own)))
        });
        let addresses = addresses.count().await;
        let is_it = |found: &rtnetlink::packet_route::route::RouteMessage| found.header.destination_prefix_length == 32;
        let routes = handle.route().get(rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()).execute();
        let routes = routes.filter(|found| {
            let found = found.as_ref().unwrap();
            let is_static = found.header.protocol == rtnetlink::packet_route::route::RouteProtocol::Static;
            std::future::ready(is_it(found) && is_static)
        });
        let routes = routes.count().await;
        let neighbours = handle.neighbours().get().execute().filter(|found| {
            let attributes = &found.as_ref().unwrap().attributes;
            let hardware = rtnetlink::packet_route::neighbour::NeighbourAttribute::LinkLayerAddress(vec![2, 6, 6, 6, 6, 6]);
            std::future::ready(attributes.contains(&hardware))
        });
        (addresses, routes, neighbours.count().await)
    };
    assert_eq!(count().await, (1, 1, 1));
    // A row of ours in the same namespace is repaired meanwhile, and a restart reads everything anew.
    let place = Place::task(task(0), Key::Via(interface_name(2), 254, "0.0.0.0/0".parse().unwrap()));
    nodes[0].with_view(async |view| {
        let right = view.rows();
        view.kernel.execute(&Op::Remove(place), &mut view.mirror).await.unwrap();
        view.until(within(SECOND), |view| view.rows() == right).await.expect("the row is back in time");
    });
    assert_eq!(nodes[0].status().await.repaired, [("route".to_owned(), 1)].into());
    nodes[0].process.kill().unwrap();
    nodes[0].process.wait().unwrap();
    nodes[0].restart().await;
    nodes[0].apply_all().await;
    assert_eq!(count().await, (1, 1, 1));
    assert_eq!(nodes[0].status().await.repaired, Default::default());
}

/// Tells when the forwarding of the calling thread's namespace is changed, or the
/// check of ways back of a link. netd does not listen to this, and of the third
/// setting below nobody is told: it is put right before the link's.
fn settings_told(runtime: &tokio::runtime::Handle) -> TokioSocket {
    const IPV4_NETCONF: u32 = 1 << 23;
    let _context = runtime.enter();
    let mut socket = TokioSocket::new(NETLINK_ROUTE).unwrap();
    socket.socket_mut().bind(&SocketAddr::new(0, IPV4_NETCONF)).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_setting_that_no_event_tells_of_is_found_by_the_audit() {
    let pins = Pins::new();
    let nodes = cluster(&pins, PLAIN).await;
    let mut wrong = vec![
        (Place::node(Key::Sysctl(Sysctl::Forward4)), 0),
        (Place::task(task(0), Key::Sysctl(Sysctl::MarkAccepted)), 0),
        (Place::task(task(0), Key::Setting(interface_name(1), Setting::ReversePath)), 1),
    ];
    // A kernel has it while `br_netfilter` is there.
    let shown = Sysctl::BridgeNfCallIptables;
    if std::path::Path::new("/proc/sys/net").join(shown.path()).exists() {
        wrong.push((Place::node(Key::Sysctl(shown)), 1));
    }
    let runtime = tokio::runtime::Handle::current();
    let told = [nodes[0].in_node(|| settings_told(&runtime)), nodes[0].in_task(|| settings_told(&runtime))];
    nodes[0].with_view(async |view| {
        for (place, value) in wrong.iter().copied() {
            view.kernel.execute(&Op::Make(place, Value::Setting(value)), &mut view.mirror).await.unwrap();
        }
        let begin = Instant::now();
        let repaired = async {
            loop {
                view.read().await;
                if wrong.iter().all(|(place, value)| view.mirror.get(place) != Some(&Value::Setting(*value))) {
                    return;
                }
                let [in_node, in_task] = &told;
                tokio::select! {
                    told = in_node.recv_from_full() => told.map(drop).unwrap(),
                    told = in_task.recv_from_full() => told.map(drop).unwrap(),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(35), repaired).await.expect("the audit comes by once in 30 s");
        eprintln!("settings were right again after {:?}", begin.elapsed());
    });
    let status = nodes[0].status().await;
    assert_eq!((status.repaired.get("setting"), status.repaired_by_audit), (Some(&(wrong.len() as u64)), wrong.len() as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changed_while_events_were_lost_is_repaired() {
    let pins = Pins::new();
    let nodes = cluster(&pins, PLAIN).await;
    let pid = nix::unistd::Pid::from_raw(nodes[0].process.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let index = nodes[0].index("underlay").await;
    // More events than there is room for, about rows of a stranger.
    for round in 0..20_000_u32 {
        let mac = [2, 0, 0, 0, (round >> 8) as u8, round as u8];
        let address = IpAddr::from([192, 0, 2, 200]);
        let request = nodes[0].handle.neighbours().add(index, address).link_layer_address(&mac);
        request.state(NeighbourState::Permanent).kind(RouteType::Unspec).replace().execute().await.unwrap();
    }
    let place = Place::node(Key::Fdb(vxlan_name(4096), Mac::of(addresses(0, 1)[0]), FdbTable::Vxlan));
    let took = nodes[0].with_view(async |view| {
        let right = view.rows();
        view.kernel.execute(&Op::Remove(place), &mut view.mirror).await.unwrap();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        view.until(DEADLINE, |view| view.rows() == right).await
    });
    eprintln!("repaired {took:?} after it went on");
    took.expect("the row is back");
    assert!(nodes[0].status().await.overruns > 0, "events were lost");
    echo(&mut across(&nodes, addresses(0, 1)[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_netd_leaves_everything_and_its_successor_changes_nothing_under_traffic() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let mut pairs = [across(&nodes, addresses(0, 1)[0]), across(&nodes, addresses(0, 1)[1])];
    let mut links = nodes[0].events(MulticastGroup::Link);
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    let traffic = |pair: &mut (std::net::TcpStream, std::net::TcpStream)| {
        let mut rounds = 0_u64;
        while !is_over.load(Ordering::Relaxed) {
            echo(pair);
            rounds += 1;
        }
        rounds
    };
    let runtime = tokio::runtime::Handle::current();
    let rounds = std::thread::scope(|scope| {
        let running: Vec<_> = pairs.iter_mut().map(|pair| scope.spawn(|| traffic(pair))).collect();
        runtime.block_on_in_place(async {
            nodes[0].process.kill().unwrap();
            nodes[0].process.wait().unwrap();
            nodes[0].restart().await;
            nodes[0].apply_all().await;
        });
        is_over.store(true, Ordering::Relaxed);
        running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
    assert_reach(&nodes, 1450);
    let status = nodes[0].status().await;
    assert_eq!((status.operations, status.repaired), (0, Default::default()));
    assert_eq!(status.tasks, [task(0).to_string()], "the namespace was found again");
    // A change of our own shows that the trace was listening all the time.
    let underlay = nodes[0].index("underlay").await;
    nodes[0].handle.link().set(LinkUnspec::new_with_index(underlay).mtu(1499).build()).execute().await.unwrap();
    let (first, _) = tokio::time::timeout(DEADLINE, links.next()).await.unwrap().unwrap();
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(first)) = first.payload else {
        panic!("not a link: {first:?}")
    };
    assert_eq!(first.header.index, underlay, "no other link changed before");
}

trait BlockInPlace {
    fn block_on_in_place<T>(&self, work: impl Future<Output = T>) -> T;
}

impl BlockInPlace for tokio::runtime::Handle {
    fn block_on_in_place<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::task::block_in_place(|| self.block_on(work))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_restart_both_ends_of_a_pair_are_known() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    nodes[0].process.kill().unwrap();
    nodes[0].process.wait().unwrap();
    let veths = nodes[0].with_view(async |view| {
        let pairs = view.rows().into_iter().filter_map(|(place, value)| match value {
            Value::Link(skep_netd_core::Link::Veth { peer }) => Some((place, peer)),
            _ => None,
        });
        pairs.collect::<Vec<_>>()
    });
    assert_eq!(veths.len(), 6, "three interfaces: {veths:?}");
    for (place, peer) in veths {
        let (namespace, _) = peer.unwrap_or_else(|| panic!("{place} has no other end"));
        assert_ne!(namespace, place.namespace);
    }
    nodes[0].restart().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_removed_leaves_nothing() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    for node in &mut nodes {
        let links = node.links().await;
        for name in ["sk001000x", "sk001000b", "sk001001x", "sk001001b", "skgwbr", "skgwe000002"] {
            assert!(links.iter().any(|link| link == name), "{name} is not among {links:?}");
        }
        let id = |network, owner| EndpointId { network: network_id(network), task: task(owner) };
        let mut changes = Vec::new();
        for network in 0..2 {
            changes.extend((0..2).map(|owner| overlay(&OverlayChange::RemoveEndpoint(id(network, owner)))));
            changes.push(overlay(&OverlayChange::RemoveNetwork(network_id(network))));
        }
        node.send(changes, 2).await;
        node.client.remove_namespace(v1::NetdTask { task: task(node.number).to_string() }).await.unwrap();
        let mut links = node.links().await;
        links.retain(|name| name != "lo" && name != "underlay");
        assert_eq!(links, Vec::<String>::new());
        assert_eq!(std::fs::read_dir(node.run.join("netns")).unwrap().count(), 0);
        assert_eq!(node.status().await.repaired, Default::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_whose_network_is_unknown_is_refused_and_others_are_not() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let node = &mut nodes[0];
    let mut other = local_task(0);
    other.id = task(7);
    other.attachments.truncate(1);
    other.attachments[0].network = network_id(5);
    let message = |task: &LocalTask| v1::NetdNamespace { task: Some(v1::LocalTask::from(task)), after: 1 };
    let refused = node.client.make_namespace(message(&other)).await.unwrap_err();
    assert_eq!(refused.message(), format!("the network {} is not known", network_id(5)));
    // It does not get in the way of another one.
    node.client.make_namespace(message(&local_task(0))).await.unwrap();
    other.attachments[0].network = network_id(0);
    other.attachments[0].addresses = vec!["10.77.0.9".parse().unwrap()];
    let path = node.client.make_namespace(message(&other)).await.unwrap().into_inner().path;
    assert_eq!(path, node.run.join("netns").join(task(7).as_str()).to_string_lossy());
    // The second task behind the gateway has an address of its own.
    let pin = std::fs::File::open(&path).unwrap();
    let bound = inside(pin.as_fd(), || std::net::UdpSocket::bind("172.18.0.3:0").map(drop)).unwrap();
    bound.expect("the gateway's next address");
    node.client.remove_namespace(v1::NetdTask { task: task(7).to_string() }).await.unwrap();
}
