//! TLS in both directions, with identities that change while it runs.
//!
//! [`TlsIdentity`] holds what a node shows and whom it trusts; a renewal or a
//! change of roots swaps both sides at once, and connections made before stay.
//! [`accept`] turns a listener into a stream of authenticated connections;
//! [`connect`] makes channels to managers. Sessions are never resumed: a resumed
//! session would skip the check of a certificate that has expired or was replaced.

pub mod accept;
pub mod connect;
mod identity;

use std::time::Duration;

use tonic::transport::Endpoint;

pub use accept::{AcceptLimits, Connections, Incoming, PeerInfo, PeerStream};
pub use connect::{Connector, PinnedRoot, RootFetch};
pub use identity::{Material, TlsError, TlsIdentity};

/// The longest a connection attempt may take, name lookup and handshake included.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The longest a client may take for its handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// After this much silence on an HTTP/2 connection a ping is sent.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection whose ping is not answered within this time is closed.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Every channel's deadlines and keep-alive, in this one place.
pub fn with_deadlines(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Every server's keep-alive, the other side of [`with_deadlines`].
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}
