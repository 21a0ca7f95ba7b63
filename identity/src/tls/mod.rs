//! TLS in both directions, with identities that change while it runs.
//!
//! [`TlsIdentity`] holds what a node shows and whom it trusts; a renewal or a
//! change of roots swaps both sides at once, and connections made before stay.
//! [`accept`] turns a listener into a stream of authenticated connections;
//! [`connect`] makes channels to managers. Sessions are never resumed: a resumed
//! session would skip the check of a certificate that has expired or was replaced.

pub mod accept;
mod clock;
pub mod connect;
pub mod connections;
mod identity;

use std::time::Duration;

use tonic::transport::Endpoint;

pub use accept::{Incoming, PeerStream};
pub use connect::{Connector, PinnedRoot, RootFetch};
pub use connections::{AcceptLimits, Connections, PeerInfo};
pub use identity::{Material, TlsError, TlsIdentity};

/// The longest a connection attempt may take, name lookup and handshake included.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The longest a client may take for its handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// After this much silence on an HTTP/2 connection a ping is sent.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection whose ping is not answered within this time is closed.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes ring the process's TLS provider. Every binary calls it first; a second
/// call, or a library that was faster, changes nothing.
pub fn install_crypto_provider() {
    let provider = rustls::crypto::ring::default_provider();
    if provider.install_default().is_err() {
        tracing::debug!("a TLS provider is already installed");
    }
}

/// Every channel's deadlines and keep-alive, in this one place.
pub fn with_deadlines(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Calls at the same time on one connection of a member.
pub const MEMBER_STREAMS_MAX: u32 = 1024;
/// Calls at the same time on one connection without a certificate.
pub const UNAUTHENTICATED_STREAMS_MAX: u32 = 4;
/// Bytes that a peer without a certificate may have sent on one call, or on all of a
/// connection together, and that were not read yet.
const UNAUTHENTICATED_WINDOW: u32 = 64 * 1024;
/// Bytes of the headers of one call.
const HEADERS_MAX: u32 = 16 * 1024;
/// Calls that a peer may take back before they were looked at.
const RESETS_MAX: usize = 32;

/// Every server's keep-alive, the other side of [`with_deadlines`], and what one
/// connection may hold.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(MEMBER_STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
}

/// A server for peers without a certificate: all of one's calls together hold no more
/// than some hundred kilobytes.
pub fn unauthenticated_server() -> tonic::transport::Server {
    server()
        .max_concurrent_streams(UNAUTHENTICATED_STREAMS_MAX)
        .initial_stream_window_size(UNAUTHENTICATED_WINDOW)
        .initial_connection_window_size(UNAUTHENTICATED_WINDOW)
        .concurrency_limit_per_connection(UNAUTHENTICATED_STREAMS_MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provider_may_be_installed_twice() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
