//! What one session was told of the overlay networks.
//!
//! A session remembers the networks that it was told of and, for what changed
//! since, what it was told: all else it was told as it is now. So nothing is kept
//! for each object of each session, and the difference costs what changed, or
//! what is on a network that the node joined or left.

use super::overlay::{Key, Overlay, OverlayObject};
use skep_model::overlay::{EndpointId, NodeService, OverlayChange};
use skep_model::{NetworkId, NodeId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One session's side.
#[derive(Debug, Default)]
pub(crate) struct SessionView {
    is_begun: bool,
    /// The networks that it was told of.
    networks: BTreeSet<NetworkId>,
    /// What changed since it was told, as it was told.
    before: BTreeMap<Key, Option<OverlayObject>>,
}

/// What is new to a session, in the order in which objects need each other.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) puts: Vec<OverlayChange>,
    pub(crate) removals: Vec<OverlayChange>,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removals.is_empty()
    }
}

impl SessionView {
    /// Something changed; whether the session has to be told.
    pub(crate) fn touch(&mut self, key: Key, old: Option<&OverlayObject>, new: Option<&OverlayObject>) -> bool {
        let has = |object: &OverlayObject| match object {
            OverlayObject::Peer(_) => true,
            OverlayObject::Network(network) => self.networks.contains(&network.id),
            OverlayObject::Service(service) => service.networks.iter().any(|part| self.networks.contains(&part.network)),
            OverlayObject::Endpoint(endpoint) => self.networks.contains(&endpoint.id.network),
        };
        let is_concerned = self.is_begun && [old, new].into_iter().flatten().any(has);
        if is_concerned {
            self.before.entry(key).or_insert_with(|| old.cloned());
        }
        is_concerned
    }

    /// The difference between what it was told and what there is.
    pub(crate) fn next(&mut self, overlay: &Overlay, node: NodeId) -> Delta {
        let after = overlay.networks_of(node);
        let difference = Difference { overlay, told: &self.networks, after: &after, before: &self.before };
        let mut delta = Delta::default();
        difference.peers(self.is_begun, &mut delta);
        difference.networks(&mut delta);
        difference.services(&mut delta);
        difference.endpoints(&mut delta);
        delta.removals.sort_by_key(removal_rank);
        self.networks = after;
        self.before.clear();
        self.is_begun = true;
        delta
    }
}

/// Removals go the other way round: first what needs the others.
fn removal_rank(change: &OverlayChange) -> u8 {
    match change {
        OverlayChange::RemoveEndpoint(_) => 0,
        OverlayChange::RemoveService(_) => 1,
        OverlayChange::RemoveNetwork(_) => 2,
        _ => 3,
    }
}

struct Difference<'a> {
    overlay: &'a Overlay,
    told: &'a BTreeSet<NetworkId>,
    after: &'a BTreeSet<NetworkId>,
    before: &'a BTreeMap<Key, Option<OverlayObject>>,
}

impl Difference<'_> {
    fn joined(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.after.difference(self.told).copied()
    }

    fn left(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.told.difference(self.after).copied()
    }

    fn stays_on(&self, network: NetworkId) -> bool {
        self.told.contains(&network) && self.after.contains(&network)
    }

    fn peers(&self, is_begun: bool, delta: &mut Delta) {
        if !is_begun {
            delta.puts.extend(self.overlay.peers().map(|peer| OverlayChange::PutPeer((**peer).clone())));
            return;
        }
        for (key, old) in self.before {
            let Key::Peer(id) = key else { continue };
            match self.overlay.peer(*id) {
                Some(peer) if *old == Some(OverlayObject::Peer(peer.clone())) => {}
                Some(peer) => delta.puts.push(OverlayChange::PutPeer((**peer).clone())),
                None if old.is_some() => delta.removals.push(OverlayChange::RemovePeer(*id)),
                None => {}
            }
        }
    }

    fn networks(&self, delta: &mut Delta) {
        let changed = self.before.iter().filter_map(|(key, old)| match key {
            Key::Network(id) if self.stays_on(*id) => {
                let now = self.overlay.network(*id).cloned().map(OverlayObject::Network);
                (now != *old).then_some(*id)
            }
            _ => None,
        });
        let put = self.joined().chain(changed).filter_map(|id| self.overlay.network(id));
        delta.puts.extend(put.map(|network| OverlayChange::PutNetwork((**network).clone())));
        delta.removals.extend(self.left().map(OverlayChange::RemoveNetwork));
    }

    fn services(&self, delta: &mut Delta) {
        let mut candidates: BTreeSet<ServiceId> =
            self.before.keys().filter_map(|key| if let Key::Service(id) = key { Some(*id) } else { None }).collect();
        candidates.extend(self.joined().chain(self.left()).flat_map(|network| self.overlay.services_on(network)));
        for id in candidates {
            let now = self.overlay.service(id);
            let was = match self.before.get(&Key::Service(id)) {
                Some(Some(OverlayObject::Service(old))) => Some(old),
                Some(_) => None,
                None => now,
            };
            let (was, now) = (restricted(was, self.told), restricted(now, self.after));
            match now {
                Some(now) if was.as_ref() == Some(&now) => {}
                Some(now) => delta.puts.push(OverlayChange::PutService(now)),
                None if was.is_some() => delta.removals.push(OverlayChange::RemoveService(id)),
                None => {}
            }
        }
    }

    fn endpoints(&self, delta: &mut Delta) {
        for network in self.joined() {
            let all = self.overlay.endpoints_on(network);
            delta.puts.extend(all.map(|endpoint| OverlayChange::PutEndpoint((**endpoint).clone())));
        }
        for network in self.left() {
            let changed = self.before.keys().filter_map(|key| match key {
                Key::Endpoint(id) if id.network == network => Some(*id),
                _ => None,
            });
            let ids: BTreeSet<EndpointId> =
                self.overlay.endpoints_on(network).map(|endpoint| endpoint.id).chain(changed).collect();
            // What appeared since was never told.
            let was_told = |id: &EndpointId| self.before.get(&Key::Endpoint(*id)).is_none_or(Option::is_some);
            delta.removals.extend(ids.into_iter().filter(was_told).map(OverlayChange::RemoveEndpoint));
        }
        for (key, old) in self.before {
            let Key::Endpoint(id) = key else { continue };
            if !self.stays_on(id.network) {
                continue;
            }
            match self.overlay.endpoint(*id) {
                Some(endpoint) if *old == Some(OverlayObject::Endpoint(endpoint.clone())) => {}
                Some(endpoint) => delta.puts.push(OverlayChange::PutEndpoint((**endpoint).clone())),
                None if old.is_some() => delta.removals.push(OverlayChange::RemoveEndpoint(*id)),
                None => {}
            }
        }
    }
}

/// A service as it is on these networks; nothing if it is on none.
fn restricted(service: Option<&Arc<NodeService>>, networks: &BTreeSet<NetworkId>) -> Option<NodeService> {
    let service = service?;
    let parts: Vec<_> = service.networks.iter().filter(|part| networks.contains(&part.network)).cloned().collect();
    (!parts.is_empty()).then(|| NodeService { networks: parts, ..NodeService::clone(service) })
}
