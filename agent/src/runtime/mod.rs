//! Containers: from an assigned task to its shim, and back to events.
//!
//! Every task that has got as far as preparing has one attendant, a task of the
//! runtime that owns the connection to its shim. Folders of a task live under
//! `DATA/tasks/ID`: `state` (the shim's), `upper` and `work` (the writable
//! layer), `log`. Releasing removes all but the log, removing everything.

mod attend;
mod folders;
mod recover;
mod spec;

pub use folders::{Folders, TaskFolder};

use crate::drive::Inbox;
use crate::image::{Auth, Image, ImageStore, Platform, Reference, RegistryOptions};
use crate::network::{Made, Network};
use crate::values::Values;
use attend::{Attendant, Command};
use skep_agent_core::Event;
use skep_model::service::NetworkMode;
use skep_model::task::Task;
use skep_model::{NodeId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::AbortHandle;

/// What the runtime must know of its node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node; `None` of its labels are used, only its id.
    pub node: NodeId,
    /// The node's host name.
    pub hostname: String,
    /// The shim's program.
    pub shim: PathBuf,
    /// Parent of every task's cgroup, absolute from the root of each hierarchy.
    pub cgroup_parent: String,
    /// How registries are talked to.
    pub registries: RegistryOptions,
}

/// One task that has got as far as preparing.
#[derive(Debug)]
struct Local {
    task: Arc<Task>,
    attempt: u64,
    image: Option<Image>,
    /// Where the network daemon pinned its network namespace, if that made one.
    namespace: Option<PathBuf>,
    preparing: Option<AbortHandle>,
    attendant: Option<Attendant>,
}

/// All containers of the node.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) settings: Settings,
    pub(crate) folders: Folders,
    images: ImageStore,
    values: Arc<Values>,
    network: Arc<Network>,
    inbox: Inbox,
    tasks: Mutex<BTreeMap<TaskId, Local>>,
}

impl Runtime {
    /// A runtime without containers; [`Runtime::recover`] finds those that live.
    pub(crate) fn new(
        settings: Settings,
        folders: Folders,
        images: ImageStore,
        values: Arc<Values>,
        network: Arc<Network>,
        inbox: Inbox,
    ) -> Arc<Self> {
        if !skep_shim::process::may_lock_memory() {
            tracing::warn!(
                "environments of tasks on this node may be swapped out: skepd has neither CAP_IPC_LOCK nor an unlimited \
                 RLIMIT_MEMLOCK (LimitMEMLOCK=infinity)"
            );
        }
        Arc::new(Self { settings, folders, images, values, network, inbox, tasks: Mutex::default() })
    }

    /// Makes image and network namespace ready. Nothing runs yet; the shim is
    /// spawned at the start.
    pub fn prepare(self: &Arc<Self>, task: Arc<Task>, attempt: u64) {
        let (runtime, id) = (self.clone(), task.id);
        let preparing = tokio::spawn({
            let task = task.clone();
            async move {
                let event = match runtime.made_ready(&task).await {
                    Ok((image, made)) => {
                        let (namespace, ports) = made.map_or((None, Vec::new()), |made| (Some(made.path), made.host_ports));
                        if let Some(local) = runtime.lock().get_mut(&id) {
                            (local.image, local.namespace) = (Some(image), namespace);
                        }
                        Event::Prepared { task: id, ports }
                    }
                    Err(error) => Event::PrepareFailed { task: id, error },
                };
                runtime.inbox.put(event);
            }
        });
        let preparing = Some(preparing.abort_handle());
        let local = Local { task, attempt, image: None, namespace: None, preparing, attendant: None };
        self.lock().insert(id, local);
    }

    async fn made_ready(&self, task: &Arc<Task>) -> Result<(Image, Option<Made>), String> {
        let image = self.image_of(task).await?;
        if task.spec.network != NetworkMode::Bridge {
            return Ok((image, None));
        }
        let folder = self.folders.make(task.id).map_err(|error| format!("could not make the task's folders: {error}"))?;
        let hostname = spec::hostname(&self.settings, task)?;
        let made = self.network.make_namespace(task, hostname, folder.path()).await;
        made.map(|made| (image, Some(made))).map_err(|error| format!("network: {error}"))
    }

    /// Spawns the shim and has it create and start the container.
    pub fn start(self: &Arc<Self>, id: TaskId) {
        let begun = self.begin(id);
        if let Err(error) = begun {
            self.inbox.put(Event::StartFailed { task: id, error });
        }
    }

    fn begin(self: &Arc<Self>, id: TaskId) -> Result<(), String> {
        let mut tasks = self.lock();
        let local = tasks.get_mut(&id).ok_or("the task was not prepared")?;
        let image = local.image.as_ref().ok_or("the task's image was not prepared")?;
        let folder = self.folders.make(id).map_err(|error| format!("could not make the task's folders: {error}"))?;
        let spec = spec::of(&self.settings, &folder, local, image, &self.values)?;
        local.attendant = Some(attend::spawn(self, id, &folder, spec)?);
        Ok(())
    }

    /// Has the shim run the container again.
    pub fn restart(&self, id: TaskId, attempt: u64) {
        if !self.command(id, Command::Restart { attempt }) {
            self.inbox.put(Event::StartFailed { task: id, error: "the shim of the container is gone".into() });
        }
    }

    /// Asks the container to stop.
    pub fn stop(&self, id: TaskId, grace: Duration) {
        if !self.command(id, Command::Stop { grace }) {
            self.inbox.put(Event::ShimLost { task: id });
        }
    }

    /// Kills the shim and everything in the task's cgroup.
    pub fn kill(self: &Arc<Self>, id: TaskId) {
        let runtime = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = runtime.folders.destroy_container(id, &runtime.cgroup(id)) {
                tracing::error!(task = %id, %error, "could not kill a container");
            }
            runtime.inbox.put(Event::ShimLost { task: id });
        });
    }

    /// The task has ended: frees everything but its logs.
    pub fn release(self: &Arc<Self>, id: TaskId) {
        drop(self.end(id, false));
    }

    /// Frees everything.
    pub fn remove(self: &Arc<Self>, id: TaskId) {
        drop(self.end(id, true));
    }

    /// The ids of images that tasks use.
    pub fn images_in_use(&self) -> BTreeSet<crate::image::Digest> {
        self.lock().values().filter_map(|local| local.image.as_ref().map(|image| image.id.clone())).collect()
    }

    /// The node's images.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Frees everything, and returns when that is done.
    pub async fn remove_now(self: &Arc<Self>, id: TaskId) {
        if let Err(error) = self.end(id, true).await {
            tracing::error!(task = %id, %error, "freeing a task was cut short");
        }
    }

    fn end(self: &Arc<Self>, id: TaskId, with_logs: bool) -> tokio::task::JoinHandle<()> {
        let local = self.lock().remove(&id);
        if let Some(preparing) = local.as_ref().and_then(|local| local.preparing.as_ref()) {
            preparing.abort();
        }
        let (runtime, network) = (self.clone(), self.network.clone());
        let attendant = local.and_then(|local| local.attendant);
        tokio::spawn(async move {
            if let Some(attendant) = attendant {
                attendant.finish().await;
            }
            let ended = tokio::task::spawn_blocking(move || {
                runtime.folders.destroy_container(id, &runtime.cgroup(id))?;
                if with_logs { runtime.folders.remove(id) } else { runtime.folders.remove_layers(id) }
            });
            if let Ok(Err(error)) = ended.await {
                tracing::error!(task = %id, %error, "could not free everything of a task");
            }
            // Last: nothing is in it any more.
            network.remove_namespace(id).await;
        })
    }

    fn command(&self, id: TaskId, command: Command) -> bool {
        self.lock().get(&id).and_then(|local| local.attendant.as_ref()).is_some_and(|attendant| attendant.send(command))
    }

    /// The image: from the registry where one answers, else as it is here.
    async fn image_of(&self, task: &Task) -> Result<Image, String> {
        let text = &task.spec.container_spec.image;
        let reference = Reference::parse(text).map_err(|error| error.to_string())?;
        let local = self.images.image_for(&reference).await.map_err(|error| text_of(&error))?;
        if let Some(image) = local.clone().filter(|_| reference.digest().is_some()) {
            return Ok(image);
        }
        let nothing = |_| {};
        let pulled = self.images.pull(&reference, &Auth::default(), &Platform::host(), &self.settings.registries, &nothing).await;
        match (pulled, local) {
            (Ok(pulled), _) => Ok(pulled.image),
            (Err(error), Some(image)) => {
                tracing::warn!(image = %text, %error, "no registry answered; the local image is used");
                Ok(image)
            }
            (Err(error), None) => {
                Err(format!("No such image: {} on node {}: {}", reference.familiar(), self.settings.hostname, text_of(&error)))
            }
        }
    }

    pub(crate) fn cgroup(&self, id: TaskId) -> String {
        format!("{}/{id}", self.settings.cgroup_parent.trim_end_matches('/'))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Local>> {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An error with its sources, as one line.
pub(crate) fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
