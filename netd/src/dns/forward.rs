//! A question that nobody here knows, asked of other servers.
//!
//! They are asked one after the other, each over the transport that the client
//! used, from the node's own namespace: its resolvers may listen on its loopback
//! interface. A reply counts if it comes from the server, with the id and the
//! question that were sent.

use super::message::{Asked, Returned, with_id};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a datagram.
const DATAGRAM_MAX: usize = 64 * 1024;

/// How the client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// By datagram.
    Udp,
    /// By connection.
    Tcp,
}

/// Asks the servers in turn until one knows. The reply of the last that failed is
/// better than none; none = nobody answered.
pub async fn forward(asked: &Asked, bytes: &[u8], servers: &[SocketAddr], over: Over) -> Option<Vec<u8>> {
    let mut failure = None;
    for server in servers {
        let exchange = async {
            match over {
                Over::Udp => by_datagram(asked, bytes, *server).await,
                Over::Tcp => by_connection(asked, bytes, *server).await,
            }
        };
        match tokio::time::timeout(SERVER_TIMEOUT, exchange).await {
            Ok(Ok(Returned { bytes, is_failure: false })) => return Some(bytes),
            Ok(Ok(returned)) => failure = Some(returned.bytes),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server cannot be asked"),
            Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
        }
    }
    failure
}

async fn by_datagram(asked: &Asked, bytes: &[u8], server: SocketAddr) -> io::Result<Returned> {
    let local: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    // From then on nobody else is heard.
    socket.connect(server).await?;
    let id = random_id();
    socket.send(&with_id(bytes, id)).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(returned) = asked.returned(&buffer[..length], id) {
            return Ok(returned);
        }
    }
}

async fn by_connection(asked: &Asked, bytes: &[u8], server: SocketAddr) -> io::Result<Returned> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id();
    write_framed(&mut stream, &with_id(bytes, id)).await?;
    loop {
        let reply = read_framed(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(returned) = asked.returned(&reply, id) {
            return Ok(returned);
        }
    }
}

/// Reads a message with its length before it; none at the end of the stream.
///
/// # Errors
/// If the stream breaks, or ends within a message.
pub async fn read_framed(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message with its length before it.
///
/// # Errors
/// If the stream breaks, or the message is longer than 65535 bytes.
pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

fn random_id() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u16::from_be_bytes(bytes)
}
