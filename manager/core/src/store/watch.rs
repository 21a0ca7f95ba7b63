//! Recent changes, for watches that begin or resume at a version.
//!
//! Every watcher gets each version at most once, in order, and without a gap; if
//! that is impossible, because the version it asked for is too old or a snapshot
//! took the place of the store, it is told to read anew, once. The history is bounded by its
//! number of versions and by what they take of memory.
//!
//! A watch may also begin at a point in wall time: it gets what is still known
//! since then, and is told whether that is all there was.

use super::object::Change;
use crate::ticket::Ticket;
use crate::timing;
use skep_model::{Refusal, Time};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Changes of one version.
pub type Changes = Arc<[Change]>;

/// What one transaction changed.
#[derive(Clone, Debug)]
pub struct Recent {
    /// The store version after it.
    pub version: u64,
    /// When it was proposed, in wall time.
    pub wall: Time,
    /// The store's time after it: cluster time.
    pub time: Time,
    /// What changed.
    pub changes: Changes,
}

/// Why a watch ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// What followed this version is no longer kept: read again, and watch from there.
    Forgotten {
        /// The version up to which the watcher has everything.
        after: u64,
    },
    /// It could not begin.
    Refused(Refusal),
}

/// The ring of recent changes and everyone who watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    recent: VecDeque<Recent>,
    /// The weight of all changes in `recent`, in bytes.
    bytes: usize,
    /// All changes after this version are in `recent`.
    complete_after: u64,
    /// No change that is not in `recent` was made after this, in wall time; `None` = there is
    /// no such change.
    forgotten: Option<Time>,
    /// The version up to which each watcher has everything.
    watchers: BTreeMap<Ticket, u64>,
}

impl Watches {
    /// A ring that knows nothing of what happened up to `version`. `forgotten` is not older
    /// than that; `None` if nothing did, as at the beginning of a log.
    pub(crate) fn new(version: u64, forgotten: Option<Time>) -> Self {
        Self { complete_after: version, forgotten, ..Self::default() }
    }

    /// Begins a watch after a version. Answers what is to be sent at once, or why it cannot be.
    pub(crate) fn add(&mut self, ticket: Ticket, after: u64) -> Result<Vec<Recent>, WatchEnd> {
        if after < self.complete_after {
            return Err(WatchEnd::Forgotten { after });
        }
        let begin = self.recent.partition_point(|recent| recent.version <= after);
        let missed: Vec<_> = self.recent.range(begin..).cloned().collect();
        self.watchers.insert(ticket, missed.last().map_or(after, |recent| recent.version));
        Ok(missed)
    }

    /// Begins a watch of a store at `version` with what is known since a point in wall
    /// time. Answers that, and whether it is all that happened since.
    pub(crate) fn add_since(&mut self, ticket: Ticket, since: Time, version: u64) -> (Vec<Recent>, bool) {
        // Wall clocks of leaders differ, so later versions may have earlier times.
        let known: Vec<_> = self.recent.iter().filter(|recent| recent.wall >= since).cloned().collect();
        self.watchers.insert(ticket, version);
        (known, self.forgotten.is_none_or(|forgotten| since > forgotten))
    }

    /// Ends a watch.
    pub(crate) fn remove(&mut self, ticket: Ticket) {
        self.watchers.remove(&ticket);
    }

    /// A version changed something. Answers who is to be told.
    pub(crate) fn push(&mut self, recent: Recent) -> Vec<Ticket> {
        let version = recent.version;
        self.bytes += weight(&recent);
        self.recent.push_back(recent);
        while (self.recent.len() > timing::WATCH_HISTORY_MAX || self.bytes > timing::WATCH_HISTORY_BYTES_MAX)
            && let Some(oldest) = self.recent.pop_front()
        {
            self.bytes -= weight(&oldest);
            self.complete_after = oldest.version;
            self.forgotten = self.forgotten.max(Some(oldest.wall));
        }
        // A watcher may ask for versions after one that this manager has not reached.
        let due = self.watchers.iter_mut().filter(|(_, after)| **after < version);
        due.map(|(ticket, after)| {
            *after = version;
            *ticket
        })
        .collect()
    }

    /// A snapshot took the place of the store at `version`, which `wall` is not older
    /// than. Answers who cannot go on, and why.
    pub(crate) fn reset(&mut self, version: u64, wall: Time) -> Vec<(Ticket, WatchEnd)> {
        let newest = self.recent.drain(..).map(|recent| recent.wall).max();
        self.bytes = 0;
        self.forgotten = self.forgotten.max(Some(wall)).max(newest);
        self.complete_after = version;
        let (ended, kept) = std::mem::take(&mut self.watchers).into_iter().partition(|(_, after)| *after < version);
        self.watchers = kept;
        let ended: BTreeMap<Ticket, u64> = ended;
        ended.into_iter().map(|(ticket, after)| (ticket, WatchEnd::Forgotten { after })).collect()
    }
}

fn weight(recent: &Recent) -> usize {
    recent.changes.iter().map(Change::weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(found: Result<Vec<Recent>, WatchEnd>) -> Result<Vec<u64>, WatchEnd> {
        found.map(|found| found.into_iter().map(|recent| recent.version).collect())
    }

    /// What changed nothing that matters here, at a second.
    fn at(version: u64, second: u64) -> Recent {
        Recent { version, wall: Time::from_millis(second * 1000), time: Time::ZERO, changes: Arc::new([]) }
    }

    #[test]
    fn a_watch_resumes_without_gap_or_repeat() {
        let mut watches = Watches::new(10, Some(Time::ZERO));
        assert!(watches.push(at(12, 0)).is_empty());
        watches.push(at(15, 0));
        assert_eq!(versions(watches.add(Ticket(1), 9)), Err(WatchEnd::Forgotten { after: 9 }));
        assert_eq!(versions(watches.add(Ticket(2), 10)), Ok(vec![12, 15]));
        assert_eq!(versions(watches.add(Ticket(3), 12)), Ok(vec![15]));
        assert_eq!(versions(watches.add(Ticket(4), 20)), Ok(vec![]), "a version from the future is waited for");
        assert_eq!(watches.push(at(17, 0)), [Ticket(2), Ticket(3)]);
        assert_eq!(watches.push(at(21, 0)), [Ticket(2), Ticket(3), Ticket(4)]);
        let ended = watches.reset(21, Time::ZERO);
        assert!(ended.is_empty(), "all have everything");
        assert_eq!(watches.reset(30, Time::ZERO).len(), 3);
        assert!(watches.push(at(31, 0)).is_empty());
    }

    #[test]
    fn a_watch_since_a_time_gets_what_is_known_and_hears_whether_that_is_all() {
        // (what the ring began with, what is asked, the versions, whether they are all)
        let second = |second: u64| Time::from_millis(second * 1000);
        type Row<'a> = ((u64, Option<u64>), u64, &'a [u64], bool);
        let table: [Row<'_>; 8] = [
            ((0, None), 0, &[11, 12, 13, 14], true),
            ((10, None), 0, &[11, 12, 13, 14], true),
            ((10, None), 103, &[12, 14], true),
            ((10, Some(99)), 99, &[11, 12, 13, 14], false),
            ((10, Some(99)), 100, &[11, 12, 13, 14], true),
            ((10, Some(99)), 102, &[12, 13, 14], true),
            ((10, Some(99)), 104, &[12], true),
            ((10, Some(99)), 900, &[], true),
        ];
        for ((version, begun), since, expected, is_all) in table {
            let mut watches = Watches::new(version, begun.map(second));
            // A leader whose clock was ahead was followed by one whose clock is right.
            for (version, at_second) in [(11, 101), (12, 105), (13, 102), (14, 103)] {
                watches.push(at(version, at_second));
            }
            let (known, complete) = watches.add_since(Ticket(1), second(since), 14);
            assert_eq!((versions(Ok(known)), complete), (Ok(expected.to_vec()), is_all), "since {since}");
            assert_eq!(watches.push(at(15, 106)), [Ticket(1)], "and it goes on");
        }
        let mut watches = Watches::new(0, None);
        watches.push(at(11, 105));
        watches.reset(20, second(103));
        assert!(!watches.add_since(Ticket(1), second(105), 20).1, "what was known until the snapshot came is forgotten");
        assert!(watches.add_since(Ticket(2), second(106), 20).1);
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut watches = Watches::new(0, None);
        for version in 1..=timing::WATCH_HISTORY_MAX as u64 + 5 {
            watches.push(at(version, version));
        }
        assert!(watches.add(Ticket(1), 4).is_err());
        assert_eq!(versions(watches.add(Ticket(1), 5)).map(|missed| missed.len()), Ok(timing::WATCH_HISTORY_MAX));
        assert!(!watches.add_since(Ticket(2), Time::from_millis(5_000), 20_000).1);
        assert!(watches.add_since(Ticket(3), Time::from_millis(5_001), 20_000).1);
    }

    #[test]
    fn the_history_is_bounded_by_memory_too() {
        use super::super::StoredObject;
        use skep_model::config::{Config, ConfigSpec};
        use skep_model::service::Annotations;
        use skep_model::{ConfigId, Kind, Meta, ObjectRef, Section};
        let config = |n_bytes: usize| {
            let labels = [("blob".to_owned(), "x".repeat(n_bytes))].into();
            let spec = ConfigSpec { annotations: Annotations { name: "a".into(), labels }, versions: Vec::new(), current: 1 };
            let id = ConfigId::from_random([7; 16]);
            Some(StoredObject::Config(Arc::new(Config { id, meta: Meta::default(), spec: Section::new(spec) })))
        };
        let object = ObjectRef { kind: Kind::Config, id: ConfigId::from_random([7; 16]).0 };
        let each = timing::WATCH_HISTORY_BYTES_MAX / 8;
        let mut watches = Watches::new(0, None);
        for version in 1..=20 {
            let changes = Arc::new([Change { object, old: config(each), new: config(10) }]);
            watches.push(Recent { changes, ..at(version, version) });
        }
        assert_eq!(versions(watches.add(Ticket(1), 13)), Ok((14..=20).collect()));
        assert_eq!(versions(watches.add(Ticket(2), 12)), Err(WatchEnd::Forgotten { after: 12 }));
        // One that is larger than everything is told to whoever watches, and not kept.
        let changes = Arc::new([Change { object, old: config(9 * each), new: None }]);
        assert_eq!(watches.push(Recent { changes, ..at(21, 21) }), [Ticket(1)]);
        assert_eq!(versions(watches.add(Ticket(2), 20)), Err(WatchEnd::Forgotten { after: 20 }));
        assert_eq!((versions(watches.add(Ticket(2), 21)), watches.bytes), (Ok(vec![]), 0));
    }
}
