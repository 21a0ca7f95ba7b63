//! The leader's turn: from what became dirty to transactions.
//!
//! Changes say where to look, never what to do ([`agenda`]): a turn compares a dirty service
//! with what it should be and drafts the difference ([`service`]), stage by stage
//! ([`stage`]), as its mode wants it ([`mode`]), over a draft of it ([`turn`]). A new leader
//! marks everything dirty; there is no second code path. What must be remembered (restarts,
//! progress, deadlines) is in the store; timers only remind.
//!
//! The cost of a turn grows with the dirty services and their tasks. All nodes are looked at
//! only by the scheduler, for global services, and for parts in the routing mesh.
//!
//! The next turn starts when the last one's transactions have all been settled,
//! so a draft never builds on what is not yet true.

mod agenda;
mod aside;
mod mode;
mod service;
mod stage;
#[cfg(test)]
mod tests;
mod turn;

pub use aside::BUG;

use crate::mint::Mint;
use crate::publication::Barrier;
use crate::rules::ending::speaks_against_node;
use crate::rules::reservation::holds_reservation;
use crate::store::{Change, Store};
use crate::transaction::Transaction;
use agenda::Agenda;
use aside::Aside;
use service::draft_service;
use skep_model::guard;
use skep_model::task::Task;
use skep_model::{NodeId, ServiceId, TaskId, Time};
use stage::{enforce, mesh, schedule};
use std::collections::{BTreeMap, BTreeSet};
use turn::addresses::Addresses;
use turn::draft::Draft;
use turn::ledger::{FAILURE_MEMORY, Ledger};
use turn::writes::Pair;

/// What the leader knows beyond the store: where to look, and what nodes carry.
#[derive(Debug, Default)]
pub struct Leader {
    ledger: Ledger,
    addresses: Addresses,
    agenda: Agenda,
    aside: Aside,
    /// Drafting a service of this name panics, for tests.
    planted_panic: Option<String>,
}

impl Leader {
    /// A leader that has just been elected, with a store that is up to date.
    pub fn new(store: &Store, now: Time) -> Self {
        let mut leader = Self { agenda: Agenda::of(store), addresses: Addresses::of(store), ..Self::default() };
        for task in store.tasks() {
            leader.ledger.change(None, Some(task));
            if speaks_against_node(task) && now.since(task.status.applied_at) < FAILURE_MEMORY {
                leader.ledger.failed(task, task.status.applied_at);
            }
        }
        leader
    }

    /// Has drafting a service of this name panic, for tests.
    #[must_use]
    pub fn with_planted_panic(mut self, name: Option<String>) -> Self {
        self.planted_panic = name;
        self
    }

    /// A transaction was applied, ours or another.
    pub fn changed(&mut self, changes: &[Change]) {
        for change in changes {
            let (old, new) = change.tasks();
            self.ledger.change(old.map(|task| &**task), new.map(|task| &**task));
            if let Some(task) = new.filter(|task| speaks_against_node(task) && !old.is_some_and(|old| speaks_against_node(old))) {
                self.ledger.failed(task, task.status.applied_at);
            }
            self.agenda.changed(change, self.addresses.changed(change));
        }
    }

    /// Whether there is something to look at now.
    pub fn is_dirty(&self) -> bool {
        self.agenda.is_dirty()
    }

    /// Something about these services changed that is not in the store: what their
    /// tasks' publications wait for.
    pub fn look_at(&mut self, services: BTreeSet<ServiceId>) {
        self.agenda.look_at(services);
    }

    /// Drafts what is to be done about everything that became dirty, or whose
    /// time has come. `barrier` says what nodes have programmed. To be called only
    /// when every transaction of the last turn has been committed or refused.
    pub fn turn(&mut self, store: &Store, now: Time, mint: &mut Mint, barrier: &Barrier) -> Vec<Transaction> {
        loop {
            match self.attempt(store, now, mint, barrier) {
                Ok(transactions) => return transactions,
                Err((service, text)) => {
                    // What was kept in memory may be half changed; what is stored is not.
                    let mut aside = std::mem::take(&mut self.aside);
                    aside.add(store, service, &text, now);
                    *self = Self { aside, ..Self::new(store, now).with_planted_panic(self.planted_panic.take()) };
                }
            }
        }
    }

    /// Sentences for the log: what was set aside since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.aside.take_warnings()
    }

    /// One turn, or the service that could not be drafted and what the panic said.
    fn attempt(
        &mut self,
        store: &Store,
        now: Time,
        mint: &mut Mint,
        barrier: &Barrier,
    ) -> Result<Vec<Transaction>, (ServiceId, String)> {
        self.ledger.forget(now);
        self.addresses.begin_turn();
        let mut transactions = Vec::new();
        if self.agenda.is_mesh_due() {
            let (assigned, excluded) = mesh::assign(store, &mut self.addresses, now);
            transactions = assigned;
            self.agenda.exclude(excluded);
        }
        let mut due = self.agenda.take(store, now);
        let overcommitted: BTreeSet<TaskId> = due.nodes.iter().flat_map(|node| enforce::overcommitted(store, *node)).collect();
        transactions.extend(self.aside.take_out(store, &mut due.services, now));
        self.aside.retries().for_each(|(service, at)| self.agenda.wake(service, at));
        let mut drafted_pairs = Vec::new();
        // What an update stopped a task for comes before others that wait for its place.
        let (first, others): (Vec<_>, Vec<_>) =
            due.services.into_iter().partition(|id| self.agenda.is_waiting(*id) && schedule::has_claim(store, *id));
        for id in first.into_iter().chain(others) {
            let planted = self.planted_panic.as_deref();
            let (ledger, addresses) = (&mut self.ledger, &mut self.addresses);
            let drafted = guard::catch(|| {
                let draft = Draft::new(store, barrier, ledger, addresses, id, now);
                panic_if_planted(&draft, planted);
                draft_service(draft, mint, &overcommitted)
            });
            let (drafted, is_waiting) = drafted.map_err(|said| (id, said))?;
            self.agenda.looked_at(id, is_waiting, drafted.wakeup);
            transactions.extend(drafted.transactions);
            // What this draft frees is free once it has committed, which the other
            // drafts of this turn must not rely on: it may be refused and they not.
            drafted.pairs.iter().filter_map(freed).for_each(|stored| self.ledger.change(None, Some(stored)));
            drafted_pairs.extend(drafted.pairs);
        }
        drafted_pairs.iter().filter_map(freed).for_each(|stored| self.ledger.change(Some(stored), None));
        // Drafts become true when they have committed; until then they are not counted.
        for (stored, drafted) in drafted_pairs {
            self.ledger.change(drafted.as_deref(), stored.as_deref());
        }
        Ok(transactions)
    }

    /// A transaction of the last turn was refused: its service is looked at again.
    pub fn refused(&mut self, transaction: &Transaction) {
        self.agenda.refused(transaction);
    }

    /// The nodes that have no part in the routing mesh because nothing is free for
    /// them, with why, as of the last turn.
    pub fn excluded(&self) -> &BTreeMap<NodeId, String> {
        self.agenda.excluded()
    }

    /// When a turn is due although nothing happened.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.agenda.next_wakeup()
    }
}

fn panic_if_planted(draft: &Draft<'_>, planted: Option<&str>) {
    let name = draft.service.as_ref().map(|service| service.spec.spec.annotations.name.as_str());
    assert!(name.is_none() || name != planted, "planted for service {}", name.unwrap_or_default());
}

/// The stored task of a pair, if the draft takes its reservation away.
fn freed((stored, drafted): &Pair) -> Option<&Task> {
    let holds = |task: &&Task| holds_reservation(task);
    let keeps = drafted.as_deref().is_some_and(holds_reservation);
    stored.as_deref().filter(holds).filter(|_| !keeps)
}
