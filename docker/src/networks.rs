//! The cluster's networks, for objects that name them or say how long the prefix of an
//! address is.

use skep_model::NetworkId;
use skep_model::network::Network;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Networks by id.
#[derive(Clone, Debug, Default)]
pub struct Networks(BTreeMap<NetworkId, Network>);

impl Networks {
    /// The network itself.
    pub fn get(&self, id: NetworkId) -> Option<&Network> {
        self.0.get(&id)
    }

    /// The name of a network that a service asks for; what it asks for where there
    /// is no such network.
    pub fn name<'a>(&'a self, target: &'a str) -> &'a str {
        let network = self.0.values().find(|network| network.id.as_str() == target);
        network.map_or(target, |network| &network.spec.annotations.name)
    }

    /// `address/prefix` of an address on a network.
    pub fn with_prefix(&self, id: NetworkId, address: IpAddr) -> String {
        self.0.get(&id).map_or_else(|| address.to_string(), |network| with_prefix(network, address))
    }
}

/// `address/prefix` of an address on this network; the address alone if it is in no subnet of it.
pub(crate) fn with_prefix(network: &Network, address: IpAddr) -> String {
    match network.plan.pools.iter().find(|pool| pool.subnet.contains(&address)) {
        Some(pool) => format!("{address}/{}", pool.subnet.prefix_len()),
        None => address.to_string(),
    }
}

impl From<Vec<Network>> for Networks {
    fn from(networks: Vec<Network>) -> Self {
        Self(networks.into_iter().map(|network| (network.id, network)).collect())
    }
}
