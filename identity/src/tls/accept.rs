//! From a listener to authenticated connections.
//!
//! A connection is taken from the kernel at once, so that nobody waits behind those
//! who say nothing, and handshakes run at the same time, each with a deadline. A
//! client may show no certificate; it is then unauthenticated, and what it may call is
//! for the role table to say. [`Connections`] holds every limit (see there), knows which
//! node each open connection belongs to, and closes them when that node is removed or
//! demoted. A connection ends by itself when its peer's certificate expires, or when an
//! unauthenticated peer asks for nothing. Out of descriptors, the listener turns
//! newcomers away and goes on.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc::{EMFILE, ENFILE};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::TlsIdentity;
use super::connections::{AcceptLimits, Connections, PeerInfo, Place};
use crate::{NodeIdentity, Refusal};
use skep_host::{clock, process};

/// Between two looks whether the process has descriptors again.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are ready and not yet served.
const READY_MAX: usize = 16;

/// Connections of a listener, for tonic's `serve_with_incoming`. The listener ends
/// when all its streams were dropped.
pub struct Incoming {
    ready: mpsc::Receiver<PeerStream>,
    _accepting: Arc<Accepting>,
}

/// Ends the listener, and handshakes under way.
struct Accepting(AbortHandle);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Incoming {
    /// Starts accepting: all connections. Needs a tokio runtime.
    pub fn new(listener: TcpListener, identity: TlsIdentity, connections: Connections, limits: AcceptLimits) -> Self {
        let (done, ready) = mpsc::channel(READY_MAX);
        let accepting = Accepting::start(listener, identity, connections, limits, [done.clone(), done]);
        Self { ready, _accepting: accepting }
    }

    /// Starts accepting: those of members, and those of peers without a certificate,
    /// which are served within other limits.
    pub fn split(listener: TcpListener, identity: TlsIdentity, connections: Connections, limits: AcceptLimits) -> (Self, Self) {
        let ((member, members), (other, others)) = (mpsc::channel(READY_MAX), mpsc::channel(READY_MAX));
        let accepting = Accepting::start(listener, identity, connections, limits, [member, other]);
        (Self { ready: members, _accepting: accepting.clone() }, Self { ready: others, _accepting: accepting })
    }
}

impl Accepting {
    fn start(
        listener: TcpListener,
        identity: TlsIdentity,
        connections: Connections,
        limits: AcceptLimits,
        done: [mpsc::Sender<PeerStream>; 2],
    ) -> Arc<Self> {
        let accepting = accept_all(listener, identity, connections, limits, done);
        Arc::new(Self(tokio::spawn(process::essential("the listener of the manager's port", accepting)).abort_handle()))
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
    done: [mpsc::Sender<PeerStream>; 2],
) {
    let mut handshakes = JoinSet::new();
    let mut spare = File::open("/dev/null").ok();
    loop {
        while handshakes.try_join_next().is_some() {}
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                turn_away(&listener, &mut spare, &error).await;
                continue;
            }
            // The client gave up before it was looked at, or the kernel is short of memory.
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let place = match connections.begin(remote, &limits) {
            Ok(place) => place,
            Err(full) => {
                tracing::debug!(%remote, "refused a connection: {full}");
                continue;
            }
        };
        let (identity, connections, done) = (identity.clone(), connections.clone(), done.clone());
        handshakes.spawn(async move {
            let close = place.close.clone();
            let ended = tokio::select! {
                ended = timeout(limits.handshake_deadline, handshake(stream, remote, &identity, &connections, place, &limits)) => ended,
                () = close.cancelled() => return tracing::debug!(%remote, "a TLS handshake made room for a newer one"),
            };
            match ended {
                Ok(Ok(stream)) => {
                    let [member, other] = done;
                    let sender = if stream.peer.node.is_some() { member } else { other };
                    drop(sender.send(stream).await);
                }
                Ok(Err(error)) => match Refusal::of(&error) {
                    Some(refusal) => tracing::warn!(%remote, "refused a connection: {refusal}"),
                    None => tracing::debug!(%remote, %error, "a TLS handshake failed"),
                },
                Err(_) => tracing::debug!(%remote, "a TLS handshake took too long"),
            }
        });
    }
}

/// Out of descriptors: whoever waits is turned away, with the one that is kept for
/// this, so that the queue of the kernel does not stay full of them.
async fn turn_away(listener: &TcpListener, spare: &mut Option<File>, error: &io::Error) {
    tracing::warn!(%error, "out of descriptors: new connections are turned away");
    if spare.take().is_some() {
        let _ = timeout(OUT_OF_DESCRIPTORS_PAUSE, listener.accept()).await;
    }
    *spare = File::open("/dev/null").ok();
    // A descriptor that is closed gives no event to wait for.
    sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
}

async fn handshake(
    stream: TcpStream,
    remote: SocketAddr,
    identity: &TlsIdentity,
    connections: &Connections,
    place: Place,
    limits: &AcceptLimits,
) -> io::Result<PeerStream> {
    stream.set_nodelay(true)?;
    let current = identity.current();
    let stream = TlsAcceptor::from(current.server.clone()).accept(stream).await?;
    let node = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(certificate) => Some(Arc::new(peer_node(certificate, &current.node.cluster_id)?)),
    };
    let (life, idle_max) = match &node {
        Some(node) => (node.not_after.since(clock::now()), None),
        None => (limits.life_max, Some(limits.idle_max)),
    };
    let peer = PeerInfo::new(node, remote);
    connections.establish(&place, peer.clone(), limits).map_err(io::Error::other)?;
    let idle = idle_max.map(|max| (max, Box::pin(sleep(max))));
    let closed = Box::pin(place.close.clone().cancelled_owned());
    Ok(PeerStream { stream, peer, life: Box::pin(sleep(life)), idle, closed, _place: place })
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

/// A connection after its handshake. It fails when its registry closes it, when its
/// peer's certificate expires, and, without a certificate, when it is of no use.
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
    /// Until the certificate expires, or the longest without one.
    life: Pin<Box<Sleep>>,
    /// Without a certificate: how long it may have no call, and when to look again.
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

impl PeerStream {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let aborted = |reason: &str| Err(io::Error::new(io::ErrorKind::ConnectionAborted, format!("closed: {reason}")));
        if self.closed.as_mut().poll(cx).is_ready() {
            return aborted("the node was removed or changed its role, or the place was needed");
        }
        if self.life.as_mut().poll(cx).is_ready() {
            return aborted(if self.peer.node.is_some() { "the node's certificate expired" } else { "it showed no certificate" });
        }
        while let Some((max, look)) = &mut self.idle
            && look.as_mut().poll(cx).is_ready()
        {
            let idle = self.peer.idle().unwrap_or_default();
            if idle >= *max {
                return aborted("it showed no certificate and asked for nothing");
            }
            look.as_mut().reset(tokio::time::Instant::now() + (*max - idle));
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
