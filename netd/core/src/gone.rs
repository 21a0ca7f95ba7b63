//! Which backends are to be flushed from conntrack: connections may not go on to them.
//!
//! NAT rules are asked for a connection's first packet only; what is established goes
//! on to its backend until its conntrack entry is deleted. A task that is to stop keeps its
//! streams: they are drained. Its datagrams move at once, as they are no
//! connection to anybody but the kernel. When it is gone, or its node, streams must
//! not go on into nowhere either.
//!
//! A flush takes its time, and a backend may be back before it is done, as when
//! a node was only thought to be down. Then what was opened to it stays: whoever is
//! there answers for itself, and a connection opened since must not be cut.

use crate::overlay::NodeOverlay;
use crate::table::ServiceKey;
use skep_model::NetworkId;
use skep_model::endpoint::Transport;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Which conntrack entries are to be deleted: those with DNAT to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vanished {
    /// The address that DNAT gave connections to.
    pub backend: IpAddr,
    /// Only connections of this protocol; all when `None`.
    pub transport: Option<Transport>,
}

impl Vanished {
    /// Takes from what is to be deleted what may stay, now that a backend is there
    /// (again). One that is not published keeps its streams, and no datagrams.
    pub fn spare(vanished: &mut BTreeSet<Self>, backend: IpAddr, is_published: bool) {
        let datagrams = Self { backend, transport: Some(Transport::Udp) };
        let had_all = vanished.remove(&Self { backend, transport: None });
        if is_published {
            vanished.remove(&datagrams);
        } else if had_all {
            vanished.insert(datagrams);
        }
    }
}

/// A backend that connections may go on to (again).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Came {
    /// Its address.
    pub backend: IpAddr,
    /// Whether it is given new ones.
    pub is_published: bool,
}

/// What became of a network's backends since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Those that connections may not go on to.
    pub gone: BTreeSet<Vanished>,
    /// Those that are new, or back. None of them is gone, also if it was another
    /// service's before.
    pub came: BTreeSet<Came>,
}

/// The backends of every service on every network, as they were last seen: whether
/// they were published, by address.
#[derive(Clone, Debug, Default)]
pub struct Backends {
    seen: BTreeMap<ServiceKey, BTreeMap<IpAddr, bool>>,
}

impl Backends {
    /// Looks at services, and tells by network what became of their backends since
    /// the last look.
    pub fn look(&mut self, overlay: &NodeOverlay, keys: impl IntoIterator<Item = ServiceKey>) -> BTreeMap<NetworkId, Turnover> {
        let mut found = BTreeMap::<NetworkId, Turnover>::new();
        for key in keys {
            self.look_at(overlay, key, found.entry(key.0).or_default());
        }
        for Turnover { gone, came } in found.values_mut() {
            came.iter().for_each(|came| Vanished::spare(gone, came.backend, came.is_published));
        }
        found.retain(|_, turnover| *turnover != Turnover::default());
        found
    }

    fn look_at(&mut self, overlay: &NodeOverlay, key: ServiceKey, found: &mut Turnover) {
        let there = overlay.endpoints_of(key.0, key.1).filter(|endpoint| overlay.peer(endpoint.node).is_some());
        let now: BTreeMap<IpAddr, bool> =
            there.flat_map(|endpoint| endpoint.addresses.iter().map(|address| (*address, endpoint.is_published))).collect();
        let before = self.seen.remove(&key).unwrap_or_default();
        found.gone.extend(before.iter().filter_map(|(backend, was_published)| {
            let transport = match now.get(backend) {
                None => None,
                Some(false) if *was_published => Some(Transport::Udp),
                Some(_) => return None,
            };
            Some(Vanished { backend: *backend, transport })
        }));
        let came = now.iter().map(|(backend, is_published)| Came { backend: *backend, is_published: *is_published });
        let is_news = |came: &Came| before.get(&came.backend).is_none_or(|was| came.is_published && !was);
        found.came.extend(came.filter(is_news));
        if !now.is_empty() {
            self.seen.insert(key, now);
        }
    }
}
