//! Real connections, and how long they hold a task.

use super::{Drain, DrainError};
use crate::testing::Namespace;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
/// What "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(900);

/// A task that listens, and a host that reaches it.
struct Site {
    task: Namespace,
    host: Namespace,
    listener: TcpListener,
}

fn site() -> Site {
    let (task, host) = (Namespace::new(), Namespace::new());
    task.connect("eth0", &["10.7.0.2/24", "fd07::2/64"], &host, "tasks", &["10.7.0.1/24", "fd07::1/64"]);
    let listener = task.run(|| TcpListener::bind("[::]:80").expect("the port is free"));
    Site { task, host, listener }
}

impl Site {
    /// A connection from the host: its end, and the task's.
    fn accept(&self, address: &str) -> (TcpStream, TcpStream) {
        let client = self.host.run(|| TcpStream::connect(address).expect("the task listens"));
        (client, self.listener.accept().expect("it is accepted").0)
    }

    fn drain(&self, limit: Duration) -> impl Future<Output = Result<u32, DrainError>> + use<> {
        let drain = Drain::open_in(self.task.fd(), BTreeSet::new()).expect("the sockets are made");
        drain.wait(limit)
    }
}

/// Bytes from one end to the other, at a pace that leaves the machine to others,
/// until one of them is closed.
fn keep_busy(from: &TcpStream, to: &TcpStream) {
    // The kernel paces it: a few small segments every 10 ms.
    setsockopt(from, sockopt::SndBuf, &(16 << 10)).expect("a small buffer");
    let (mut from, mut to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
    let pace: u32 = 200_000;
    let length = size_of_val(&pace) as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&from);
    // SAFETY: the value lives across the call, and its length is given.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, (&raw const pace).cast(), length) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    std::thread::spawn(move || while from.write_all(&[7; 4096]).is_ok() {});
    std::thread::spawn(move || while to.read(&mut [0; 8192]).is_ok_and(|n| n > 0) {});
}

fn close(stream: &TcpStream) {
    // The other end may have cut it already.
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

#[tokio::test]
async fn a_task_without_connections_is_drained_at_once() {
    let site = site();
    let start = Instant::now();
    assert_eq!(site.drain(LIMIT).await.expect("a list"), 0);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_silent_connection_holds_a_task_for_a_second_at_most() {
    let site = site();
    let (_client, mut server) = site.accept("10.7.0.2:80");
    server.write_all(b"hello").expect("it is sent");
    let start = Instant::now();
    assert_eq!(site.drain(LIMIT).await.expect("a list"), 0);
    let took = start.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(1800)).contains(&took), "{took:?}");
    let start = Instant::now();
    assert_eq!(site.drain(LIMIT).await.expect("a list"), 0);
    assert!(start.elapsed() < AT_ONCE, "now it has been silent for long: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_transfer_holds_a_task_until_it_ends() {
    for (address, is_upload) in [("10.7.0.2:80", false), ("[fd07::2]:80", true)] {
        let site = site();
        let (client, server) = site.accept(address);
        if is_upload {
            keep_busy(&client, &server)
        } else {
            keep_busy(&server, &client)
        }
        let mut drain = Box::pin(site.drain(LIMIT));
        let early = tokio::time::timeout(Duration::from_millis(2500), &mut drain).await;
        assert!(early.is_err(), "{address}: ended too early: {early:?}");
        let closed = Instant::now();
        close(&client);
        close(&server);
        assert_eq!(drain.await.expect("a list"), 0);
        assert!(closed.elapsed() < AT_ONCE, "{address}: the end is heard of, not waited for: {:?}", closed.elapsed());
    }
}

#[tokio::test]
async fn the_limit_ends_a_drain_and_tells_how_many_were_busy() {
    let site = site();
    let pairs = [site.accept("10.7.0.2:80"), site.accept("[fd07::2]:80")];
    for (client, server) in &pairs {
        keep_busy(server, client);
    }
    let start = Instant::now();
    assert_eq!(site.drain(Duration::from_millis(1500)).await.expect("a list"), 2);
    assert!((1500..2500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    for (client, server) in &pairs {
        close(client);
        close(server);
    }
}

#[tokio::test]
async fn what_a_task_opened_itself_or_talks_to_itself_does_not_hold_it() {
    let site = site();
    let outside = site.host.run(|| TcpListener::bind("10.7.0.1:80").expect("the port is free"));
    let opened = site.task.run(|| TcpStream::connect("10.7.0.1:80").expect("the host listens"));
    let (there, _) = outside.accept().expect("it is accepted");
    site.task.up("lo");
    let to_itself = site.task.run(|| TcpStream::connect("127.0.0.1:80").expect("the task listens"));
    let (itself, _) = site.listener.accept().expect("it is accepted");
    keep_busy(&opened, &there);
    keep_busy(&to_itself, &itself);
    let start = Instant::now();
    assert_eq!(site.drain(LIMIT).await.expect("a list"), 0);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    for stream in [opened, there, to_itself, itself] {
        close(&stream);
    }
}

#[tokio::test]
async fn thousands_of_connections_are_listed_quickly() {
    let site = site();
    let pairs: Vec<_> = (0..2000).map(|_| site.accept("10.7.0.2:80")).collect();
    let mut diag = super::diag::Diag::open_in(site.task.fd()).expect("the sockets are made");
    let start = Instant::now();
    assert_eq!(diag.connections(&[80].into()).expect("a list").len(), pairs.len());
    println!("2000 connections listed in {:?}", start.elapsed());
}
