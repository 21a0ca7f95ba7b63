//! The kernel's word on changes of folders, for all readers of logs of this node: one inotify instance, since a user has
//! 128 of them and a node may have more readers than that.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Which of a subscription's readers have something to look at.
#[derive(Debug, Default)]
pub struct Signal {
    dirty: Mutex<BTreeSet<usize>>,
    changed: Notify,
}

impl Signal {
    fn mark(&self, reader: usize) {
        locked(&self.dirty).insert(reader);
        self.changed.notify_one();
    }

    /// Waits for changes and takes all that are known.
    pub async fn changed(&self) -> BTreeSet<usize> {
        loop {
            let dirty = std::mem::take(&mut *locked(&self.dirty));
            if !dirty.is_empty() {
                return dirty;
            }
            self.changed.notified().await;
        }
    }
}

/// Who waits for changes of one folder.
type Waiting = Vec<(Weak<Signal>, usize)>;

#[derive(Debug, Default)]
struct Watched {
    folders: BTreeMap<PathBuf, (WatchDescriptor, Waiting)>,
    paths: HashMap<WatchDescriptor, PathBuf>,
}

/// All watched folders of the node. Made with the first reader that follows.
#[derive(Debug, Default)]
pub struct Watches(Mutex<Option<Arc<Instance>>>);

#[derive(Debug)]
struct Instance {
    inotify: AsyncFd<Descriptor>,
    watched: Mutex<Watched>,
}

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watches {
    /// Has `reader` of `signal` marked at each change of the folder, as long as the signal lives. No folder is no error:
    /// false, and whoever waits for it watches the one above.
    pub fn watch(&self, folder: &Path, signal: &Arc<Signal>, reader: usize) -> io::Result<bool> {
        let instance = self.instance()?;
        let mut watched = locked(&instance.watched);
        if let Some((_, waiting)) = watched.folders.get_mut(folder) {
            let is_here = |(other, at): &(Weak<Signal>, usize)| *at == reader && other.as_ptr() == Arc::as_ptr(signal);
            if !waiting.iter().any(is_here) {
                waiting.push((Arc::downgrade(signal), reader));
            }
            return Ok(true);
        }
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        match instance.inotify.get_ref().0.add_watch(folder, flags) {
            Ok(descriptor) => {
                watched.folders.insert(folder.to_owned(), (descriptor, vec![(Arc::downgrade(signal), reader)]));
                watched.paths.insert(descriptor, folder.to_owned());
                Ok(true)
            }
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn instance(&self) -> io::Result<Arc<Instance>> {
        let mut made = locked(&self.0);
        if let Some(instance) = &*made {
            return Ok(instance.clone());
        }
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the descriptor is the inotify instance's own and stays the same until it is dropped.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }?;
        let instance = Arc::new(Instance { inotify, watched: Mutex::default() });
        tokio::spawn(listen(Arc::downgrade(&instance)));
        *made = Some(instance.clone());
        Ok(instance)
    }
}

/// Hands changes on until the node's readers are gone.
async fn listen(instance: Weak<Instance>) {
    while let Some(instance) = instance.upgrade() {
        let Ok(mut guard) = instance.inotify.readable().await else { return };
        loop {
            match guard.get_inner().0.read_events() {
                Ok(events) => events.into_iter().for_each(|event| instance.tell(event.wd, event.mask)),
                Err(Errno::EAGAIN) => break,
                Err(error) => {
                    tracing::error!(%error, "changes of logs are not heard of any more");
                    return;
                }
            }
        }
        guard.clear_ready();
    }
}

impl Instance {
    fn tell(&self, descriptor: WatchDescriptor, mask: AddWatchFlags) {
        let mut watched = locked(&self.watched);
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            // Some changes were not told: everybody looks.
            watched.folders.values().for_each(|(_, waiting)| mark(waiting));
            return;
        }
        let Some(path) = watched.paths.get(&descriptor).cloned() else { return };
        let is_gone = mask.contains(AddWatchFlags::IN_IGNORED);
        let Some((_, waiting)) = watched.folders.get_mut(&path) else { return };
        waiting.retain(|(signal, _)| signal.strong_count() > 0);
        mark(waiting);
        if is_gone || waiting.is_empty() {
            watched.folders.remove(&path);
            watched.paths.remove(&descriptor);
            if !is_gone {
                let _ = self.inotify.get_ref().0.rm_watch(descriptor);
            }
        }
    }
}

fn mark(waiting: &Waiting) {
    waiting
        .iter()
        .filter_map(|(signal, reader)| Some((signal.upgrade()?, reader)))
        .for_each(|(signal, reader)| signal.mark(*reader));
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn many_readers_share_one_instance_and_hear_of_their_own_folders() {
        let root = tempfile::tempdir().expect("a folder");
        let (watches, signal) = (Watches::default(), Arc::new(Signal::default()));
        let folder = |n: usize| root.path().join(n.to_string());
        // More than a user may have instances.
        for n in 0..200 {
            std::fs::create_dir(folder(n)).expect("a folder");
            assert!(watches.watch(&folder(n), &signal, n).expect("a watch"));
        }
        assert!(!watches.watch(&folder(1000), &signal, 0).expect("no folder is no error"));
        let instances = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
        let instances = instances.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.ends_with("anon_inode:inotify")));
        assert_eq!(instances.count(), 1);
        std::fs::write(folder(150).join("000001.log"), "x").expect("a file");
        let changed = tokio::time::timeout(Duration::from_secs(30), signal.changed()).await.expect("a change");
        assert_eq!(changed, BTreeSet::from([150]));
        // A folder that goes is a change, and may come back and be watched anew.
        std::fs::remove_dir_all(folder(7)).expect("removed");
        let mut heard = BTreeSet::new();
        while !heard.contains(&7) {
            heard.extend(tokio::time::timeout(Duration::from_secs(30), signal.changed()).await.expect("a change"));
        }
        std::fs::create_dir(folder(7)).expect("a folder");
        assert!(watches.watch(&folder(7), &signal, 7).expect("a watch"));
    }
}
