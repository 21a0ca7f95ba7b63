//! Servers that answer with their name and the address that they see.

use crate::http;
use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Bytes; more than any datagram.
const DATAGRAM_MAX: usize = 64 * 1024;

/// Bytes of a connection that are taken from the kernel at once.
const READ_AT_ONCE: usize = 256 * 1024;

/// Serves until SIGTERM or SIGINT, then answers each open connection once more,
/// with `Connection: close`, and ends when all of them have ended.
///
/// `GET /` is answered with `NAME CLIENT`, `GET /slow?ms=N` with the same over N
/// milliseconds, bit by bit, `POST /sum` with the SHA-256 of its body; any other
/// body is thrown away. A datagram is sent
/// back behind a line `NAME CLIENT`.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// What it says of itself.
    #[arg(long)]
    name: String,
    /// A TCP port to serve HTTP on; may be repeated.
    #[arg(long)]
    http: Vec<u16>,
    /// A UDP port to send datagrams back on; may be repeated.
    #[arg(long)]
    udp: Vec<u16>,
    /// Seconds that open connections may take to end after a stop signal.
    #[arg(long, default_value_t = 30)]
    linger: u64,
}

/// What the connections of one server share.
#[derive(Debug)]
struct Server {
    name: String,
    state: Mutex<State>,
    has_ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_stopping: bool,
    n_connections: usize,
}

impl Serve {
    /// Serves.
    ///
    /// # Errors
    /// If a port cannot be listened on.
    pub fn run(self) -> anyhow::Result<()> {
        // Before the first other thread, so that all of them leave the signals to this one.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTERM);
        stop.add(Signal::SIGINT);
        stop.thread_block().context("cannot block signals")?;
        let server = Arc::new(Server { name: self.name, state: Mutex::default(), has_ended: Condvar::new() });
        for port in self.http {
            let listener = any(|address| TcpListener::bind((address, port)));
            let listener = listener.with_context(|| format!("cannot listen on TCP port {port}"))?;
            let server = Arc::clone(&server);
            thread::spawn(move || accept(&server, &listener));
        }
        for port in self.udp {
            let socket = any(|address| UdpSocket::bind((address, port)));
            let socket = socket.with_context(|| format!("cannot bind UDP port {port}"))?;
            let server = Arc::clone(&server);
            thread::spawn(move || send_back(&server, &socket));
        }
        println!("{} serves", server.name);
        let signal = stop.wait().context("cannot wait for signals")?;
        println!("{} stops on {signal}", server.name);
        server.finish(Duration::from_secs(self.linger))
    }
}

/// On every address of both families; of IPv4 alone where there is no IPv6.
fn any<T>(bind: impl Fn(IpAddr) -> io::Result<T>) -> io::Result<T> {
    bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into()))
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn accept(server: &Arc<Server>, listener: &TcpListener) {
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            // The client may have gone before it was accepted.
            Err(error) => {
                eprintln!("{}: accept: {error}", server.name);
                continue;
            }
        };
        let server = Arc::clone(server);
        server.lock().n_connections += 1;
        thread::spawn(move || {
            if let Err(error) = server.answer(&stream) {
                eprintln!("{}: a connection ended: {error}", server.name);
            }
            drop(stream);
            server.lock().n_connections -= 1;
            server.has_ended.notify_all();
        });
    }
}

fn send_back(server: &Server, socket: &UdpSocket) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let result = socket.recv_from(&mut buffer).and_then(|(length, client)| {
            let mut reply = format!("{} {}\n", server.name, plain(client)).into_bytes();
            reply.extend_from_slice(&buffer[..length]);
            socket.send_to(&reply, client)
        });
        if let Err(error) = result {
            eprintln!("{}: datagram: {error}", server.name);
        }
    }
}

impl Server {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        let client = plain(stream.peer_addr()?);
        let mut reader = BufReader::with_capacity(READ_AT_ONCE, stream);
        let mut writer = stream;
        stream.set_nodelay(true)?;
        while let Some(head) = http::read_head(&mut reader)? {
            let body = self.body(&head, &mut reader, client)?;
            let closes = head.closes || self.lock().is_stopping;
            let connection = if closes { "close" } else { "keep-alive" };
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n", body.len());
            let pause = slowness(&head)?.map(|time| time / body.len() as u32);
            match pause {
                None => writer.write_all(&[reply.as_bytes(), body.as_bytes()].concat())?,
                Some(pause) => {
                    writer.write_all(reply.as_bytes())?;
                    body.as_bytes().iter().try_for_each(|byte| {
                        thread::sleep(pause);
                        writer.write_all(&[*byte])
                    })?;
                }
            }
            if closes {
                return Ok(());
            }
        }
        Ok(())
    }

    fn body(&self, head: &http::Head, reader: &mut impl BufRead, client: SocketAddr) -> io::Result<String> {
        let path = head.first_line.split(' ').nth(1).unwrap_or("/");
        let mut sent = reader.take(head.length);
        if path == "/sum" {
            let mut sum = Sha256::new();
            io::copy(&mut sent, &mut Hashing(&mut sum))?;
            return Ok(format!("{} {}\n", self.name, hexadecimal(&sum.finalize())));
        }
        io::copy(&mut sent, &mut io::sink())?;
        Ok(format!("{} {client}\n", self.name))
    }

    /// Waits for the connections that are open.
    fn finish(&self, linger: Duration) -> anyhow::Result<()> {
        let mut state = self.lock();
        state.is_stopping = true;
        let waited = self.has_ended.wait_timeout_while(state, linger, |state| state.n_connections > 0);
        let (state, _) = waited.expect("no thread panics with the lock");
        println!("{} ends with {} connections open", self.name, state.n_connections);
        Ok(())
    }
}

/// How long a request wants its answer to take.
fn slowness(head: &http::Head) -> io::Result<Option<Duration>> {
    let path = head.first_line.split(' ').nth(1).unwrap_or("/");
    let ms = path.strip_prefix("/slow?ms=").map(str::parse).transpose().map_err(io::Error::other)?;
    Ok(ms.map(Duration::from_millis))
}

/// A digest that can be written to.
pub struct Hashing<'a>(pub &'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As `sha256sum` writes it.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
