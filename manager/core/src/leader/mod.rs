//! The leader's turn: from what became dirty to transactions.
//!
//! Changes say where to look, never what to do: a turn compares a dirty service
//! with what it should be and drafts the difference. A new leader marks
//! everything dirty; there is no second code path. What must be remembered
//! (restarts, progress, deadlines) is in the store; timers only remind.
//!
//! The stages of a turn, one file each, over a [`draft`]: *enforce* takes tasks
//! from nodes that may not have them, *orchestrate* makes and removes slots,
//! *endpoint* gives it virtual addresses, *restart* replaces what ended, *update*
//! rolls specs, *allocate* pins what a task needs and gives it addresses,
//! *schedule* places, *publish* says which tasks are to be found, *failures* counts
//! what fails of the deployment and acts on it, *verdict* judges the deployment and
//! *reasons* says why it is not there yet, *reap* removes what is over; *mesh* gives nodes their part in the
//! routing mesh. The cost of a turn grows with the dirty services and their
//! tasks, not with the cluster; only scheduling and global services look at all
//! nodes.
//!
//! The next turn starts when the last one's transactions have all been settled,
//! so a draft never builds on what is not yet true.

mod addresses;
mod allocate;
mod aside;
mod draft;
mod endpoint;
mod enforce;
mod failures;
mod ledger;
mod mesh;
mod orchestrate;
mod publish;
mod reap;
mod reasons;
mod restart;
mod schedule;
mod slot;
#[cfg(test)]
mod tests;
mod update;
mod verdict;

pub use aside::BUG;

use crate::mint::Mint;
use crate::publication::Barrier;
use crate::rules::deployment;
use crate::rules::ending::speaks_against_node;
use crate::rules::reservation::holds_reservation;
use crate::rules::wanted::Wanted;
use crate::store::{Change, Store, StoredObject};
use crate::transaction::{Precondition, Transaction, Write};
use addresses::Addresses;
use aside::Aside;
use draft::{Draft, Drafted, Pair};
use ledger::{FAILURE_MEMORY, Ledger};
use mesh::Excluded;
use skep_model::deployment::{DeploymentKind, SET_ASIDE};
use skep_model::guard;
use skep_model::node::Node;
use skep_model::service::ServiceMode;
use skep_model::task::Task;
use skep_model::{ConfigId, Kind, NodeId, SecretId, ServiceId, TaskId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the leader knows beyond the store: where to look, and what nodes carry.
#[derive(Debug, Default)]
pub struct Leader {
    ledger: Ledger,
    addresses: Addresses,
    dirty: Dirty,
    /// Services with tasks that fit on no node now.
    waiting: BTreeSet<ServiceId>,
    /// Global services: they follow every node.
    global: BTreeSet<ServiceId>,
    excluded: Excluded,
    timers: Timers,
    aside: Aside,
    /// Drafting a service of this name panics, for tests.
    planted_panic: Option<String>,
}

/// Where to look in the next turn.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceId>,
    nodes: BTreeSet<NodeId>,
    secrets: BTreeSet<SecretId>,
    configs: BTreeSet<ConfigId>,
    is_everything: bool,
    /// Something was freed: tasks that wait for a node or an address may find one.
    is_room: bool,
    /// A node or the ingress network appeared, changed its part or went.
    is_mesh: bool,
}

/// When to look at a service again although nothing happened to it.
#[derive(Debug, Default)]
struct Timers {
    by_service: BTreeMap<ServiceId, Time>,
    by_time: BTreeSet<(Time, ServiceId)>,
}

impl Timers {
    fn set(&mut self, service: ServiceId, at: Option<Time>) {
        if let Some(old) = self.by_service.remove(&service) {
            self.by_time.remove(&(old, service));
        }
        if let Some(at) = at {
            self.by_service.insert(service, at);
            self.by_time.insert((at, service));
        }
    }

    fn due(&mut self, now: Time) -> Vec<ServiceId> {
        let due: Vec<ServiceId> = self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, service)| *service).collect();
        for service in &due {
            self.set(*service, None);
        }
        due
    }
}

impl Leader {
    /// A leader that has just been elected, with a store that is up to date.
    pub fn new(store: &Store, now: Time) -> Self {
        let mut leader = Self::default();
        leader.dirty.is_everything = true;
        leader.addresses = Addresses::of(store);
        for task in store.tasks() {
            leader.ledger.change(None, Some(task));
            if speaks_against_node(task) && now.since(task.status.applied_at) < FAILURE_MEMORY {
                leader.ledger.failed(task, task.status.applied_at);
            }
        }
        let is_global = |service: &&Arc<skep_model::service::Service>| matches!(service.spec.spec.mode, ServiceMode::Global {});
        leader.global = store.services().filter(is_global).map(|service| service.id).collect();
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
            self.dirty.is_room |= self.addresses.changed(change);
            self.dirty.is_mesh |= concerns_mesh(change);
            match (&change.old, &change.new) {
                (_, Some(StoredObject::Task(_))) | (Some(StoredObject::Task(_)), None) => {
                    let (old, new) = change.tasks();
                    self.task_changed(old, new);
                }
                (_, Some(StoredObject::Service(service))) => {
                    self.dirty.services.insert(service.id);
                    if matches!(service.spec.spec.mode, ServiceMode::Global {}) {
                        self.global.insert(service.id);
                    }
                }
                (Some(StoredObject::Service(service)), None) => {
                    self.dirty.services.insert(service.id);
                    self.global.remove(&service.id);
                    self.waiting.remove(&service.id);
                }
                (Some(StoredObject::Node(old)), Some(StoredObject::Node(new))) if is_same_place(old, new) => {}
                (Some(StoredObject::Node(node)), _) | (None, Some(StoredObject::Node(node))) => {
                    self.dirty.nodes.insert(node.id);
                }
                (_, Some(StoredObject::Secret(secret))) => drop(self.dirty.secrets.insert(secret.id)),
                (_, Some(StoredObject::Config(config))) => drop(self.dirty.configs.insert(config.id)),
                (Some(StoredObject::Cluster(old)), Some(StoredObject::Cluster(new))) => {
                    self.dirty.is_everything |= old.spec.task_history_limit != new.spec.task_history_limit;
                }
                _ => {}
            }
        }
    }

    fn task_changed(&mut self, old: Option<&Arc<Task>>, new: Option<&Arc<Task>>) {
        self.ledger.change(old.map(|task| &**task), new.map(|task| &**task));
        if let Some(task) = new.or(old) {
            self.dirty.services.insert(task.service_id);
        }
        if let Some(task) = new.filter(|task| speaks_against_node(task) && !old.is_some_and(|old| speaks_against_node(old))) {
            self.ledger.failed(task, task.status.applied_at);
        }
        let was_counted = |task: &&Arc<Task>| task.is_wanted() || holds_reservation(task);
        let is_less = |old: &&Arc<Task>| {
            new.is_none_or(|new| (old.is_wanted() && !new.is_wanted()) || (holds_reservation(old) && !holds_reservation(new)))
        };
        self.dirty.is_room |= old.filter(was_counted).filter(is_less).is_some();
    }

    /// Whether there is something to look at now.
    pub fn is_dirty(&self) -> bool {
        let dirty = &self.dirty;
        let has_keys =
            !(dirty.services.is_empty() && dirty.nodes.is_empty() && dirty.secrets.is_empty() && dirty.configs.is_empty());
        let is_waiting = !self.waiting.is_empty() || !self.excluded.is_empty();
        has_keys || dirty.is_everything || dirty.is_mesh || (dirty.is_room && is_waiting)
    }

    /// Something about these services changed that is not in the store: what their
    /// tasks' publications wait for.
    pub fn look_at(&mut self, services: BTreeSet<ServiceId>) {
        self.dirty.services.extend(services);
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
        if self.dirty.is_everything || self.dirty.is_mesh || (self.dirty.is_room && !self.excluded.is_empty()) {
            (transactions, self.excluded) = mesh::assign(store, &mut self.addresses, now);
        }
        let (mut services, overcommitted) = self.take_dirty(store, now);
        transactions.extend(self.aside.take_out(store, &mut services, now));
        self.aside.retries().for_each(|(service, at)| self.timers.set(service, Some(at)));
        let mut drafted_pairs = Vec::new();
        // What an update stopped a task for comes before others that wait for its place.
        let (first, others): (Vec<_>, Vec<_>) =
            services.into_iter().partition(|id| self.waiting.contains(id) && schedule::has_claim(store, *id));
        for id in first.into_iter().chain(others) {
            let planted = self.planted_panic.as_deref();
            let (ledger, addresses) = (&mut self.ledger, &mut self.addresses);
            let drafted = guard::catch(|| {
                let draft = Draft::new(store, barrier, ledger, addresses, id, now);
                panic_if_planted(&draft, planted);
                draft_service(draft, mint, &overcommitted)
            });
            let (drafted, is_waiting) = drafted.map_err(|said| (id, said))?;
            if is_waiting {
                self.waiting.insert(id);
            } else {
                self.waiting.remove(&id);
            }
            self.timers.set(id, drafted.wakeup);
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
        self.dirty.is_mesh |= transaction.writes.iter().any(|write| matches!(write, Write::NodePlan(..)));
        for precondition in &transaction.preconditions {
            if let Precondition::Unchanged(object, ..) | Precondition::Exists(object) | Precondition::Absent(object) =
                precondition
                && object.kind == Kind::Service
            {
                self.dirty.services.insert(ServiceId(object.id));
            }
        }
    }

    /// The nodes that have no part in the routing mesh because nothing is free for
    /// them, with why, as of the last turn.
    pub fn excluded(&self) -> &BTreeMap<NodeId, String> {
        &self.excluded
    }

    /// When a turn is due although nothing happened.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.timers.by_time.first().map(|(at, _)| *at)
    }

    /// The services that a turn looks at, and tasks that no longer fit on their nodes.
    fn take_dirty(&mut self, store: &Store, now: Time) -> (BTreeSet<ServiceId>, BTreeSet<TaskId>) {
        let dirty = std::mem::take(&mut self.dirty);
        let mut services = dirty.services;
        services.extend(self.timers.due(now));
        let mut overcommitted = BTreeSet::new();
        if dirty.is_everything {
            services.extend(store.services().map(|service| service.id));
            services.extend(store.tasks().map(|task| task.service_id));
        }
        let nodes: Vec<NodeId> =
            if dirty.is_everything { store.nodes().map(|node| node.id).collect() } else { dirty.nodes.iter().copied().collect() };
        for node in &nodes {
            services.extend(store.tasks_of_node(*node).map(|task| task.service_id));
            overcommitted.extend(enforce::overcommitted(store, *node));
        }
        if !nodes.is_empty() {
            services.extend(&self.global);
        }
        if !nodes.is_empty() || dirty.is_room {
            services.extend(&self.waiting);
        }
        for secret in dirty.secrets {
            services.extend(store.services_of_secret(secret).map(|service| service.id));
        }
        for config in dirty.configs {
            services.extend(store.services_of_config(config).map(|service| service.id));
        }
        (services, overcommitted)
    }
}

fn panic_if_planted(draft: &Draft<'_>, planted: Option<&str>) {
    let name = draft.service.as_ref().map(|service| service.spec.spec.annotations.name.as_str());
    assert!(name.is_none() || name != planted, "planted for service {}", name.unwrap_or_default());
}

/// Runs the stages of a turn over one service.
fn draft_service(mut draft: Draft<'_>, mint: &mut Mint, overcommitted: &BTreeSet<TaskId>) -> (Drafted, bool) {
    let wanted = draft.service.as_ref().map(|service| Wanted::of(service, draft.store));
    enforce::enforce(&mut draft, wanted.as_ref(), overcommitted);
    let mut is_waiting = false;
    match &wanted {
        Some(wanted) => {
            draft.begin_if_none(wanted.spec_version());
            endpoint::settle(&mut draft, wanted);
            allocate::attach(&mut draft);
            orchestrate::orchestrate(&mut draft, mint, wanted);
            failures::count_slots(&mut draft, wanted);
            restart::retire(&mut draft, wanted);
            failures::act(&mut draft, wanted);
            // A service that rolls back is looked at again with the spec it returns to.
            if !draft.is_spec_replaced() {
                restart::replace(&mut draft, mint, wanted);
                update::update(&mut draft, mint, wanted);
                restart::start(&mut draft);
                is_waiting = schedule::schedule(&mut draft, mint);
            }
        }
        None => orchestrate::dissolve(&mut draft),
    }
    publish::publish(&mut draft);
    if let Some(wanted) = wanted.as_ref().filter(|_| !draft.is_spec_replaced()) {
        publish::name_stragglers(&mut draft);
        verdict::judge(&mut draft, wanted);
    }
    reap::reap(&mut draft);
    (draft.finish(), is_waiting)
}

impl Draft<'_> {
    /// Every spec version has a deployment; whoever writes a spec begins it, and
    /// this is for one that did not, and for one that was set aside.
    fn begin_if_none(&mut self, spec_version: u64) {
        if let Some(aside) = self.deployment().filter(|deployment| deployment.cause.starts_with(SET_ASIDE)) {
            self.set_deployment(deployment::begin(spec_version, aside.kind, self.now));
        }
        if self.deployment().is_none_or(|deployment| deployment.spec_version != spec_version) {
            let kind = if spec_version <= 1 { DeploymentKind::Create } else { DeploymentKind::Update };
            self.set_deployment(deployment::begin(spec_version, kind, self.now));
        }
    }
}

/// The stored task of a pair, if the draft takes its reservation away.
fn freed((stored, drafted): &Pair) -> Option<&Task> {
    let holds = |task: &&Task| holds_reservation(task);
    let keeps = drafted.as_deref().is_some_and(holds_reservation);
    stored.as_deref().filter(holds).filter(|_| !keeps)
}

/// Whether a node's part in the mesh may have to change.
fn concerns_mesh(change: &Change) -> bool {
    match (&change.old, &change.new) {
        (Some(StoredObject::Node(old)), Some(StoredObject::Node(new))) => old.plan.ingress != new.plan.ingress,
        (_, Some(StoredObject::Node(_))) | (Some(StoredObject::Node(_)), None) => true,
        (Some(StoredObject::Network(network)), _) | (_, Some(StoredObject::Network(network))) => network.spec.ingress,
        _ => false,
    }
}

/// Whether nothing changed that matters for what runs on a node.
fn is_same_place(old: &Node, new: &Node) -> bool {
    old.spec.value == new.spec.value
        && old.description.value == new.description.value
        && old.status.state == new.status.state
        && old.status.address == new.status.address
        && old.plan.role == new.plan.role
}
