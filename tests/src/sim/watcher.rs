//! One watcher: it builds its own picture of the store from what it is told, and
//! every change must fit what it had.

use super::plant::Plant;
use super::{Happening, Simulation};
use skep_manager_core::event::{Event, Ticket};
use skep_manager_core::store::watch::WatchEnd;
use skep_manager_core::store::{Change, Store, StoredObject};
use skep_model::{ObjectRef, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The watcher's stream and picture.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    stream: Option<(usize, Ticket)>,
    /// Object → the version it was last changed at.
    picture: BTreeMap<ObjectRef, u64>,
    version: u64,
    /// It has read once, so that it can resume.
    has_begun: bool,
}

fn version_of(object: &StoredObject) -> u64 {
    object.to_object().meta().version
}

impl Watcher {
    pub(super) fn has(&self, machine: usize, ticket: Ticket) -> bool {
        self.stream == Some((machine, ticket))
    }

    /// A process ended, and the stream with it.
    pub(super) fn broken(&mut self, machine: usize) {
        if self.stream.is_some_and(|(at, _)| at == machine) {
            self.stream = None;
        }
    }

    /// The version up to which it has everything that changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What its picture lacks of a store, if it has begun.
    pub(super) fn lacks(&self, store: Option<&Store>) -> Option<String> {
        let store = store.filter(|_| self.has_begun)?;
        let truth: BTreeMap<ObjectRef, u64> = store.objects().map(|object| (object.reference(), version_of(&object))).collect();
        (truth != self.picture).then(|| format!("the watcher is at version {} and the store at {}", self.version, store.version))
    }

    fn take(&mut self, version: u64, changes: &[Change]) -> Result<(), String> {
        if version <= self.version {
            return Err(format!("a watcher that has version {} was sent version {version}", self.version));
        }
        for change in changes {
            let known = self.picture.get(&change.object).copied();
            let expected = change.old.as_ref().map(version_of);
            if known != expected {
                return Err(format!(
                    "a watcher missed a change of {:?}: it has {known:?}, before was {expected:?}",
                    change.object
                ));
            }
            match &change.new {
                Some(new) => drop(self.picture.insert(change.object, version_of(new))),
                None => drop(self.picture.remove(&change.object)),
            }
        }
        self.version = version;
        Ok(())
    }
}

impl Simulation {
    /// Opens a stream if there is none; sometimes drops the one there is.
    pub(super) fn watcher_looks(&mut self) -> Result<(), String> {
        let pause = self.dice.clients.around(Duration::from_secs(1));
        self.after(pause, Happening::Watcher);
        if let Some((machine, ticket)) = self.watcher.stream {
            let drops = self.is_chaos() && self.dice.clients.chance(50_000);
            if drops && !self.machines[machine].is_paused {
                self.watcher.stream = None;
                return self.give(machine, Event::Gone { ticket });
            }
            // A stream to a manager that has lost the others is given up in the end.
            if self.is_chaos() || self.machines[machine].manager.is_some() {
                return Ok(());
            }
        }
        let number = self.dice.clients.below(self.machines.len());
        let machine = &mut self.machines[number];
        if !machine.is_up || machine.is_paused || machine.manager.is_none() {
            return Ok(());
        }
        let ticket = Ticket(machine.next_ticket);
        machine.next_ticket += 1;
        self.watcher.stream = Some((number, ticket));
        let after = self.watcher.has_begun.then_some(self.watcher.version);
        if after.is_some() {
            self.coverage.count("watch: resumed");
        }
        self.give(number, Event::Watch { ticket, after })
    }

    pub(super) fn watch_begins(&mut self, result: Result<Arc<Store>, Refusal>) -> Result<(), String> {
        let Ok(view) = result else {
            self.watcher.stream = None;
            return Ok(());
        };
        self.watcher.picture = view.objects().map(|object| (object.reference(), version_of(&object))).collect();
        self.watcher.version = view.version;
        self.watcher.has_begun = true;
        Ok(())
    }

    pub(super) fn watch_changes(
        &mut self,
        number: usize,
        ticket: Ticket,
        version: u64,
        changes: &[Change],
    ) -> Result<(), String> {
        if !self.watcher.has(number, ticket) {
            return Ok(());
        }
        self.watcher.take(version, changes)?;
        if self.has_plant(Plant::RepeatWatch) && self.dice.clients.chance(1_000) {
            self.watcher.take(version, changes)?;
        }
        Ok(())
    }

    /// The watch cannot go on: the watcher reads anew.
    pub(super) fn watch_ends(&mut self, number: usize, ticket: Ticket, end: &WatchEnd) {
        if !self.watcher.has(number, ticket) {
            return;
        }
        self.watcher.stream = None;
        if matches!(end, WatchEnd::Forgotten { .. }) {
            self.coverage.count("watch: resync");
            self.watcher.has_begun = false;
        }
    }
}
