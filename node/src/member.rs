//! A node that is in a cluster: its place, identity, agent, and the manager while
//! its certificate says so.

use crate::failure::Failure;
use crate::identity::Identity;
use crate::node::Node;
use crate::reach;
use crate::roles;
use crate::state::NodeFile;
use skep_agent::Agent;
use skep_agent::connect::Managers;
use skep_agent::description::describe;
use skep_agent::underlay;
use skep_identity::SecretBytes;
use skep_identity::seal::UnsealingKey;
use skep_identity::tls::TlsIdentity;
use skep_manager::{Founding, Manager, NoteLog};
use skep_model::node::{NodeDescription, Role};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

use crate::identity::ManagerKeys;

/// A node in a cluster.
pub struct Member {
    /// Its place, as on disk.
    pub file: NodeFile,
    /// Its keys and certificate.
    pub identity: Identity,
    /// Runs its tasks.
    pub agent: Agent,
    /// Keeps the cluster's state, while that is its role.
    pub manager: Option<Manager>,
    /// Why it does not do all it should; it goes on trying.
    pub trouble: Option<String>,
    /// Cancelled when it is none any more.
    pub ended: CancellationToken,
}

/// The file with the managers' addresses.
pub fn managers_file(data: &Path) -> PathBuf {
    data.join("managers")
}

/// What this node says of itself; in a cluster also of its network.
pub fn description(node: &Node, file: Option<&NodeFile>) -> NodeDescription {
    let mut description = describe(node.settings.labels.clone());
    description.underlay = file.map(|file| underlay::of(file.underlay()));
    description.hostname.clone_from(&node.settings.hostname);
    description
}

/// Starts an agent for a place; `managers` are known besides those on file.
///
/// # Errors
/// If what it keeps on disk cannot be opened.
pub async fn start_agent(node: &Node, file: &NodeFile, tls: TlsIdentity, managers: &[String]) -> Result<Agent, Failure> {
    let settings = &node.settings;
    let managers = Managers::open(tls, managers_file(&settings.data), managers);
    Ok(Agent::start(skep_agent::Start {
        settings: skep_agent::runtime::Settings {
            node: file.node,
            hostname: settings.hostname.clone(),
            shim: settings.shim.clone(),
            cgroup_parent: settings.cgroup_parent.clone(),
            registries: settings.registries.clone(),
        },
        description: description(node, Some(file)),
        data: settings.data.clone(),
        run: settings.run.clone(),
        network: skep_agent::network::Place { socket: settings.run.join("netd.sock"), node: file.node, address: file.underlay() },
        images: node.images.clone(),
        netd: settings.run.join("netd.sock"),
        managers: Arc::new(managers),
    })
    .await?)
}

/// Finds out whether a manager could listen there.
///
/// # Errors
/// If it could not.
pub async fn can_listen(address: SocketAddr) -> Result<(), Failure> {
    let listening = tokio::net::TcpListener::bind(address).await;
    listening.map(drop).map_err(|source| skep_manager::StartError::Listen { address, source }.into())
}

impl Member {
    /// A member without a manager.
    pub fn of(file: NodeFile, identity: Identity, agent: Agent) -> Self {
        Self { file, identity, agent, manager: None, trouble: None, ended: CancellationToken::new() }
    }

    /// Takes a place: the manager first, if there is one, then the agent. A
    /// manager that does not start is no reason to leave tasks alone; it is tried again.
    ///
    /// # Errors
    /// If the agent cannot start.
    pub async fn start(node: &Arc<Node>, mut file: NodeFile, mut identity: Identity) -> Result<Self, Failure> {
        // The ones that a session told last come before those of the join, which may be gone.
        let mut addresses = reach::managers_on_file(&node.settings.data, &file);
        let is_manager = identity.node().role == Role::Manager;
        if is_manager {
            addresses.insert(0, file.advertise.to_string());
        }
        // The cluster's quorum does not wait for what this node finds of its tasks. Without
        // a place in raft, the role may have changed since: the loop asks first.
        let manager = match file.raft_id.filter(|_| is_manager) {
            Some(raft_id) => Some(resume_manager(node, &mut file, &mut identity, raft_id).await),
            None => None,
        };
        let agent = match start_agent(node, &file, identity.tls().clone(), &addresses).await {
            Ok(agent) => agent,
            Err(failure) => {
                if let Some(Ok(manager)) = manager {
                    manager.stop().await;
                }
                return Err(failure);
            }
        };
        let mut member = Self::of(file, identity, agent);
        match manager {
            Some(Ok(manager)) => member.has_manager(node, manager)?,
            Some(Err(failure)) => member.trouble(&failure),
            None => {}
        }
        roles::keep(node, &member);
        Ok(member)
    }

    /// Starts the manager; without a place in raft it asks for one first.
    ///
    /// # Errors
    /// If no manager gives it a place, or it does not start.
    pub async fn start_manager(&mut self, node: &Node, founding: Option<Founding>) -> Result<(), Failure> {
        let keys = self.identity.manager_keys()?;
        let (data, folder) = (&node.settings.data, node.manager_folder());
        let raft_id = match self.file.raft_id {
            Some(raft_id) => raft_id,
            None => {
                // What an earlier time as a manager left is of no use: its raft id is spent.
                Manager::destroy(&folder)?;
                let managers = reach::Managers::others(node, &self.file);
                let placed = reach::join_raft(self.identity.tls(), &managers, self.file.advertise, &keys.unsealing).await?;
                self.file.raft_id = Some(placed.raft_id);
                self.file.has_log = false;
                self.file.peers = placed.peers;
                self.file.save(data)?;
                placed.raft_id
            }
        };
        let tls = self.identity.tls().clone();
        let manager = started_manager(node, &mut self.file, (raft_id, tls, keys), founding).await?;
        self.has_manager(node, manager)
    }

    fn has_manager(&mut self, node: &Node, manager: Manager) -> Result<(), Failure> {
        self.manager = Some(manager);
        self.trouble = None;
        if !self.file.peers.is_empty() {
            // From now on its own log knows them.
            self.file.peers.clear();
            self.file.save(&node.settings.data)?;
        }
        Ok(())
    }

    /// Stops the manager, whose place in raft is no more, and deletes its log.
    ///
    /// # Errors
    /// If its log or keys cannot be removed; it is stopped all the same.
    pub async fn end_manager(&mut self, node: &Node) -> Result<(), Failure> {
        if let Some(manager) = self.manager.take() {
            manager.stop().await;
        }
        if self.file.raft_id.take().is_some() || !self.file.peers.is_empty() {
            self.file.peers.clear();
            self.file.has_log = false;
            self.file.save(&node.settings.data)?;
        }
        let folder = node.manager_folder();
        tokio::task::block_in_place(|| Manager::destroy(&folder))?;
        self.identity.drop_manager_keys()
    }

    /// Notes that something does not work; `info` shows it.
    pub fn trouble(&mut self, failure: &Failure) {
        let line = failure.line();
        if self.trouble.as_deref() != Some(&*line) {
            tracing::error!("{line}");
        }
        self.trouble = Some(line);
    }

    /// The daemon ends; containers go on.
    pub async fn stop(self) {
        self.ended.cancel();
        if let Some(manager) = self.manager {
            manager.stop().await;
        }
        self.agent.stop().await;
    }
}

/// Starts the manager of a place in raft that it has already.
async fn resume_manager(node: &Node, file: &mut NodeFile, identity: &mut Identity, raft_id: u64) -> Result<Manager, Failure> {
    let keys = identity.manager_keys()?;
    started_manager(node, file, (raft_id, identity.tls().clone(), keys), None).await
}

/// Starts a manager. That its raft id has a log is put down as soon as there is one, and
/// before anything is promised in its name.
async fn started_manager(
    node: &Node,
    file: &mut NodeFile,
    (raft_id, tls, keys): (u64, TlsIdentity, ManagerKeys),
    founding: Option<Founding>,
) -> Result<Manager, Failure> {
    let noted = Arc::new(AtomicBool::new(false));
    let note_log = (!file.is_id_used()).then(|| {
        let (mut file, data, noted) = (file.clone(), node.settings.data.clone(), noted.clone());
        file.has_log = true;
        Box::new(move || {
            file.save(&data).map_err(|error| Failure::from(error).line())?;
            noted.store(true, Ordering::Relaxed);
            Ok(())
        }) as NoteLog
    });
    let started = Manager::start(manager_start(file, raft_id, node.manager_folder(), tls, keys, (founding, note_log))).await;
    file.has_log |= noted.load(Ordering::Relaxed);
    Ok(started?)
}

/// How a manager of this place starts.
pub fn manager_start(
    file: &NodeFile,
    raft_id: u64,
    folder: PathBuf,
    tls: TlsIdentity,
    keys: ManagerKeys,
    (founding, note_log): (Option<Founding>, Option<NoteLog>),
) -> skep_manager::Start {
    let (data_keys, unsealing): (BTreeMap<u32, SecretBytes>, UnsealingKey) = (keys.data, keys.unsealing);
    skep_manager::Start {
        node: file.node,
        raft_id,
        address: file.advertise.to_string(),
        folder,
        tls,
        listen: file.listen,
        data_keys,
        unsealing,
        peers: file.peers.clone(),
        founding,
        note_log,
    }
}
