//! From a listener to authenticated connections.
//!
//! Handshakes run at the same time, each with a deadline and only so many at once:
//! a client that says nothing costs one place for five seconds and delays nobody
//! else. A client may show no certificate; it is then anonymous, and what it may
//! call is for the role table to say. [`Connections`] knows which node each open
//! connection belongs to and closes them when that node is removed or demoted; a
//! connection ends by itself when its peer's certificate expires.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{HANDSHAKE_DEADLINE, TlsIdentity};
use crate::{NodeIdentity, Refusal, clock};

/// How much a listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Handshakes at the same time.
    pub handshakes_max: usize,
    /// How long one may take.
    pub handshake_deadline: Duration,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self { handshakes_max: 256, handshake_deadline: HANDSHAKE_DEADLINE }
    }
}

/// Who is at the other end; in every request's extensions.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The node in the peer's verified certificate; none if it showed none.
    pub node: Option<Arc<NodeIdentity>>,
    /// Where it connects from.
    pub remote: SocketAddr,
}

/// The open connections of a server; clones share them.
#[derive(Clone, Default)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    peers: BTreeMap<u64, (PeerInfo, CancellationToken)>,
}

impl Connections {
    /// Closes every connection of a node, and says how many there were.
    pub fn close_node(&self, node_id: &str) -> usize {
        self.close_where(|peer| peer.node.as_ref().is_some_and(|node| node.node_id == node_id))
    }

    /// Closes every connection whose peer is meant, and says how many there were.
    pub fn close_where(&self, is_meant: impl Fn(&PeerInfo) -> bool) -> usize {
        let open = self.lock();
        let meant = open.peers.values().filter(|(peer, _)| is_meant(peer));
        meant.map(|(_, close)| close.cancel()).count()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().peers.len()
    }

    fn register(&self, peer: PeerInfo) -> (Registration, CancellationToken) {
        let close = CancellationToken::new();
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.peers.insert(number, (peer, close.clone()));
        (Registration { connections: self.clone(), number }, close)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Ends the entry with the connection.
struct Registration {
    connections: Connections,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.lock().peers.remove(&self.number);
    }
}

/// The authenticated connections of a listener, for tonic's `serve_with_incoming`.
/// Dropping it closes the listener and ends handshakes under way.
pub struct Incoming {
    ready: mpsc::Receiver<PeerStream>,
    accepting: AbortHandle,
}

impl Incoming {
    /// Starts accepting. Needs a tokio runtime.
    pub fn new(listener: TcpListener, identity: TlsIdentity, connections: Connections, limits: AcceptLimits) -> Self {
        let (done, ready) = mpsc::channel(1);
        let accepting = tokio::spawn(accept_all(listener, identity, connections, limits, done)).abort_handle();
        Self { ready, accepting }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|ready| ready.map(Ok))
    }
}

async fn accept_all(
    listener: TcpListener,
    identity: TlsIdentity,
    connections: Connections,
    limits: AcceptLimits,
    done: mpsc::Sender<PeerStream>,
) {
    let places = Arc::new(Semaphore::new(limits.handshakes_max.max(1)));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of files or memory gives no event to wait for; a failed client needs no wait, but may have one.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (identity, connections, done) = (identity.clone(), connections.clone(), done.clone());
        handshakes.spawn(async move {
            let ended = timeout(limits.handshake_deadline, handshake(stream, remote, &identity, &connections)).await;
            match ended {
                Ok(Ok(stream)) => drop(done.send(stream).await),
                Ok(Err(error)) => match Refusal::of(&error) {
                    Some(refusal) => tracing::warn!(%remote, "refused a connection: {refusal}"),
                    None => tracing::debug!(%remote, %error, "a TLS handshake failed"),
                },
                Err(_) => tracing::debug!(%remote, "a TLS handshake took too long"),
            }
            // Only now: what is done but not yet taken counts too.
            drop(place);
        });
    }
}

async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    identity: &TlsIdentity,
    connections: &Connections,
) -> io::Result<PeerStream> {
    stream.set_nodelay(true)?;
    let current = identity.current();
    let stream = TlsAcceptor::from(current.server.clone()).accept(stream).await?;
    let node = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(certificate) => Some(Arc::new(peer_node(certificate, &current.node.cluster_id)?)),
    };
    let expiry = node.as_ref().map(|node| Box::pin(sleep(node.not_after.since(clock::now()))));
    let peer = PeerInfo { node, remote };
    let (registration, close) = connections.register(peer.clone());
    Ok(PeerStream { stream, peer, expiry, closed: Box::pin(close.cancelled_owned()), _registration: registration })
}

/// The node in a verified certificate, which must be of this cluster.
pub(super) fn peer_node(certificate: &[u8], cluster_id: &str) -> io::Result<NodeIdentity> {
    let node = NodeIdentity::from_der(certificate)
        .map_err(|error| io::Error::other(Refusal::Malformed { reason: error.to_string() }))?;
    if node.cluster_id != cluster_id {
        let refusal = Refusal::OtherCluster { found: node.cluster_id, expected: cluster_id.to_owned() };
        return Err(io::Error::other(refusal));
    }
    Ok(node)
}

/// A connection after its handshake. It fails when its registry closes it, and
/// when its peer's certificate expires.
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
    expiry: Option<Pin<Box<Sleep>>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _registration: Registration,
}

impl PeerStream {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed: the node was removed or changed its role"));
        }
        if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed: the node's certificate expired"));
        }
        Ok(())
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
