//! Gives a service its virtual addresses: one of each family on each of its
//! networks, unless its names are answered with the addresses of its tasks.
//!
//! They stay while the service is on the network, whatever becomes of its tasks;
//! on one that it leaves until the last task there has ended, so that clients
//! still find those.

use crate::leader::turn::addresses::no_address;
use crate::leader::turn::draft::Draft;
use crate::rules::wanted::Wanted;
use skep_model::NetworkId;
use skep_model::endpoint::{Addresses, EndpointMode};
use std::collections::{BTreeMap, BTreeSet};

/// Settles the virtual addresses of the draft's service. If there is none left on
/// a network, no task of it can have one there either: the draft remembers why.
pub(crate) fn settle(draft: &mut Draft<'_>, wanted: &Wanted) {
    if wanted.service.spec.spec.endpoint_spec.mode == EndpointMode::Dnsrr {
        draft.set_virtual_addresses(BTreeMap::new());
        return;
    }
    let mut own = draft.virtual_addresses().clone();
    let asked: BTreeSet<NetworkId> = wanted.networks.iter().map(|wanted| wanted.network).collect();
    let in_use: BTreeSet<NetworkId> = draft
        .tasks()
        .filter(|task| !task.status.state.is_final())
        .flat_map(|task| task.networks.iter().map(|attachment| attachment.network))
        .collect();
    own.retain(|network, _| draft.store.network(*network).is_some() && (asked.contains(network) || in_use.contains(network)));
    for id in asked.iter().filter(|id| !own.contains_key(id)).copied().collect::<Vec<_>>() {
        let Some(network) = draft.store.network(id) else { continue };
        match draft.addresses.give(network) {
            Some(addresses) => drop(own.insert(id, Addresses { addresses })),
            None => draft.exhausted = Some(no_address(network)),
        }
    }
    draft.set_virtual_addresses(own);
}
