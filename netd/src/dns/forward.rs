//! A question that nobody here knows, asked of other servers.
//!
//! They are asked one after the other, each over the transport that the client
//! used. Those that the task was given are asked from its own namespace, as they may
//! be on a network of its own; where no route leads there, and for the node's
//! resolvers, which may listen on its loopback interface, it is the node's. A reply counts if it comes from the server, with the id and the
//! question that were sent.

use super::message::{Asked, Returned, with_id};
use super::upstream::Server;
use crate::netlink::namespace::inside;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

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
pub async fn forward(asked: &Asked, bytes: &[u8], servers: &[Server], of_task: BorrowedFd<'_>, over: Over) -> Option<Vec<u8>> {
    let mut failure = None;
    for Server { address: server, from_task, from_node } in servers {
        let exchange = async {
            let from_there = match from_task {
                true => exchange(asked, bytes, *server, Some(of_task), over).await,
                false => Err(io::ErrorKind::NetworkUnreachable.into()),
            };
            match from_there {
                Err(error) if *from_node && is_unreachable(&error) => exchange(asked, bytes, *server, None, over).await,
                result => result,
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

async fn exchange(
    asked: &Asked,
    bytes: &[u8],
    server: SocketAddr,
    namespace: Option<BorrowedFd<'_>>,
    over: Over,
) -> io::Result<Returned> {
    match over {
        Over::Udp => by_datagram(asked, bytes, server, namespace).await,
        Over::Tcp => by_connection(asked, bytes, server, namespace).await,
    }
}

/// Whether no route leads there from a namespace.
fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
    matches!(error.kind(), NetworkUnreachable | AddrNotAvailable)
}

/// Makes a socket in a namespace; none = in the one that we are in.
fn made_in<T: Send>(namespace: Option<BorrowedFd<'_>>, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match namespace {
        Some(namespace) => inside(namespace, make)?,
        None => make(),
    }
}

async fn by_datagram(asked: &Asked, bytes: &[u8], server: SocketAddr, namespace: Option<BorrowedFd<'_>>) -> io::Result<Returned> {
    let local: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let made = made_in(namespace, || std::net::UdpSocket::bind(local))?;
    made.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(made)?;
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

async fn by_connection(
    asked: &Asked,
    bytes: &[u8],
    server: SocketAddr,
    namespace: Option<BorrowedFd<'_>>,
) -> io::Result<Returned> {
    let make = || if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let mut stream = made_in(namespace, make)?.connect(server).await?;
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
    u16::from_be_bytes(skep_host::chance::bytes())
}
