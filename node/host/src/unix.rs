//! The node's local socket: who is at the other end, and how to get there.
//!
//! Access is a matter of the file's owner and mode; the peer's uid, gid and pid go
//! with every request, to be checked and logged by whoever serves it.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group, chown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

/// The longest a connection attempt may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// After this much silence on an HTTP/2 connection a ping is sent.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection whose ping is not answered within this time is closed. The kernel closes it
/// when the process at its other end dies, so a ping finds only one that hangs; one that
/// waits for the kernel's lock of network settings, or for a busy processor, does not.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at the same time on one connection.
const STREAMS_MAX: u32 = 1024;
/// Bytes of the headers of one call.
const HEADERS_MAX: u32 = 16 * 1024;

/// Why the local socket could not be served or reached.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Something else lies at the socket's path.
    #[error("{} is there and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// A running process answers on it.
    #[error("another process already serves {}", .0.display())]
    InUse(PathBuf),
    /// An operation on the socket failed.
    #[error("cannot {operation} the socket {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Who is at the other end of a local connection, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPeer {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process, if it is in a namespace that shows it.
    pub pid: Option<i32>,
}

/// Binds the socket with mode 0660 and, if that group exists, to `group`. A socket
/// that a dead process left is replaced; a served one is not.
///
/// # Errors
/// If it is in use, or cannot be made.
pub fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, LocalError> {
    let failed = |operation| move |source: io::Error| LocalError::Io { operation, path: path.to_owned(), source };
    clear_stale(path)?;
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    if let Some(gid) = group.map(group_id).transpose().map_err(failed("find the group of"))?.flatten() {
        chown(path, None, Some(gid)).map_err(|errno| failed("set the group of")(errno.into()))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

fn group_id(name: &str) -> io::Result<Option<Gid>> {
    Ok(Group::from_name(name)?.map(|group| group.gid))
}

fn clear_stale(path: &Path) -> Result<(), LocalError> {
    let failed = |operation| move |source: io::Error| LocalError::Io { operation, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look for")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(LocalError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    // Connecting to a local socket does not wait for its server to accept.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(LocalError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed("remove")),
        Err(error) => Err(failed("test")(error)),
    }
}

/// The connections of a listener, for tonic's `serve_with_incoming`.
pub struct LocalIncoming(pub UnixListener);

impl Stream for LocalIncoming {
    type Item = io::Result<LocalStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_accept(cx).map(|accepted| {
            Some(accepted.and_then(|(stream, _)| {
                let peer = stream.peer_cred()?;
                Ok(LocalStream { peer: LocalPeer { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() }, stream })
            }))
        })
    }
}

/// A local connection; its [`LocalPeer`] is in every request's extensions.
pub struct LocalStream {
    stream: UnixStream,
    peer: LocalPeer,
}

impl Connected for LocalStream {
    type ConnectInfo = LocalPeer;

    fn connect_info(&self) -> LocalPeer {
        self.peer
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connects tonic channels to a socket, whatever their address says.
#[derive(Debug, Clone)]
pub struct LocalConnector(pub PathBuf);

impl tower::Service<Uri> for LocalConnector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_DEADLINE, UnixStream::connect(&path)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// A server of this machine's processes alone.
pub fn local_server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_MAX)
}

/// A channel to the node that serves the socket at `path`; it connects on first use.
pub fn local_channel(path: &Path) -> Channel {
    // The address only fills the HTTP authority.
    let endpoint = Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector_lazy(LocalConnector(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn the_kernel_says_who_is_calling() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("skep.sock");
        let mut incoming = LocalIncoming(bind(&path, Some("no-such-group")).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let _client = UnixStream::connect(&path).await.unwrap();
        let peer = incoming.next().await.unwrap().unwrap().connect_info();
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getgid().as_raw());
        assert_eq!(peer.pid, Some(std::process::id() as i32));
    }

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("skep.sock");
        let first = bind(&path, None).unwrap();
        assert!(matches!(bind(&path, None), Err(LocalError::InUse(_))));
        drop(first);
        drop(bind(&path, None).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"a file").unwrap();
        assert!(matches!(bind(&path, None), Err(LocalError::NoSocket(_))));
    }
}
