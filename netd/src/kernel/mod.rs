//! The kernel's side: rows are read from it, operations carried out in it, and its
//! events say where it changed.
//!
//! Events of one namespace arrive in the order in which things happened, and an
//! operation's own events are queued before its answer. So the mirror is right
//! whenever the queues are empty, and nothing is planned before they are.

mod advertised;
mod events;
mod execute;
mod pairs;
mod read;
mod scope;
mod underlay;

pub use execute::ExecuteError;
pub use scope::ScopeError;
pub use underlay::lacks_ipv6;

use crate::namespace::{NamespaceError, Namespaces};
use crate::netlink::Failure;
use crate::netlink::poller::Poller;
use advertised::Advertised;
use scope::Scope;
use skep_model::TaskId;
use skep_netd_core::{Mirror, Namespace, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The longest that the kernel may take for one answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How often events and stale namespaces are looked at in one call, if more come
/// meanwhile.
const PASSES_MAX: usize = 64;

/// Places that changed, and namespaces that could not be read.
pub type Seen = (BTreeSet<Place>, BTreeMap<Namespace, KernelError>);

/// Why the kernel could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A task's namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Sockets in a namespace.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The poller over all event sockets.
    #[error("cannot watch the events of {namespace}")]
    Watch {
        /// Whose events.
        namespace: Namespace,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A dump.
    #[error("cannot read {what} of {namespace}: {cause}")]
    Read {
        /// Which table.
        what: &'static str,
        /// Of which namespace.
        namespace: Namespace,
        /// What netlink answered.
        cause: Failure,
    },
}

/// All namespaces of this node that netd works in.
pub struct Kernel {
    namespaces: Namespaces,
    scopes: BTreeMap<Namespace, Scope>,
    /// Over the event sockets.
    poller: Poller<Namespace>,
    /// Namespaces whose mirror may be wrong and that must be read anew.
    stale: BTreeSet<Namespace>,
    /// Links or addresses of the node that are not ours changed.
    hint: bool,
    advertised: Advertised,
    /// Times that events were lost.
    pub overruns: u64,
}

impl Kernel {
    /// Takes the node's own namespace and every pinned one.
    ///
    /// # Errors
    /// If one cannot be entered.
    pub fn open(namespaces: Namespaces) -> Result<Self, KernelError> {
        let watch = |source: io::Error| KernelError::Watch { namespace: Namespace::Node, source };
        let poller = Poller::new().map_err(watch)?;
        let (scopes, stale, advertised) = (BTreeMap::new(), BTreeSet::new(), Advertised::found());
        let mut kernel = Self { namespaces, scopes, poller, stale, hint: false, advertised, overruns: 0 };
        kernel.enter(Namespace::Node, None)?;
        for task in kernel.namespaces.list()? {
            let namespace = kernel.namespaces.get(task)?;
            kernel.enter(Namespace::Task(task), Some(namespace))?;
        }
        Ok(kernel)
    }

    /// The pins.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The namespaces that are open.
    pub fn open_namespaces(&self) -> impl Iterator<Item = Namespace> + '_ {
        self.scopes.keys().copied()
    }

    /// A namespace that is open; none = it is not, or it is the node's own.
    pub fn namespace(&self, namespace: Namespace) -> Option<BorrowedFd<'_>> {
        self.scopes.get(&namespace)?.namespace()
    }

    /// Whether a namespace is open.
    pub fn is_open(&self, namespace: Namespace) -> bool {
        self.scopes.contains_key(&namespace)
    }

    /// Notes that a namespace must be read anew.
    pub fn mark_stale(&mut self, namespace: Namespace) {
        self.stale.insert(namespace);
    }

    /// Waits until some namespace has events.
    ///
    /// # Errors
    /// If the poller fails.
    pub async fn wait(&self) -> io::Result<()> {
        self.poller.wait().await
    }

    /// Takes all events that have arrived into the mirror, and reads anew what is
    /// stale; answers with the places that changed, and with the namespaces of tasks
    /// that could not be read: they stay stale, and all others are read.
    ///
    /// # Errors
    /// If the node's own namespace cannot be read; it stays stale.
    pub async fn catch_up(&mut self, mirror: &mut Mirror) -> Result<Seen, KernelError> {
        let (mut touched, mut unreadable) = (BTreeSet::new(), BTreeMap::new());
        for _ in 0..PASSES_MAX {
            // One call of the poller names a part of them only.
            loop {
                let ready = self.ready()?;
                if ready.is_empty() {
                    break;
                }
                for namespace in ready {
                    match self.take_events(namespace, mirror).await {
                        Ok(places) => touched.extend(places),
                        Err(error) => self.note_unreadable(namespace, error, &mut unreadable)?,
                    }
                }
            }
            let stale: Vec<Namespace> =
                self.stale.iter().filter(|namespace| !unreadable.contains_key(*namespace)).copied().collect();
            if stale.is_empty() {
                touched.extend(self.match_pairs(mirror).await?);
                return Ok((touched, unreadable));
            }
            for namespace in stale {
                match self.read_anew(namespace, mirror).await {
                    Ok(places) => {
                        touched.extend(places);
                        self.stale.remove(&namespace);
                    }
                    Err(error) => self.note_unreadable(namespace, error, &mut unreadable)?,
                }
            }
        }
        // Somebody changes something all the time; the next call goes on with it.
        touched.extend(self.match_pairs(mirror).await?);
        Ok((touched, unreadable))
    }

    /// Without its own namespace netd can do nothing; a task's is that task's affair.
    fn note_unreadable(
        &mut self,
        namespace: Namespace,
        error: KernelError,
        unreadable: &mut BTreeMap<Namespace, KernelError>,
    ) -> Result<(), KernelError> {
        self.stale.insert(namespace);
        if namespace == Namespace::Node {
            return Err(error);
        }
        unreadable.insert(namespace, error);
        Ok(())
    }

    async fn read_anew(&mut self, namespace: Namespace, mirror: &mut Mirror) -> Result<BTreeSet<Place>, KernelError> {
        let Some(scope) = self.scopes.get_mut(&namespace) else { return Ok(BTreeSet::new()) };
        // Events up to here are in the dump.
        let lost = events::discard(scope);
        self.overruns += u64::from(lost);
        let found = read::dump(namespace, scope).await?;
        Ok(mirror.replace(namespace, &found))
    }

    fn ready(&self) -> Result<BTreeSet<Namespace>, KernelError> {
        self.poller.ready().map_err(|source| KernelError::Watch { namespace: Namespace::Node, source })
    }

    fn enter(&mut self, namespace: Namespace, fd: Option<OwnedFd>) -> Result<(), KernelError> {
        let scope = Scope::open(namespace, fd)?;
        self.poller.forget(namespace);
        self.poller.add(namespace, scope.events.as_fd()).map_err(|source| KernelError::Watch { namespace, source })?;
        self.scopes.insert(namespace, scope);
        self.stale.insert(namespace);
        Ok(())
    }

    /// Lets go of everything in a namespace, or it would live on.
    fn leave(&mut self, task: TaskId) {
        if self.scopes.remove(&Namespace::Task(task)).is_some() {
            self.poller.forget(Namespace::Task(task));
        }
        self.stale.remove(&Namespace::Task(task));
    }
}
