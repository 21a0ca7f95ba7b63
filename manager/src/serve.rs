//! The network port: every service behind mutual TLS and the role table.
//!
//! Members are served apart from peers that showed no certificate: those find the
//! certificate authority alone, within limits that hold whatever they send.

use crate::api::Shared;
use crate::api::authorise::Authorise;
use crate::api::ca::CaApi;
use crate::api::control::ControlApi;
use crate::api::dispatcher::DispatcherApi;
use crate::api::raft::RaftApi;
use skep_identity::tls::{self, AcceptLimits, Connections, Incoming, TlsIdentity};
use skep_proto::v1::ca_server::CaServer;
use skep_proto::v1::control_server::ControlServer;
use skep_proto::v1::dispatcher_server::DispatcherServer;
use skep_proto::v1::raft_server::RaftServer;
use skep_proto::{CHUNK_MAX, MESSAGE_MAX, RAFT_MESSAGE_MAX, READ_REPLY_MAX, SESSION_MESSAGE_MAX};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Bytes beside the data in a message that carries a chunk.
const ENVELOPE: usize = 4096;
/// The largest message to the certificate authority, in bytes: a certificate request,
/// a token and a host name, each with its own limit.
const CA_MESSAGE_MAX: usize = 24 * 1024;

/// Serves until `stop`; open calls are dropped then.
pub async fn run(
    listener: TcpListener,
    identity: TlsIdentity,
    connections: Connections,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let (members, others) = Incoming::split(listener, identity, connections.clone(), AcceptLimits::default());
    let to_members = tls::server()
        .layer(Authorise(shared.clone()))
        .add_service(CaServer::new(CaApi(shared.clone())).max_decoding_message_size(CA_MESSAGE_MAX))
        .add_service(
            ControlServer::new(ControlApi(shared.clone()))
                .max_decoding_message_size(MESSAGE_MAX.max(CHUNK_MAX + ENVELOPE))
                .max_encoding_message_size(READ_REPLY_MAX),
        )
        .add_service(
            DispatcherServer::new(DispatcherApi(shared.clone()))
                .max_decoding_message_size(SESSION_MESSAGE_MAX)
                .max_encoding_message_size(SESSION_MESSAGE_MAX),
        )
        .add_service(RaftServer::new(RaftApi(shared.clone())).max_decoding_message_size(RAFT_MESSAGE_MAX + ENVELOPE))
        .serve_with_incoming(members);
    let to_others = tls::unauthenticated_server()
        .layer(Authorise(shared.clone()))
        .add_service(CaServer::new(CaApi(shared)).max_decoding_message_size(CA_MESSAGE_MAX))
        .serve_with_incoming(others);
    // A port that nobody serves would look like a manager that is there: whoever runs
    // this ends the process if it ends unasked.
    let report = |result: Result<(), tonic::transport::Error>| {
        if let Err(error) = result {
            tracing::error!(%error, "the manager's port is not served any more");
        }
    };
    tokio::select! {
        result = to_members => report(result),
        result = to_others => report(result),
        () = stop.cancelled() => {}
    }
    // Connections are served by tasks of their own, which would go on with the
    // services of a manager that has stopped.
    connections.close_where(|_| true);
}
