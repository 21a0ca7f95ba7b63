//! What a hostile task sends with raw sockets, and what a neighbour of the node routes to
//! it: none of it arrives, and all of it does once the tables that forbid it are gone.

#[expect(dead_code, reason = "the tests of rows need more of it")]
mod cluster;
mod packets;

use cluster::*;
use packets::*;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, OverlayChange};
use skep_model::{ServiceId, TaskId};
use skep_netd::netlink::namespace::inside;
use skep_netd::nft::{Edit, Socket, Table, Transaction};
use skep_netd_core::{Mac, bridge_name};
use skep_proto::v1;
use skep_proto::v1::netd_change::Change;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// How long something that must not arrive is awaited where no later packet tells.
const BRIEF: Duration = Duration::from_millis(300);
/// The hostile task's interfaces: the plain network, the ingress network, the way out.
const PLAIN_LINK: &str = "eth0";
const INGRESS_LINK: &str = "eth1";
const GATEWAY_LINK: &str = "eth2";

/// A second task of the first node, on the plain network and behind the gateway.
struct Victim {
    task: LocalTask,
    pin: File,
}

impl Victim {
    async fn new(nodes: &mut [Node; 2]) -> Self {
        let mut task = local_task(0);
        task.id = TaskId::from_random([50; 16]);
        task.service = ServiceId::from_random([51; 16]);
        task.attachments.truncate(1);
        task.attachments[0].addresses = vec!["10.77.0.50".parse().unwrap(), "fd77::50".parse().unwrap()];
        let endpoint = overlay(&OverlayChange::PutEndpoint(Endpoint {
            id: EndpointId { network: network_id(0), task: task.id },
            service: task.service,
            node: node_id(0),
            addresses: task.attachments[0].addresses.clone(),
            names: Vec::new(),
            is_published: true,
        }));
        nodes[1].send(vec![endpoint.clone()], 2).await;
        nodes[0].send(vec![endpoint, Change::PutTask(v1::LocalTask::from(&task))], 2).await;
        let message = v1::NetdNamespace { task: Some(v1::LocalTask::from(&task)), after: 1 };
        let path = nodes[0].client.make_namespace(message).await.unwrap().into_inner().path;
        Self { task, pin: File::open(path).unwrap() }
    }

    fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        inside(self.pin.as_fd(), run).unwrap()
    }

    fn v4(&self) -> Ipv4Addr {
        v4(self.task.attachments[0].addresses[0])
    }

    fn hardware(&self) -> Mac {
        Mac::of(self.task.attachments[0].addresses[0])
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("{address} is of v4") };
    address
}

fn own(network: u8) -> (Mac, Ipv4Addr) {
    let address = addresses(network, 0)[0];
    (Mac::of(address), v4(address))
}

const BEHIND: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);

/// Stops netd and takes the tables away that forbid things.
fn open_up(node: &Node) {
    let pid = nix::unistd::Pid::from_raw(node.process.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let mut transaction = Transaction::new();
    for table in [Table::new("skep_guard"), Table::bridge("skep_senders"), Table::new("skep_underlay")] {
        transaction.push(Edit::DeleteTable(table));
    }
    node.in_node(Socket::open).unwrap().commit(&transaction).unwrap();
}

fn listening(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> String {
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).expect("a datagram arrives");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Sends what must not arrive, and then what must: it is the first to arrive.
fn only_the_second(send: impl Fn(&str), control: impl Fn(&str), hears: &UdpSocket, what: &str) {
    send("hostile");
    control("control");
    assert_eq!(heard(hears), "control", "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_reaches_neither_its_nodes_loopback_nor_by_an_overlay_anything_of_it() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let victim = Victim::new(&mut nodes).await;
    let node = &nodes[0];
    let loopback = node.in_node(|| listening("127.0.0.1:9999"));
    let resolver = node.in_node(|| listening("127.0.0.53:53"));
    let any = node.in_node(|| listening("0.0.0.0:9998"));
    let other = victim.run(|| listening("0.0.0.0:9997"));
    let plain_bridge = node.in_node(|| hardware_of(bridge_name(4096).as_str()));
    let (gateway_bridge, ingress_bridge) = (Mac::of(GATEWAY.into()), Mac::of(gateway(0)[0]));
    let underlay = v4(PLAIN.address(0));
    let behind = (Mac::of(BEHIND.into()), BEHIND);
    let send = |link: &'static str, to: Mac, from: (Mac, Ipv4Addr), target: (Ipv4Addr, u16)| {
        move |text: &str| {
            let frame = udp4(from.0, to, from.1, target.0, 4444, target.1, text.as_bytes());
            node.in_task(|| transmit(link, &frame));
        }
    };
    // By the gateway bridge the node itself is reached, and by itself.
    let to_loopback = send(GATEWAY_LINK, gateway_bridge, behind, (Ipv4Addr::LOCALHOST, 9999));
    let from_node = |socket: &UdpSocket| {
        let target = socket.local_addr().unwrap();
        move |text: &str| {
            node.in_node(|| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(text.as_bytes(), target).unwrap());
        }
    };
    let allowed = send(GATEWAY_LINK, gateway_bridge, behind, (underlay, 9998));
    let attempts = [
        ("loopback by the gateway", &loopback, to_loopback),
        ("loopback by ingress", &loopback, send(INGRESS_LINK, ingress_bridge, own(1), (Ipv4Addr::LOCALHOST, 9999))),
        ("another loopback address", &resolver, send(GATEWAY_LINK, gateway_bridge, behind, (Ipv4Addr::new(127, 0, 0, 53), 53))),
        ("a service of the node by ingress", &any, send(INGRESS_LINK, ingress_bridge, own(1), (underlay, 9998))),
        ("the ingress address of the node", &any, send(INGRESS_LINK, ingress_bridge, own(1), (v4(gateway(0)[0]), 9998))),
        ("a service of the node by an overlay", &any, send(PLAIN_LINK, plain_bridge, own(0), (underlay, 9998))),
        ("a loopback source", &any, send(GATEWAY_LINK, gateway_bridge, (behind.0, Ipv4Addr::LOCALHOST), (underlay, 9998))),
        ("another source behind the gateway", &any, send(GATEWAY_LINK, gateway_bridge, (behind.0, GATEWAY), (underlay, 9998))),
    ];
    for (what, socket, hostile) in &attempts {
        match std::ptr::eq(*socket, &raw const any) {
            true => only_the_second(hostile, allowed, socket, what),
            false => only_the_second(hostile, from_node(socket), socket, what),
        }
    }
    // Another task behind the bridge, past the isolation of its ports: the node would turn it round.
    let neighbour = Ipv4Addr::new(172, 18, 0, 3);
    let hairpin = send(GATEWAY_LINK, gateway_bridge, behind, (neighbour, 9997));
    let by_overlay = send(PLAIN_LINK, victim.hardware(), own(0), (victim.v4(), 9997));
    only_the_second(hairpin, by_overlay, &other, "another task behind the gateway");
    open_up(node);
    for (what, socket, hostile) in &attempts {
        // The kernel itself does not take a packet from an address of its own.
        if !["a loopback source", "another source behind the gateway"].contains(what) {
            hostile("hostile");
            assert_eq!(heard(socket), "hostile", "without the tables it arrives: {what}");
        }
    }
    hairpin("hostile");
    assert_eq!(heard(&other), "hostile", "without the tables it arrives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_speaks_vxlan_to_nobody() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let victim = Victim::new(&mut nodes).await;
    let node = &nodes[0];
    let far = nodes[1].in_task(|| listening("0.0.0.0:9997"));
    let near = victim.run(|| listening("0.0.0.0:9997"));
    let (gateway_bridge, ingress_bridge) = (Mac::of(GATEWAY.into()), Mac::of(gateway(0)[0]));
    let stranger = Ipv4Addr::new(10, 77, 0, 99);
    let inner =
        |to: Ipv4Addr, text: &str| udp4(Mac::of(stranger.into()), Mac::of(to.into()), stranger, to, 4444, 9997, text.as_bytes());
    let far_address = v4(addresses(0, 1)[0]);
    let members = [v4(PLAIN.address(0)), v4(PLAIN.address(1))];
    let vxlan = |link: &'static str, to: Mac, from: (Mac, Ipv4Addr), at: Ipv4Addr, inside: Ipv4Addr| {
        let inner = &inner;
        move |text: &str| {
            let frame = udp4(from.0, to, from.1, at, 5555, 4789, &vxlan(4096, &inner(inside, text)));
            node.in_task(|| transmit(link, &frame));
        }
    };
    let behind = (Mac::of(BEHIND.into()), BEHIND);
    let (hardware, _) = own(1);
    let attempts = [
        (
            "to another node, which takes it for its own",
            &far,
            vxlan(GATEWAY_LINK, gateway_bridge, behind, members[1], far_address),
        ),
        (
            "to its own node by the gateway",
            &near,
            vxlan(GATEWAY_LINK, gateway_bridge, (behind.0, members[1]), members[0], victim.v4()),
        ),
        (
            "with a member's address by ingress",
            &near,
            vxlan(INGRESS_LINK, ingress_bridge, (hardware, members[1]), members[0], victim.v4()),
        ),
    ];
    let plain = |to: Ipv4Addr| {
        move |text: &str| {
            let (own, address) = own(0);
            let frame = udp4(own, Mac::of(to.into()), address, to, 4444, 9997, text.as_bytes());
            node.in_task(|| transmit(PLAIN_LINK, &frame));
        }
    };
    for (what, socket, hostile) in &attempts {
        let control = if std::ptr::eq(*socket, &raw const far) { plain(far_address) } else { plain(victim.v4()) };
        only_the_second(hostile, control, socket, what);
    }
    open_up(node);
    for (what, socket, hostile) in &attempts {
        hostile("hostile");
        assert_eq!(heard(socket), "hostile", "without the tables it arrives: {what}");
    }
}

type Frame = (&'static str, Vec<u8>);

/// What the first node's task may send on the plain network or not: by what it is for.
struct Frames {
    /// Of its own.
    own: Vec<Frame>,
    /// Under another name than its own.
    foreign: Vec<Frame>,
    /// What no task says.
    never: Vec<Frame>,
}

impl Frames {
    fn new(victim: &Victim) -> Self {
        let (hardware, address) = own(0);
        let to = victim.hardware();
        let other = (Mac::of(addresses(0, 1)[0]), v4(addresses(0, 1)[0]));
        let (own6, other6, to6) = (v6(addresses(0, 0)[1]), v6(addresses(0, 1)[1]), v6(victim.task.attachments[0].addresses[1]));
        let (link6, nobody) = (link_local(hardware), "::".parse().unwrap());
        let advertisement = |from, target, told: Option<Mac>| advertisement(hardware, to, from, to6, target, told);
        let foreign = vec![
            ("another address", udp4(hardware, to, other.1, victim.v4(), 1, 9, b"x")),
            ("another hardware address", udp4(other.0, to, address, victim.v4(), 1, 9, b"x")),
            ("the victim's own address", udp4(hardware, to, victim.v4(), victim.v4(), 1, 9, b"x")),
            ("another v6 address", udp6(hardware, to, other6, to6, 1, 9, b"x")),
            ("no v6 address", udp6(hardware, to, nobody, to6, 1, 9, b"x")),
            ("an ARP reply for another", arp(2, (hardware, hardware, other.1), to, victim.v4())),
            ("an ARP request as another", arp(1, (hardware, hardware, other.1), to, victim.v4())),
            ("an ARP reply of another hardware address", arp(2, (hardware, other.0, address), to, victim.v4())),
            ("an ARP reply in another frame", arp(2, (other.0, hardware, address), to, victim.v4())),
            ("an advertisement for another", advertisement(own6, other6, Some(hardware))),
            ("an advertisement of another hardware address", advertisement(own6, own6, Some(other.0))),
            ("an advertisement by another", advertisement(other6, other6, Some(hardware))),
            ("a solicitation of another hardware address", solicitation(hardware, to, own6, to6, Some((1, other.0)))),
            ("a solicitation of nobody for another", solicitation(hardware, to, nobody, to6, None)),
            ("an advertisement behind an option header", behind_options(&advertisement(own6, other6, Some(hardware)))),
        ];
        let never = vec![
            ("a router's advertisement", router_advertisement(hardware, to, link6)),
            ("a router's advertisement behind an option header", behind_options(&router_advertisement(hardware, to, link6))),
            ("a redirect", redirect(hardware, to, link6, to6, other6)),
            ("a frame with a tag", tagged(&udp4(hardware, to, address, victim.v4(), 1, 9, b"tagged"))),
            ("an ARP request with a tag", tagged(&arp(1, (hardware, hardware, address), to, victim.v4()))),
            ("a v6 datagram with a tag", tagged(&udp6(hardware, to, own6, to6, 1, 9, b"tagged"))),
            ("another protocol", ethernet(hardware, to, 0x88cc, b"neighbours of the wire")),
        ];
        let own = vec![
            ("its own datagram", udp4(hardware, to, address, victim.v4(), 1, 9, b"x")),
            ("its own v6 datagram", udp6(hardware, to, own6, to6, 1, 9, b"x")),
            ("its own link-local datagram", udp6(hardware, to, link6, to6, 1, 9, b"x")),
            ("its own ARP reply", arp(2, (hardware, hardware, address), to, victim.v4())),
            ("who looks for a duplicate", arp(1, (hardware, hardware, Ipv4Addr::UNSPECIFIED), to, address)),
            ("its own advertisement", advertisement(own6, own6, Some(hardware))),
            ("its own short advertisement", advertisement(own6, own6, None)),
            ("its own solicitation", solicitation(hardware, to, own6, to6, Some((1, hardware)))),
            ("its own search for a duplicate", solicitation(hardware, to, nobody, own6, None)),
            ("its own search with a number", solicitation(hardware, to, nobody, own6, Some((14, other.0)))),
        ];
        Self { own, foreign, never }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_sends_under_no_other_name_than_its_own() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let victim = Victim::new(&mut nodes).await;
    let node = &nodes[0];
    let Frames { own, foreign, never } = Frames::new(&victim);
    let hears = victim.run(|| Capture::open(PLAIN_LINK));
    let send = |frame: &[u8]| node.in_task(|| transmit(PLAIN_LINK, frame));
    for (what, frame) in &own {
        send(frame);
        hears.expect(frame, what);
    }
    for (what, frame) in foreign.iter().chain(&never) {
        send(frame);
        send(&own[0].1);
        hears.expect_without(&own[0].1, frame, what);
    }
    open_up(node);
    for (what, frame) in foreign.iter().chain(&never) {
        send(frame);
        hears.expect(frame, what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_attachment_of_any_source_sends_under_every_name_but_is_no_router() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let victim = Victim::new(&mut nodes).await;
    let Frames { own, foreign, never } = Frames::new(&victim);
    let hears = victim.run(|| Capture::open(PLAIN_LINK));
    let mut task = local_task(0);
    for (any_source, version) in [(true, 3), (false, 4)] {
        task.attachments[0].any_source = any_source;
        nodes[0].send(vec![Change::PutTask(v1::LocalTask::from(&task))], version).await;
        let send = |frame: &[u8]| nodes[0].in_task(|| transmit(PLAIN_LINK, frame));
        for (what, frame) in &own {
            send(frame);
            hears.expect(frame, what);
        }
        for (what, frame) in &foreign {
            send(frame);
            if any_source {
                hears.expect(frame, what);
            } else {
                send(&own[0].1);
                hears.expect_without(&own[0].1, frame, what);
            }
        }
        for (what, frame) in &never {
            send(frame);
            send(&own[0].1);
            hears.expect_without(&own[0].1, frame, what);
        }
    }
    // It is the attachment's right, not the task's: elsewhere, and against the node, all holds.
    task.attachments[0].any_source = true;
    nodes[0].send(vec![Change::PutTask(v1::LocalTask::from(&task))], 5).await;
    let node = &nodes[0];
    let hears = node.in_node(|| listening("0.0.0.0:9998"));
    let plain_bridge = node.in_node(|| hardware_of(bridge_name(4096).as_str()));
    let underlay = v4(PLAIN.address(0));
    let send = |link: &'static str, to: Mac, from: (Mac, Ipv4Addr)| {
        move |text: &str| node.in_task(|| transmit(link, &udp4(from.0, to, from.1, underlay, 4444, 9998, text.as_bytes())))
    };
    let (gateway_bridge, behind) = (Mac::of(GATEWAY.into()), Mac::of(BEHIND.into()));
    let allowed = send(GATEWAY_LINK, gateway_bridge, (behind, BEHIND));
    let neighbour = Ipv4Addr::new(172, 18, 0, 3);
    only_the_second(send(GATEWAY_LINK, gateway_bridge, (behind, neighbour)), allowed, &hears, "behind the gateway");
    let stranger = Ipv4Addr::new(198, 51, 100, 9);
    only_the_second(send(PLAIN_LINK, plain_bridge, (behind, stranger)), allowed, &hears, "the node, by the network");
}

/// The task of a node has its port 9001 published as 7000 of the node.
async fn publish_on_host(node: &mut Node) {
    let mut task = local_task(0);
    task.host_ports = vec![skep_model::endpoint::PublishedPort {
        transport: skep_model::endpoint::Transport::Tcp,
        target_port: 9001,
        published_port: 7000,
        publish_mode: skep_model::endpoint::PublishMode::Host,
    }];
    node.send(vec![Change::PutTask(v1::LocalTask::from(&task))], 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_nodes_are_isolated_a_task_reaches_no_address_of_its_own_node() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let underlay = v4(PLAIN.address(0));
    publish_on_host(&mut nodes[0]).await;
    let _task = nodes[0].in_task(|| TcpListener::bind(("0.0.0.0", 9001)).unwrap());
    let _node = nodes[0].in_node(|| TcpListener::bind("0.0.0.0:9998").unwrap());
    let other = nodes[1].in_node(|| TcpListener::bind((v4(PLAIN.address(1)), 9998)).unwrap());
    for (is_isolated, version) in [(false, 4), (true, 5), (false, 6)] {
        let own = v1::NetdNode { id: node_id(0).to_string(), address: underlay.to_string(), port: 4789, is_isolated };
        nodes[0].send(vec![Change::Node(own)], version).await;
        let open = |to: Ipv4Addr, port: u16, is_expected: bool| {
            let limit = if is_expected { DEADLINE } else { BRIEF };
            nodes[0].in_task(|| TcpStream::connect_timeout(&(IpAddr::from(to), port).into(), limit)).is_ok()
        };
        for address in [underlay, GATEWAY] {
            assert_eq!(open(address, 9998, !is_isolated), !is_isolated, "{address}, isolated: {is_isolated}");
        }
        assert!(open(underlay, 7000, true), "a published port, isolated: {is_isolated}");
        assert!(open(v4(PLAIN.address(1)), 9998, true), "another node, isolated: {is_isolated}");
        drop(other.accept().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_task_reaches_its_nodes_loopback_by_no_v6_address() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    Victim::new(&mut nodes).await;
    let node = &nodes[0];
    let any = node.in_node(|| listening("[::]:9999"));
    let loopback = node.in_node(|| listening("[::1]:9998"));
    let (hardware, bridge) = (own(1).0, Mac::of(gateway(0)[0]));
    let (own6, node6) = (v6(addresses(1, 0)[1]), v6(gateway(0)[1]));
    let send = |from, to, port: u16| {
        move |text: &str| node.in_task(|| transmit(INGRESS_LINK, &udp6(hardware, bridge, from, to, 4444, port, text.as_bytes())))
    };
    let from_node = |to: &'static str| {
        move |text: &str| {
            node.in_node(|| UdpSocket::bind("[::1]:0").unwrap().send_to(text.as_bytes(), to).unwrap());
        }
    };
    let localhost = std::net::Ipv6Addr::LOCALHOST;
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    only_the_second(send(own6, localhost, 9998), from_node("[::1]:9998"), &loopback, "::1");
    only_the_second(send(own6, localhost, 9999), from_node("[::1]:9999"), &any, "::1 of who listens everywhere");
    only_the_second(send(own6, mapped, 9999), from_node("[::1]:9999"), &any, "127.0.0.1, mapped");
    only_the_second(send(localhost, node6, 9999), from_node("[::1]:9999"), &any, "from ::1");
    only_the_second(send(own6, node6, 9999), from_node("[::1]:9999"), &any, "the node by ingress");
    // What the tables keep away arrives without them; ::1 the kernel itself takes from nobody else.
    open_up(node);
    send(own6, node6, 9999)("hostile");
    assert_eq!(heard(&any), "hostile", "without the tables it arrives");
    only_the_second(send(own6, localhost, 9999), send(own6, node6, 9999), &any, "::1, without the tables");
}

/// A host on the node's LAN that has routes to its tasks.
async fn neighbour(pins: &Pins, node: &Node) -> OwnedFd {
    let id = TaskId::from_random([78; 16]);
    pins.namespaces.make(id).unwrap();
    let namespace = pins.namespaces.get(id).unwrap();
    pins.namespaces.remove(id).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let handle = inside(namespace.as_fd(), || {
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        runtime.spawn(connection);
        handle
    })
    .unwrap();
    let peer = LinkUnspec::new_with_name("lan").append_extra_attribute(LinkAttribute::NetNsFd(node.namespace.as_raw_fd()));
    let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name("lan")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    handle.link().add(pair.build()).execute().await.unwrap();
    let here = inside(namespace.as_fd(), || nix::net::if_::if_nametoindex("lan").unwrap()).unwrap();
    for (handle, index, host) in [(&handle, here, 9), (&node.handle, node.index("lan").await, 1)] {
        for (address, prefix) in [(format!("203.0.113.{host}"), 24), (format!("2001:db8:99::{host}"), 64)] {
            let mut request = handle.address().add(index, address.parse().unwrap(), prefix);
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            request.execute().await.unwrap();
        }
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
    }
    for (all, via) in [("0.0.0.0", "203.0.113.1"), ("::", "2001:db8:99::1")] {
        let route = rtnetlink::RouteMessageBuilder::<IpAddr>::new().destination_prefix(all.parse().unwrap(), 0).unwrap();
        handle.route().add(route.gateway(via.parse().unwrap()).unwrap().build()).execute().await.unwrap();
    }
    namespace
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_neighbour_that_routes_to_tasks_reaches_what_is_published_alone() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins, PLAIN).await;
    let victim = Victim::new(&mut nodes).await;
    let lan = neighbour(&pins, &nodes[0]).await;
    publish_on_host(&mut nodes[0]).await;
    let _listeners = nodes[0].in_task(|| [9001, 9002].map(|port| TcpListener::bind(("::", port)).unwrap()));
    let _other = victim.run(|| TcpListener::bind("[::]:9001").unwrap());
    let open = |to: &str, limit| inside(lan.as_fd(), || TcpStream::connect_timeout(&to.parse().unwrap(), limit)).unwrap();
    open("203.0.113.1:7000", DEADLINE).expect("a published port answers");
    let targets = ["10.78.0.2:9001", "10.78.0.2:9002", "[fd78::2]:9001", "172.18.0.2:9001", "172.18.0.2:9002", "172.18.0.3:9001"];
    for target in targets {
        let error = open(target, BRIEF).expect_err(target);
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{target}");
    }
    // What the task itself opens is answered.
    let server = inside(lan.as_fd(), || TcpListener::bind("203.0.113.9:9003").unwrap()).unwrap();
    let out = nodes[0].in_task(|| TcpStream::connect_timeout(&server.local_addr().unwrap(), DEADLINE));
    let seen = server.accept().unwrap().1.ip();
    assert_eq!((out.is_ok(), seen), (true, "203.0.113.1".parse().unwrap()));
    let status = nodes[0].status().await;
    assert_eq!((status.repaired, status.failures), (Default::default(), Vec::new()));
    open_up(&nodes[0]);
    for target in ["10.78.0.2:9001", "[fd78::2]:9001", "172.18.0.2:9002", "172.18.0.3:9001"] {
        open(target, DEADLINE).unwrap_or_else(|error| panic!("without the tables it answers: {target}: {error}"));
    }
}
