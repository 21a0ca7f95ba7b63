//! Clients that ask once, or a few times, and print what they are told.

use crate::http;
use crate::serve::{Hashing, hexadecimal};
use anyhow::{Context as _, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Bytes of a transfer that are made and sent at once.
const PIECE: usize = 1 << 20;

/// Opens a connection to each target, asks on all of them, and prints one answer
/// a line, in that order.
#[derive(Debug, clap::Args)]
pub struct Ask {
    /// ADDRESS:PORT or NAME:PORT.
    #[arg(required = true)]
    targets: Vec<String>,
    /// How often, each time over connections of their own.
    #[arg(long, default_value_t = 1)]
    times: usize,
    #[arg(long, default_value = "/")]
    path: String,
    /// The port to ask from; the same for every connection.
    #[arg(long)]
    from_port: Option<u16>,
    /// Seconds to connect, and for each answer.
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

/// Sends a datagram and prints the line that comes back in front of it.
#[derive(Debug, clap::Args)]
pub struct Datagram {
    /// ADDRESS:PORT or NAME:PORT; every one is sent to before the first is waited for.
    #[arg(required = true)]
    targets: Vec<String>,
    /// How large.
    #[arg(long, default_value_t = 32)]
    bytes: usize,
    /// The port to send from.
    #[arg(long)]
    from_port: Option<u16>,
    /// Seconds for the answer.
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

/// Sends bytes to `/sum` and demands that both ends have counted the same SHA-256.
#[derive(Debug, clap::Args)]
pub struct Send {
    /// ADDRESS:PORT or NAME:PORT.
    target: String,
    #[arg(long)]
    bytes: u64,
    /// Seconds until the answer has come.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

/// Sends as much as fits through in a time and prints how many bytes a second that were.
///
/// The sender's rate is Reno's: on a way that loses nothing it is what the way can carry. A control that paces by
/// a model of the way, as BBR does, would be measured instead.
#[derive(Debug, clap::Args)]
pub struct Stream {
    /// ADDRESS:PORT or NAME:PORT.
    target: String,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How many at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

/// Prints the addresses of a name, one a line and sorted, as the C library finds them.
#[derive(Debug, clap::Args)]
pub struct Resolve {
    name: String,
}

impl Ask {
    /// Asks.
    ///
    /// # Errors
    /// At the first connection or answer that fails.
    pub fn run(self) -> anyhow::Result<()> {
        let timeout = Duration::from_secs(self.timeout);
        for _ in 0..self.times {
            let connections: Result<Vec<TcpStream>, _> =
                self.targets.iter().map(|target| open(target, self.from_port, timeout)).collect();
            for (stream, target) in connections?.iter().zip(&self.targets) {
                let (body, _) = ask(stream, &self.path, target).with_context(|| format!("asking {target}"))?;
                print!("{body}");
            }
        }
        Ok(())
    }
}

/// Finds the address of a target and connects to it.
///
/// # Errors
/// If the name has no address, or nobody answers within `timeout`.
pub fn open(target: &str, from_port: Option<u16>, timeout: Duration) -> anyhow::Result<TcpStream> {
    let address = resolve(target)?;
    let stream = match from_port {
        None => TcpStream::connect_timeout(&address, timeout),
        Some(port) => connect_from(port, address, timeout),
    };
    let stream = stream.with_context(|| format!("connecting to {target}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = target.to_socket_addrs().with_context(|| format!("resolving {target}"))?;
    addresses.next().with_context(|| format!("{target} has no address"))
}

/// Connects from a port that other connections of this client may use as well.
fn connect_from(port: u16, to: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
    let (family, any): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (AddressFamily::Inet6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // It also bounds connect(2).
    let limit = nix::sys::time::TimeVal::from(nix::libc::timeval {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_usec: timeout.subsec_micros().into(),
    });
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}

/// Sends one request and reads its answer; the second value is whether the server closes the connection.
///
/// # Errors
/// If the answer does not come whole, or is no 200.
pub fn ask(stream: &TcpStream, path: &str, host: &str) -> anyhow::Result<(String, bool)> {
    let mut writer = stream;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    writer.write_all(request.as_bytes()).context("sending the request")?;
    read_answer(stream)
}

fn read_answer(stream: &TcpStream) -> anyhow::Result<(String, bool)> {
    let mut reader = BufReader::new(stream);
    let head = http::read_head(&mut reader).context("waiting for the answer")?;
    let head = head.context("the connection was closed without an answer")?;
    ensure!(head.first_line.contains(" 200 "), "answered with {:?}", head.first_line);
    let mut body = String::new();
    reader.take(head.length).read_to_string(&mut body).context("reading the answer")?;
    ensure!(body.len() as u64 == head.length, "the answer ended after {} of {} bytes", body.len(), head.length);
    Ok((body, head.closes))
}

impl Datagram {
    /// Sends and waits.
    ///
    /// # Errors
    /// If an answer does not come in time, or is not what was sent.
    pub fn run(self) -> anyhow::Result<()> {
        let sent = pattern(self.bytes, 1);
        let mut waited: Vec<SocketAddr> = self.targets.iter().map(|target| resolve(target)).collect::<Result<_, _>>()?;
        let is_v4 = waited.iter().all(SocketAddr::is_ipv4);
        let any: IpAddr = if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // One socket, not connected, takes the answers of all targets.
        let socket = UdpSocket::bind((any, self.from_port.unwrap_or(0))).context("binding")?;
        socket.set_read_timeout(Some(Duration::from_secs(self.timeout)))?;
        for address in &waited {
            socket.send_to(&sent, address).with_context(|| format!("sending to {address}"))?;
        }
        let mut buffer = vec![0; self.bytes + 4096];
        while !waited.is_empty() {
            let (length, from) = socket.recv_from(&mut buffer).with_context(|| format!("waiting for {waited:?}"))?;
            let place = waited.iter().position(|address| *address == from);
            waited.remove(place.with_context(|| format!("an answer from {from}, who was not asked"))?);
            let answer = &buffer[..length];
            let end = answer.iter().position(|byte| *byte == b'\n').context("an answer without a line")?;
            ensure!(answer[end + 1..] == sent[..], "{} bytes came back, not the {} sent", length - end - 1, sent.len());
            println!("{}", String::from_utf8_lossy(&answer[..end]));
        }
        Ok(())
    }
}

/// Bytes that no compression or zeroed page would give.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

impl Send {
    /// Sends.
    ///
    /// # Errors
    /// If the transfer breaks, or the sums differ.
    pub fn run(self) -> anyhow::Result<()> {
        let stream = open(&self.target, None, Duration::from_secs(self.timeout))?;
        let mut writer = &stream;
        write!(
            writer,
            "POST /sum HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.target, self.bytes
        )?;
        let mut sum = Sha256::new();
        let piece = pattern(PIECE, self.bytes);
        let mut left = self.bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            Hashing(&mut sum).write_all(&piece[..length])?;
            writer.write_all(&piece[..length]).with_context(|| format!("sending, {left} bytes before the end"))?;
            left -= length as u64;
        }
        let (answer, _) = read_answer(&stream)?;
        let ours = hexadecimal(&sum.finalize());
        ensure!(answer.trim().ends_with(&ours), "sent {ours}, came as {answer}");
        print!("{answer}");
        Ok(())
    }
}

impl Stream {
    /// Sends.
    ///
    /// # Errors
    /// If a connection breaks.
    pub fn run(self) -> anyhow::Result<()> {
        let streams: Vec<TcpStream> = (0..self.connections).map(|_| self.open()).collect::<Result<_, _>>()?;
        let sent: anyhow::Result<Vec<f64>> = std::thread::scope(|scope| {
            let senders: Vec<_> = streams.iter().map(|stream| scope.spawn(|| self.send(stream))).collect();
            senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
        });
        println!("{:.0}", sent?.into_iter().sum::<f64>());
        Ok(())
    }

    fn open(&self) -> anyhow::Result<TcpStream> {
        let stream = open(&self.target, None, Duration::from_secs(30))?;
        setsockopt(&stream, sockopt::TcpCongestion, &OsString::from("reno")).context("choosing Reno")?;
        write!(&stream, "POST /discard HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.target, u64::MAX)?;
        Ok(stream)
    }

    /// Bytes a second.
    fn send(&self, mut stream: &TcpStream) -> anyhow::Result<f64> {
        let piece = vec![0; PIECE];
        let (start, mut n_sent) = (Instant::now(), 0_u64);
        while start.elapsed().as_secs() < self.seconds {
            n_sent += stream.write(&piece)? as u64;
        }
        Ok(n_sent as f64 / start.elapsed().as_secs_f64())
    }
}

impl Resolve {
    /// Looks the name up.
    ///
    /// # Errors
    /// If it is not found.
    pub fn run(self) -> anyhow::Result<()> {
        let addresses = (self.name.as_str(), 0).to_socket_addrs().with_context(|| format!("resolving {}", self.name))?;
        let addresses: BTreeSet<IpAddr> = addresses.map(|address| address.ip()).collect();
        addresses.iter().for_each(|address| println!("{address}"));
        Ok(())
    }
}
