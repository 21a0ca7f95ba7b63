//! A manager's disk: what is durable, and what is still on its way.
//!
//! Operations become durable in order, each whole or not at all. A crash loses
//! some of those on their way, from the newest; a torn record is one that was
//! written in part, which recovery drops like one that was never written.

use super::random::Dice;
use raft::eraftpb::{ConfState, Entry, HardState, SnapshotMetadata};
use skep_manager_core::Recovered;
use skep_manager_core::action::Persist;
use skep_manager_core::store::SnapshotContent;
use skep_model::Time;
use skep_model::version::FORMAT_MAX;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A snapshot as a file.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    /// Index, term and membership.
    pub metadata: SnapshotMetadata,
    /// The encoded records.
    pub records: Arc<Vec<u8>>,
}

/// Something to be made durable.
#[derive(Debug)]
pub enum Operation {
    /// What raft wants kept.
    Append(Box<Persist>),
    /// A snapshot of the manager's own.
    Save(SnapshotFile),
    /// Entries before this index go.
    Compact(u64),
}

/// One disk.
#[derive(Debug, Default)]
pub struct Disk {
    /// The member that this disk belongs to; `None` = empty.
    pub raft_id: Option<u64>,
    hard_state: HardState,
    membership: (u64, ConfState),
    founding: Option<(u64, ConfState)>,
    snapshot: Option<SnapshotFile>,
    entries: BTreeMap<u64, Entry>,
    /// A snapshot from the leader that has not taken effect.
    pub received: Option<SnapshotFile>,
    /// On their way, oldest first.
    pub pending: VecDeque<Operation>,
    /// When the disk has time for another one.
    pub free_at: Time,
    /// Something was made durable in the name of the raft id.
    pub is_used: bool,
    /// There is a log, though it may hold nothing yet.
    pub has_log: bool,
    /// A byte has changed that nobody wrote.
    pub is_rotten: bool,
    /// Nothing fits on it until then.
    pub full_until: Time,
}

/// What a crash did to operations on their way.
#[derive(Debug, Default, Clone, Copy)]
pub struct Damage {
    /// Operations that are gone.
    pub lost: usize,
    /// The first of them was written in part.
    pub is_torn: bool,
}

impl Disk {
    /// The oldest operation on its way is durable.
    pub fn complete(&mut self) -> Option<Operation> {
        let operation = self.pending.pop_front()?;
        (self.is_used, self.has_log) = (true, true);
        match &operation {
            Operation::Append(persist) => self.append(persist),
            Operation::Save(file) => {
                let is_newer = self.snapshot.as_ref().is_none_or(|old| old.metadata.index < file.metadata.index);
                if is_newer {
                    self.snapshot = Some(file.clone());
                }
            }
            Operation::Compact(index) => self.entries = self.entries.split_off(index),
        }
        Some(operation)
    }

    fn append(&mut self, persist: &Persist) {
        if let Some(metadata) = &persist.snapshot {
            let received = self.received.take().filter(|file| file.metadata.index == metadata.index);
            self.snapshot = Some(received.expect("a snapshot takes effect only after it was received"));
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            self.entries.split_off(&first.index);
            self.entries.extend(persist.entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        if let Some(hard_state) = &persist.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(membership) = &persist.membership {
            self.founding.get_or_insert_with(|| membership.clone());
            self.membership = membership.clone();
        }
    }

    /// The power goes: of what is on its way some was written, the rest is lost.
    pub fn crash(&mut self, dice: &mut Dice) -> Damage {
        let written = dice.below(self.pending.len() + 1);
        for _ in 0..written {
            self.complete();
        }
        let damage = Damage { lost: self.pending.len(), is_torn: !self.pending.is_empty() && dice.chance(500_000) };
        self.pending.clear();
        self.received = None;
        damage
    }

    /// The disk forgets its votes (a planted bug).
    pub fn forget_vote(&mut self) {
        self.hard_state.vote = 0;
        self.hard_state.term = self.hard_state.term.saturating_sub(1).max(1);
    }

    /// The disk forgets every membership but the first (a planted bug).
    pub fn forget_membership(&mut self) {
        if let Some(founding) = &self.founding {
            self.membership = founding.clone();
        }
        self.snapshot = self.snapshot.take().map(|mut file| {
            file.metadata.set_conf_state(self.membership.1.clone());
            file
        });
    }

    /// The log goes, and what is kept elsewhere stays: the raft id, and that it was used.
    pub fn lose(&mut self) {
        let (raft_id, is_used) = (self.raft_id, self.is_used);
        self.wipe();
        (self.raft_id, self.is_used) = (raft_id, is_used);
    }

    /// The snapshot that is being saved loses its end (a planted bug).
    pub fn shorten(&mut self) {
        if let Some(Operation::Save(file)) = self.pending.front_mut() {
            file.records = Arc::new(super::machines::without_last_record(&file.records));
        }
    }

    /// The index of the last entry, or of the snapshot.
    pub fn last(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map_or(0, |file| file.metadata.index);
        self.entries.last_key_value().map_or(snapshot, |(index, _)| *index)
    }

    /// An entry is added that no leader made (a planted bug).
    pub fn forge(&mut self, entry: Entry) {
        self.entries.insert(entry.index, entry);
    }

    /// A byte of an entry changes, or of the snapshot. Whether there was any.
    pub fn rot(&mut self, dice: &mut Dice) -> bool {
        let full: Vec<u64> = self.entries.values().filter(|entry| !entry.data.is_empty()).map(|entry| entry.index).collect();
        if !full.is_empty()
            && let Some(entry) = self.entries.get_mut(dice.pick(&full))
        {
            let mut data = entry.data.to_vec();
            let at = dice.below(data.len());
            data[at] ^= 1 << dice.below(8);
            entry.data = data.into();
        } else if let Some(file) = self.snapshot.as_mut().filter(|file| !file.records.is_empty()) {
            let mut records = file.records.to_vec();
            let at = dice.below(records.len());
            records[at] ^= 1 << dice.below(8);
            file.records = Arc::new(records);
        } else {
            return false;
        }
        self.is_rotten = true;
        true
    }

    /// Everything goes.
    pub fn wipe(&mut self) {
        *self = Self { free_at: self.free_at, ..Self::default() };
    }

    /// What a manager finds when it starts.
    pub fn recover(&self) -> Result<Recovered, String> {
        let snapshot = match &self.snapshot {
            Some(file) => Some((file.metadata.clone(), decode(file)?)),
            None => None,
        };
        Ok(Recovered {
            hard_state: self.hard_state.clone(),
            membership: self.membership.1.clone(),
            membership_index: self.membership.0,
            snapshot,
            entries: self.entries.values().cloned().collect(),
        })
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.membership.1 == ConfState::default()
            && self.snapshot.is_none()
            && self.entries.is_empty()
            && self.hard_state.term == 0
    }
}

/// The content of a snapshot file.
pub fn decode(file: &SnapshotFile) -> Result<SnapshotContent, String> {
    SnapshotContent::decode(file.metadata.index, FORMAT_MAX, FORMAT_MAX, &file.records).map_err(|error| error.to_string())
}
