//! The tables of every namespace, kept in step with what the node was told.
//!
//! What a table should hold is decided in `skep-netd-core`; here it is compared
//! with what was written last, and the difference is one transaction for each
//! namespace. A table that anybody else touched is not understood but written anew:
//! the kernel tells of every foreign transaction, and an audit compares
//! fingerprints. A new process knows nothing of what it finds, and writes every
//! table anew; established connections do not notice.
//!
//! Conntrack entries of backends that are gone are flushed after the rules were
//! changed, so that the next packet meets the new ones, and beside the turns
//! ([`conntrack_flush`]).

pub(crate) mod conntrack_flush;
mod namespace;
#[cfg(test)]
mod tests;

use crate::dns::Listeners;
use crate::listening::listening;
use crate::netlink::poller::Poller;
use crate::settled::{Repair, Settled, Turn};
use conntrack_flush::{ConntrackFlush, FlushOrder, UnknownBackends};
use namespace::{Brought, Found, Look, NamespaceTables, host_addresses};
use skep_model::TaskId;
use skep_model::place::{Place, PlaceFault};
use skep_netd_core::{
    Backends, Came, Content, DirtyTables, ListeningPort, Namespace, NodeOverlay, PortKey, ServiceKey, TableName, Turnover,
    Vanished, VirtualService, dirty_services, dirty_tables, ingress_service, reaching, table_content, virtual_service,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The time between two looks at the ports that processes of the node have.
const LISTING_PERIOD: Duration = Duration::from_secs(5);
/// Rounds of writing and listening before other work gets its turn.
const ROUNDS_MAX: usize = 4;

/// The writer of tables.
#[derive(Default)]
pub struct Tables {
    scopes: BTreeMap<Namespace, NamespaceTables>,
    /// Where something may have to be done.
    looks: BTreeMap<Namespace, Look>,
    backends: Backends,
    flush: ConntrackFlush,
    listeners: BTreeMap<TaskId, Listeners>,
    audits: BTreeSet<Namespace>,
    /// The ports that processes of the node were seen to have, and when to look again.
    listening: BTreeSet<ListeningPort>,
    next_listing: Option<Instant>,
    /// What other firewalls block.
    blocked: Vec<String>,
    poller: Option<Poller<Namespace>>,
    /// Something was brought in line before.
    is_settled: bool,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("namespaces", &self.scopes.keys()).field("looks", &self.looks).finish_non_exhaustive()
    }
}

impl Tables {
    /// Brings the tables of what was touched in line, and of what failed before.
    /// `listeners` are the ports on which each task's names are answered.
    pub async fn settle(&mut self, turn: &Turn<'_>, listeners: &BTreeMap<TaskId, Listeners>) -> Settled {
        let mut settled = Settled::default();
        self.note(turn, listeners);
        self.let_go(turn);
        self.list_ports(turn, &mut settled);
        for round in 0..ROUNDS_MAX {
            self.listen(&mut settled);
            if round == 0 {
                self.compare(&mut settled);
            }
            // A namespace that is still to be made keeps its look until it is there.
            let is_there = |namespace: &Namespace, _: &mut Look| turn.is_there(*namespace);
            let looks: Vec<(Namespace, Look)> = self.looks.extract_if(.., is_there).collect();
            if looks.is_empty() {
                break;
            }
            let mut services = Services::new(turn.overlay);
            for (namespace, look) in looks {
                // What failed is tried again with the next turn, not in this one.
                if let Err((error, look)) = self.bring(turn, namespace, look, &mut services, &mut settled) {
                    settled.failures.insert(namespace, error);
                    self.looks.insert(namespace, look);
                }
            }
            if !settled.failures.is_empty() {
                break;
            }
        }
        self.settle_other_firewalls(turn.overlay);
        settled.faults.extend(self.blocked.iter().map(|text| PlaceFault::lasting(Place::Node, text.clone())));
        let in_use = self.ports_in_use(turn.overlay).into_iter();
        settled.faults.extend(in_use.map(|((transport, port), text)| PlaceFault::lasting(Place::Port(transport, port), text)));
        self.is_settled = true;
        self.flush.start();
        settled
    }

    /// Waits for news. Dropping the future loses nothing.
    pub async fn wait(&mut self) -> News {
        tokio::select! {
            () = drifted(self.poller.as_ref()) => News::Drifted,
            () = self.flush.progress() => News::Flushed,
            () = due(self.next_listing) => News::Drifted,
        }
    }

    /// How many conntrack flushes were ordered.
    pub fn n_ordered(&self) -> u64 {
        self.flush.n_ordered()
    }

    /// All orders up to this one are carried out.
    pub fn flushed_through(&self) -> u64 {
        self.flush.done_through()
    }

    /// What could not be flushed and is tried again with the next [`Self::settle`].
    pub fn failures(&self) -> impl Iterator<Item = (Namespace, String)> + '_ {
        self.flush.failures()
    }

    /// Compares a namespace's tables in full at the next [`Self::settle`].
    pub fn audit(&mut self, namespace: Namespace) {
        self.audits.insert(namespace);
    }

    /// Notes where to look.
    fn note(&mut self, turn: &Turn<'_>, listeners: &BTreeMap<TaskId, Listeners>) {
        let overlay = turn.overlay;
        for (namespace, DirtyTables { tables, services }) in dirty_tables(overlay, turn.dirty) {
            let look = self.looks.entry(namespace).or_default();
            look.tables.extend(tables);
            look.services.extend(services);
        }
        for (network, Turnover { gone, came }) in self.backends.look(overlay, dirty_services(overlay, turn.dirty)) {
            let is_ingress = overlay.network(network).is_some_and(|network| network.ingress);
            let tasks = overlay.tasks_on(network).map(|task| Namespace::Task(task.id));
            let concerned = tasks.chain(is_ingress.then_some(Namespace::Node)).collect::<Vec<_>>();
            self.spare(&concerned, &came);
            for namespace in concerned.into_iter().filter(|_| !gone.is_empty()) {
                self.looks.entry(namespace).or_default().vanished.extend(&gone);
            }
        }
        if self.listeners != *listeners {
            let tasks: BTreeSet<TaskId> = self.listeners.keys().chain(listeners.keys()).copied().collect();
            for task in tasks.into_iter().filter(|task| self.listeners.get(task) != listeners.get(task)) {
                self.looks.entry(Namespace::Task(task)).or_default().tables.insert(TableName::Names);
            }
            self.listeners.clone_from(listeners);
        }
    }

    /// Has other firewalls accept the bridges by which tasks are reached.
    fn settle_other_firewalls(&mut self, overlay: &NodeOverlay) {
        let Some(scope) = self.scopes.get_mut(&Namespace::Node) else { return };
        let blocked = match scope.settle_other_firewalls(&reaching(overlay)) {
            Ok(None) => return,
            Ok(Some(blocked)) => blocked,
            Err(error) => vec![format!("another firewall of the node cannot be told of the tasks' bridges: {error}")],
        };
        for text in blocked.iter().filter(|text| !self.blocked.contains(text)) {
            tracing::warn!("{text}");
        }
        self.blocked = blocked;
    }

    /// What other firewalls of the node block, a sentence each.
    pub fn blocked(&self) -> &[String] {
        &self.blocked
    }

    /// Looks which ports processes of the node have: nothing tells when that changes.
    fn list_ports(&mut self, turn: &Turn<'_>, settled: &mut Settled) {
        if turn.overlay.ingress().is_none() {
            self.next_listing = None;
            return;
        }
        let is_concerned = turn.dirty.ports || turn.dirty.node;
        if !is_concerned && self.next_listing.is_some_and(|next| next > Instant::now()) {
            return;
        }
        self.next_listing = Some(Instant::now() + LISTING_PERIOD);
        match listening() {
            Ok(found) => {
                if self.listening != found {
                    self.listening = found;
                    self.look_at(Namespace::Node, [TableName::Ingress].into());
                }
            }
            Err(error) => {
                settled.failures.insert(Namespace::Node, format!("the ports in use on this node cannot be listed: {error}"));
            }
        }
    }

    /// Published ports on which this node does not answer, as processes of its own
    /// listen on them, with a sentence for each.
    pub fn ports_in_use(&self, overlay: &NodeOverlay) -> BTreeMap<PortKey, String> {
        let services = overlay.services().filter_map(|service| ingress_service(overlay, service.id));
        let published: BTreeSet<PortKey> = services.flat_map(|service| service.ports.into_keys()).collect();
        let is_reached = |address: IpAddr| !address.to_canonical().is_loopback();
        let listening = self
            .listening
            .iter()
            .filter(|listening| listening.address.is_none_or(is_reached) && published.contains(&listening.key));
        let sentence = |ListeningPort { key: (transport, port), address }: &ListeningPort| {
            let at = address.map_or_else(|| "all addresses".to_owned(), |address| address.to_string());
            format!(
                "the service is not answered on port {port}/{} of this node: a process of the node listens on it at {at}",
                transport.name()
            )
        };
        listening.map(|listening| (listening.key, sentence(listening))).collect()
    }

    /// Strikes off the flush who is there again, before any rule sends there.
    fn spare(&mut self, namespaces: &[Namespace], came: &BTreeSet<Came>) {
        if self.flush.is_idle() && self.looks.values().all(|look| look.vanished.is_empty()) {
            return;
        }
        for namespace in namespaces {
            for Came { backend, is_published } in came {
                self.flush.spare(*namespace, *backend, *is_published);
                if let Some(look) = self.looks.get_mut(namespace) {
                    Vanished::spare(&mut look.vanished, *backend, *is_published);
                }
            }
        }
    }

    /// Closes what belongs to namespaces that went, or whose task did.
    fn let_go(&mut self, turn: &Turn<'_>) {
        let is_known = |namespace: Namespace| match namespace {
            Namespace::Node => true,
            Namespace::Task(task) => turn.overlay.task(task).is_some(),
        };
        self.looks.retain(|namespace, _| is_known(*namespace));
        let touched = turn.dirty.tasks.iter().map(|task| Namespace::Task(*task));
        for namespace in touched.filter(|namespace| !is_known(*namespace) || !turn.is_there(*namespace)) {
            self.flush.close(namespace);
            if self.scopes.remove(&namespace).is_some()
                && let Some(poller) = &mut self.poller
            {
                poller.forget(namespace);
            }
        }
    }

    /// Hears of what others did since the last time.
    fn listen(&mut self, settled: &mut Settled) {
        while let Some(ready) = self.ready(settled) {
            for namespace in ready {
                let Some(scope) = self.scopes.get_mut(&namespace) else { continue };
                match scope.listen() {
                    Ok(drifted) if drifted.is_empty() => {}
                    Ok(drifted) => self.look_at(namespace, drifted),
                    Err(error) => self.fail(namespace, &error, settled),
                }
            }
        }
    }

    fn ready(&self, settled: &mut Settled) -> Option<BTreeSet<Namespace>> {
        match self.poller.as_ref()?.ready() {
            Ok(ready) => Some(ready).filter(|ready| !ready.is_empty()),
            Err(error) => {
                settled.failures.insert(Namespace::Node, format!("changes of tables cannot be heard of: {error}"));
                None
            }
        }
    }

    /// Carries out the audits that are due.
    fn compare(&mut self, settled: &mut Settled) {
        for namespace in std::mem::take(&mut self.audits) {
            let Some(scope) = self.scopes.get_mut(&namespace) else { continue };
            match scope.audit(TableName::of(namespace)) {
                Ok(drifted) if drifted.is_empty() => {}
                Ok(drifted) => self.look_at(namespace, drifted),
                Err(error) => self.fail(namespace, &error, settled),
            }
        }
    }

    fn look_at(&mut self, namespace: Namespace, tables: BTreeSet<TableName>) {
        self.looks.entry(namespace).or_default().tables.extend(tables);
    }

    /// A namespace whose sockets fail gets new ones, and all its tables anew.
    fn fail(&mut self, namespace: Namespace, error: &crate::nft::Error, settled: &mut Settled) {
        settled.failures.insert(namespace, error.to_string());
        self.scopes.remove(&namespace);
        if let Some(poller) = &mut self.poller {
            poller.forget(namespace);
        }
        self.look_at(namespace, BTreeSet::new());
    }

    /// Brings one namespace in line.
    fn bring(
        &mut self,
        turn: &Turn<'_>,
        namespace: Namespace,
        mut look: Look,
        services: &mut Services<'_>,
        settled: &mut Settled,
    ) -> Result<(), (String, Look)> {
        let names = match namespace {
            Namespace::Task(task) => self.listeners.get(&task).copied(),
            Namespace::Node => None,
        };
        let names = names.map(|Listeners { udp, tcp }| Content::Names { udp_port: udp, tcp_port: tcp });
        if let Err(error) = self.open(turn, namespace, &mut look) {
            return Err((format!("the tables cannot be reached: {error}"), look));
        }
        let Some(scope) = self.scopes.get_mut(&namespace) else { return Ok(()) };
        if namespace == Namespace::Node && !self.flush.is_idle() {
            let leads_to = table_content(turn.overlay, namespace, TableName::HostPorts);
            for address in leads_to.iter().flat_map(host_addresses) {
                self.flush.spare(namespace, address, true);
            }
        }
        match scope.bring(&look, Found { names: names.as_ref(), listening: &self.listening }, services) {
            Ok(Brought { repaired, left }) => {
                settled.repairs.extend(repaired.into_iter().map(|(table, by_audit)| Repair {
                    kind: "table",
                    text: format!("write  {namespace}: table {table}"),
                    by_audit,
                }));
                let left = left.into_iter().map(|backend| Vanished { backend, transport: None });
                look.vanished.extend(left);
                self.order(turn, namespace, look)
            }
            Err(error) => Err((error.to_string(), look)),
        }
    }

    /// Orders the conntrack flush, now that the tables are in line.
    fn order(&mut self, turn: &Turn<'_>, namespace: Namespace, look: Look) -> Result<(), (String, Look)> {
        let unknown = look.is_adopted.then(|| UnknownBackends::of(turn.overlay, namespace));
        let unwanted = FlushOrder { vanished: look.vanished.clone(), unknown };
        if unwanted.is_empty() {
            return Ok(());
        }
        // Most namespaces have no connection at all, and need no worker.
        if let Some(scope) = self.scopes.get_mut(&namespace)
            && matches!(scope.has_connections(), Ok(false))
        {
            return Ok(());
        }
        match turn.namespace(namespace).map(|descriptor| descriptor.try_clone_to_owned()).transpose() {
            Ok(descriptor) => {
                self.flush.order(namespace, descriptor, unwanted);
                Ok(())
            }
            Err(error) => Err((format!("connections cannot be reached: {error}"), look)),
        }
    }

    /// Opens a namespace's sockets, unless they are open.
    fn open(&mut self, turn: &Turn<'_>, namespace: Namespace, look: &mut Look) -> io::Result<()> {
        if self.scopes.contains_key(&namespace) {
            return Ok(());
        }
        let seed = match namespace {
            Namespace::Task(task) => task.to_string(),
            Namespace::Node => turn.overlay.node().map(|node| node.id.to_string()).unwrap_or_default(),
        };
        let scope = NamespaceTables::open(namespace, turn.namespace(namespace), seed).map_err(io::Error::other)?;
        let poller = match &mut self.poller {
            Some(poller) => poller,
            empty => empty.insert(Poller::new()?),
        };
        poller.add(namespace, scope.monitor())?;
        look.tables.extend(TableName::of(namespace));
        look.is_adopted = !self.is_settled;
        self.scopes.insert(namespace, scope);
        Ok(())
    }
}

/// Why [`Tables::wait`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody else changed tables: [`Tables::settle`] is to be called.
    Drifted,
    /// Conntrack was flushed somewhere, or could not be.
    Flushed,
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn drifted(poller: Option<&Poller<Namespace>>) {
    let failed = match poller {
        Some(poller) => poller.wait().await.err(),
        None => std::future::pending().await,
    };
    if let Some(error) = failed {
        tracing::warn!(%error, "changes of tables cannot be waited for; audits go on");
        std::future::pending().await
    }
}

/// Services, each derived once however many namespaces ask.
pub struct Services<'a> {
    overlay: &'a NodeOverlay,
    derived: BTreeMap<ServiceKey, Option<Arc<VirtualService>>>,
}

impl<'a> Services<'a> {
    fn new(overlay: &'a NodeOverlay) -> Self {
        Self { overlay, derived: BTreeMap::new() }
    }

    /// All objects.
    pub fn overlay(&self) -> &'a NodeOverlay {
        self.overlay
    }

    /// A service on a network, if it is there and has a virtual address.
    pub fn get(&mut self, key: ServiceKey) -> Option<Arc<VirtualService>> {
        let overlay = self.overlay;
        self.derived.entry(key).or_insert_with(|| virtual_service(overlay, key).map(Arc::new)).clone()
    }
}
