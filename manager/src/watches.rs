//! What watchers are still to be told: a queue for each, filtered as it fills and bounded in bytes.
//!
//! - A queue holds what its watcher asked for and nothing else; what passes it by only moves its position on.
//! - One that is full takes nothing more: what it holds is still told, then the watch ends and names the version to go on
//!   from. Whoever is slow gets on, and holds no more than [`QUEUE_BYTES_MAX`] and one version besides.

use skep_manager_core::Store;
use skep_manager_core::query::ChangeFilters;
use skep_manager_core::store::Change;
use skep_manager_core::store::watch::{Recent, WatchEnd};
use skep_model::Time;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// The most that waits for one watcher, by the weight of its changes.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A version of the store, and its times as far as they are known; zero = not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The store version.
    pub version: u64,
    /// When the transaction behind it was proposed, in wall time.
    pub wall: Time,
    /// The same in cluster time.
    pub time: Time,
}

impl Position {
    fn of(store: &Store) -> Self {
        Self { version: store.version, wall: store.newest(), time: store.time }
    }
}

/// What a watcher receives.
#[derive(Debug)]
pub enum WatchItem {
    /// Changes follow from here on.
    Start(Position),
    /// Changes since the time that was asked for follow, and whether they are all that there were.
    Past(bool),
    /// What of a version is wanted; nothing, if that only says how far the past went.
    Changes(Recent),
    /// The last item.
    Ended(Ending),
}

/// Why there is nothing more.
#[derive(Debug)]
pub enum Ending {
    /// The core ended it.
    Core(WatchEnd),
    /// Too much waits: go on after this version.
    Behind(u64),
}

#[derive(Debug)]
struct Queue {
    chosen: ChangeFilters,
    state: Mutex<State>,
    has_news: Notify,
}

#[derive(Debug)]
struct State {
    /// With their weight.
    items: VecDeque<(WatchItem, usize)>,
    bytes: usize,
    /// Everything up to here that is wanted has been put in.
    position: Position,
    is_closed: bool,
}

/// The filling end. The queue takes nothing more once it is dropped.
#[derive(Debug)]
pub struct WatchSender(Arc<Queue>);

/// The watcher's end.
#[derive(Debug)]
pub struct WatchReceiver(Arc<Queue>);

/// The queue of a watch; `after` is the version from which it resumes.
pub fn queue(chosen: ChangeFilters, after: Option<u64>) -> (WatchSender, WatchReceiver) {
    let position = Position { version: after.unwrap_or(0), ..Position::default() };
    let state = State { items: VecDeque::new(), bytes: 0, position, is_closed: false };
    let queue = Arc::new(Queue { chosen, state: Mutex::new(state), has_news: Notify::new() });
    (WatchSender(queue.clone()), WatchReceiver(queue))
}

impl WatchSender {
    /// It begins now.
    pub fn start(&self, view: &Store) {
        let position = Position::of(view);
        self.0.lock().position = position;
        self.0.put(WatchItem::Start(position), 0);
    }

    /// It begins with the past. False when that is too much.
    pub fn past(&self, view: &Store, past: Vec<Recent>, is_complete: bool) -> bool {
        self.0.put(WatchItem::Past(is_complete), 0);
        let Position { version, wall, time } = Position::of(view);
        past.into_iter().all(|recent| self.changes(recent)) && {
            self.0.lock().position = Position { version, wall, time };
            self.0.put(WatchItem::Changes(Recent { version, wall, time, changes: Arc::new([]) }), 0);
            true
        }
    }

    /// A version changed something. False when the watch is over.
    pub fn changes(&self, recent: Recent) -> bool {
        let Recent { version, wall, time, changes } = recent;
        let wanted: Vec<Change> = changes.iter().filter(|change| self.0.chosen.accept(change)).cloned().collect();
        let mut state = self.0.lock();
        if state.is_closed {
            return false;
        }
        if !wanted.is_empty() {
            let weight = wanted.iter().map(Change::weight).sum();
            if state.bytes > 0 && state.bytes + weight > QUEUE_BYTES_MAX {
                let behind = WatchItem::Ended(Ending::Behind(state.position.version));
                state.items.push_back((behind, 0));
                state.is_closed = true;
                drop(state);
                self.0.has_news.notify_one();
                return false;
            }
            state.bytes += weight;
            state.items.push_back((WatchItem::Changes(Recent { version, wall, time, changes: wanted.into() }), weight));
            self.0.has_news.notify_one();
        }
        state.position = Position { version, wall, time };
        true
    }

    /// The core ended it.
    pub fn end(self, end: WatchEnd) {
        self.0.put(WatchItem::Ended(Ending::Core(end)), 0);
    }
}

impl Drop for WatchSender {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.has_news.notify_one();
    }
}

impl WatchReceiver {
    /// The next item; `None` when the manager is stopping.
    pub async fn next(&self) -> Option<WatchItem> {
        loop {
            let (item, is_closed) = self.0.take();
            if item.is_some() || is_closed {
                return item;
            }
            self.0.has_news.notified().await;
        }
    }

    /// The next item that is there.
    pub fn try_next(&self) -> Option<WatchItem> {
        self.0.take().0
    }

    /// Where the watch is, if nothing waits to be told: all that is wanted up to there has been received.
    pub fn position(&self) -> Option<Position> {
        let state = self.0.lock();
        (state.items.is_empty() && !state.is_closed && state.position.version > 0).then_some(state.position)
    }
}

impl Queue {
    fn put(&self, item: WatchItem, weight: usize) {
        let mut state = self.lock();
        state.bytes += weight;
        state.items.push_back((item, weight));
        drop(state);
        self.has_news.notify_one();
    }

    fn take(&self) -> (Option<WatchItem>, bool) {
        let mut state = self.lock();
        let Some((item, weight)) = state.items.pop_front() else { return (None, state.is_closed) };
        state.bytes -= weight;
        (Some(item), false)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_manager_core::store::StoredObject;
    use skep_model::config::{Config, ConfigSpec};
    use skep_model::service::Annotations;
    use skep_model::{ConfigId, Kind, Meta, ObjectRef, Section};

    /// A version that made a config of so many bytes.
    fn made(version: u64, name: &str, n_bytes: usize) -> Recent {
        let labels = [("blob".to_owned(), "x".repeat(n_bytes))].into();
        let spec = ConfigSpec { annotations: Annotations { name: name.into(), labels }, versions: Vec::new(), current: 1 };
        let id = ConfigId::from_random([7; 16]);
        let config = Config { id, meta: Meta::default(), spec: Section::new(spec) };
        let object = ObjectRef { kind: Kind::Config, id: id.0 };
        let change = Change { object, old: None, new: Some(StoredObject::Config(Arc::new(config))) };
        let (wall, time) = (Time::from_millis(1_000 + version), Time::from_millis(version));
        Recent { version, wall, time, changes: Arc::new([change]) }
    }

    fn of_name(name: &str) -> ChangeFilters {
        ChangeFilters::parse(Vec::new(), [("config".to_owned(), name.to_owned())]).expect("a known key")
    }

    fn versions(receiver: &WatchReceiver) -> Vec<u64> {
        let version = |item| match item {
            WatchItem::Changes(recent) => recent.version,
            WatchItem::Ended(Ending::Behind(after)) => 1_000 + after,
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(|| receiver.try_next()).map(version).collect()
    }

    #[test]
    fn what_nobody_asked_for_takes_no_room_and_moves_the_position_on() {
        let (sender, receiver) = queue(of_name("a"), Some(5));
        assert_eq!(receiver.position().map(|position| position.version), Some(5));
        for version in 6..100 {
            assert!(sender.changes(made(version, "b", QUEUE_BYTES_MAX / 4)));
        }
        let wall = Time::from_millis(1_099);
        assert_eq!(receiver.position(), Some(Position { version: 99, wall, time: Time::from_millis(99) }));
        assert!(sender.changes(made(100, "a", 10)));
        assert_eq!(receiver.position(), None, "something waits");
        assert_eq!(versions(&receiver), [100]);
        assert_eq!(receiver.position().map(|position| position.version), Some(100));
    }

    #[test]
    fn a_watcher_that_falls_behind_gets_what_waits_and_hears_where_to_go_on() {
        let (sender, receiver) = queue(of_name("a"), Some(5));
        // One version is told however large it is.
        assert!(sender.changes(made(6, "a", 2 * QUEUE_BYTES_MAX)));
        assert_eq!(versions(&receiver), [6]);
        for version in 7..10 {
            assert!(sender.changes(made(version, "a", QUEUE_BYTES_MAX / 4)));
        }
        assert!(sender.changes(made(10, "b", QUEUE_BYTES_MAX)));
        assert!(!sender.changes(made(11, "a", QUEUE_BYTES_MAX / 2)));
        assert!(!sender.changes(made(12, "a", 1)), "nothing is told after a gap");
        drop(sender);
        assert_eq!(versions(&receiver), [7, 8, 9, 1_010]);
        assert_eq!(receiver.position(), None);
    }

    #[tokio::test]
    async fn a_watcher_hears_the_end() {
        let (sender, receiver) = queue(ChangeFilters::default(), None);
        sender.start(&Store::empty(3));
        assert!(matches!(receiver.next().await, Some(WatchItem::Start(Position { version: 3, .. }))));
        sender.end(WatchEnd::Forgotten { after: 3 });
        assert!(matches!(receiver.next().await, Some(WatchItem::Ended(Ending::Core(WatchEnd::Forgotten { after: 3 })))));
        assert!(receiver.next().await.is_none());
        let (sender, receiver) = queue(ChangeFilters::default(), None);
        drop(sender);
        assert!(receiver.next().await.is_none(), "the manager stops");
    }
}
