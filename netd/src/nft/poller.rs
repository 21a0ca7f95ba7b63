//! Waiting for the monitors of all namespaces at once.

use super::monitor::Monitor;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use skep_netd_core::Namespace;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// How many namespaces are looked up per call.
const READY_MAX: usize = 64;

struct Descriptor(Epoll);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// A set of monitors. One that is closed leaves it by itself.
pub struct Poller {
    descriptor: AsyncFd<Descriptor>,
    namespaces: BTreeMap<u64, Namespace>,
    next: u64,
}

impl Poller {
    /// An empty set; to be made inside the runtime that will wait.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: the poller owns its descriptor and names the same one every time.
        let descriptor = unsafe { AsyncFd::register(Descriptor(epoll)) }.map_err(|error| error.into_parts().1)?;
        Ok(Self { descriptor, namespaces: BTreeMap::new(), next: 0 })
    }

    /// Adds the monitor of a namespace, which has none in the set.
    pub fn add(&mut self, namespace: Namespace, monitor: &Monitor) -> io::Result<()> {
        self.descriptor.get_ref().0.add(monitor, EpollEvent::new(EpollFlags::EPOLLIN, self.next))?;
        self.namespaces.insert(self.next, namespace);
        self.next += 1;
        Ok(())
    }

    /// Forgets a namespace whose monitor was closed.
    pub fn forget(&mut self, namespace: Namespace) {
        self.namespaces.retain(|_, found| *found != namespace);
    }

    /// Namespaces with events, up to [`READY_MAX`] of them.
    pub fn ready(&self) -> io::Result<BTreeSet<Namespace>> {
        let mut events = [EpollEvent::empty(); READY_MAX];
        let count = match self.descriptor.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
            Err(nix::Error::EINTR) => 0,
            answer => answer?,
        };
        Ok(events[..count].iter().filter_map(|event| self.namespaces.get(&event.data()).copied()).collect())
    }

    /// Waits until a namespace has events. Dropping the future loses nothing.
    pub async fn wait(&self) -> io::Result<()> {
        loop {
            let mut guard = self.descriptor.readable().await?;
            guard.clear_ready();
            // Our own changes are heard as well, and were taken already.
            if !self.ready()?.is_empty() {
                return Ok(());
            }
        }
    }
}
