//! The cluster's networks, for output that names them or says how long the prefix
//! of an address is.

use crate::client::Client;
use crate::failure::Failure;
use skep_model::NetworkId;
use skep_model::network::Network;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Networks by id.
#[derive(Clone, Debug, Default)]
pub struct Networks(BTreeMap<NetworkId, Network>);

impl Networks {
    /// Those of the cluster.
    pub async fn of(client: &Client) -> Result<Self, Failure> {
        Ok(super::all(client).await?.into())
    }

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
        let pools = self.0.get(&id).map(|network| &network.plan.pools[..]).unwrap_or_default();
        match pools.iter().find(|pool| pool.subnet.contains(&address)) {
            Some(pool) => format!("{address}/{}", pool.subnet.prefix_len()),
            None => address.to_string(),
        }
    }
}

impl From<Vec<Network>> for Networks {
    fn from(networks: Vec<Network>) -> Self {
        Self(networks.into_iter().map(|network| (network.id, network)).collect())
    }
}
