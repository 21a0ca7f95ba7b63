//! The node: in which state it is, and how it gets there when the daemon starts.
//!
//! One lock holds the [`Phase`]; whoever moves the node from one to another holds
//! it for as long as that takes, so init, join, leave, unlock and changes of role
//! never overlap. The start of the daemon holds it from the beginning: whoever asks
//! for a change meanwhile waits until the node has taken its place. Everyone else
//! reads the [`View`], which is replaced after every move and never waits.

use crate::args::Settings;
use crate::failure::Failure;
use crate::identity::{self, Identity};
use crate::leave;
use crate::member::Member;
use crate::readdress::readdress;
use crate::state::{NodeFile, Stage, StateError};
use skep_agent::image::ImageStore;
use skep_agent::runtime::Runtime;
use skep_identity::keystore::{Keystore, KeystoreError, Opened};
use skep_identity::tls::TlsIdentity;
use skep_manager::{ControlApi, Leadership, Manager};
use skep_model::assignment::SessionInfo;
use skep_model::{ClusterId, NodeId};
use skep_proto::v1::LocalState;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, watch};

/// What the node is.
pub enum Phase {
    /// In no cluster.
    Inactive,
    /// In one, but its keystore is locked.
    Locked(NodeFile),
    /// In one, but it cannot take its part.
    Broken {
        /// Its place, if that reads.
        file: Option<NodeFile>,
        /// Why it cannot.
        reason: String,
    },
    /// In one.
    Active(Box<Member>),
}

/// What everyone may know of the node without waiting.
#[derive(Clone, Default)]
pub struct View {
    /// As `info` shows it.
    pub state: LocalState,
    /// What is wrong; empty if nothing is.
    pub error: String,
    /// The node's and the cluster's id, and where others reach it.
    pub place: Option<(NodeId, ClusterId, SocketAddr)>,
    /// The cluster's API, while the manager runs.
    pub control: Option<ControlApi>,
    /// Who leads, while the manager runs.
    pub leadership: Option<watch::Receiver<Leadership>>,
    /// What the session said last.
    pub info: Option<watch::Receiver<Option<SessionInfo>>>,
    /// Why managers refuse the session, while they do.
    pub refusal: Option<watch::Receiver<Option<tonic::Status>>>,
    /// The containers.
    pub runtime: Option<Arc<Runtime>>,
    /// The certificate.
    pub tls: Option<TlsIdentity>,
    /// Whether the keystore's key is kept off the disk.
    pub is_autolocked: bool,
}

/// The node.
pub struct Node {
    /// What the daemon runs with.
    pub settings: Settings,
    /// The images, in a cluster or not.
    pub images: ImageStore,
    phase: Arc<Mutex<Phase>>,
    view: watch::Sender<View>,
}

impl Node {
    /// Opens what belongs to no cluster; a node that has no place in one is inactive from
    /// here on, and any other is pending. [`Node::resume`] does the rest.
    ///
    /// # Errors
    /// If the image store cannot be opened.
    pub async fn open(settings: Settings) -> Result<Arc<Self>, Failure> {
        let images = ImageStore::open(settings.data.join("images")).await?;
        // A folder that does not read is told of by the resume.
        let state = if is_in_no_cluster(&settings.data).unwrap_or(false) { LocalState::Inactive } else { LocalState::Pending };
        let view = View { state, ..View::default() };
        let phase = Arc::new(Mutex::new(Phase::Inactive));
        Ok(Arc::new(Self { settings, images, phase, view: watch::Sender::new(view) }))
    }

    /// Takes the place that the node had when the daemon ended, however it ended. From
    /// this call on, and not only once the future is polled, no other change of the node
    /// gets in: one that did would found a cluster here that is then started once more.
    ///
    /// # Panics
    /// If a change of the node is under way.
    pub fn resume(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.clone().try_lock_owned().expect("a node resumes before anyone can ask for a change of it");
        let node = self.clone();
        async move {
            *phase = match node.resumed().await {
                Ok(phase) => phase,
                Err(failure) => {
                    tracing::error!("this node cannot take its part in the cluster: {}", failure.line());
                    Phase::Broken { file: NodeFile::load(&node.settings.data).ok().flatten(), reason: failure.line() }
                }
            };
            node.publish(&phase);
        }
    }

    async fn resumed(self: &Arc<Self>) -> Result<Phase, Failure> {
        let data = &self.settings.data;
        if is_in_no_cluster(data)? {
            return Ok(Phase::Inactive);
        }
        let Some(mut file) = NodeFile::load(data)? else {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(StateError::Io { operation: "find", path: data.join("node.json"), source }.into());
        };
        match file.stage {
            Stage::Founding => {
                tracing::warn!("the daemon ended while it founded a cluster; that is undone");
                leave::forget(data, &self.settings.run)?;
                return Ok(Phase::Inactive);
            }
            Stage::Leaving => {
                tracing::warn!("the daemon ended while this node left its cluster; that is finished");
                leave::finish(self, &file, None).await?;
                return Ok(Phase::Inactive);
            }
            Stage::Joining | Stage::Member => {}
        }
        readdress(&mut file, self.settings.advertise.as_deref(), data)?;
        match Keystore::open(&identity::folder(data))? {
            Opened::Open(keystore) => {
                if file.stage == Stage::Joining {
                    file.stage = Stage::Member;
                    file.save(data)?;
                }
                Ok(Phase::Active(Box::new(Member::start(self, file, Identity::of(keystore)?).await?)))
            }
            Opened::Locked => Ok(Phase::Locked(file)),
            Opened::Absent if file.stage == Stage::Joining => {
                leave::forget(data, &self.settings.run)?;
                Ok(Phase::Inactive)
            }
            Opened::Absent => {
                Err(Failure::precondition("this node's keystore is gone; leave the cluster by force and join again"))
            }
        }
    }

    /// The phase, to change it.
    pub async fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().await
    }

    /// The phase, if nobody is changing it.
    pub fn phase_now(&self) -> Option<MutexGuard<'_, Phase>> {
        self.phase.try_lock().ok()
    }

    /// What is known of the node now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Says that something is under way.
    pub fn publish_pending(&self) {
        self.view.send_modify(|view| view.state = LocalState::Pending);
    }

    /// Says what the node is now.
    pub fn publish(&self, phase: &Phase) {
        self.view.send_replace(View::of(phase));
    }

    /// Where the manager's log is.
    pub fn manager_folder(&self) -> PathBuf {
        self.settings.data.join("manager")
    }

    /// The daemon ends: leadership is handed over, containers go on.
    pub async fn shut_down(&self) {
        let mut phase = self.phase.lock().await;
        let ended = std::mem::replace(&mut *phase, Phase::Inactive);
        if let Phase::Active(member) = ended {
            member.stop().await;
        }
    }
}

/// Whether a data folder has neither a place in a cluster nor the keys of one.
fn is_in_no_cluster(data: &Path) -> Result<bool, Failure> {
    Ok(NodeFile::load(data)?.is_none() && matches!(Keystore::open(&identity::folder(data))?, Opened::Absent))
}

impl View {
    fn of(phase: &Phase) -> Self {
        let place = |file: &NodeFile| (file.node, file.cluster, file.advertise);
        match phase {
            Phase::Inactive => Self { state: LocalState::Inactive, ..Self::default() },
            Phase::Locked(file) => {
                Self { state: LocalState::Locked, error: LOCKED.into(), place: Some(place(file)), ..Self::default() }
            }
            Phase::Broken { file, reason } => {
                Self { state: LocalState::Error, error: reason.clone(), place: file.as_ref().map(place), ..Self::default() }
            }
            Phase::Active(member) => Self {
                state: if member.trouble.is_some() { LocalState::Error } else { LocalState::Active },
                error: member.trouble.clone().unwrap_or_default(),
                place: Some(place(&member.file)),
                control: member.manager.as_ref().map(Manager::control),
                leadership: member.manager.as_ref().map(Manager::leadership),
                info: Some(member.agent.info()),
                refusal: Some(member.agent.refusal()),
                runtime: Some(member.agent.runtime().clone()),
                tls: Some(member.identity.tls().clone()),
                is_autolocked: member.identity.unlock_key().is_some(),
            },
        }
    }
}

/// What a locked node answers, in Swarm's words.
pub const LOCKED: &str =
    "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"skep swarm unlock\" to unlock it.";

/// What a node answers that is in a cluster already, in Swarm's words.
pub const ALREADY: &str =
    "This node is already part of a swarm. Use \"skep swarm leave\" to leave this swarm and join another one.";

impl Phase {
    /// Refuses unless the node is in no cluster.
    ///
    /// # Errors
    /// In Swarm's words.
    pub fn must_be_inactive(&self) -> Result<(), Failure> {
        match self {
            Self::Inactive => Ok(()),
            Self::Locked(_) => Err(Failure::precondition(LOCKED)),
            Self::Broken { .. } | Self::Active(_) => Err(Failure::precondition(ALREADY)),
        }
    }
}

/// Whether a keystore error says that the given key is the wrong one.
pub fn is_wrong_key(error: &KeystoreError) -> bool {
    matches!(error, KeystoreError::WrongKey(_) | KeystoreError::UnlockKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_changes_the_node_before_it_has_taken_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(Settings::of_test(folder.path())).await.unwrap();
        let resuming = node.resume();
        // One that is in no cluster says so from the start.
        assert_eq!(node.view().state, LocalState::Inactive);
        // As a request would be that is served before the start's own task is polled.
        assert!(node.phase_now().is_none());
        resuming.await;
        assert!(matches!(*node.phase().await, Phase::Inactive));
        assert_eq!(node.view().state, LocalState::Inactive);
    }
}
