//! The agent of a node: runs the tasks that a manager assigns to it.
//!
//! `skep-agent-core` decides; here are the session with a manager, the images,
//! the shims and the logs. A restart of the daemon touches no container: shims
//! live on and are adopted.

pub mod connect;
pub mod description;
mod drive;
mod framed;
pub mod image;
pub mod images;
mod logs;
pub mod network;
mod probe;
pub mod runtime;
mod session;
pub mod underlay;
mod values;
mod world;

use connect::Managers;
use drive::{Inbox, lock};
use image::ImageStore;
use images::Fetches;
use network::Network;
use probe::Prober;
use runtime::{Folders, Runtime, Settings};
use session::{Outbox, Sessions};
use skep_agent_core::Agent as Core;
use skep_agent_core::task::WAITING_FOR_MANAGER;
use skep_host::clock;
use skep_host::process::essential_until_stopped;
use skep_model::assignment::SessionInfo;
use skep_model::node::NodeDescription;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use values::Values;
use world::World;

/// How long the end of the daemon waits for records of tasks.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// What an agent needs to start.
#[derive(Debug)]
pub struct Start {
    /// Its node, its shim, its cgroups.
    pub settings: Settings,
    /// What it says of itself.
    pub description: NodeDescription,
    /// The daemon's data folder.
    pub data: PathBuf,
    /// Its run folder, of one boot.
    pub run: PathBuf,
    /// Where its network daemon is, and where other nodes reach it.
    pub network: network::Place,
    /// The node's images; they outlive the agent.
    pub images: ImageStore,
    /// The network daemon's socket.
    pub netd: PathBuf,
    /// The managers.
    pub managers: Arc<Managers>,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folders of tasks.
    #[error("could not open the folder of tasks in {path}")]
    Folders {
        /// The data folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's id of this boot.
    #[error("could not read the kernel's id of this boot")]
    Boot(#[source] std::io::Error),
}

/// Why not everything of a node's tasks could be removed.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The folders of tasks.
    #[error("could not open the folder of tasks in {path}")]
    Folders {
        /// The data folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A container or its folder.
    #[error(transparent)]
    Task(#[from] runtime::FolderError),
}

/// Ends every container of a node of which nothing is known but its data and run folders,
/// and has its networks taken down.
///
/// # Errors
/// If a container cannot be ended.
pub async fn clear(data: &Path, run: &Path, cgroup_parent: &str, netd: PathBuf) -> Result<(), ClearError> {
    let folders = Folders::open(data, run).map_err(|source| ClearError::Folders { path: data.into(), source })?;
    tokio::task::block_in_place(|| folders.clear(cgroup_parent))?;
    let node = skep_model::NodeId::from_random(session::random());
    let place = network::Place { socket: netd, node, address: std::net::Ipv4Addr::UNSPECIFIED.into() };
    let (inbox, _) = Inbox::new();
    let network = tokio::task::block_in_place(|| Network::new(place, data, String::new(), inbox));
    network.clear().await;
    Ok(())
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    core: Arc<Mutex<Core>>,
    runtime: Arc<Runtime>,
    network: Arc<Network>,
    info: watch::Receiver<Option<SessionInfo>>,
    refusal: watch::Receiver<Option<Status>>,
    is_leaving: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Adopts what lives on this node and looks for a manager.
    pub async fn start(start: Start) -> Result<Self, StartError> {
        let fail = |source| StartError::Folders { path: start.data.clone(), source };
        let folders = Folders::open(&start.data, &start.run).map_err(fail)?;
        let boot = skep_shim::process::boot_id().map_err(StartError::Boot)?;
        // An earlier version kept its assignments there.
        let _ = std::fs::remove_dir_all(start.data.join("assignments"));
        let node = start.settings.node;
        let (inbox, events) = Inbox::new();
        let (outbox, outgoing) = Outbox::new();
        let values = Arc::new(Values::default());
        let network = tokio::task::block_in_place(|| Network::new(start.network, &start.data, boot.clone(), inbox.clone()));
        let (images, for_runtime) = (start.images.clone(), inbox.clone());
        let runtime = Runtime::new(start.settings, folders.clone(), boot, images, values.clone(), network.clone(), for_runtime);
        let recovered = tokio::task::block_in_place(|| runtime.recover()).map_err(fail)?;
        let core = Arc::new(Mutex::new(Core::new(recovered, network.is_known(), clock::read())));
        let task_of: logs::TaskOf = Arc::new({
            let core = core.clone();
            move |id| lock(&core).tasks().find(|task| task.id == id).cloned()
        });
        let (info_sender, info) = watch::channel(None);
        let (refusal_sender, refusal) = watch::channel(None);
        let is_leaving = Arc::new(AtomicBool::new(false));
        let world = World { runtime: runtime.clone(), network: network.clone(), values: values.clone(), outbox: outbox.clone() };
        let sessions = Sessions {
            node,
            description: start.description,
            managers: start.managers.clone(),
            agent: core.clone(),
            inbox,
            network: network.clone(),
            values,
            logs: logs::Publisher::new(node, folders, start.managers.clone(), task_of),
            fetches: Fetches::new(start.images, start.managers, outbox.clone()),
            prober: Prober::new(start.netd, outbox),
            info: info_sender,
            refusal: refusal_sender,
            unsent: session::Unsent::default(),
            is_leaving: is_leaving.clone(),
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        // What recovery decided is carried out before anything else happens.
        let actions = lock(&core).take_actions();
        actions.into_iter().for_each(|action| world.carry_out(action));
        // Nobody looks at these before the end: an agent without one of them is none.
        let driving = drive::run(core.clone(), events, Arc::new(world), stop.clone());
        tasks.spawn(essential_until_stopped("the agent's loop", stop.clone(), driving));
        tasks.spawn(essential_until_stopped("the agent's network", stop.clone(), network.clone().run(stop.clone())));
        tasks.spawn(essential_until_stopped("the agent's session", stop.clone(), sessions.run(outgoing, stop.clone())));
        Ok(Self { core, runtime, network, info, refusal, is_leaving, stop, tasks })
    }

    /// What the manager last said of the cluster.
    pub fn info(&self) -> watch::Receiver<Option<SessionInfo>> {
        self.info.clone()
    }

    /// Why the newest attempt at a session was refused; `None` while there is one.
    pub fn refusal(&self) -> watch::Receiver<Option<Status>> {
        self.refusal.clone()
    }

    /// The containers.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// How many tasks there are, and how many of them run.
    pub fn counts(&self) -> (u64, u64) {
        let statuses = lock(&self.core).statuses();
        let running = statuses.iter().filter(|update| update.status.state == skep_model::TaskState::Running).count();
        (statuses.len() as u64, running as u64)
    }

    /// What this node waits for: its network daemon, and tasks that cannot start
    /// before a manager is reached, each with why.
    pub fn waiting(&self) -> Vec<String> {
        let core = lock(&self.core);
        let names: BTreeMap<_, _> = core.tasks().map(|task| (task.id, task.name())).collect();
        let waits = core.statuses().into_iter().filter(|update| update.status.message == WAITING_FOR_MANAGER);
        let waits =
            waits.map(|update| format!("task {} {}", names.get(&update.task).cloned().unwrap_or_default(), update.status.error));
        self.network.standing().borrow().trouble.clone().into_iter().chain(waits).collect()
    }

    /// Ends the session; containers go on.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.runtime.flush(FLUSH_MAX).await;
    }

    /// Ends the session and every container: the node leaves the cluster.
    pub async fn leave(self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        let (core, runtime) = (self.core.clone(), self.runtime.clone());
        let network = self.network.clone();
        self.stop().await;
        // Those that were only found on disk as well.
        let on_disk = tokio::task::block_in_place(|| runtime.folders.list()).unwrap_or_default();
        let tasks: BTreeSet<_> = lock(&core).tasks().map(|task| task.id).chain(on_disk).collect();
        let mut ending = JoinSet::new();
        for task in tasks {
            let runtime = runtime.clone();
            ending.spawn(async move { runtime.remove_now(task).await });
        }
        while ending.join_next().await.is_some() {}
        network.clear().await;
    }
}
