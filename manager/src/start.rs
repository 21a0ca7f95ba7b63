//! A manager's beginning and end.

use crate::api::control::ControlApi;
use crate::api::{Leadership, Limits, Shared};
use crate::channels::Channels;
use crate::disk::{self, Log, RecordSeal, SealError, Settings};
use crate::drive;
use crate::images::Images;
use crate::inbox::Inbox;
use crate::logs::Logs;
use crate::peers::Peers;
use crate::persist::{self, Disk, PersistError};
use crate::probes::Probes;
use crate::sealing::{NewCluster, Sealing};
use crate::serve;
use crate::sessions::Sessions;
use crate::waiting::Waiting;
use crate::world::World;
use skep_host::clock;
use skep_host::process::{essential_until_stopped, planted};
use skep_identity::SecretBytes;
use skep_identity::seal::UnsealingKey;
use skep_identity::tls::{Connections, TlsIdentity};
use skep_manager_core::{Config, Event, Manager as Core, Recovered};
use skep_model::cluster::{Cluster, ClusterSpec};
use skep_model::node::Node;
use skep_model::request::Mutation;
use skep_model::version::FORMAT_MAX;
use skep_model::{ClusterId, NodeId, Refusal, RequestId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How long a new cluster's first manager may take to lead it.
const FOUNDING_MAX: Duration = Duration::from_secs(15);
/// How long handing over leadership may take.
const STEP_DOWN_MAX: Duration = Duration::from_secs(3);
/// Between two looks for a manager that can take it: one that has just joined
/// cannot yet, and of when it can there is no event here.
const STEP_DOWN_AGAIN: Duration = Duration::from_millis(50);

/// What a manager needs to start.
pub struct Start {
    /// Its node.
    pub node: NodeId,
    /// Its raft id; not 0.
    pub raft_id: u64,
    /// `host:port` at which the others reach it.
    pub address: String,
    /// Its folder: log, snapshots, spool.
    pub folder: PathBuf,
    /// Its certificate and the roots.
    pub tls: TlsIdentity,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The keys of its log, by generation; the highest is the current one.
    pub data_keys: BTreeMap<u32, SecretBytes>,
    /// The private half of its unsealing key.
    pub unsealing: UnsealingKey,
    /// The members as the reply to its join named them: raft id → address.
    pub peers: BTreeMap<u64, String>,
    /// The first start of a new cluster's first manager.
    pub founding: Option<Founding>,
    /// `None` if something was promised in the name of this raft id: then its log must
    /// be there. Else called once the log is on the disk, before anything is promised.
    pub note_log: Option<NoteLog>,
}

/// Puts down that a raft id has a log; an error in words.
pub type NoteLog = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// What a new cluster begins with.
#[derive(Debug)]
pub struct Founding {
    /// The cluster.
    pub cluster: Box<Cluster>,
    /// Its first manager.
    pub node: Box<Node>,
}

/// Why a manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its port.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A folder.
    #[error("could not make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The keys of its log.
    #[error("the keys of the log cannot be used")]
    Keys(#[from] SealError),
    /// The log or a snapshot.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// The log.
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    /// The log is gone, and with it what this manager promised: its votes, and the
    /// entries that it acknowledged.
    #[error(
        "the log of this manager is not in {path}, although raft id {raft_id} has taken part with one; without it this manager \
         could vote twice and lose changes that were acknowledged. If the folder lies on a disk that is not mounted, mount it: \
         the manager is started as soon as the log is there. If the log is lost, run `skep node demote {node}` and then \
         `skep node promote {node}` on another manager; where there is none, run `skep swarm leave --force` here and join again"
    )]
    LogLost {
        /// Where it should be.
        path: PathBuf,
        /// This node.
        node: NodeId,
        /// Its raft id.
        raft_id: u64,
    },
    /// That there is a log could not be put down.
    #[error("could not put down that this manager has a log: {0}")]
    NoteLog(String),
    /// The cluster could not be founded.
    #[error("could not found the cluster: {0}")]
    Founding(Refusal),
}

/// A running manager.
pub struct Manager {
    shared: Arc<Shared>,
    removed: CancellationToken,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Makes the keys, the object and the first certificate of a new cluster.
pub fn found(
    node: NodeId,
    unsealing: &UnsealingKey,
    id: ClusterId,
    spec: ClusterSpec,
    request_der: &[u8],
) -> Result<NewCluster, Refusal> {
    let private = UnsealingKey::from_bytes(unsealing.bytes().duplicate());
    let private = private.map_err(|error| Refusal::FailedPrecondition(error.to_string()))?;
    Sealing::new(node, private).new_cluster(id, spec, request_der)
}

impl Manager {
    /// Opens the log, begins to follow or lead, and serves the port.
    pub async fn start(start: Start) -> Result<Self, StartError> {
        let listener = listen(start.listen).await?;
        let is_there = disk::is_there(&start.folder)?;
        if !skep_manager_core::manager::may_start(start.note_log.is_none(), is_there) {
            return Err(StartError::LogLost { path: start.folder, node: start.node, raft_id: start.raft_id });
        }
        make_folder(&start.folder)?;
        let seal = record_seal(start.node, start.data_keys)?;
        let founder = start.founding.is_some().then_some(start.raft_id);
        let (disk, recovered, is_new) = open(start.folder.clone(), seal, founder).await?;
        if let Some(note) = start.note_log {
            note().map_err(StartError::NoteLog)?;
        }
        let founding = start.founding.filter(|_| is_new);
        let planted_panic = planted("draft").map(str::to_owned);
        let config = Config {
            node: start.node,
            raft_id: start.raft_id,
            address: start.address,
            format_max: FORMAT_MAX,
            peers: start.peers,
            planted_panic,
        };
        let core = Core::new(config, seed(), recovered, clock::read());
        let inbox = Inbox::default();
        let (leadership, leadership_seen) = watch::channel(Leadership::default());
        let sessions = Arc::new(Sessions::default());
        let spool = start.folder.join("spool");
        let channels = Arc::new(Channels::new(start.tls.clone()));
        let shared = Arc::new(Shared {
            node: start.node,
            inbox: inbox.clone(),
            waiting: Waiting::default(),
            leadership: leadership_seen,
            channels: channels.clone(),
            sessions: sessions.clone(),
            sealing: Sealing::new(start.node, start.unsealing),
            logs: Logs::new(sessions.clone()),
            probes: Probes::new(sessions.clone()),
            images: Images::open(spool.clone(), sessions).map_err(|source| StartError::Folder { path: spool, source })?,
            limits: Limits::default(),
            disk,
        });
        let connections = Connections::default();
        let removed = CancellationToken::new();
        let world = World {
            shared: shared.clone(),
            peers: Peers::new(inbox.clone(), channels),
            leadership,
            connections: connections.clone(),
            removed: removed.clone(),
        };
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        // Nobody looks at these before the end: a manager without one of them is none.
        let driving = drive::run(core, inbox, Arc::new(world), stop.clone());
        let serving = serve::run(listener, start.tls, connections, shared.clone(), stop.clone());
        tasks.spawn(essential_until_stopped("the manager's loop", stop.clone(), driving));
        tasks.spawn(essential_until_stopped("the manager's port", stop.clone(), serving));
        let manager = Self { shared, removed, stop, tasks };
        if let Some(founding) = founding
            && let Err(refusal) = manager.bootstrap(founding).await
        {
            manager.stop().await;
            return Err(StartError::Founding(refusal));
        }
        Ok(manager)
    }

    /// The control service, for the local socket.
    pub fn control(&self) -> ControlApi {
        ControlApi(self.shared.clone())
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Cancelled when this node is no longer a member of raft.
    pub fn removed(&self) -> CancellationToken {
        self.removed.clone()
    }

    /// Both join tokens, in the clear: worker, manager.
    pub async fn join_tokens(&self) -> Result<(Zeroizing<String>, Zeroizing<String>), Refusal> {
        let store = self.shared.read(skep_manager_core::event::Consistency::Linearizable).await?;
        self.shared.sealing.tokens(&store)
    }

    /// Asks this node to leave raft, as its user wants.
    pub async fn leave(&self) -> Result<(), Refusal> {
        use skep_proto::v1;
        use skep_proto::v1::control_server::Control;
        let request = v1::MutateRequest {
            request_id: self.shared.random().to_vec(),
            mutation: Some(v1::mutate_request::Mutation::Leave(v1::Leave { node_id: self.shared.node.to_string() })),
        };
        let left = self.control().mutate(tonic::Request::new(request)).await;
        left.map(drop).map_err(|status| {
            skep_proto::status::to_refusal(&status).unwrap_or_else(|| Refusal::Unavailable(status.message().to_owned()))
        })
    }

    /// Hands leadership over, if this manager has it and another can take it.
    pub async fn step_down(&self) {
        let mut leadership = self.shared.leadership.clone();
        if !leadership.borrow().is_self || self.is_alone().await {
            return;
        }
        let handed_over = async {
            let mut again = tokio::time::interval(STEP_DOWN_AGAIN);
            loop {
                tokio::select! {
                    _ = again.tick() => self.shared.inbox.put(Event::StepDown),
                    // A successor must be heard of: until then this one's vote may be needed.
                    _ = leadership.wait_for(|now| !now.is_self && now.leader.is_some()) => return,
                }
            }
        };
        if tokio::time::timeout(STEP_DOWN_MAX, handed_over).await.is_err() {
            tracing::warn!("no other manager took the leadership over; stopping all the same");
        }
    }

    /// Whether there is no other manager that could lead.
    async fn is_alone(&self) -> bool {
        let store = self.shared.read(skep_manager_core::event::Consistency::Stale).await;
        store.is_ok_and(|store| store.nodes().filter(|node| node.plan.manager.is_some()).count() <= 1)
    }

    /// Hands leadership over and stops.
    pub async fn stop(mut self) {
        self.step_down().await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let shared = self.shared.clone();
        let stopped = tokio::task::spawn_blocking(move || shared.disk.stop());
        if stopped.await.is_err() {
            tracing::error!("the log did not stop");
        }
    }

    /// Deletes a stopped manager's log and snapshots.
    pub fn destroy(folder: &Path) -> Result<(), StartError> {
        disk::destroy(folder)?;
        match std::fs::remove_dir_all(folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(StartError::Folder { path: folder.into(), source })
            }
            _ => Ok(()),
        }
    }

    async fn bootstrap(&self, founding: Founding) -> Result<(), Refusal> {
        let mut leadership = self.shared.leadership.clone();
        let leads = tokio::time::timeout(FOUNDING_MAX, leadership.wait_for(|now| now.is_self)).await.is_ok();
        if !leads {
            return Err(Refusal::Unavailable("the first manager did not come to lead".into()));
        }
        let mutation = Mutation::Bootstrap { cluster: founding.cluster, node: founding.node };
        self.shared.propose(RequestId(self.shared.random()), mutation).await.map(drop)
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn make_folder(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::Folder { path: path.into(), source })
}

fn record_seal(node: NodeId, keys: BTreeMap<u32, SecretBytes>) -> Result<Arc<RecordSeal>, StartError> {
    let current = keys.keys().next_back().copied().unwrap_or_default();
    let keys = keys.into_iter().map(|(generation, key)| {
        let mut bytes = Zeroizing::new([0; 32]);
        let length = key.len().min(32);
        bytes[..length].copy_from_slice(&key[..length]);
        (generation, bytes)
    });
    Ok(Arc::new(RecordSeal::new(node.as_str(), keys, current)?))
}

/// Opens the log on a thread of its own: it reads everything there is. For a
/// founder's empty log the founding is written first: the empty store, as a
/// snapshot whose only member it is. Also tells whether that was done.
async fn open(folder: PathBuf, seal: Arc<RecordSeal>, founder: Option<u64>) -> Result<(Disk, Recovered, bool), StartError> {
    let opened = tokio::task::spawn_blocking(move || -> Result<(Disk, Recovered, bool), StartError> {
        let (mut log, found) = Log::open(&folder, seal.clone(), &Settings::default())?;
        let is_empty = found.snapshot.is_none() && found.entries.is_empty() && found.membership.is_none();
        let founder = founder.filter(|_| is_empty);
        let recovered = match founder {
            Some(raft_id) => {
                let recovered = Recovered::bootstrap(raft_id);
                persist::write_founding(&folder, &seal, &mut log, &recovered)?;
                recovered
            }
            None => persist::recovered(&folder, &seal, found)?,
        };
        Ok((Disk::start(folder, seal, log)?, recovered, founder.is_some()))
    });
    match opened.await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn seed() -> u64 {
    u64::from_le_bytes(skep_host::chance::bytes())
}
