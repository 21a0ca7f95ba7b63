//! What must hold after every event, whatever went wrong in the world.
//!
//! The checkers see what no manager sees: all of them at once. They keep the one
//! history that all managers must agree on and a store of their own that applies
//! it, so that a manager is compared with the truth and not with a neighbour.

use super::coverage::Coverage;
use super::decisions::Decisions;
use super::sealing::sings;
use super::tasks::Tasks;
use super::trace::checksum;
use crate::owners;
use raft::eraftpb::{Entry, EntryType};
use skep_manager_core::manager::Manager;
use skep_manager_core::store::Conflict;
use skep_manager_core::store::codec;
use skep_manager_core::store::{Change, Store, StoredObject};
use skep_manager_core::transaction::Transaction;
use skep_model::node::NodeState;
use skep_model::request::Outcome;
use skep_model::version::FORMAT_MAX;
use skep_model::{Kind, NodeId, RequestId, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Versions whose whole content is compared: one of these many.
const DIGEST_EVERY: u64 = 32;

/// The history that all must agree on.
#[derive(Debug)]
pub struct Checkers {
    leaders: BTreeMap<u64, u64>,
    committed: BTreeMap<u64, Entry>,
    /// Applies the history on its own.
    truth: Store,
    digests: BTreeMap<u64, u64>,
    /// Requests that had an effect, and at which version.
    effects: BTreeMap<RequestId, u64>,
    /// What requests were answered.
    acknowledged: BTreeMap<RequestId, Outcome>,
    seen: BTreeMap<usize, u64>,
    /// The newest version that a client was told of.
    acknowledged_version: u64,
    /// Nodes that were found to be silent, until somebody looks.
    pub(super) fallen: Vec<NodeId>,
    pub(super) tasks: Tasks,
    decisions: Decisions,
    /// The last transaction whose preconditions did not hold.
    refused: Option<Transaction>,
}

impl Default for Checkers {
    fn default() -> Self {
        Self {
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            truth: Store::empty(1),
            digests: BTreeMap::new(),
            effects: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            seen: BTreeMap::new(),
            acknowledged_version: 0,
            fallen: Vec::new(),
            tasks: Tasks::default(),
            decisions: Decisions::default(),
            refused: None,
        }
    }
}

/// A checksum of everything in a store.
pub fn digest(store: &Store) -> u64 {
    store.encoded_records().fold(store.version, |digest, record| digest.rotate_left(5) ^ checksum(&record))
}

impl Checkers {
    /// A machine's process begins anew: what it applies is compared again.
    pub fn restarted(&mut self, machine: usize) {
        self.seen.remove(&machine);
    }

    /// Looks at a manager after an event.
    pub fn observe(&mut self, now: Time, machine: usize, manager: &Manager, coverage: &mut Coverage) -> Result<(), String> {
        let status = manager.status();
        if status.is_leader {
            let leader = *self.leaders.entry(status.term).or_insert(status.raft_id);
            if leader != status.raft_id {
                return Err(format!("two leaders in term {}: {leader} and {}", status.term, status.raft_id));
            }
        }
        let seen = self.seen.get(&machine).copied().unwrap_or(1);
        if status.applied <= seen {
            return Ok(());
        }
        for index in seen + 1..=status.applied {
            if let Some(entry) = manager.log_entry(index) {
                self.check_entry(now, machine, entry, coverage)?;
            }
        }
        self.seen.insert(machine, status.applied);
        if status.applied.is_multiple_of(DIGEST_EVERY) {
            self.check_store(machine, manager.store())?;
        }
        Ok(())
    }

    /// Compares a store with the truth at its version.
    pub fn check_store(&mut self, machine: usize, store: &Store) -> Result<(), String> {
        let expected = if store.version == self.truth.version {
            digest(&self.truth)
        } else if let Some(digest) = self.digests.get(&store.version) {
            *digest
        } else {
            return Ok(());
        };
        if digest(store) != expected {
            return Err(format!("machine {machine} has another store than the others at version {}", store.version));
        }
        Ok(())
    }

    /// A manager acknowledges a request.
    pub fn acknowledge(&mut self, request: RequestId, outcome: Outcome) -> Result<(), String> {
        if outcome.version > self.truth.version {
            return Err(format!("version {} was acknowledged before anybody applied it", outcome.version));
        }
        if let Some(effect) = self.effects.get(&request)
            && *effect != outcome.version
        {
            return Err(format!("a request that took effect at {effect} was acknowledged as of {}", outcome.version));
        }
        if let Some(earlier) = self.acknowledged.insert(request, outcome)
            && earlier != outcome
            && self.effects.contains_key(&request)
        {
            return Err(format!("a request was answered {earlier:?} first and {outcome:?} later"));
        }
        self.acknowledged_version = self.acknowledged_version.max(outcome.version);
        Ok(())
    }

    /// Whether a request ever took effect.
    pub fn had_effect(&self, request: RequestId) -> bool {
        self.effects.contains_key(&request)
    }

    /// A linearizable read that begins now sees at least this version.
    pub fn read_floor(&self) -> u64 {
        self.acknowledged_version
    }

    /// The store that the whole history gives.
    pub fn truth(&self) -> &Store {
        &self.truth
    }

    /// The last transaction whose preconditions did not hold.
    pub fn refused(&self) -> Option<&Transaction> {
        self.refused.as_ref()
    }

    fn check_entry(&mut self, now: Time, machine: usize, entry: &Entry, coverage: &mut Coverage) -> Result<(), String> {
        if let Some(known) = self.committed.get(&entry.index) {
            if known.term != entry.term || known.data != entry.data || known.entry_type != entry.entry_type {
                return Err(format!(
                    "committed entry {} changed: machine {machine} has one of term {}, it was of term {}",
                    entry.index, entry.term, known.term
                ));
            }
            return Ok(());
        }
        if sings(&entry.data) {
            return Err(format!("the canary sings in entry {}", entry.index));
        }
        self.committed.insert(entry.index, entry.clone());
        while let Some(next) = self.committed.get(&(self.truth.version + 1)).cloned() {
            self.apply(now, &next, coverage)?;
        }
        Ok(())
    }

    fn apply(&mut self, now: Time, entry: &Entry, coverage: &mut Coverage) -> Result<(), String> {
        if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
            self.truth.skip(entry.index);
        } else {
            let transaction = codec::decode(&entry.data, FORMAT_MAX).map_err(|error| error.to_string())?;
            match self.truth.apply(entry.index, &transaction) {
                Ok(changes) => {
                    self.tasks.changed(transaction.time, &self.truth, &changes, coverage)?;
                    self.decisions.changed(now, &self.truth, &transaction, &changes)?;
                    self.fallen.extend(changes.iter().filter_map(fell_silent));
                    if changes.iter().any(gives_anything) {
                        owners::check(&self.truth)?;
                    }
                    if let Some(request) = transaction.request
                        && let Some(earlier) = self.effects.insert(request, entry.index)
                    {
                        return Err(format!("a request took effect twice, at {earlier} and {}", entry.index));
                    }
                }
                Err(conflict) => {
                    coverage.count(format!("conflict: {}", conflict_name(&conflict)));
                    if matches!(conflict, Conflict::Changed(..)) {
                        self.refused = Some(transaction);
                    }
                }
            }
        }
        if entry.index.is_multiple_of(DIGEST_EVERY) {
            self.digests.insert(entry.index, digest(&self.truth));
        }
        Ok(())
    }
}

/// Whether a change may have given somebody what only one may have.
fn gives_anything(change: &Change) -> bool {
    match change.object.kind {
        Kind::Network | Kind::Service | Kind::Node => true,
        Kind::Task => change.old.is_none(),
        _ => false,
    }
}

/// The node that counts as down since nothing was heard of it.
fn fell_silent(change: &Change) -> Option<NodeId> {
    let status = |object: &Option<StoredObject>| match object {
        Some(StoredObject::Node(node)) => Some((node.id, node.status.state, node.status.message.clone())),
        _ => None,
    };
    let (id, state, message) = status(&change.new)?;
    let was_down = status(&change.old).is_some_and(|(_, state, _)| state == NodeState::Down);
    (state == NodeState::Down && !was_down && message == "heartbeat failure").then_some(id)
}

fn conflict_name(conflict: &Conflict) -> &'static str {
    match conflict {
        Conflict::Repeated(_) => "Repeated",
        Conflict::Changed(..) => "Changed",
        Conflict::Missing(_) => "Missing",
        Conflict::Exists(_) => "Exists",
        Conflict::NameTaken { .. } => "NameTaken",
        Conflict::InUse { .. } => "InUse",
        Conflict::NumberTaken(_) => "NumberTaken",
        Conflict::SubnetTaken { .. } => "SubnetTaken",
        Conflict::IngressExists(_) => "IngressExists",
        Conflict::PortTaken { .. } => "PortTaken",
    }
}

/// Names of objects that a store has, to look acknowledged ones up.
pub fn network_names(store: &Store) -> BTreeSet<&str> {
    store.networks().map(|network| network.spec.annotations.name.as_str()).collect()
}
