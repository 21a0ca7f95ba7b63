//! The two sockets in a task's namespace, and the loops that serve them.
//!
//! What is known here is answered at once; what others must be asked runs beside,
//! so that a slow server delays nobody. Everything ends with [`Listening::close`],
//! which returns when no socket is left in the namespace.

use super::forward::{Over, forward, read_framed, write_framed};
use super::keeper::Kept;
use super::message::{self, Asked, Read};
use super::{Error, Shared};
use crate::netlink::namespace::inside;
use crate::nft::names::ADDRESS;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt};
use skep_model::TaskId;
use skep_netd_core::NameAnswer;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Questions of one task that others are being asked at the same time.
const FORWARDS_MAX: usize = 256;
/// Connections of one task.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be silent, and a reply be unread.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// The pause after a socket failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// The largest query over UDP, in bytes.
const QUERY_MAX: usize = 4096;
/// The ports to choose from: below those that the kernel gives to programs of the
/// task, and above those that they usually ask for.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports that are tried.
const ATTEMPTS: u16 = 64;

/// Where the names of one task are answered, on [`ADDRESS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Of datagrams.
    pub udp: u16,
    /// Of connections.
    pub tcp: u16,
}

/// The open sockets of a task.
#[derive(Debug)]
pub struct Listening {
    pub(super) ports: Listeners,
    stop: CancellationToken,
    running: TaskTracker,
}

impl Listening {
    /// Opens both sockets in the namespace, or takes those that were kept there, gives
    /// them to `keep` and begins to answer.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or no port is free.
    pub(super) fn open(
        shared: Arc<Shared>,
        task: TaskId,
        namespace: BorrowedFd<'_>,
        kept: Option<Kept>,
        keep: impl FnOnce(u16, BorrowedFd<'_>, BorrowedFd<'_>),
    ) -> Result<Self, Error> {
        let failed = |source| Error::Listen { task, source };
        let seed = task.as_str().bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let (udp, tcp, port) = match kept.filter(|kept| kept.is_in(namespace)) {
            Some(Kept { port, udp, tcp }) => (udp, tcp, port),
            None => inside(namespace, || sockets(seed)).and_then(|made| made).map_err(failed)?,
        };
        keep(port, udp.as_fd(), tcp.as_fd());
        let stop = CancellationToken::new();
        let running = TaskTracker::new();
        let server = Arc::new(Server {
            shared,
            task,
            namespace: namespace.try_clone_to_owned().map_err(failed)?,
            turn: AtomicUsize::new(seed),
            forwards: Semaphore::new(FORWARDS_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            stop: stop.clone(),
            running: running.clone(),
        });
        let udp = Arc::new(UdpSocket::from_std(udp.into()).map_err(failed)?);
        let tcp = TcpListener::from_std(tcp.into()).map_err(failed)?;
        running.spawn(server.clone().answer_datagrams(udp));
        running.spawn(server.accept(tcp));
        running.close();
        Ok(Self { ports: Listeners { udp: port, tcp: port }, stop, running })
    }

    /// Ends everything that runs for the task; its sockets are closed then.
    pub(super) async fn close(self) {
        self.stop.cancel();
        self.running.wait().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One port for both. The address needs no interface: it is bound before the
/// loopback interface of a new namespace is up.
fn sockets(seed: usize) -> io::Result<(OwnedFd, OwnedFd, u16)> {
    let n_ports = usize::from(PORTS.end - PORTS.start);
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for attempt in 0..ATTEMPTS {
        let place = seed.wrapping_add(usize::from(attempt)) % n_ports;
        let port = PORTS.start + u16::try_from(place).expect("a place among ports is below 65536");
        match bound(SockType::Datagram, port).and_then(|udp| Ok((udp, bound(SockType::Stream, port)?))) {
            Ok((udp, tcp)) => return Ok((udp, tcp, port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

fn bound(kind: SockType, port: u16) -> io::Result<OwnedFd> {
    let made = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&made, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        // Connections of before a restart are no reason for another port.
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
    }
    bind(made.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ADDRESS, port)))?;
    if kind == SockType::Stream {
        listen(&made, Backlog::new(BACKLOG)?)?;
    }
    Ok(made)
}

/// What answers one task.
#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    task: TaskId,
    /// The task's, from which others are asked. It is let go with the last socket.
    namespace: OwnedFd,
    /// Answers given; equal addresses take turns at the first place, beginning with
    /// another one for each task.
    turn: AtomicUsize,
    forwards: Semaphore,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    running: TaskTracker,
}

/// What a query comes to.
enum Outcome {
    Reply(Vec<u8>),
    Forward(Box<Asked>),
    Nothing,
}

impl Server {
    async fn answer_datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUERY_MAX];
        loop {
            let received = tokio::select! {
                () = self.stop.cancelled() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, client)) => self.answer_datagram(&socket, &buffer[..length], client).await,
                Err(error) => self.falter("a name query cannot be received", &error).await,
            }
        }
    }

    async fn answer_datagram(self: &Arc<Self>, socket: &Arc<UdpSocket>, bytes: &[u8], client: SocketAddr) {
        match self.outcome(bytes, Over::Udp) {
            Outcome::Nothing => {}
            Outcome::Reply(reply) => send(socket, &reply, client).await,
            Outcome::Forward(asked) => {
                let (server, socket, bytes) = (self.clone(), socket.clone(), bytes.to_vec());
                self.running.spawn(async move {
                    tokio::select! {
                        () = server.stop.cancelled() => {}
                        reply = server.ask_others(&asked, &bytes, Over::Udp) => {
                            if let Some(reply) = reply {
                                send(&socket, &reply, client).await;
                            }
                        }
                    }
                });
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = self.clone();
                    self.running.spawn(async move {
                        tokio::select! {
                            () = server.stop.cancelled() => {}
                            served = server.serve(stream) => if let Err(error) = served {
                                tracing::debug!(task = %server.task, %error, "a connection with name queries broke");
                            }
                        }
                        drop(permit);
                    });
                }
                Err(error) => self.falter("a connection with name queries cannot be accepted", &error).await,
            }
        }
    }

    /// Waits a little: nothing tells when there is memory or a descriptor again.
    async fn falter(&self, what: &'static str, error: &io::Error) {
        tracing::warn!(task = %self.task, %error, what);
        let _ = tokio::time::timeout(PAUSE, self.stop.cancelled()).await;
    }

    /// Answers the queries of one connection, one after the other.
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let Some(bytes) = tokio::time::timeout(IDLE_MAX, read_framed(&mut stream)).await?? else { return Ok(()) };
            let reply = match self.outcome(&bytes, Over::Tcp) {
                Outcome::Nothing => None,
                Outcome::Reply(reply) => Some(reply),
                Outcome::Forward(asked) => self.ask_others(&asked, &bytes, Over::Tcp).await,
            };
            // Whoever sends what cannot be read is not in step any more.
            let Some(reply) = reply else { return Ok(()) };
            tokio::time::timeout(IDLE_MAX, write_framed(&mut stream, &reply)).await??;
        }
    }

    fn outcome(&self, bytes: &[u8], over: Over) -> Outcome {
        let asked = match message::read(bytes) {
            Read::Malformed => return Outcome::Nothing,
            Read::Refused(reply) => return Outcome::Reply(reply),
            Read::Asked(asked) => asked,
        };
        let answer = self.shared.names().answer(self.task, asked.question(), |address| asked.wants(address));
        if answer == NameAnswer::Elsewhere {
            return Outcome::Forward(asked);
        }
        let limit = if over == Over::Udp { asked.udp_max() } else { usize::from(u16::MAX) };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        asked.reply(answer, turn, limit).map_or(Outcome::Nothing, Outcome::Reply)
    }

    /// A task that asks more than others can answer is told so at once.
    async fn ask_others(&self, asked: &Asked, bytes: &[u8], over: Over) -> Option<Vec<u8>> {
        let Ok(_permit) = self.forwards.try_acquire() else { return asked.failure() };
        let servers = self.shared.servers(self.task).unwrap_or_else(|error| {
            tracing::debug!(task = %self.task, %error, "nobody can be asked for a name");
            Vec::new()
        });
        forward(asked, bytes, &servers, self.namespace.as_fd(), over).await.or_else(|| asked.failure())
    }
}

/// A client that has gone needs no answer.
async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(%client, %error, "the answer to a name query cannot be sent");
    }
}
