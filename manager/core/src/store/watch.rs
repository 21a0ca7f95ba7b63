//! Recent changes, for watches that begin or resume at a version.
//!
//! Every watcher gets each version at most once, in order, and without a gap; if
//! that is impossible, because the version it asked for is too old or a snapshot
//! took the place of the store, it is told to read anew, once.

use super::Change;
use crate::event::Ticket;
use crate::timing;
use skep_model::Refusal;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Changes of one version.
pub(crate) type Changes = Arc<[Change]>;

/// The ring of recent changes and everyone who watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    recent: VecDeque<(u64, Changes)>,
    /// All changes after this version are in `recent`.
    complete_after: u64,
    /// The version up to which each watcher has everything.
    watchers: BTreeMap<Ticket, u64>,
}

impl Watches {
    /// A ring that knows nothing of what happened up to `version`.
    pub(crate) fn new(version: u64) -> Self {
        Self { complete_after: version, ..Self::default() }
    }

    /// Begins a watch after a version. Answers what is to be sent at once, or why it cannot be.
    pub(crate) fn add(&mut self, ticket: Ticket, after: u64) -> Result<Vec<(u64, Changes)>, Refusal> {
        if after < self.complete_after {
            return Err(resync(after));
        }
        let begin = self.recent.partition_point(|(version, _)| *version <= after);
        let missed: Vec<_> = self.recent.range(begin..).cloned().collect();
        self.watchers.insert(ticket, missed.last().map_or(after, |(version, _)| *version));
        Ok(missed)
    }

    /// Ends a watch.
    pub(crate) fn remove(&mut self, ticket: Ticket) {
        self.watchers.remove(&ticket);
    }

    /// A version changed something. Answers who is to be told.
    pub(crate) fn push(&mut self, version: u64, changes: &Changes) -> Vec<Ticket> {
        self.recent.push_back((version, changes.clone()));
        if self.recent.len() > timing::WATCH_HISTORY_MAX
            && let Some((oldest, _)) = self.recent.pop_front()
        {
            self.complete_after = oldest;
        }
        // A watcher may ask for versions after one that this manager has not reached.
        let due = self.watchers.iter_mut().filter(|(_, after)| **after < version);
        due.map(|(ticket, after)| {
            *after = version;
            *ticket
        })
        .collect()
    }

    /// A snapshot took the place of the store at `version`. Answers who cannot go on, and why.
    pub(crate) fn reset(&mut self, version: u64) -> Vec<(Ticket, Refusal)> {
        self.recent.clear();
        self.complete_after = version;
        let (ended, kept) = std::mem::take(&mut self.watchers).into_iter().partition(|(_, after)| *after < version);
        self.watchers = kept;
        let ended: BTreeMap<Ticket, u64> = ended;
        ended.into_iter().map(|(ticket, after)| (ticket, resync(after))).collect()
    }
}

fn resync(after: u64) -> Refusal {
    Refusal::FailedPrecondition(format!(
        "resync: changes after version {after} are no longer kept; read again and watch from there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(found: Result<Vec<(u64, Changes)>, Refusal>) -> Result<Vec<u64>, String> {
        found.map(|found| found.into_iter().map(|(version, _)| version).collect()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_watch_resumes_without_gap_or_repeat() {
        let mut watches = Watches::new(10);
        let none: Changes = Arc::new([]);
        assert!(watches.push(12, &none).is_empty());
        watches.push(15, &none);
        assert!(versions(watches.add(Ticket(1), 9)).is_err_and(|text| text.starts_with("resync: ")));
        assert_eq!(versions(watches.add(Ticket(2), 10)), Ok(vec![12, 15]));
        assert_eq!(versions(watches.add(Ticket(3), 12)), Ok(vec![15]));
        assert_eq!(versions(watches.add(Ticket(4), 20)), Ok(vec![]), "a version from the future is waited for");
        assert_eq!(watches.push(17, &none), [Ticket(2), Ticket(3)]);
        assert_eq!(watches.push(21, &none), [Ticket(2), Ticket(3), Ticket(4)]);
        let ended = watches.reset(21);
        assert!(ended.is_empty(), "all have everything");
        assert_eq!(watches.reset(30).len(), 3);
        assert!(watches.push(31, &none).is_empty());
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut watches = Watches::new(0);
        let none: Changes = Arc::new([]);
        for version in 1..=timing::WATCH_HISTORY_MAX as u64 + 5 {
            watches.push(version, &none);
        }
        assert!(watches.add(Ticket(1), 4).is_err());
        assert_eq!(watches.add(Ticket(1), 5).map(|missed| missed.len()), Ok(timing::WATCH_HISTORY_MAX));
    }
}
