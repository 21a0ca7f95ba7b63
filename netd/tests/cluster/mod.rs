//! Two nodes, each a network namespace with a `skep-netd` of its own and one task,
//! on one overlay and on the ingress network. Everything is gone afterwards.

use futures_util::StreamExt as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup};
use skep_model::endpoint::NodeIngress;
use skep_model::network::{Attachment, Pool};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, OverlayChange, Peer};
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use skep_netd::kernel::Kernel;
use skep_netd::namespace::Namespaces;
use skep_netd::netlink::namespace::inside;
use skep_netd_core::{Key, Mirror, Place, Value, bridge_name};
use skep_proto::v1;
use skep_proto::v1::netd_change::Change;
use skep_proto::v1::netd_client::NetdClient;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub type Event = (rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr);

/// The socket's name in the run folder.
const SOCKET: &str = "netd.sock";

pub const DEADLINE: Duration = Duration::from_secs(20);

/// How long something may take that is promised in this time: ten times as long, as all tests
/// share the kernel's lock of network settings, or as promised with `SKEP_FULL=1`. That wants
/// one test at a time (`--test-threads=1`).
pub fn within(promised: Duration) -> Duration {
    if std::env::var_os("SKEP_FULL").is_some() { promised } else { 10 * promised }
}

/// What the nodes are connected by.
#[derive(Clone, Copy, Debug)]
pub struct Underlay {
    pub is_v6: bool,
    pub mtu: u32,
}

pub const PLAIN: Underlay = Underlay { is_v6: false, mtu: 1500 };

impl Underlay {
    pub fn address(self, node: usize) -> IpAddr {
        if self.is_v6 { format!("2001:db8::{}", node + 1).parse().unwrap() } else { IpAddr::from([192, 0, 2, node as u8 + 1]) }
    }

    /// The largest packet inside the overlay.
    pub fn overlay_mtu(self) -> u32 {
        self.mtu - if self.is_v6 { 70 } else { 50 }
    }
}

pub fn task(number: usize) -> TaskId {
    TaskId::from_random([number as u8 + 1; 16])
}

pub fn node_id(number: usize) -> NodeId {
    NodeId::from_random([number as u8 + 1; 16])
}

pub fn service() -> ServiceId {
    ServiceId::from_random([9; 16])
}

/// The plain network is 0, the ingress network 1.
pub fn network_id(number: u8) -> NetworkId {
    NetworkId::from_random([number; 16])
}

/// The addresses of a node's task on a network, v4 first.
pub fn addresses(network: u8, node: usize) -> Vec<IpAddr> {
    vec![IpAddr::from([10, 77 + network, 0, node as u8 + 2]), format!("fd{}::{}", 77 + network, node + 2).parse().unwrap()]
}

/// The addresses of a node's ingress gateway.
pub fn gateway(node: usize) -> Vec<IpAddr> {
    vec![IpAddr::from([10, 78, 0, node as u8 + 100]), format!("fd78::{}", node + 100).parse().unwrap()]
}

pub fn network(number: u8) -> OverlayChange {
    let subnets = [format!("10.{}.0.0/20", 77 + number), format!("fd{}::/64", 77 + number)];
    OverlayChange::PutNetwork(NodeNetwork {
        id: network_id(number),
        name: format!("net{number}"),
        vni: 4096 + u32::from(number),
        pools: subnets.map(|subnet| Pool { subnet: subnet.parse().unwrap(), range: None, gateway: None }).to_vec(),
        mtu: None,
        internal: false,
        ingress: number == 1,
    })
}

pub fn endpoint(network: u8, node: usize) -> OverlayChange {
    OverlayChange::PutEndpoint(Endpoint {
        id: EndpointId { network: network_id(network), task: task(node) },
        service: service(),
        node: node_id(node),
        addresses: addresses(network, node),
        names: Vec::new(),
        is_published: true,
    })
}

pub fn peer(underlay: Underlay, node: usize) -> OverlayChange {
    let ingress = NodeIngress { number: node as u32 + 1, addresses: gateway(node) };
    OverlayChange::PutPeer(Peer { node: node_id(node), address: underlay.address(node), ingress: Some(ingress) })
}

pub fn local_task(node: usize) -> LocalTask {
    let attachment = |network| Attachment {
        network: network_id(network),
        addresses: addresses(network, node),
        aliases: Vec::new(),
        any_source: false,
    };
    LocalTask {
        id: task(node),
        service: service(),
        attachments: vec![attachment(0), attachment(1)],
        has_gateway: true,
        host_ports: Vec::new(),
        hostname: format!("task{node}"),
        dns: Default::default(),
    }
}

pub fn overlay(change: &OverlayChange) -> Change {
    Change::Overlay(v1::OverlayChange::from(change))
}

/// Removes what it pinned, even when a test fails.
pub struct Pins {
    pub folder: tempfile::TempDir,
    pub namespaces: Namespaces,
}

impl Pins {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let namespaces = Namespaces::open(&folder.path().join("nodes")).unwrap();
        Self { folder, namespaces }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for task in self.namespaces.list().unwrap_or_default() {
            let _ = self.namespaces.remove(task);
        }
        for number in 0..2 {
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

pub struct Node {
    pub number: usize,
    pub underlay: Underlay,
    pub namespace: OwnedFd,
    pub handle: Handle,
    pub run: PathBuf,
    pub process: Child,
    pub client: NetdClient<Channel>,
    changes: Option<(mpsc::Sender<v1::NetdChange>, Streaming<v1::NetdProgress>)>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn connection(namespace: &OwnedFd) -> Handle {
    let runtime = tokio::runtime::Handle::current();
    inside(namespace.as_fd(), || {
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        runtime.spawn(connection);
        handle
    })
    .unwrap()
}

/// Starts netd in a node's namespace, with faults that its debug build knows and where its
/// words go; it answers when this returns.
async fn start(namespace: &OwnedFd, run: &Path, faults: &str, words: Stdio) -> (Child, NetdClient<Channel>) {
    std::fs::create_dir_all(run).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skep-netd"));
    command.arg("--run-dir").arg(run).args(["--log-level", "warn"]).stdin(Stdio::null());
    command.env("SKEP_TEST_PANIC", faults).stderr(words);
    let fd = namespace.as_raw_fd();
    // SAFETY: setns is a plain system call, and the descriptor is open until exec.
    unsafe {
        command.pre_exec(move || match libc::setns(fd, libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let folder = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    folder.add_watch(run, AddWatchFlags::IN_ATTRIB).unwrap();
    let process = command.spawn().unwrap();
    tokio::task::spawn_blocking(move || await_socket(&folder)).await.unwrap();
    let mut client = NetdClient::new(skep_host::unix::local_channel(&run.join(SOCKET)));
    let answer = tokio::time::timeout(DEADLINE, client.status(v1::NetdStatusRequest {})).await;
    answer.expect("netd answers in time").expect("netd answers");
    (process, client)
}

/// Waits until netd listens: only then its socket gets its mode.
fn await_socket(folder: &Inotify) {
    let start = Instant::now();
    let is_socket = |event: &InotifyEvent| event.name.as_deref() == Some(OsStr::new(SOCKET));
    loop {
        let left = DEADLINE.checked_sub(start.elapsed()).expect("netd listens in time");
        let mut sources = [PollFd::new(folder.as_fd(), PollFlags::POLLIN)];
        let n_ready = poll(&mut sources, PollTimeout::try_from(left).unwrap()).unwrap();
        if n_ready > 0 && folder.read_events().unwrap().iter().any(is_socket) {
            return;
        }
    }
}

/// What netd owns in a node's namespace and its tasks', read by the test itself.
pub struct View {
    pub kernel: Kernel,
    pub mirror: Mirror,
}

impl View {
    /// Reads everything anew.
    pub async fn read(&mut self) {
        for namespace in self.kernel.open_namespaces().collect::<Vec<_>>() {
            self.kernel.mark_stale(namespace);
        }
        self.kernel.catch_up(&mut self.mirror).await.unwrap();
    }

    /// All rows that events tell of and that netd decides: a bridge without an
    /// address takes the hardware address of one of its ports.
    pub fn rows(&self) -> BTreeMap<Place, Value> {
        let is_free = |key| matches!(key, Key::Setting(..) | Key::Sysctl(_)) || key == Key::Mac(bridge_name(4096));
        let places = self.mirror.places().filter(|place| !is_free(place.key));
        places.map(|place| (place, *self.mirror.get(&place).unwrap())).collect()
    }

    /// Waits until something is so, and tells how long that took.
    pub async fn until(&mut self, limit: Duration, is: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = Instant::now();
        loop {
            self.read().await;
            if is(self) {
                return Some(begin.elapsed());
            }
            let left = limit.checked_sub(begin.elapsed())?;
            // What came while it was read is seen now.
            tokio::time::timeout(left, self.kernel.wait()).await.ok()?.unwrap();
        }
    }
}

impl Node {
    pub async fn restart(&mut self) {
        self.restart_planted("", Stdio::inherit()).await;
    }

    /// The same with faults that a debug build knows; where its words go.
    pub async fn restart_planted(&mut self, faults: &str, words: Stdio) {
        let (process, client) = start(&self.namespace, &self.run, faults, words).await;
        (self.process, self.client, self.changes) = (process, client, None);
    }

    /// Waits until netd has ended by itself, which gives no event here; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        let ending = async {
            loop {
                again.tick().await;
                if let Some(status) = self.process.try_wait().unwrap() {
                    return status.code();
                }
            }
        };
        tokio::time::timeout(DEADLINE, ending).await.expect("netd ends")
    }

    /// Sends everything that this node should know, as one version.
    pub async fn apply_all(&mut self) {
        self.apply_all_but(usize::MAX).await;
    }

    /// The same without the task of one node.
    pub async fn apply_all_but(&mut self, missing: usize) {
        self.apply_set(missing, Vec::new()).await;
    }

    /// The same without the task of one node, and with more.
    pub async fn apply_set(&mut self, missing: usize, more: Vec<Change>) {
        self.changes = None;
        let mut changes = vec![Change::Reset(v1::NetdReset {}), self.node(), overlay(&network(0)), overlay(&network(1))];
        for number in 0..2 {
            changes.push(overlay(&peer(self.underlay, number)));
            if number == missing {
                continue;
            }
            changes.extend([overlay(&endpoint(0, number)), overlay(&endpoint(1, number))]);
        }
        changes.push(Change::PutTask(v1::LocalTask::from(&local_task(self.number))));
        changes.extend(more);
        self.send(changes, 1).await;
    }

    pub fn node(&self) -> Change {
        let address = self.underlay.address(self.number).to_string();
        Change::Node(v1::NetdNode { id: node_id(self.number).to_string(), address, port: 4789, is_isolated: false })
    }

    /// Sends changes and waits until everything is in place.
    pub async fn send(&mut self, changes: Vec<Change>, version: u64) {
        self.begin(changes, version).await;
        self.reach(version).await;
    }

    /// Sends changes and does not wait.
    pub async fn begin(&mut self, changes: Vec<Change>, version: u64) {
        if self.changes.is_none() {
            let (sender, receiver) = mpsc::channel(64);
            let progress = self.client.apply(ReceiverStream::new(receiver)).await.unwrap().into_inner();
            self.changes = Some((sender, progress));
        }
        let (sender, _) = self.changes.as_ref().unwrap();
        for change in changes.into_iter().chain([Change::Commit(version)]) {
            sender.send(v1::NetdChange { change: Some(change) }).await.unwrap();
        }
    }

    /// Waits until everything up to a version is in place.
    pub async fn reach(&mut self, version: u64) {
        let (_, progress) = self.changes.as_mut().unwrap();
        let reached = async {
            while let Some(reached) = progress.next().await {
                let through = reached.unwrap().programmed_through;
                assert!(through <= version, "nobody sent {through}");
                if through == version {
                    return;
                }
            }
            panic!("netd went away");
        };
        if tokio::time::timeout(DEADLINE, reached).await.is_err() {
            panic!("no progress: {:?}", self.status().await);
        }
    }

    pub async fn status(&self) -> v1::NetdStatus {
        self.client.clone().status(v1::NetdStatusRequest {}).await.unwrap().into_inner()
    }

    pub async fn links(&self) -> Vec<String> {
        let found = self.handle.link().get().execute().map(|link| link.unwrap().attributes);
        let names = found.filter_map(|attributes| async move {
            attributes
                .into_iter()
                .find_map(|attribute| if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None })
        });
        names.collect().await
    }

    pub async fn index(&self, name: &str) -> u32 {
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        found.next().await.unwrap().unwrap().header.index
    }

    /// What the kernel tells of this node's namespace from now on.
    pub fn events(&self, group: MulticastGroup) -> impl futures_util::Stream<Item = Event> + Unpin + use<> {
        let runtime = tokio::runtime::Handle::current();
        self.in_node(|| {
            let _context = runtime.enter();
            let (connection, _, events) = rtnetlink::new_multicast_connection(&[group]).unwrap();
            runtime.spawn(connection);
            events
        })
    }

    /// Something that runs in the namespace of this node's task.
    pub fn in_task<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let pin = std::fs::File::open(self.run.join("netns").join(task(self.number).as_str())).unwrap();
        inside(pin.as_fd(), run).unwrap()
    }

    /// Something that runs in this node's own namespace.
    pub fn in_node<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        inside(self.namespace.as_fd(), run).unwrap()
    }

    /// Something that runs in this node's namespace, with a view of it.
    pub fn with_view<T: Send>(&self, run: impl AsyncFnOnce(&mut View) -> T + Send) -> T {
        let runtime = tokio::runtime::Handle::current();
        let pins = self.run.join("netns");
        self.in_node(move || {
            runtime.block_on(async {
                let kernel = Kernel::open(Namespaces::open(&pins).unwrap()).unwrap();
                let mut view = View { kernel, mirror: Mirror::new() };
                view.read().await;
                run(&mut view).await
            })
        })
    }
}

/// Two nodes that see each other, each with one task.
pub async fn cluster(pins: &Pins, underlay: Underlay) -> [Node; 2] {
    prepared(pins, underlay, |_| ()).await
}

/// The same; `prepare` is called in each node's namespace before its netd is started.
pub async fn prepared(pins: &Pins, underlay: Underlay, prepare: impl Fn(usize) + Sync) -> [Node; 2] {
    let namespaces = [0, 1].map(|number| {
        pins.namespaces.make(task(number)).unwrap();
        pins.namespaces.get(task(number)).unwrap()
    });
    let handles = [connection(&namespaces[0]), connection(&namespaces[1])];
    let ends = [(&namespaces[0], &handles[0]), (&namespaces[1], &handles[1])];
    make_underlay(ends, underlay).await;
    let mut nodes = Vec::new();
    for (number, (namespace, handle)) in namespaces.into_iter().zip(handles).enumerate() {
        handle.link().set(LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
        inside(namespace.as_fd(), || prepare(number)).unwrap();
        let run = pins.folder.path().join(format!("run{number}"));
        let (process, client) = start(&namespace, &run, "", Stdio::inherit()).await;
        let mut node = Node { number, underlay, namespace, handle, run, process, client, changes: None };
        node.apply_all().await;
        let task = Some(v1::LocalTask::from(&local_task(number)));
        node.client.make_namespace(v1::NetdNamespace { task, after: 1 }).await.unwrap();
        nodes.push(node);
    }
    nodes.try_into().unwrap_or_else(|_| panic!("there are two nodes"))
}

/// The link between two nodes, each a namespace with its handle.
pub async fn make_underlay(ends: [(&OwnedFd, &Handle); 2], underlay: Underlay) {
    let peer =
        LinkUnspec::new_with_name("underlay").append_extra_attribute(LinkAttribute::NetNsFd(ends[1].0.as_raw_fd())).build();
    let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name("underlay")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    ends[0].1.link().add(pair.build()).execute().await.unwrap();
    for (number, (namespace, handle)) in ends.into_iter().enumerate() {
        let index = index_of_underlay(namespace);
        let prefix = if underlay.is_v6 { 64 } else { 24 };
        let mut address = handle.address().add(index, underlay.address(number), prefix);
        address.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        address.execute().await.unwrap();
        handle.link().set(LinkUnspec::new_with_index(index).mtu(underlay.mtu).up().build()).execute().await.unwrap();
    }
}

/// The index of a node's link to the other.
pub fn index_of_underlay(namespace: &OwnedFd) -> u32 {
    inside(namespace.as_fd(), || nix::net::if_::if_nametoindex("underlay").unwrap()).unwrap()
}

/// Two connected sockets: one that `from` opened to `address`, which `at` listens on.
pub fn connect(
    at: impl FnOnce(&(dyn Fn() -> TcpListener + Sync)) -> TcpListener,
    from: impl FnOnce(&(dyn Fn(SocketAddr) -> std::io::Result<TcpStream> + Sync), SocketAddr) -> std::io::Result<TcpStream>,
    address: IpAddr,
) -> (TcpStream, TcpStream) {
    let server = at(&|| TcpListener::bind((address, 0)).unwrap());
    let target = server.local_addr().unwrap();
    let client = from(&|target| TcpStream::connect_timeout(&target, DEADLINE), target);
    let client = client.unwrap_or_else(|error| panic!("{address} answers: {error}"));
    let (served, _) = server.accept().unwrap();
    for stream in [&client, &served] {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    (client, served)
}

/// A connection from the first node's task to the second's.
pub fn across(nodes: &[Node; 2], address: IpAddr) -> (TcpStream, TcpStream) {
    connect(|bind| nodes[1].in_task(bind), |open, target| nodes[0].in_task(|| open(target)), address)
}

/// Sends 8 KiB there and back.
pub fn echo((client, served): &mut (TcpStream, TcpStream)) {
    let sent: Vec<u8> = (0..8192).map(|n| n as u8).collect();
    let mut received = vec![0; sent.len()];
    client.write_all(&sent).unwrap();
    served.read_exact(&mut received).unwrap();
    assert_eq!(received, sent);
    served.write_all(&received).unwrap();
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, sent);
}

/// Tasks reach each other, the source address is kept, and packets may be exactly
/// as large as promised, in both families.
pub fn assert_reach(nodes: &[Node; 2], mtu: u32) {
    for family in 0..2 {
        let (from, to) = (addresses(0, 0)[family], addresses(0, 1)[family]);
        let mut pair = across(nodes, to);
        assert_eq!(pair.1.peer_addr().unwrap().ip(), from);
        echo(&mut pair);
        let server = nodes[1].in_task(|| UdpSocket::bind((to, 0)).unwrap());
        let client = nodes[0].in_task(|| UdpSocket::bind((from, 0)).unwrap());
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        forbid_fragments(&client);
        let target: SocketAddr = server.local_addr().unwrap();
        let headers = if from.is_ipv4() { 28 } else { 48 };
        let payload = mtu as usize - headers;
        client.send_to(&vec![7; payload], target).unwrap();
        assert_eq!(server.recv(&mut vec![0; 16_000]).unwrap(), payload);
        let refused = client.send_to(&vec![7; payload + 1], target).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    }
}

fn forbid_fragments(socket: &UdpSocket) {
    let (level, name, value) = match socket.local_addr().unwrap() {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    set_option(socket.as_raw_fd(), level, name, value);
}

pub fn set_option(socket: std::os::fd::RawFd, level: i32, name: i32, value: i32) {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value lives across the call, and its length is given.
    let set = unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), length) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
