//! One namespace: its sockets, what its tables hold by what we wrote, and how they
//! are brought to hold something else.

use super::Services;
use crate::nft::conntrack::{self, DnatMatch};
use crate::nft::firewall::others;
use crate::nft::monitor::{Event, Monitor};
use crate::nft::{Error, Socket, Transaction};
use crate::nft::{ingress, write};
use skep_model::endpoint::Transport;
use skep_model::{ServiceId, TaskId};
use skep_netd_core::{
    Content, IngressService, ListeningPort, Name, Namespace, NodeOverlay, PortKey, ServiceKey, TableName, Vanished,
    VirtualService, ingress_service, table_content,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Where to look in one namespace, and which backends to flush from conntrack there.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Tables that may differ in anything.
    pub tables: BTreeSet<TableName>,
    /// Of tables that are made of services, only these may differ.
    pub services: BTreeSet<ServiceKey>,
    /// Backends that connections must not go on to.
    pub vanished: BTreeSet<Vanished>,
    /// It was there before this process: nobody knows yet what connections there are.
    pub is_adopted: bool,
}

/// What tables hold that does not follow from what the node was told.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Of a task: where its names are answered.
    pub names: Option<&'a Content>,
    /// Of the node: the ports that its processes have.
    pub listening: &'a BTreeSet<ListeningPort>,
}

/// A table as we wrote it.
#[derive(Debug)]
struct Held {
    content: Content,
    /// The kernel's view of it, taken when it was audited; none since we last
    /// changed it.
    fingerprint: Option<u64>,
}

/// A namespace that is open.
pub struct NamespaceTables {
    namespace: Namespace,
    socket: Socket,
    monitor: Monitor,
    /// Orders backends: the id of the task or node.
    seed: String,
    held: BTreeMap<TableName, Held>,
    /// Tables of which only the kernel knows what they hold; whether that is
    /// somebody else's doing, and whether only an audit found it.
    unknown: BTreeMap<TableName, Option<ByAudit>>,
    /// What DNAT rules match that did not before: older entries of UDP are to be flushed.
    new_matches: BTreeSet<DnatMatch>,
    /// Somebody else changed rules since the last look at other firewalls.
    others_changed: bool,
    /// The bridges that other firewalls were made to accept.
    accepted: Vec<Name>,
    /// Two services ask for one address: who has it depends on all of them.
    is_disputed: bool,
}

/// Whether only an audit found something.
type ByAudit = bool;

/// What became of the tables.
#[derive(Debug, PartialEq, Eq)]
pub struct Brought {
    /// Those that others had changed.
    pub repaired: Vec<(TableName, ByAudit)>,
    /// Backends that no port in mode `host` has any more.
    pub left: BTreeSet<IpAddr>,
}

impl NamespaceTables {
    /// Opens the sockets; none = in the namespace that we are in.
    pub fn open(namespace: Namespace, fd: Option<BorrowedFd<'_>>, seed: String) -> Result<Self, Error> {
        let (socket, monitor) = match fd {
            Some(fd) => (Socket::open_in(fd)?, Monitor::open_in(fd)?),
            None => (Socket::open()?, Monitor::open()?),
        };
        let unknown = TableName::of(namespace).iter().map(|table| (*table, None)).collect();
        Ok(Self {
            namespace,
            socket,
            monitor,
            seed,
            held: BTreeMap::new(),
            unknown,
            new_matches: BTreeSet::new(),
            others_changed: true,
            accepted: Vec::new(),
            is_disputed: false,
        })
    }

    /// Whether any connection is tracked in the namespace.
    pub fn has_connections(&mut self) -> Result<bool, Error> {
        Ok(conntrack::count(&mut self.socket)? > 0)
    }

    /// Has other firewalls accept our bridges, if any of them may have changed; answers
    /// with what they block, a sentence each, and nothing if nothing changed.
    pub fn settle_other_firewalls(&mut self, bridges: &[Name]) -> Result<Option<Vec<String>>, Error> {
        if !std::mem::take(&mut self.others_changed) && self.accepted == bridges {
            return Ok(None);
        }
        let blocked = others::settle(&mut self.socket, bridges).inspect_err(|_| self.others_changed = true)?;
        self.accepted = bridges.to_vec();
        Ok(Some(blocked))
    }

    /// For events.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Takes the events that have arrived; answers with the tables that somebody
    /// else touched.
    pub fn listen(&mut self) -> Result<BTreeSet<TableName>, Error> {
        let mut drifted = BTreeSet::new();
        while let Some(event) = self.monitor.hear()? {
            // Whoever else changes anything may be a firewall.
            self.others_changed |= !matches!(&event, Event::Committed(committed) if committed.port == self.socket.port());
            match event {
                Event::Committed(committed) if committed.port == self.socket.port() => {}
                Event::Committed(committed) => {
                    let is_touched = |table: &&TableName| committed.tables.contains(table.as_str());
                    let ours: Vec<TableName> = TableName::of(self.namespace).iter().filter(is_touched).copied().collect();
                    if !ours.is_empty() {
                        tracing::info!(namespace = %self.namespace, process = committed.process, "somebody else changed our tables");
                    }
                    ours.iter().for_each(|table| self.drift(*table, false));
                    drifted.extend(ours);
                }
                Event::Lost => drifted.extend(self.after_loss()?),
            }
        }
        Ok(drifted)
    }

    /// Events were lost: what was not changed since its last audit tells by its
    /// fingerprint, and the rest is written anew.
    fn after_loss(&mut self) -> Result<BTreeSet<TableName>, Error> {
        let mut drifted = BTreeSet::new();
        for table in TableName::of(self.namespace) {
            let known = self.held.get(table).map(|held| held.fingerprint);
            let is_as_known = match known {
                Some(Some(fingerprint)) => self.socket.fingerprint(&write::named(*table))? == Some(fingerprint),
                Some(None) => {
                    self.unknown.entry(*table).or_insert(None);
                    drifted.insert(*table);
                    true
                }
                None => self.unknown.contains_key(table) || self.socket.fingerprint(&write::named(*table))?.is_none(),
            };
            if !is_as_known {
                self.drift(*table, false);
                drifted.insert(*table);
            }
        }
        Ok(drifted)
    }

    /// Compares all tables with what they were; answers with those that differ.
    pub fn audit(&mut self, tables: &[TableName]) -> Result<BTreeSet<TableName>, Error> {
        let mut drifted = BTreeSet::new();
        for table in tables.iter().filter(|table| !self.unknown.contains_key(table)).copied().collect::<Vec<_>>() {
            let seen = self.socket.fingerprint(&write::named(table))?;
            let is_right = match (self.held.get_mut(&table), seen) {
                (None, seen) => seen.is_none(),
                (Some(_), None) => false,
                // No event told of a change since we wrote it.
                (Some(held), Some(seen)) => *held.fingerprint.get_or_insert(seen) == seen,
            };
            if !is_right {
                self.drift(table, true);
                drifted.insert(table);
            }
        }
        Ok(drifted)
    }

    fn drift(&mut self, table: TableName, by_audit: ByAudit) {
        self.held.remove(&table);
        self.unknown.entry(table).or_insert(Some(by_audit)).get_or_insert(by_audit);
    }

    /// Brings the tables in line.
    pub fn bring(&mut self, look: &Look, found: Found<'_>, services: &mut Services<'_>) -> Result<Brought, Error> {
        let before = self.host_addresses();
        match self.write(look, found, services) {
            Ok(()) => {}
            // Somebody was here and we have not heard of it yet: then write anew
            // what cannot be changed as we thought.
            Err(Error::Refused { .. }) if self.forget_held(look) => self.write(look, found, services)?,
            Err(error) => return Err(error),
        }
        let left = before.difference(&self.host_addresses()).copied().collect();
        let repaired = self.unknown.iter().filter_map(|(table, drift)| Some((*table, (*drift)?))).collect();
        self.unknown.clear();
        Ok(Brought { repaired, left })
    }

    /// Gives up what is known of the tables in a look; whether anything was known.
    fn forget_held(&mut self, look: &Look) -> bool {
        let of_services = TableName::OF_SERVICES.iter().filter(|_| !look.services.is_empty());
        let tables: BTreeSet<TableName> = look.tables.iter().chain(of_services).copied().collect();
        let known: Vec<TableName> = tables.into_iter().filter(|table| self.held.contains_key(table)).collect();
        known.iter().for_each(|table| self.drift(*table, false));
        !known.is_empty()
    }

    /// Commits the difference, and notes what the tables hold from then on.
    fn write(&mut self, look: &Look, found: Found<'_>, services: &mut Services<'_>) -> Result<(), Error> {
        let mut wholly: BTreeSet<TableName> = look.tables.iter().chain(self.unknown.keys()).copied().collect();
        let mut steps = Vec::new();
        for table in TableName::OF_SERVICES.into_iter().filter(|table| TableName::of(self.namespace).contains(table)) {
            if look.services.is_empty() || wholly.contains(&table) {
                continue;
            }
            match self.part(table, look, services) {
                Some(step) => steps.push(step),
                None => drop(wholly.insert(table)),
            }
        }
        steps.extend(wholly.into_iter().filter_map(|table| self.whole(table, found, services.overlay())));
        let mut transaction = Transaction::new();
        for step in &mut steps {
            transaction.append(std::mem::take(&mut step.changes));
        }
        if !transaction.edits().is_empty() {
            self.socket.commit(&transaction)?;
        }
        let new: BTreeSet<DnatMatch> = steps.iter().flat_map(|step| self.new_matches(step)).collect();
        steps.into_iter().for_each(|step| self.note(step.table, step.after));
        self.new_matches.extend(new);
        conntrack::flush_bypassing(&mut self.socket, &self.new_matches)?;
        self.new_matches.clear();
        Ok(())
    }

    /// The step for a whole table, if there is anything to do.
    fn whole(&self, table: TableName, found: Found<'_>, overlay: &NodeOverlay) -> Option<Step> {
        let wanted = match table {
            TableName::Names => found.names.cloned(),
            _ => table_content(overlay, self.namespace, table),
        };
        let wanted = wanted.map(|content| match content {
            Content::Ingress { services, .. } => Content::Ingress { services, listening: found.listening.clone() },
            other => other,
        });
        let (wanted, is_disputed) = settle_disputes(wanted);
        let changes = match (self.held.get(&table), &wanted) {
            (None, None) if !self.unknown.contains_key(&table) => return None,
            (Some(held), Some(wanted)) if held.content == *wanted => return None,
            (Some(held), Some(wanted)) => write::difference(&self.seed, &held.content, wanted),
            (None, Some(wanted)) => write::whole(&self.seed, wanted),
            (_, None) => write::nothing(table),
        };
        Some(Step { table, changes, after: After::All { content: wanted, is_disputed } })
    }

    /// The step for some services of a table; none = that is not enough.
    fn part(&self, table: TableName, look: &Look, services: &mut Services<'_>) -> Option<Step> {
        match (self.namespace, &self.held.get(&table)?.content) {
            (Namespace::Task(task), Content::Services(held)) if !self.is_disputed => {
                self.services_part(task, held, look, services)
            }
            (Namespace::Node, Content::Ingress { services: held, .. }) => self.ports_part(held, look, services.overlay()),
            _ => None,
        }
    }

    fn services_part(
        &self,
        task: TaskId,
        held: &BTreeMap<ServiceKey, Arc<VirtualService>>,
        look: &Look,
        services: &mut Services<'_>,
    ) -> Option<Step> {
        let overlay = services.overlay();
        let is_visible = |key: &ServiceKey| overlay.visible_to(task).any(|(_, network)| network.id == key.0);
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        for key in &look.services {
            let before = held.get(key);
            let now = is_visible(key).then(|| services.get(*key)).flatten();
            if let Some(now) = &now
                && before.is_none_or(|before| before.addresses != now.addresses)
                && held.iter().any(|(other, service)| other != key && shares_address(service, now))
            {
                return None;
            }
            old.extend(before.map(|before| (*key, Arc::clone(before))));
            new.extend(now.map(|now| (*key, now)));
        }
        let changes = write::services_difference(&self.seed, &old, &new);
        let gone = old.into_keys().filter(|key| !new.contains_key(key)).collect();
        Some(Step { table: TableName::Services, changes, after: After::Services { gone, new } })
    }

    fn ports_part(&self, held: &BTreeMap<ServiceId, IngressService>, look: &Look, overlay: &NodeOverlay) -> Option<Step> {
        let ids: BTreeSet<ServiceId> = look.services.iter().map(|(_, service)| *service).collect();
        let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
        for id in ids {
            let (before, now) = (held.get(&id), ingress_service(overlay, id));
            if let Some(now) = &now
                && before.is_none_or(|before| before.ports != now.ports)
                && held.iter().any(|(other, found)| *other != id && now.ports.keys().any(|key| found.ports.contains_key(key)))
            {
                // Who has a port that two ask for depends on all of them.
                return None;
            }
            old.extend(before.map(|before| (id, before.clone())));
            new.extend(now.map(|now| (id, now)));
        }
        let changes = ingress::difference(&self.seed, &old, &new);
        let gone = old.into_keys().filter(|id| !new.contains_key(id)).collect();
        Some(Step { table: TableName::Ingress, changes, after: After::Ports { gone, new } })
    }

    /// What DNAT rules match after a step and did not before.
    fn new_matches(&self, step: &Step) -> BTreeSet<DnatMatch> {
        let held = self.held.get(&step.table).map(|held| &held.content);
        let (after, before) = match (&step.after, held) {
            (After::All { content, .. }, held) => {
                (content.as_ref().map(udp_matches).unwrap_or_default(), held.map(udp_matches).unwrap_or_default())
            }
            (After::Services { new, .. }, Some(Content::Services(held))) => {
                let old = new.keys().filter_map(|key| held.get(key));
                (
                    new.values().flat_map(|service| udp_matches_of(service)).collect(),
                    old.flat_map(|service| udp_matches_of(service)).collect(),
                )
            }
            (After::Ports { new, .. }, Some(Content::Ingress { services: held, .. })) => {
                let old = new.keys().filter_map(|id| held.get(id));
                let ports = |service: &IngressService| service.ports.keys().filter_map(udp_match).collect::<Vec<_>>();
                (new.values().flat_map(ports).collect(), old.flat_map(ports).collect())
            }
            (After::Services { .. } | After::Ports { .. }, _) => (BTreeSet::new(), BTreeSet::new()),
        };
        after.difference(&before).copied().collect()
    }

    fn note(&mut self, table: TableName, after: After) {
        let held = match after {
            After::All { content, is_disputed } => {
                if table == TableName::Services {
                    self.is_disputed = is_disputed;
                }
                self.held.remove(&table);
                self.held.extend(content.map(|content| (table, Held { content, fingerprint: None })));
                return;
            }
            After::Services { .. } | After::Ports { .. } => self.held.get_mut(&table),
        };
        match (held, after) {
            (Some(Held { content: Content::Services(held), fingerprint }), After::Services { gone, new }) => {
                *fingerprint = None;
                gone.iter().for_each(|key| drop(held.remove(key)));
                held.extend(new);
            }
            (Some(Held { content: Content::Ingress { services: held, .. }, fingerprint }), After::Ports { gone, new }) => {
                *fingerprint = None;
                gone.iter().for_each(|id| drop(held.remove(id)));
                held.extend(new);
            }
            _ => {}
        }
    }

    /// The backends of ports in mode `host`.
    fn host_addresses(&self) -> BTreeSet<IpAddr> {
        self.held.get(&TableName::HostPorts).map(|held| host_addresses(&held.content)).unwrap_or_default()
    }
}

/// The backends of ports in mode `host`.
pub fn host_addresses(content: &Content) -> BTreeSet<IpAddr> {
    match content {
        Content::HostPorts { ports, .. } => ports.values().flat_map(|port| port.addresses.iter().copied()).collect(),
        _ => BTreeSet::new(),
    }
}

/// What a table's DNAT rules match of UDP.
fn udp_matches(content: &Content) -> BTreeSet<DnatMatch> {
    match content {
        Content::Services(services) => services.values().flat_map(|service| udp_matches_of(service)).collect(),
        Content::Ingress { services, listening } => {
            let listening: BTreeSet<PortKey> = listening.iter().map(|listening| listening.key).collect();
            let ports = services.values().flat_map(|service| service.ports.keys());
            ports.filter(|key| !listening.contains(key)).filter_map(udp_match).collect()
        }
        Content::HostPorts { ports, .. } => ports.keys().filter_map(udp_match).collect(),
        _ => BTreeSet::new(),
    }
}

fn udp_matches_of(service: &VirtualService) -> impl Iterator<Item = DnatMatch> + '_ {
    service.addresses.iter().copied().map(DnatMatch::Address)
}

fn udp_match((transport, port): &PortKey) -> Option<DnatMatch> {
    (*transport == Transport::Udp).then_some(DnatMatch::Port(*port))
}

/// A part of a transaction, and what is known once it is committed.
struct Step {
    table: TableName,
    changes: Transaction,
    after: After,
}

enum After {
    All { content: Option<Content>, is_disputed: bool },
    Services { gone: BTreeSet<ServiceKey>, new: BTreeMap<ServiceKey, Arc<VirtualService>> },
    Ports { gone: BTreeSet<ServiceId>, new: BTreeMap<ServiceId, IngressService> },
}

fn shares_address(one: &VirtualService, other: &VirtualService) -> bool {
    one.addresses.iter().any(|address| other.addresses.contains(address))
}

/// Of two services that ask for one address, as for a moment when it passes from
/// one to the other, the first has it. Also whether there were any.
fn settle_disputes(wanted: Option<Content>) -> (Option<Content>, bool) {
    let Some(Content::Services(mut services)) = wanted else { return (wanted, false) };
    let (mut taken, mut is_disputed) = (BTreeSet::new(), false);
    for service in services.values_mut() {
        let own: Vec<IpAddr> = service.addresses.iter().copied().filter(|address| taken.insert(*address)).collect();
        if own.len() < service.addresses.len() {
            is_disputed = true;
            Arc::make_mut(service).addresses = own;
        }
    }
    services.retain(|_, service| !service.addresses.is_empty());
    (Some(Content::Services(services)), is_disputed)
}
