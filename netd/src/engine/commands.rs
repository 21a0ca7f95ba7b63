//! What the engine is told and asked: changes of what should be there, tasks'
//! namespaces, drains, probes, and how it goes.
//!
//! A change is noted and then settled with all others; what is asked for is answered
//! from what is known. Whoever asked may have gone: then nobody hears the answer,
//! and what was done stays.

use super::{Command, Engine, ObjectChange, Programmed, Status, owner};
use crate::drain::Drain;
use crate::probe::Plan;
use crate::settled::describe;
use skep_model::place::{Place as Owner, PlaceFault};
use skep_model::{NetworkId, TaskId};
use skep_netd_core::{Dirty, DirtyKeys, Key, Namespace, Object, ObjectKey, Place, Value, probes};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

impl Engine {
    /// Carries out one command.
    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Commit { stream, .. } if stream < self.taken.borrow().stream => {}
            Command::Commit { stream, version, is_complete, changes } => {
                for change in &changes {
                    if let ObjectChange::RemoveNamespace(task) = change {
                        self.end_drains(*task).await;
                    }
                }
                self.take_changes(is_complete, changes);
                self.taken.send_replace(Programmed { stream, version });
                self.settle(false).await;
            }
            Command::MakeNamespace(task, reply) => {
                let id = task.id;
                self.change(ObjectChange::Put(Object::Task(*task)));
                self.settle(false).await;
                let path = self.kernel.namespaces().path(id);
                // Whoever asked may have gone; the namespace stays for the next.
                let _ = reply.send(self.outcome(id).map(|()| path));
            }
            Command::RemoveNamespace(task, reply) => {
                self.end_drains(task).await;
                self.change(ObjectChange::RemoveNamespace(task));
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

    fn take_changes(&mut self, is_complete: bool, changes: Vec<ObjectChange>) {
        if is_complete {
            self.left_out.clear();
            let kept: BTreeSet<ObjectKey> = changes
                .iter()
                .filter_map(|change| match change {
                    ObjectChange::Put(object) => Some(object.key()),
                    ObjectChange::Remove(_) | ObjectChange::RemoveNamespace(_) | ObjectChange::LeaveOut(..) => None,
                })
                .collect();
            for key in self.desired.overlay().keys().difference(&kept) {
                self.change(ObjectChange::Remove(*key));
            }
        }
        for change in changes {
            self.change(change);
        }
        if is_complete && !self.is_complete {
            self.is_complete = true;
            // What was found at the start may differ without anybody's fault.
            let all: BTreeSet<Place> = self.desired.places().chain(self.mirror.places()).collect();
            self.ask(Dirty { places: all, keys: DirtyKeys::default() });
        }
    }

    fn change(&mut self, change: ObjectChange) {
        let key = match &change {
            ObjectChange::Put(object) => Some(object.key()),
            ObjectChange::Remove(key) => Some(*key),
            ObjectChange::RemoveNamespace(task) => Some(ObjectKey::Task(*task)),
            ObjectChange::LeaveOut(key, _) => *key,
        };
        self.left_out.remove(&key);
        if let ObjectChange::Put(Object::Service(service)) = &change {
            skep_host::process::panic_if_planted("netd", &service.name);
        }
        let derived = match change {
            ObjectChange::Put(object) => match self.desired.put(object) {
                Ok(derived) => derived,
                // One object that makes no sense costs nobody else anything.
                Err(error) => {
                    return self.leave_out(key, PlaceFault::blocking(key.map_or(Owner::Node, owner), error.to_string()));
                }
            },
            ObjectChange::Remove(key) => self.desired.remove(key),
            ObjectChange::RemoveNamespace(task) => self.desired.remove_namespace(task),
            ObjectChange::LeaveOut(key, fault) => return self.leave_out(key, fault),
        };
        self.ask(derived);
    }

    /// Goes on without an object, and names it.
    fn leave_out(&mut self, key: Option<ObjectKey>, fault: PlaceFault) {
        tracing::warn!(place = %fault.place, reason = fault.reason, "an object is left out");
        self.left_out.insert(key, fault);
        if let Some(key) = key {
            let derived = self.desired.remove(key);
            self.ask(derived);
        }
    }

    pub(super) fn ask(&mut self, dirty: Dirty) {
        self.asked.extend(&dirty.places);
        self.dirty.extend(dirty.places);
        self.dirty_keys.extend(dirty.keys);
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
            end.and_then(Value::other_end).is_some_and(|other| other.namespace == Namespace::Task(task))
        });
        place.namespace == Namespace::Task(task) || leads_there
    }

    /// Why nothing can be made on the underlay.
    pub(super) fn underlay_failure(&self) -> Option<String> {
        let overlay = self.desired.overlay();
        match (overlay.node(), overlay.capabilities().underlay_mtu()) {
            (Some(node), None) => Some(format!("no link of this node has the address {}", node.address)),
            _ => None,
        }
    }

    fn report(&self) -> Status {
        let failures = self.failures.values().chain(self.failures_after.values()).cloned();
        let failures = failures.chain(self.unreadable.values().cloned());
        let connections = self.tables.failures().map(|(namespace, text)| format!("{namespace}: {text}"));
        let failures = failures.chain(connections).chain(self.underlay_failure());
        let failures = failures.chain(self.tables.blocked().iter().cloned());
        let failures = failures.chain(self.tables.ports_in_use(self.desired.overlay()).into_values());
        Status {
            programmed_through: self.programmed.borrow().version,
            tasks: self.desired.namespaces().iter().copied().collect(),
            overruns: self.kernel.overruns,
            failures: failures.collect(),
            faults: self.published_faults.borrow().clone(),
            ..self.status.clone()
        }
    }
}
