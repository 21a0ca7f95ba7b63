//! One `skep-netd` in a network namespace of its own, driven over its socket as
//! the node daemon would.

use crate::Row;
use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use skep_model::{NetworkId, NodeId, ServiceId, TaskId};
use skep_proto::v1;
use skep_proto::v1::netd_change::Change;
use skep_proto::v1::netd_client::NetdClient;
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// For anything that netd is asked.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often each thing is measured.
const ROUNDS: usize = 30;
/// The socket's name in the run folder.
const SOCKET: &str = "netd.sock";
const UNDERLAY: &str = "192.0.2.1";

/// A daemon in namespaces of its own, which go with it.
struct Netd {
    client: NetdClient<Channel>,
    changes: mpsc::Sender<v1::NetdChange>,
    progress: Streaming<v1::NetdProgress>,
    version: u64,
    _process: Process,
    _folder: tempfile::TempDir,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Its namespaces, and with them the tasks' pins, end with the last process.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until netd listens: only then its socket, in the folder watched, gets its mode.
fn await_socket(folder: &Inotify) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let left = DEADLINE.checked_sub(start.elapsed()).context("netd does not listen")?;
        let mut sources = [PollFd::new(folder.as_fd(), PollFlags::POLLIN)];
        if poll(&mut sources, PollTimeout::try_from(left)?)? == 0 {
            continue;
        }
        if folder.read_events()?.iter().any(|event| event.name.as_deref() == Some(OsStr::new(SOCKET))) {
            return Ok(());
        }
    }
}

fn binary() -> PathBuf {
    std::env::var_os("SKEP_BIN_DIR").map(PathBuf::from).unwrap_or_default().join("skep-netd")
}

impl Netd {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("run");
        std::fs::create_dir_all(&run)?;
        let script = format!(
            "ip link set lo up && ip link add u0 type bridge && ip address add {UNDERLAY}/24 dev u0 && ip link set u0 up && \
             exec \"$1\" --run-dir \"$2\" --log-level warn"
        );
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(&run, AddWatchFlags::IN_ATTRIB)?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "sh", "-c", &script, "netd"]).arg(binary()).arg(&run);
        let process = Process(command.stdin(Stdio::null()).spawn().context("cannot start unshare")?);
        await_socket(&inotify)?;
        let mut client = NetdClient::new(skep_host::unix::local_channel(&run.join(SOCKET)));
        let answered = tokio::time::timeout(DEADLINE, client.status(v1::NetdStatusRequest {})).await;
        answered.context("netd does not answer")?.context("netd's status")?;
        let (changes, received) = mpsc::channel(1024);
        let progress = client.apply(ReceiverStream::new(received)).await.context("apply")?.into_inner();
        let mut netd = Self { client, changes, progress, version: 0, _process: process, _folder: folder };
        let node = v1::NetdNode { id: node(0), address: UNDERLAY.into(), port: 4789, is_isolated: false };
        netd.commit(vec![Change::Reset(v1::NetdReset {}), Change::Node(node), peer(0), peer(1)]).await?;
        Ok(netd)
    }

    /// Gives changes and waits until the kernel holds them.
    async fn commit(&mut self, changes: Vec<Change>) -> anyhow::Result<Duration> {
        self.version += 1;
        for change in changes {
            self.changes.send(v1::NetdChange { change: Some(change) }).await?;
        }
        // What is measured is not how netd reads messages: by the answer to this, it has read them.
        self.client.status(v1::NetdStatusRequest {}).await?;
        let start = Instant::now();
        self.changes.send(v1::NetdChange { change: Some(Change::Commit(self.version)) }).await?;
        loop {
            let progress = tokio::time::timeout(DEADLINE, self.progress.message()).await;
            match progress.with_context(|| format!("no progress to version {}", self.version))?? {
                Some(progress) if progress.programmed_through >= self.version => return Ok(start.elapsed()),
                Some(_) => {}
                None => bail!("netd ended the stream"),
            }
        }
    }

    async fn make(&mut self, task: v1::LocalTask) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let request = v1::NetdNamespace { task: Some(task), after: self.version };
        tokio::time::timeout(DEADLINE, self.client.make_namespace(request)).await.context("no namespace")??;
        Ok(start.elapsed())
    }
}

fn bytes(kind: u8, number: usize) -> [u8; 16] {
    let mut bytes = [kind; 16];
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn node(number: usize) -> String {
    NodeId::from_random(bytes(1, number)).to_string()
}

fn network_id(number: usize) -> String {
    NetworkId::from_random(bytes(2, number)).to_string()
}

fn service_id(number: usize) -> String {
    ServiceId::from_random(bytes(3, number)).to_string()
}

fn task_id(number: usize) -> String {
    TaskId::from_random(bytes(4, number)).to_string()
}

fn overlay(change: v1::overlay_change::Change) -> Change {
    Change::Overlay(v1::OverlayChange { change: Some(change) })
}

fn peer(number: usize) -> Change {
    let address = format!("192.0.2.{}", number + 1);
    overlay(v1::overlay_change::Change::PutPeer(v1::Peer { node: node(number), address, ingress: None }))
}

/// A network 10.N.0.0/16.
fn network(number: usize) -> Change {
    let subnet = format!("10.{number}.0.0/16");
    overlay(v1::overlay_change::Change::PutNetwork(v1::NodeNetwork {
        id: network_id(number),
        name: format!("net{number}"),
        vni: 4096 + number as u32,
        pools: vec![v1::Pool { subnet, range: None, gateway: Some(format!("10.{number}.0.1")) }],
        mtu: None,
        internal: false,
        ingress: false,
    }))
}

fn service(network: usize) -> Change {
    overlay(v1::overlay_change::Change::PutService(v1::NodeService {
        id: service_id(network),
        name: format!("web{network}"),
        networks: vec![v1::ServiceNetwork {
            network: network_id(network),
            virtual_addresses: vec![format!("10.{network}.255.1")],
            aliases: Vec::new(),
        }],
        ingress_ports: Vec::new(),
    }))
}

/// The address of the task with that number, the same on every network but for the network's own part.
fn address(network: usize, task: usize) -> String {
    format!("10.{network}.{}.{}", 1 + task / 200, 2 + task % 200)
}

fn endpoint_id(network: usize, task: usize) -> v1::EndpointId {
    v1::EndpointId { network: network_id(network), task: task_id(task) }
}

fn endpoint(network: usize, task: usize, on: usize, is_published: bool) -> Change {
    overlay(v1::overlay_change::Change::PutEndpoint(v1::Endpoint {
        id: Some(endpoint_id(network, task)),
        service: service_id(network),
        node: node(on),
        addresses: vec![address(network, task)],
        names: vec![format!("web{network}.{task}")],
        is_published,
    }))
}

fn removed(network: usize, task: usize) -> Change {
    overlay(v1::overlay_change::Change::RemoveEndpoint(endpoint_id(network, task)))
}

fn local_task(network: usize, task: usize) -> v1::LocalTask {
    v1::LocalTask {
        id: task_id(task),
        service: service_id(network),
        attachments: vec![v1::Attachment {
            network: network_id(network),
            addresses: vec![address(network, task)],
            aliases: Vec::new(),
            any_source: false,
        }],
        has_gateway: false,
        host_ports: Vec::new(),
        hostname: format!("host{task}"),
        dns: Some(v1::DnsConfig::default()),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(work)
}

fn median_ms(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

pub fn attach() -> anyhow::Result<Vec<Row>> {
    block_on(async {
        let mut netd = Netd::start().await?;
        netd.commit(vec![network(1), service(1), endpoint(1, 0, 0, true)]).await?;
        netd.make(local_task(1, 0)).await?;
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            netd.commit(vec![endpoint(1, 1 + 2 * round, 0, false)]).await?;
            with.push(netd.make(local_task(1, 1 + 2 * round)).await?);
            let bare = v1::LocalTask { attachments: Vec::new(), ..local_task(1, 2 + 2 * round) };
            without.push(netd.make(bare).await?);
        }
        let (with, without) = (median_ms(&mut with), median_ms(&mut without));
        Ok(vec![
            Row::plain("a task's namespace without a network", without, "ms"),
            Row::plain("a task's namespace with one network", with, "ms"),
            Row::at_most("attach of a task to a network", with - without, "ms", 5.0),
        ])
    })
}

/// Endpoints of the service, all on another node.
const BACKENDS: usize = 100;

pub fn backends() -> anyhow::Result<Vec<Row>> {
    block_on(async {
        let mut netd = Netd::start().await?;
        let mut changes = vec![network(1), service(1), endpoint(1, 0, 0, false)];
        let all = |generation: usize| (0..BACKENDS).map(move |n| 1 + generation * BACKENDS + n);
        changes.extend(all(0).map(|task| endpoint(1, task, 1, true)));
        changes.extend(all(1).map(|task| endpoint(1, task, 1, false)));
        netd.commit(changes).await?;
        netd.make(local_task(1, 0)).await?;
        let (mut replaced, mut empty) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let is_first = round % 2 == 1;
            let first = all(0).map(|task| endpoint(1, task, 1, is_first));
            let second = all(1).map(|task| endpoint(1, task, 1, !is_first));
            let changes = first.chain(second).collect();
            replaced.push(netd.commit(changes).await?);
            empty.push(netd.commit(Vec::new()).await?);
        }
        let (replaced, empty) = (median_ms(&mut replaced), median_ms(&mut empty));
        Ok(vec![
            Row::plain("a commit that changes nothing", empty, "ms"),
            Row::at_most("100 backends of a service replaced by 100 others, in one task", replaced - empty, "ms", 1.0),
        ])
    })
}

/// The tasks are on networks of ten; the endpoint that changes is on one of them.
async fn change_with(tasks: usize) -> anyhow::Result<f64> {
    const TASKS_PER_NETWORK: usize = 10;
    let mut netd = Netd::start().await?;
    let networks = 1..=tasks / TASKS_PER_NETWORK;
    for number in networks.clone() {
        netd.commit(vec![network(number), service(number)]).await?;
        for task in (0..TASKS_PER_NETWORK).map(|task| number * TASKS_PER_NETWORK + task) {
            netd.commit(vec![endpoint(number, task, 0, true)]).await?;
            netd.make(local_task(number, task)).await?;
        }
    }
    let mut times = Vec::new();
    let other = (tasks + 1) * TASKS_PER_NETWORK;
    for _ in 0..ROUNDS {
        times.push(netd.commit(vec![endpoint(1, other, 1, true)]).await?);
        times.push(netd.commit(vec![removed(1, other)]).await?);
    }
    Ok(median_ms(&mut times))
}

pub fn endpoint_change() -> anyhow::Result<Vec<Row>> {
    block_on(async {
        let (few, many) = (change_with(10).await?, change_with(100).await?);
        Ok(vec![
            Row::plain("a change of one endpoint, with 10 tasks on the node", few, "ms"),
            Row::plain("a change of one endpoint, with 100 tasks on the node", many, "ms"),
            Row::at_most("the second by the first", many / few, "", 1.5),
        ])
    })
}
