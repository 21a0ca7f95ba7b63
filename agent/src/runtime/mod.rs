//! Containers: from an assigned task to its shim, and back to events.
//!
//! Every task that has got as far as preparing has one attendant, a task of the
//! runtime that owns the connection to its shim. Where a task's files are: [`folders`].
//! Releasing removes all but the record and the log, removing everything. Nothing here
//! waits on the agent's loop.

mod attend;
#[cfg(test)]
mod border_tests;
mod folders;
mod lookups;
mod mounts;
mod records;
mod recover;
mod spec;

pub use folders::{FolderError, Folders, TaskFolder};

use crate::drive::Inbox;
use crate::image::{Auth, Digest, Image, ImageStore, Platform, Reference, RegistryOptions};
use crate::network::{Made, Network};
use crate::values::Values;
use attend::{Attendant, Command};
use futures_util::FutureExt as _;
use lookups::Lookups;
use mounts::Sources;
use records::Records;
use skep_agent_core::Event;
use skep_model::service::NetworkMode;
use skep_model::task::{Task, TaskStatus};
use skep_model::{NodeId, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

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
#[derive(Debug, Default)]
struct Local {
    /// `None` as long as nothing but its folder is known.
    task: Option<Arc<Task>>,
    attempt: u64,
    image: Option<Image>,
    /// Where the network daemon pinned its network namespace, if that made one.
    namespace: Option<PathBuf>,
    preparing: Option<JoinHandle<()>>,
    attendant: Option<Attendant>,
}

/// All containers of the node.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) settings: Settings,
    pub(crate) folders: Folders,
    records: Records,
    images: ImageStore,
    values: Arc<Values>,
    network: Arc<Network>,
    inbox: Inbox,
    sources: Sources,
    /// Without credentials, so that tasks may share what one of them was told.
    lookups: Lookups<Result<Image, String>>,
    tasks: Mutex<BTreeMap<TaskId, Local>>,
    /// The image of every container that is not released yet, also of those that a
    /// daemon before this one made.
    leases: Mutex<BTreeMap<TaskId, Digest>>,
}

impl Runtime {
    /// A runtime without containers; [`Runtime::recover`] finds those that live.
    pub(crate) fn new(
        settings: Settings,
        folders: Folders,
        boot: String,
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
        let records = Records::new(folders.clone(), boot);
        let (sources, lookups) = (Sources::default(), Lookups::default());
        let (tasks, leases) = (Mutex::default(), Mutex::default());
        Arc::new(Self { settings, folders, records, images, values, network, inbox, sources, lookups, tasks, leases })
    }

    /// Records a task and its status.
    pub fn save(&self, task: &Arc<Task>, status: &TaskStatus) {
        self.records.save(task, status);
        let mut tasks = self.lock();
        let Some(local) = tasks.get_mut(&task.id).filter(|local| local.task.is_none()) else { return };
        // Only its folder was known; a manager named it.
        local.task = Some(task.clone());
        if task.spec.network == NetworkMode::Bridge {
            let hostname = spec::hostname(&self.settings, task).unwrap_or_default();
            self.network.adopt(task, hostname, self.folders.of(task.id).path());
        }
    }

    /// Makes image and network namespace ready, and sees to it that what it mounts is
    /// there. Nothing runs yet; the shim is spawned at the start.
    pub fn prepare(self: &Arc<Self>, task: Arc<Task>, attempt: u64) {
        let (runtime, id) = (self.clone(), task.id);
        let local = Local { task: Some(task.clone()), attempt, ..Local::default() };
        // First, so that whatever comes of it has its place.
        self.lock().insert(id, local);
        let preparing = tokio::spawn(async move {
            skep_host::process::panic_if_planted("task", &task.service_name);
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
        });
        if let Some(local) = self.lock().get_mut(&id) {
            local.preparing = Some(preparing);
        }
    }

    async fn made_ready(&self, task: &Arc<Task>) -> Result<(Image, Option<Made>), String> {
        self.sources.check(&spec::filled(&self.settings, task)?.mounts).await?;
        let image = self.image_of(task).await?;
        if task.spec.network != NetworkMode::Bridge {
            return Ok((image, None));
        }
        let folder = self.folders.make(task.id).map_err(|error| format!("could not make the task's folders: {error}"))?;
        let hostname = spec::hostname(&self.settings, task)?;
        let made = self.network.make_namespace(task, hostname, folder.path()).await;
        made.map(|made| (image, Some(made))).map_err(|error| format!("network: {error}"))
    }

    /// Has a shim create and start the container, once the task is on record.
    pub fn start(self: &Arc<Self>, id: TaskId) {
        let mut tasks = self.lock();
        let Some(local) = tasks.get_mut(&id) else {
            return self.inbox.put(Event::StartFailed { task: id, error: "the task was not prepared".into() });
        };
        local.attendant = Some(attend::start(self, id, local.attempt));
    }

    /// What the shim of a prepared task is told, and the image that it is made of.
    fn spec(&self, id: TaskId) -> Result<(skep_shim::protocol::TaskSpec, Digest), String> {
        let tasks = self.lock();
        let local = tasks.get(&id).ok_or("the task was not prepared")?;
        let task = local.task.as_ref().ok_or("the task was not prepared")?;
        let image = local.image.as_ref().ok_or("the task's image was not prepared")?;
        let spec = spec::of(&self.settings, &self.folders.of(id), task, local, image, &self.values)?;
        self.leases().insert(id, image.id.clone());
        Ok((spec, image.id.clone()))
    }

    /// Has the shim run the container again, once that is on record.
    pub fn restart(self: &Arc<Self>, id: TaskId, attempt: u64) {
        let runtime = self.clone();
        tokio::spawn(async move {
            match runtime.records.settled(id).await {
                Ok(()) if runtime.command(id, Command::Restart { attempt }) => {}
                Ok(()) => runtime.inbox.put(Event::ShimLost { task: id }),
                Err(error) => runtime.inbox.put(Event::StartFailed { task: id, error }),
            }
        });
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
    pub fn images_in_use(&self) -> BTreeSet<Digest> {
        let mut used: BTreeSet<Digest> = self.leases().values().cloned().collect();
        used.extend(self.lock().values().filter_map(|local| local.image.as_ref().map(|image| image.id.clone())));
        used
    }

    /// Waits until what is to be on record is, for at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        self.records.flush(limit).await;
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

    fn end(self: &Arc<Self>, id: TaskId, with_logs: bool) -> JoinHandle<()> {
        let Local { preparing, attendant, .. } = self.lock().remove(&id).unwrap_or_default();
        if let Some(preparing) = &preparing {
            preparing.abort();
        }
        let runtime = self.clone();
        tokio::spawn(async move {
            if let Some(preparing) = preparing {
                let _ = preparing.await;
            }
            if with_logs {
                runtime.records.close(id).await;
            } else if let Err(error) = runtime.records.settled(id).await {
                // The manager knows the end; what is freed now may be what the disk lacks.
                tracing::warn!(task = %id, %error, "a task is released before its end is on record");
            }
            if let Some(attendant) = attendant {
                attendant.finish().await;
            }
            let freeing = runtime.clone();
            let ended = tokio::task::spawn_blocking(move || {
                freeing.folders.destroy_container(id, &freeing.cgroup(id))?;
                if with_logs { freeing.folders.remove(id) } else { freeing.folders.remove_layers(id) }
            });
            match ended.await {
                Ok(Ok(())) => drop(runtime.leases().remove(&id)),
                Ok(Err(error)) => {
                    tracing::error!(task = %id, error = %text_of(&error), "could not free everything of a task; the next daemon tries again");
                }
                Err(_) => {}
            }
            // Last: nothing is in it any more.
            runtime.network.remove_namespace(id).await;
        })
    }

    fn command(&self, id: TaskId, command: Command) -> bool {
        self.lock().get(&id).and_then(|local| local.attendant.as_ref()).is_some_and(|attendant| attendant.send(command))
    }

    /// The image: from the registry where one answers, else as it is here.
    async fn image_of(&self, task: &Task) -> Result<Image, String> {
        let text = &task.spec.container_spec.image;
        let reference = Reference::parse(text).map_err(|error| error.to_string())?;
        let name = reference.to_string();
        self.lookups.of(name, || look_up(self.images.clone(), reference, self.settings.clone()).boxed()).await
    }

    pub(crate) fn cgroup(&self, id: TaskId) -> String {
        folders::cgroup_of(&self.settings.cgroup_parent, id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Local>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<TaskId, Digest>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_up(images: ImageStore, reference: Reference, settings: Settings) -> Result<Image, String> {
    let local = images.image_for(&reference).await.map_err(|error| text_of(&error))?;
    if let Some(image) = local.clone().filter(|_| reference.digest().is_some()) {
        return Ok(image);
    }
    let nothing = |_| {};
    let pulled = images.pull(&reference, &Auth::default(), &Platform::host(), &settings.registries, &nothing).await;
    match (pulled, local) {
        (Ok(pulled), _) => Ok(pulled.image),
        (Err(error), Some(image)) => {
            tracing::warn!(image = %reference, %error, "no registry answered; the local image is used");
            Ok(image)
        }
        (Err(error), None) => {
            Err(format!("No such image: {} on node {}: {}", reference.familiar(), settings.hostname, text_of(&error)))
        }
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

#[cfg(test)]
mod tests;
