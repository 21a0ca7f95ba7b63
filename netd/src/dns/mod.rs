//! Answers to the name queries of this node's tasks.
//!
//! Each task's namespace holds two sockets of ours on 127.0.0.11, made there by a
//! thread that ends, and served here: a change of the names is a change of one value
//! that all of them read, and no socket notices. The ports are none that a program
//! of the task would want; [`crate::nft::names`] leads port 53 to them. While netd
//! restarts, a small process holds them ([`keeper`]), and what is asked meanwhile waits.
//!
//! What a task is told is decided in [`skep_netd_core::Names`]; here are the
//! messages, the limits, and the way to other servers for what is not known.
//!
//! [`Resolvers`] keeps all of it in step with what the node was told. A namespace
//! lives as long as a socket in it does, so those of a task that went are closed.

mod forward;
pub mod keeper;
mod listen;
mod message;
mod resolvers;
#[cfg(test)]
mod tests;
mod upstream;

pub use listen::Listeners;
pub use resolvers::Resolvers;

use keeper::{Keeper, Kept};
use listen::Listening;
use skep_model::TaskId;
use skep_netd_core::Names;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use upstream::{Server, Upstream};

/// Why names cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sockets of a task.
    #[error("open the sockets for the names of task {task}")]
    Listen {
        /// The task.
        task: TaskId,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The node's resolvers.
    #[error("read {}", path.display())]
    Resolvers {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The node asks nobody.
    #[error("{} names no server", .0.display())]
    NoResolver(PathBuf),
}

/// The server of all tasks. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    tasks: Arc<Mutex<BTreeMap<TaskId, Listening>>>,
    kept: Arc<Mutex<Keeping>>,
}

/// The process that holds the sockets beside us, and what it held before.
#[derive(Debug, Default)]
struct Keeping {
    keeper: Option<Keeper>,
    held: BTreeMap<TaskId, Kept>,
}

/// What all sockets read.
#[derive(Debug)]
struct Shared {
    names: RwLock<Names>,
    upstream: Upstream,
}

impl Shared {
    fn names(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self, task: TaskId) -> Result<Vec<Server>, Error> {
        let names = self.names();
        names.task(task).map_or_else(|| Ok(Vec::new()), |task| self.upstream.of(task))
    }
}

impl NameServer {
    /// A server that knows no names yet, and asks the servers of this `resolv.conf`
    /// for those that tasks may ask elsewhere.
    pub fn new(resolv_conf: PathBuf) -> Self {
        let shared = Shared { names: RwLock::default(), upstream: Upstream::new(resolv_conf) };
        Self { shared: Arc::new(shared), tasks: Arc::default(), kept: Arc::default() }
    }

    /// Changes the names; whoever asks sees all of the change or nothing of it.
    pub fn change(&self, change: impl FnOnce(&mut Names)) {
        change(&mut self.shared.names.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads the names.
    pub fn read<T>(&self, read: impl FnOnce(&Names) -> T) -> T {
        read(&self.shared.names())
    }

    /// Begins to answer in a task's namespace; if it does so already, nothing
    /// changes. Must be called in the runtime.
    ///
    /// # Errors
    /// If the sockets cannot be made there.
    pub fn open(&self, task: TaskId, namespace: BorrowedFd<'_>) -> Result<Listeners, Error> {
        let mut tasks = self.lock();
        if let Some(listening) = tasks.get(&task) {
            return Ok(listening.ports);
        }
        let mut kept = self.keeping();
        let held = kept.held.remove(&task);
        let keep = |port, udp: BorrowedFd<'_>, tcp: BorrowedFd<'_>| {
            if let Some(error) = kept.keeper.as_ref().and_then(|keeper| keeper.keep(task, port, udp, tcp).err()) {
                tracing::warn!(%error, "nobody keeps the sockets for names: while netd restarts, questions are lost");
                kept.keeper = None;
            }
        };
        let listening = Listening::open(self.shared.clone(), task, namespace, held, keep)?;
        let ports = listening.ports;
        tasks.insert(task, listening);
        Ok(ports)
    }

    /// Where a task's names are answered, while they are.
    pub fn ports(&self, task: TaskId) -> Option<Listeners> {
        self.lock().get(&task).map(|listening| listening.ports)
    }

    /// Ends the answers in a task's namespace. No socket is left in it then.
    pub async fn close(&self, task: TaskId) {
        let listening = self.lock().remove(&task);
        if let Some(listening) = listening {
            listening.close().await;
        }
        let mut kept = self.keeping();
        kept.held.remove(&task);
        if let Some(keeper) = &kept.keeper {
            keeper.forget(task);
        }
    }

    /// Has sockets held by another process as well, and takes over those that it held.
    pub fn keep_by(&self, keeper: Keeper, held: BTreeMap<TaskId, Kept>) {
        *self.keeping() = Keeping { keeper: Some(keeper), held };
    }

    /// Lets go of what was held for other tasks than these.
    pub fn keep_only(&self, is_wanted: impl Fn(&TaskId) -> bool) {
        let mut kept = self.keeping();
        let gone: Vec<TaskId> = kept.held.keys().filter(|task| !is_wanted(task)).copied().collect();
        for task in gone {
            kept.held.remove(&task);
            if let Some(keeper) = &kept.keeper {
                keeper.forget(task);
            }
        }
    }

    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Listening>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
