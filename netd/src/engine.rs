//! The one owner of everything: it takes commands and the kernel's events, plans,
//! and carries out.
//!
//! Until the first complete set of objects was committed, netd only watches: after
//! its own restart it cannot know what should be there, and removes nothing. From
//! then on whatever differs without having been asked for is drift: repaired,
//! counted, and named.

use crate::dns::Resolvers;
use crate::drain::Drain;
use crate::kernel::{Kernel, KernelError};
use crate::nft::tables::{News, Tables};
use crate::probe::Plan;
use crate::settled::{Repair, Settled, Turn};
use ipnet::IpNet;
use skep_model::overlay::LocalTask;
use skep_model::{NetworkId, TaskId};
use skep_netd_core::{
    Change as Derived, Desired, Gateway, Key, Link, Mirror, Namespace, Object, ObjectKey, Op, Place, Touched, Value,
    gateway_bridge_name, plan, probes,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// In this time every namespace is read in full once.
const AUDIT_PERIOD: Duration = Duration::from_secs(30);
/// The pause before what failed is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// Repairs that are kept by name.
const REPAIRS_MAX: usize = 256;
/// Rounds of planning before other work gets its turn.
const ROUNDS_MAX: usize = 8;

/// How far the kernel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// The stream of changes that is in charge; 0 = none was yet.
    pub stream: u64,
    /// The kernel holds everything up to this version of it.
    pub version: u64,
}

/// One change of the desired state.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new or changed object.
    Put(Object),
    /// An object that is gone.
    Remove(ObjectKey),
    /// A task that is gone with its namespace.
    RemoveNamespace(TaskId),
}

/// What the engine can be told.
#[derive(Debug)]
pub enum Command {
    /// Changes up to a version.
    Commit {
        /// The stream it came on; those of older streams are ignored.
        stream: u64,
        /// The version.
        version: u64,
        /// Whether objects that are not in it are gone.
        is_complete: bool,
        /// The changes.
        changes: Vec<Change>,
    },
    /// A task needs its namespace.
    MakeNamespace(Box<LocalTask>, oneshot::Sender<Result<PathBuf, String>>),
    /// A task does not need its namespace any more.
    RemoveNamespace(TaskId, oneshot::Sender<Result<(), String>>),
    /// A task is to stop once nobody would be cut off, or the time is over; the
    /// answer is how many would be then.
    Drain(TaskId, Duration, oneshot::Sender<Result<u32, String>>),
    /// Someone wants to know what can be reached, on these networks or on all.
    Probe(BTreeSet<NetworkId>, oneshot::Sender<Result<Plan, String>>),
    /// Someone wants to know how it goes.
    Status(oneshot::Sender<Status>),
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything up to this version is in the kernel.
    pub programmed_through: u64,
    /// Tasks with a namespace.
    pub tasks: Vec<TaskId>,
    /// Repairs by kind of row.
    pub repaired: BTreeMap<String, u64>,
    /// Repairs that only an audit found the need for.
    pub repaired_by_audit: u64,
    /// The last repairs, newest last.
    pub repairs: VecDeque<String>,
    /// Operations carried out.
    pub operations: u64,
    /// Times that events were lost.
    pub overruns: u64,
    /// What failed and is tried again.
    pub failures: Vec<String>,
}

/// The engine.
pub struct Engine {
    desired: Desired,
    mirror: Mirror,
    kernel: Kernel,
    names: Resolvers,
    tables: Tables,
    /// Whoever waits for connections of a task.
    drains: BTreeMap<TaskId, JoinSet<()>>,
    /// Where to look.
    dirty: BTreeSet<Place>,
    /// Of these, what was asked for: there a difference is no drift.
    asked: BTreeSet<Place>,
    /// What names and tables were not told of yet.
    touched: Touched,
    failures: BTreeMap<Place, String>,
    /// What names and tables could not do.
    failures_after: BTreeMap<Namespace, String>,
    is_complete: bool,
    taken: watch::Sender<Programmed>,
    programmed: watch::Sender<Programmed>,
    /// Versions whose rows, names and tables are in place, each under the last
    /// order to forget connections that it brought about.
    in_place: BTreeMap<u64, Programmed>,
    status: Status,
    /// The namespace that was read in full last, and when.
    audited: (Option<Namespace>, Instant),
    next_retry: Option<Instant>,
}

impl Engine {
    /// Takes over whatever the kernel holds, and changes nothing.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub async fn adopt(mut kernel: Kernel) -> Result<Self, KernelError> {
        let (mut desired, mut mirror, mut touched) = (Desired::new(), Mirror::new(), Touched::default());
        kernel.catch_up(&mut mirror).await?;
        adopt_gateway(&mut desired, &mirror, &kernel).await?;
        for task in kernel.namespaces().list()? {
            touched.extend(desired.put_namespace(task).touched);
        }
        Ok(Self {
            desired,
            mirror,
            kernel,
            names: Resolvers::default(),
            tables: Tables::default(),
            drains: BTreeMap::new(),
            dirty: BTreeSet::new(),
            asked: BTreeSet::new(),
            touched,
            failures: BTreeMap::new(),
            failures_after: BTreeMap::new(),
            is_complete: false,
            taken: watch::Sender::new(Programmed::default()),
            programmed: watch::Sender::new(Programmed::default()),
            in_place: BTreeMap::new(),
            status: Status::default(),
            audited: (None, Instant::now()),
            next_retry: None,
        })
    }

    /// The version that everything up to is in place: rows, tables and names, and no
    /// connection goes on to whoever was gone by then.
    pub fn programmed(&self) -> watch::Receiver<Programmed> {
        self.programmed.subscribe()
    }

    /// The version that was taken last, in place or not.
    pub fn taken(&self) -> watch::Receiver<Programmed> {
        self.taken.subscribe()
    }

    /// Works until nobody can command any more.
    ///
    /// # Errors
    /// If the kernel's events cannot be waited for.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> std::io::Result<()> {
        loop {
            let wakeup = self.next_retry.map_or(self.next_audit(), |retry| retry.min(self.next_audit()));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return Ok(()),
                },
                waited = self.kernel.wait() => {
                    waited?;
                    self.settle(false).await;
                }
                news = self.tables.wait() => match news {
                    News::Drifted => self.settle(false).await,
                    News::Forgotten => self.acknowledge(),
                },
                () = tokio::time::sleep_until(wakeup) => self.wake().await,
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Commit { stream, .. } if stream < self.taken.borrow().stream => {}
            Command::Commit { stream, version, is_complete, changes } => {
                for change in &changes {
                    if let Change::RemoveNamespace(task) = change {
                        self.end_drains(*task).await;
                    }
                }
                self.take_changes(is_complete, changes);
                self.taken.send_replace(Programmed { stream, version });
                self.settle(false).await;
            }
            Command::MakeNamespace(task, reply) => {
                let id = task.id;
                self.change(Change::Put(Object::Task(*task)));
                self.settle(false).await;
                let path = self.kernel.namespaces().path(id);
                // Whoever asked may have gone; the namespace stays for the next.
                let _ = reply.send(self.outcome(id).map(|()| path));
            }
            Command::RemoveNamespace(task, reply) => {
                self.end_drains(task).await;
                self.change(Change::RemoveNamespace(task));
                self.settle(false).await;
                let failed = self.failures.iter().find(|(place, _)| place.namespace == Namespace::Task(task));
                let _ = reply.send(failed.map_or(Ok(()), |(_, failure)| Err(failure.clone())));
            }
            Command::Drain(task, limit, reply) => self.drain(task, limit, reply),
            Command::Probe(networks, reply) => {
                let _ = reply.send(self.plan_probes(&networks));
            }
            Command::Status(reply) => {
                let _ = reply.send(self.report());
            }
        }
    }

    /// Watches a task's connections beside all other work.
    fn drain(&mut self, task: TaskId, limit: Duration, reply: oneshot::Sender<Result<u32, String>>) {
        let Some(namespace) = self.kernel.namespace(Namespace::Task(task)) else {
            // Who has no namespace has no connections.
            let _ = reply.send(Ok(0));
            return;
        };
        let overlay = self.desired.overlay();
        let local = overlay.task(task);
        let of_service = local.and_then(|local| overlay.service(local.service)).map(|service| &service.ingress_ports);
        let ports = local.map(|local| &local.host_ports).into_iter().chain(of_service).flatten();
        match Drain::open_in(namespace, ports.map(|port| port.target_port).collect()) {
            Err(error) => drop(reply.send(Err(describe(&error)))),
            Ok(drain) => drop(self.drains.entry(task).or_default().spawn(async move {
                let drained = drain.wait(limit).await.map_err(|error| describe(&error));
                // Whoever asked may have gone.
                let _ = reply.send(drained);
            })),
        }
    }

    /// Lets go of a task's connections: their sockets would keep its namespace.
    async fn end_drains(&mut self, task: TaskId) {
        if let Some(mut drains) = self.drains.remove(&task) {
            drains.shutdown().await;
        }
    }

    /// What can be asked now, and where.
    fn plan_probes(&self, networks: &BTreeSet<NetworkId>) -> Result<Plan, String> {
        if !self.is_complete {
            return Err("it is not known yet what there should be".to_owned());
        }
        let mut descriptors = BTreeMap::new();
        for task in self.desired.namespaces() {
            if let Some(namespace) = self.kernel.namespace(Namespace::Task(*task)) {
                let descriptor = namespace.try_clone_to_owned().map_err(|error| describe(&error))?;
                descriptors.insert(Namespace::Task(*task), Arc::new(descriptor));
            }
        }
        let asked = probes(self.desired.overlay(), networks, |task| descriptors.contains_key(&Namespace::Task(task)));
        let probes = asked.into_iter().map(|probe| (descriptors.get(&probe.from).cloned(), probe));
        Ok(Plan { probes: probes.map(|(fd, probe)| (probe, fd)).collect(), server: self.names.server().clone() })
    }

    fn take_changes(&mut self, is_complete: bool, changes: Vec<Change>) {
        if is_complete {
            let kept: BTreeSet<ObjectKey> = changes
                .iter()
                .filter_map(|change| match change {
                    Change::Put(object) => Some(object.key()),
                    Change::Remove(_) | Change::RemoveNamespace(_) => None,
                })
                .collect();
            for key in self.desired.overlay().keys().difference(&kept) {
                self.change(Change::Remove(*key));
            }
        }
        for change in changes {
            self.change(change);
        }
        if is_complete && !self.is_complete {
            self.is_complete = true;
            // What was found at the start may differ without anybody's fault.
            let all: BTreeSet<Place> = self.desired.places().chain(self.mirror.places()).collect();
            self.ask(Derived { places: all, touched: Touched::default() });
        }
    }

    fn change(&mut self, change: Change) {
        let derived = match change {
            // What came over the border was checked there.
            Change::Put(object) => self.desired.put(object).unwrap_or_default(),
            Change::Remove(key) => self.desired.remove(key),
            Change::RemoveNamespace(task) => self.desired.remove_namespace(task),
        };
        self.ask(derived);
    }

    fn ask(&mut self, derived: Derived) {
        self.asked.extend(&derived.places);
        self.dirty.extend(derived.places);
        self.touched.extend(derived.touched);
    }

    /// Whether everything of a task's namespace is in place. What failed elsewhere
    /// does not count.
    fn outcome(&self, task: TaskId) -> Result<(), String> {
        let overlay = self.desired.overlay();
        let Some(local) = overlay.task(task) else { return Err("the task was taken back".to_owned()) };
        for attachment in &local.attachments {
            let network = attachment.network;
            let Some(known) = overlay.network(network) else { return Err(format!("the network {network} is not known")) };
            if overlay.mtu(known).is_none() {
                return Err(self.underlay_failure().unwrap_or_else(|| "this node is not known".to_owned()));
            }
        }
        if local.has_gateway && overlay.gateway().and_then(|gateway| gateway.offset(task)).is_none() {
            return Err("no address is free for the task behind the gateway bridge".to_owned());
        }
        if let Some((_, failure)) = self.failures.iter().find(|(place, _)| self.concerns(place, task)) {
            return Err(failure.clone());
        }
        if let Some(failure) = self.failures_after.get(&Namespace::Task(task)) {
            return Err(failure.clone());
        }
        let missing = self.desired.under_namespace(Namespace::Task(task)).find(|place| {
            let wanted = self.desired.get(place);
            wanted.is_some_and(|wanted| !self.mirror.get(place).is_some_and(|seen| wanted.is_satisfied_by(seen)))
        });
        missing.map_or(Ok(()), |place| Err(format!("{place} is not in place")))
    }

    /// Whether a place is in a task's namespace, or about the node's end of a pair
    /// into it.
    fn concerns(&self, place: &Place, task: TaskId) -> bool {
        let leads_there = place.key.link().is_some_and(|link| {
            let end = self.desired.get(&Place { key: Key::Link(link), namespace: place.namespace });
            matches!(end, Some(Value::Link(Link::Veth { peer: Some((Namespace::Task(to), _)) })) if *to == task)
        });
        place.namespace == Namespace::Task(task) || leads_there
    }

    /// Why nothing can be made on the underlay.
    fn underlay_failure(&self) -> Option<String> {
        let overlay = self.desired.overlay();
        match (overlay.node(), overlay.underlay_mtu()) {
            (Some(node), None) => Some(format!("no link of this node has the address {}", node.address)),
            _ => None,
        }
    }

    fn report(&self) -> Status {
        let failures = self.failures.values().chain(self.failures_after.values()).cloned();
        let failures = failures.chain(self.tables.failures()).chain(self.underlay_failure());
        Status {
            programmed_through: self.programmed.borrow().version,
            tasks: self.desired.namespaces().iter().copied().collect(),
            overruns: self.kernel.overruns,
            failures: failures.collect(),
            ..self.status.clone()
        }
    }

    async fn wake(&mut self) {
        let now = Instant::now();
        if self.next_retry.is_some_and(|retry| retry <= now) {
            self.next_retry = None;
            let places = self.failures.keys().copied().collect();
            self.ask(Derived { places, touched: Touched::default() });
            self.settle(false).await;
        }
        if self.next_audit() <= now {
            let next = self.kernel.open_namespaces().find(|namespace| self.audited.0.is_none_or(|last| *namespace > last));
            let namespace = next.or_else(|| self.kernel.open_namespaces().next());
            self.audited = (namespace, now);
            if let Some(namespace) = namespace {
                self.kernel.mark_stale(namespace);
                self.tables.audit(namespace);
            }
            self.settle(true).await;
        }
    }

    /// When the next namespace is due: one after the other, and all in one period.
    fn next_audit(&self) -> Instant {
        let share = u32::try_from(self.kernel.open_namespaces().count().max(1)).unwrap_or(u32::MAX);
        self.audited.1 + AUDIT_PERIOD / share
    }

    /// Brings everything in line, rows first: what names and tables lead to is
    /// there before they do.
    async fn settle(&mut self, is_audit: bool) {
        let mut is_settled = self.settle_rows(is_audit).await;
        // Before the first complete set, what is in the kernel knows more than we.
        if self.is_complete {
            is_settled &= self.settle_rest().await;
        }
        if is_settled && self.failures.is_empty() && self.underlay_failure().is_none() {
            self.asked.clear();
            self.in_place.insert(self.tables.n_ordered(), *self.taken.borrow());
        } else {
            self.retry_later();
        }
        self.acknowledge();
    }

    /// Tells of versions that are in place and whose connections are forgotten.
    fn acknowledge(&mut self) {
        let later = self.in_place.split_off(&(self.tables.forgotten_through() + 1));
        let reached = std::mem::replace(&mut self.in_place, later);
        if let Some(reached) = reached.into_values().next_back() {
            self.programmed.send_if_modified(|programmed| std::mem::replace(programmed, reached) != reached);
        }
        if self.tables.failures().next().is_some() {
            self.retry_later();
        }
    }

    fn retry_later(&mut self) {
        self.next_retry.get_or_insert_with(|| Instant::now() + RETRY_PERIOD);
    }

    /// Plans and carries out until nothing is left to do; whether that was reached.
    async fn settle_rows(&mut self, is_audit: bool) -> bool {
        for round in 0..ROUNDS_MAX {
            if let Err(error) = self.look(round == 0).await {
                tracing::warn!(%error, "the kernel could not be read; it is tried again");
                return false;
            }
            if !self.is_complete {
                self.dirty = self.dirty.intersection(&self.asked).copied().collect();
            }
            let ops = plan(&self.desired, &self.mirror, &self.dirty);
            self.failures.retain(|place, _| !self.dirty.contains(place));
            self.dirty.clear();
            if ops.is_empty() {
                return true;
            }
            for op in ops {
                self.execute(&op, is_audit && round == 0).await;
            }
        }
        false
    }

    /// Takes what the kernel told, and what it has to be asked.
    async fn look(&mut self, is_first: bool) -> Result<(), KernelError> {
        let seen = self.kernel.catch_up(&mut self.mirror).await?;
        self.dirty.extend(seen);
        let is_unknown = is_first && self.desired.overlay().underlay_mtu().is_none();
        if self.kernel.take_hint() || is_unknown || self.touched.node {
            let address = self.desired.overlay().node().map(|node| node.address);
            let mtu = match address {
                Some(address) => self.kernel.underlay_mtu(address).await?,
                None => None,
            };
            let derived = self.desired.set_underlay_mtu(mtu);
            self.ask(derived);
        }
        Ok(())
    }

    /// Names before tables: the tables lead to where names are answered.
    async fn settle_rest(&mut self) -> bool {
        let touched = std::mem::take(&mut self.touched);
        let turn = Turn::new(self.desired.overlay(), &touched, &self.kernel);
        let of_names = self.names.settle(&turn).await;
        let of_tables = self.tables.settle(&turn, self.names.listeners()).await;
        self.failures_after.clear();
        for Settled { failures, repairs } in [of_names, of_tables] {
            for (namespace, failure) in failures {
                tracing::warn!(%namespace, failure, "something could not be done; it is tried again");
                self.failures_after.insert(namespace, failure);
            }
            for Repair { kind, text, by_audit } in repairs {
                self.count_repair(kind, text, by_audit);
            }
        }
        self.failures_after.is_empty()
    }

    async fn execute(&mut self, op: &Op, is_audit: bool) {
        let place = op.place();
        if !self.asked.contains(&place) {
            self.count_drift(op, is_audit);
        }
        self.status.operations += 1;
        match self.kernel.execute(op, &mut self.mirror).await {
            Ok(()) => tracing::debug!(%op, "done"),
            Err(error) => {
                let text = describe(&error);
                tracing::warn!(error = text, "an operation failed; it is tried again");
                // Perhaps the mirror was wrong.
                self.kernel.mark_stale(place.namespace);
                self.failures.insert(place, text);
                self.asked.insert(place);
            }
        }
    }

    fn count_drift(&mut self, op: &Op, is_audit: bool) {
        self.count_repair(op.place().key.kind(), op.to_string(), is_audit);
    }

    fn count_repair(&mut self, kind: &str, text: String, by_audit: bool) {
        tracing::warn!(repair = text, by_audit, "the kernel drifted; it is repaired");
        *self.status.repaired.entry(kind.to_owned()).or_default() += 1;
        self.status.repaired_by_audit += u64::from(by_audit);
        if self.status.repairs.len() == REPAIRS_MAX {
            self.status.repairs.pop_front();
        }
        self.status.repairs.push_back(text);
    }
}

/// Takes over the gateway's subnets and who has which address, or chooses subnets.
async fn adopt_gateway(desired: &mut Desired, mirror: &Mirror, kernel: &Kernel) -> Result<(), KernelError> {
    let addresses: Vec<(Namespace, Key)> = mirror.places().map(|place| (place.namespace, place.key)).collect();
    let of_bridge = addresses.iter().filter_map(|(namespace, key)| match key {
        Key::Address(link, net) if *namespace == Namespace::Node && *link == gateway_bridge_name() => Some(*net),
        _ => None,
    });
    let (mut v4, mut v6) = (None, None);
    for net in of_bridge {
        match net {
            IpNet::V4(net) => v4 = Some(net.trunc()),
            IpNet::V6(net) => v6 = Some(net.trunc()),
        }
    }
    let gateway = match v4 {
        Some(v4) => Some(Gateway::new(v4, v6)),
        None => {
            let occupied = kernel.occupied().await?;
            let has_v6 = occupied.iter().any(|net| matches!(net, IpNet::V6(_)));
            Gateway::choose(&occupied, has_v6)
        }
    };
    desired.set_gateway(gateway);
    for (namespace, key) in addresses {
        if let (Namespace::Task(task), Key::Address(_, net)) = (namespace, key) {
            desired.keep_address(task, net.addr());
        }
    }
    Ok(())
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
