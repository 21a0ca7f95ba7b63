//! Connections to the other managers, one per address.

use skep_identity::tls::{Connector, TlsIdentity};
use std::collections::BTreeMap;
use std::sync::Mutex;
use tonic::transport::{Channel, Endpoint};

/// The connections. They are made when first used and mend themselves.
pub struct Channels {
    connector: Connector,
    open: Mutex<BTreeMap<String, Channel>>,
}

impl Channels {
    /// Connections as the node that `identity` says.
    pub fn new(identity: TlsIdentity) -> Self {
        Self { connector: Connector::member(identity), open: Mutex::default() }
    }

    /// The connection to `host:port`.
    pub fn to(&self, address: &str) -> Channel {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(channel) = open.get(address) {
            return channel.clone();
        }
        let channel = self.connector.channel(address).unwrap_or_else(|error| {
            tracing::error!(%address, %error, "the address of a manager is malformed");
            // Nothing listens there: every call over it fails at once.
            Endpoint::from_static("http://[::1]:0").connect_lazy()
        });
        open.insert(address.into(), channel.clone());
        channel
    }
}
