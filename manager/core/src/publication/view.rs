//! What one session was told of the overlay networks.
//!
//! A session remembers the networks that it was told of and, for what changed
//! since, what it was told: all else it was told as it is now. So nothing is kept
//! for each object of each session, and the difference costs what changed, or
//! what is on a network that the node joined or left.

use super::overlay::{Key, Overlay, Thing};
use skep_model::overlay::{EndpointId, NodeService, OverlayChange};
use skep_model::{NetworkId, NodeId, ServiceId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One session's side.
#[derive(Debug, Default)]
pub(crate) struct Told {
    is_begun: bool,
    /// The networks that it was told of.
    networks: BTreeSet<NetworkId>,
    /// What changed since it was told, as it was told.
    before: BTreeMap<Key, Option<Thing>>,
}

/// What is new to a session, in the order in which things need each other.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) puts: Vec<OverlayChange>,
    pub(crate) removals: Vec<OverlayChange>,
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removals.is_empty()
    }
}

impl Told {
    /// Something changed; whether the session has to be told.
    pub(crate) fn touch(&mut self, key: Key, old: Option<&Thing>, new: Option<&Thing>) -> bool {
        let has = |thing: &Thing| match thing {
            Thing::Peer(_) => true,
            Thing::Network(network) => self.networks.contains(&network.id),
            Thing::Service(service) => service.networks.iter().any(|part| self.networks.contains(&part.network)),
            Thing::Endpoint(endpoint) => self.networks.contains(&endpoint.id.network),
        };
        let is_concerned = self.is_begun && [old, new].into_iter().flatten().any(has);
        if is_concerned {
            self.before.entry(key).or_insert_with(|| old.cloned());
        }
        is_concerned
    }

    /// The difference between what it was told and what there is.
    pub(crate) fn next(&mut self, overlay: &Overlay, node: NodeId) -> News {
        let after = overlay.networks_of(node);
        let difference = Difference { overlay, told: &self.networks, after: &after, before: &self.before };
        let mut news = News::default();
        difference.peers(self.is_begun, &mut news);
        difference.networks(&mut news);
        difference.services(&mut news);
        difference.endpoints(&mut news);
        news.removals.sort_by_key(removal_rank);
        self.networks = after;
        self.before.clear();
        self.is_begun = true;
        news
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
    before: &'a BTreeMap<Key, Option<Thing>>,
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

    fn peers(&self, is_begun: bool, news: &mut News) {
        if !is_begun {
            news.puts.extend(self.overlay.peers().map(|peer| OverlayChange::PutPeer((**peer).clone())));
            return;
        }
        for (key, old) in self.before {
            let Key::Peer(id) = key else { continue };
            match self.overlay.peer(*id) {
                Some(peer) if *old == Some(Thing::Peer(peer.clone())) => {}
                Some(peer) => news.puts.push(OverlayChange::PutPeer((**peer).clone())),
                None if old.is_some() => news.removals.push(OverlayChange::RemovePeer(*id)),
                None => {}
            }
        }
    }

    fn networks(&self, news: &mut News) {
        let changed = self.before.iter().filter_map(|(key, old)| match key {
            Key::Network(id) if self.stays_on(*id) => {
                let now = self.overlay.network(*id).cloned().map(Thing::Network);
                (now != *old).then_some(*id)
            }
            _ => None,
        });
        let put = self.joined().chain(changed).filter_map(|id| self.overlay.network(id));
        news.puts.extend(put.map(|network| OverlayChange::PutNetwork((**network).clone())));
        news.removals.extend(self.left().map(OverlayChange::RemoveNetwork));
    }

    fn services(&self, news: &mut News) {
        let mut candidates: BTreeSet<ServiceId> =
            self.before.keys().filter_map(|key| if let Key::Service(id) = key { Some(*id) } else { None }).collect();
        candidates.extend(self.joined().chain(self.left()).flat_map(|network| self.overlay.services_on(network)));
        for id in candidates {
            let now = self.overlay.service(id);
            let was = match self.before.get(&Key::Service(id)) {
                Some(Some(Thing::Service(old))) => Some(old),
                Some(_) => None,
                None => now,
            };
            let (was, now) = (restricted(was, self.told), restricted(now, self.after));
            match now {
                Some(now) if was.as_ref() == Some(&now) => {}
                Some(now) => news.puts.push(OverlayChange::PutService(now)),
                None if was.is_some() => news.removals.push(OverlayChange::RemoveService(id)),
                None => {}
            }
        }
    }

    fn endpoints(&self, news: &mut News) {
        for network in self.joined() {
            let all = self.overlay.endpoints_on(network);
            news.puts.extend(all.map(|endpoint| OverlayChange::PutEndpoint((**endpoint).clone())));
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
            news.removals.extend(ids.into_iter().filter(was_told).map(OverlayChange::RemoveEndpoint));
        }
        for (key, old) in self.before {
            let Key::Endpoint(id) = key else { continue };
            if !self.stays_on(id.network) {
                continue;
            }
            match self.overlay.endpoint(*id) {
                Some(endpoint) if *old == Some(Thing::Endpoint(endpoint.clone())) => {}
                Some(endpoint) => news.puts.push(OverlayChange::PutEndpoint((**endpoint).clone())),
                None if old.is_some() => news.removals.push(OverlayChange::RemoveEndpoint(*id)),
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
