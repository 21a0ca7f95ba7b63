//! Two nodes, each a network namespace with a `skep-netd` of its own, and an
//! overlay between them on the real kernel. Everything is gone afterwards.

use futures_util::StreamExt as _;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup};
use skep_model::TaskId;
use skep_netd::namespace::{Namespaces, inside};
use skep_proto::v1;
use skep_proto::v1::netd_change::Change;
use skep_proto::v1::netd_client::NetdClient;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(10);
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const OVERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(10, 77, 0, 3)];

fn task(number: usize) -> TaskId {
    TaskId::from_random([number as u8 + 1; 16])
}

/// Removes what it pinned, even when a test fails.
struct Pins {
    folder: tempfile::TempDir,
    namespaces: Namespaces,
}

impl Pins {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let namespaces = Namespaces::open(&folder.path().join("nodes")).unwrap();
        Self { folder, namespaces }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for number in 0..2 {
            let _ = self.namespaces.remove(task(number));
            let pins = self.folder.path().join(format!("run{number}/netns"));
            if let Ok(pinned) = Namespaces::open(&pins) {
                for task in pinned.list().unwrap_or_default() {
                    let _ = pinned.remove(task);
                }
            }
            let _ = nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH);
            let _ = nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = nix::mount::umount2(&self.folder.path().join("nodes"), nix::mount::MntFlags::MNT_DETACH);
    }
}

struct Node {
    number: usize,
    namespace: OwnedFd,
    handle: Handle,
    run: std::path::PathBuf,
    process: Child,
    client: NetdClient<Channel>,
    changes: Option<(mpsc::Sender<v1::NetdChange>, Streaming<v1::NetdProgress>)>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connection(namespace: &OwnedFd) -> Handle {
    let runtime = tokio::runtime::Handle::current();
    inside(namespace.as_fd(), || {
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        runtime.spawn(connection);
        handle
    })
    .unwrap()
}

/// Starts netd in a node's namespace; its socket is there when this returns.
async fn start(namespace: &OwnedFd, run: &Path) -> (Child, NetdClient<Channel>) {
    std::fs::create_dir_all(run).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skep-netd"));
    command.arg("--run-dir").arg(run).args(["--log-level", "warn"]).stdin(Stdio::null());
    let fd = namespace.as_raw_fd();
    // SAFETY: setns is a plain system call, and the descriptor is open until exec.
    unsafe {
        command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let process = command.spawn().unwrap();
    let client = NetdClient::new(skep_identity::unix::local_channel(&run.join("netd.sock")));
    let ready = async {
        while client.clone().status(v1::NetdStatusRequest {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.expect("netd answers");
    (process, client)
}

impl Node {
    async fn restart(&mut self) {
        let (process, client) = start(&self.namespace, &self.run).await;
        (self.process, self.client, self.changes) = (process, client, None);
    }

    /// Sends everything that this node should know, as one version.
    async fn apply_all(&mut self) {
        let mut changes = vec![Change::Reset(v1::NetdReset {}), self.node(), network()];
        changes.extend((0..2).map(|owner| endpoint(owner, self.number)));
        self.send(changes, 1).await;
    }

    fn node(&self) -> Change {
        Change::Node(v1::NetdNode { address: UNDERLAY[self.number].octets().to_vec(), port: 4789, mtu: 1500 })
    }

    /// Sends changes and waits until the kernel holds them.
    async fn send(&mut self, changes: Vec<Change>, version: u64) {
        if self.changes.is_none() {
            let (sender, receiver) = mpsc::channel(64);
            let progress = self.client.apply(ReceiverStream::new(receiver)).await.unwrap().into_inner();
            self.changes = Some((sender, progress));
        }
        let (sender, progress) = self.changes.as_mut().unwrap();
        for change in changes.into_iter().chain([Change::Commit(version)]) {
            sender.send(v1::NetdChange { change: Some(change) }).await.unwrap();
        }
        let reached = tokio::time::timeout(DEADLINE, progress.next()).await;
        match reached {
            Ok(Some(Ok(reached))) => assert_eq!(reached.programmed_through, version),
            other => panic!("no progress: {other:?}; {:?}", self.status().await),
        }
    }

    async fn status(&self) -> v1::NetdStatus {
        self.client.clone().status(v1::NetdStatusRequest {}).await.unwrap().into_inner()
    }

    async fn links(&self) -> Vec<String> {
        let found = self.handle.link().get().execute().map(|link| link.unwrap().attributes);
        let names = found.filter_map(|attributes| async move {
            attributes
                .into_iter()
                .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None })
        });
        names.collect().await
    }

    async fn index(&self, name: &str) -> u32 {
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        found.next().await.unwrap().unwrap().header.index
    }

    /// Something that runs in the namespace of this node's task.
    fn in_task<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let pin = std::fs::File::open(self.run.join("netns").join(task(self.number).as_str())).unwrap();
        inside(pin.as_fd(), run).unwrap()
    }
}

fn network_id() -> String {
    "0".repeat(25)
}

fn network() -> Change {
    let subnets = vec![v1::NetdSubnet { address: vec![10, 77, 0, 0], prefix: 20 }];
    Change::Network(v1::NetdNetwork { id: network_id(), vni: 4096, subnets, mtu: 0 })
}

fn endpoint_id(owner: usize) -> v1::NetdEndpointId {
    v1::NetdEndpointId { network: network_id(), owner: task(owner).to_string() }
}

fn endpoint(owner: usize, seen_from: usize) -> Change {
    let site = if owner == seen_from {
        v1::netd_endpoint::Site::Interface(0)
    } else {
        v1::netd_endpoint::Site::Node(UNDERLAY[owner].octets().to_vec())
    };
    let addresses = vec![OVERLAY[owner].octets().to_vec()];
    Change::Endpoint(v1::NetdEndpoint { id: Some(endpoint_id(owner)), addresses, site: Some(site) })
}

/// Two nodes that see each other, each with one task on the overlay.
async fn cluster(pins: &Pins) -> [Node; 2] {
    let namespaces = [0, 1].map(|number| {
        pins.namespaces.make(task(number)).unwrap();
        pins.namespaces.get(task(number)).unwrap()
    });
    let handles = [connection(&namespaces[0]), connection(&namespaces[1])];
    let peer =
        LinkUnspec::new_with_name("underlay").append_extra_attribute(LinkAttribute::NetNsFd(namespaces[1].as_raw_fd())).build();
    let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name("underlay")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    handles[0].link().add(pair.build()).execute().await.unwrap();
    let mut nodes = Vec::new();
    for (number, (namespace, handle)) in namespaces.into_iter().zip(handles).enumerate() {
        let index = inside(namespace.as_fd(), || nix::net::if_::if_nametoindex("underlay").unwrap()).unwrap();
        handle.address().add(index, IpAddr::V4(UNDERLAY[number]), 24).execute().await.unwrap();
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
        let run = pins.folder.path().join(format!("run{number}"));
        let (process, client) = start(&namespace, &run).await;
        let mut node = Node { number, namespace, handle, run, process, client, changes: None };
        node.client.make_namespace(v1::NetdNamespace { task: task(number).to_string() }).await.unwrap();
        node.apply_all().await;
        nodes.push(node);
    }
    nodes.try_into().unwrap_or_else(|_| panic!("there are two nodes"))
}

/// Sends bytes from the first node's task to the second's and back.
fn echo(nodes: &[Node; 2]) {
    let server = nodes[1].in_task(|| TcpListener::bind((OVERLAY[1], 0)).unwrap());
    let address = server.local_addr().unwrap();
    let client = nodes[0].in_task(|| TcpStream::connect_timeout(&address, DEADLINE));
    let mut client = client.expect("the other task answers");
    let (mut served, from) = server.accept().unwrap();
    assert_eq!(from.ip(), IpAddr::V4(OVERLAY[0]), "the source address is kept");
    for stream in [&client, &served] {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    let sent: Vec<u8> = (0..8192).map(|n| n as u8).collect();
    let mut received = vec![0; sent.len()];
    client.write_all(&sent).unwrap();
    served.read_exact(&mut received).unwrap();
    assert_eq!(received, sent);
    served.write_all(&received).unwrap();
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_reach_each_other_with_exactly_the_promised_packet_size() {
    let pins = Pins::new();
    let nodes = cluster(&pins).await;
    echo(&nodes);
    let server = nodes[1].in_task(|| UdpSocket::bind((OVERLAY[1], 0)).unwrap());
    let client = nodes[0].in_task(|| UdpSocket::bind((OVERLAY[0], 0)).unwrap());
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    forbid_fragments(&client);
    let address: SocketAddr = server.local_addr().unwrap();
    // 20 bytes of IP and 8 of UDP make 1450.
    client.send_to(&[7; 1422], address).unwrap();
    assert_eq!(server.recv(&mut [0; 2000]).unwrap(), 1422);
    let refused = client.send_to(&[7; 1423], address).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    for node in &nodes {
        assert_eq!(node.status().await.repaired, Default::default(), "nothing drifted");
    }
}

fn forbid_fragments(socket: &UdpSocket) {
    let value = libc::IP_PMTUDISC_DO;
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value lives across the call, and its length is given.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, (&raw const value).cast(), length)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_row_is_back_within_a_second_and_named() {
    let pins = Pins::new();
    let nodes = cluster(&pins).await;
    let vxlan = nodes[0].index("sk001000x").await;
    let mac = vec![0x02, 0x42, 10, 77, 0, 3];
    let mut row = NeighbourMessage::default();
    row.header.family = rtnetlink::packet_route::AddressFamily::Bridge;
    row.header.ifindex = vxlan;
    row.header.flags = NeighbourFlags::Own;
    row.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.clone()));
    let mut events = events(&nodes[0], MulticastGroup::Neigh);
    nodes[0].handle.neighbours().del(row).execute().await.unwrap();
    let back = async {
        loop {
            let (message, _) = events.next().await.expect("events go on");
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(row)) = message.payload {
                let is_it =
                    row.header.ifindex == vxlan && row.attributes.contains(&NeighbourAttribute::LinkLayerAddress(mac.clone()));
                if is_it {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(1), back).await.expect("the row is back within a second");
    echo(&nodes);
    let status = nodes[0].status().await;
    assert_eq!(status.repaired, [("fdb".to_owned(), 1)].into());
    assert_eq!(status.repairs, ["make   node: fdb 02:42:0a:4d:00:03 on sk001000x = at 192.0.2.2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_netd_leaves_everything_and_its_successor_changes_nothing() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins).await;
    let mut links = events(&nodes[0], MulticastGroup::Link);
    nodes[0].process.kill().unwrap();
    nodes[0].process.wait().unwrap();
    echo(&nodes);
    nodes[0].restart().await;
    nodes[0].apply_all().await;
    echo(&nodes);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_leaves_nothing() {
    let pins = Pins::new();
    let mut nodes = cluster(&pins).await;
    for node in &mut nodes {
        assert!(node.links().await.contains(&"sk001000x".to_owned()));
        let changes = vec![
            Change::RemoveEndpoint(endpoint_id(0)),
            Change::RemoveEndpoint(endpoint_id(1)),
            Change::RemoveNetwork(network_id()),
        ];
        node.send(changes, 2).await;
        node.client.remove_namespace(v1::NetdNamespace { task: task(node.number).to_string() }).await.unwrap();
        let mut links = node.links().await;
        links.retain(|name| name != "lo" && name != "underlay");
        assert_eq!(links, Vec::<String>::new());
        assert_eq!(std::fs::read_dir(node.run.join("netns")).unwrap().count(), 0);
        assert_eq!(node.status().await.repaired, Default::default());
    }
}

type Event = (rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr);

fn events(node: &Node, group: MulticastGroup) -> impl futures_util::Stream<Item = Event> + Unpin + use<> {
    let runtime = tokio::runtime::Handle::current();
    inside(node.namespace.as_fd(), || {
        let _context = runtime.enter();
        let (connection, _, events) = rtnetlink::new_multicast_connection(&[group]).unwrap();
        runtime.spawn(connection);
        events
    })
    .unwrap()
}
