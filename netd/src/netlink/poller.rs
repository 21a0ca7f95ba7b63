//! Waiting for many sockets at once (epoll).

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// How many sockets are looked up per call.
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

/// A set of sockets, each under a key of its owner. One that is closed leaves it by itself.
pub(crate) struct Poller<K> {
    descriptor: AsyncFd<Descriptor>,
    keys: BTreeMap<u64, K>,
    next: u64,
}

impl<K: Copy + Ord> Poller<K> {
    /// An empty set; to be made inside the runtime that will wait.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: the poller owns its descriptor and names the same one every time.
        let descriptor = unsafe { AsyncFd::register(Descriptor(epoll)) }.map_err(|error| error.into_parts().1)?;
        Ok(Self { descriptor, keys: BTreeMap::new(), next: 0 })
    }

    /// Adds a socket under a key that has none in the set.
    pub(crate) fn add(&mut self, key: K, socket: impl AsFd) -> io::Result<()> {
        self.descriptor.get_ref().0.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, self.next))?;
        self.keys.insert(self.next, key);
        self.next += 1;
        Ok(())
    }

    /// Forgets a key whose socket was closed.
    pub(crate) fn forget(&mut self, key: K) {
        self.keys.retain(|_, found| *found != key);
    }

    /// Keys whose sockets can be read, up to [`READY_MAX`] of them.
    pub(crate) fn ready(&self) -> io::Result<BTreeSet<K>> {
        let mut events = [EpollEvent::empty(); READY_MAX];
        let count = match self.descriptor.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
            Err(nix::Error::EINTR) => 0,
            answer => answer?,
        };
        Ok(events[..count].iter().filter_map(|event| self.keys.get(&event.data()).copied()).collect())
    }

    /// Waits until a socket can be read. Dropping the future loses nothing. Whoever
    /// waits reads all that is ready next: only what comes later wakes it again.
    pub(crate) async fn wait(&self) -> io::Result<()> {
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
