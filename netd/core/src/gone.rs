//! Which backends connections may not go on to any more.
//!
//! Rules are asked for a connection's first packet only; what is established goes
//! on to its backend until it is forgotten. A task that is to stop keeps its
//! streams: they are drained. Its datagrams move at once, as they are no
//! connection to anybody but the kernel. When it is gone, or its node, streams must
//! not go on into nowhere either.

use crate::overlay::Overlay;
use crate::table::ServiceKey;
use skep_model::NetworkId;
use skep_model::endpoint::Transport;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What connections are to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    /// The network that the backend was on.
    pub network: NetworkId,
    /// Its address there.
    pub backend: IpAddr,
    /// Only connections of this protocol; all when `None`.
    pub transport: Option<Transport>,
}

/// The backends of every service on every network, as they were last seen: whether
/// they were published, by address.
#[derive(Clone, Debug, Default)]
pub struct Backends {
    seen: BTreeMap<ServiceKey, BTreeMap<IpAddr, bool>>,
}

impl Backends {
    /// Looks at a service, and tells who is gone since the last look.
    pub fn look(&mut self, overlay: &Overlay, key: ServiceKey) -> Vec<Gone> {
        let (network, service) = key;
        let there = overlay.endpoints_of(network, service).filter(|endpoint| overlay.peer(endpoint.node).is_some());
        let now: BTreeMap<IpAddr, bool> =
            there.flat_map(|endpoint| endpoint.addresses.iter().map(|address| (*address, endpoint.is_published))).collect();
        let before = self.seen.remove(&key).unwrap_or_default();
        let gone = before.into_iter().filter_map(|(backend, was_published)| match now.get(&backend) {
            None => Some(Gone { network, backend, transport: None }),
            Some(false) if was_published => Some(Gone { network, backend, transport: Some(Transport::Udp) }),
            Some(_) => None,
        });
        let gone = gone.collect();
        if !now.is_empty() {
            self.seen.insert(key, now);
        }
        gone
    }
}
