//! An open-loop client: requests leave by the clock, whatever became of those
//! before, and every one of them is counted.
//!
//! Connections are kept and used in turn, oldest first, so that each is used
//! often. A connection that the server has closed, or that it said it would, is
//! not used again; a request that was sent is never sent again.

use crate::ask::{ask, open};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Failures that are printed.
const FAILURES_SHOWN: usize = 20;

/// Asks until its standard input ends, then prints what became of all requests:
/// `sent N`, `failed N`, `server NAME N` for each server, `ms P50 P99 MAX`, and
/// `failure …` for the first few. Its exit code says only whether it could run.
#[derive(Debug, clap::Args)]
pub struct Load {
    /// ADDRESS:PORT or NAME:PORT; new connections go to each in turn.
    #[arg(required = true)]
    targets: Vec<String>,
    /// Requests a second.
    #[arg(long)]
    rate: u32,
    #[arg(long, default_value = "/")]
    path: String,
    /// Seconds to connect, and for each answer.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// A connection for each request.
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Default)]
struct Seen {
    failures: Vec<String>,
    n_failed: usize,
    servers: BTreeMap<String, usize>,
    latencies: Vec<Duration>,
}

struct Client {
    load: Load,
    idle: Mutex<VecDeque<TcpStream>>,
    seen: Mutex<Seen>,
}

impl Load {
    /// Sends requests.
    ///
    /// # Errors
    /// If a thread cannot be made.
    pub fn run(self) -> anyhow::Result<()> {
        let is_over = Arc::new(AtomicBool::new(false));
        let at_end = Arc::clone(&is_over);
        thread::spawn(move || {
            // Whether it ends or breaks, nobody wants more.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            at_end.store(true, Ordering::SeqCst);
        });
        let pause = Duration::from_secs(1) / self.rate.max(1);
        let client = Arc::new(Client { load: self, idle: Mutex::default(), seen: Mutex::default() });
        let start = Instant::now();
        let mut running: VecDeque<thread::JoinHandle<()>> = VecDeque::new();
        let mut n_sent: u32 = 0;
        println!("loading");
        while !is_over.load(Ordering::SeqCst) {
            let due = start + pause * n_sent;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (client, number) = (Arc::clone(&client), n_sent as usize);
            running.push_back(thread::Builder::new().stack_size(256 * 1024).spawn(move || client.request(number, due))?);
            n_sent += 1;
            while running.front().is_some_and(thread::JoinHandle::is_finished) {
                running.pop_front();
            }
        }
        running.into_iter().for_each(|request| request.join().expect("a request does not panic"));
        client.report(n_sent);
        Ok(())
    }
}

impl Client {
    fn request(&self, number: usize, due: Instant) {
        let result = self.exchange(number);
        let latency = due.elapsed();
        let mut seen = self.seen.lock().expect("no request panics");
        match result {
            Ok(body) => {
                let server = body.split(' ').next().unwrap_or_default().to_owned();
                *seen.servers.entry(server).or_default() += 1;
                seen.latencies.push(latency);
            }
            Err(error) => {
                seen.n_failed += 1;
                if seen.failures.len() < FAILURES_SHOWN {
                    seen.failures.push(format!("request {number}, after {} ms: {error:#}", latency.as_millis()));
                }
            }
        }
    }

    fn exchange(&self, number: usize) -> anyhow::Result<String> {
        let target = &self.load.targets[number % self.load.targets.len()];
        let kept = if self.load.fresh { None } else { self.take() };
        let stream = match kept {
            Some(stream) => stream,
            None => open(target, None, Duration::from_secs(self.load.timeout))?,
        };
        let (body, closes) = ask(&stream, &self.load.path, target).map_err(|error| describe(&stream, error))?;
        if !closes && !self.load.fresh {
            self.idle.lock().expect("no request panics").push_back(stream);
        }
        Ok(body)
    }

    /// The connection that was idle longest and is still open.
    fn take(&self) -> Option<TcpStream> {
        loop {
            let stream = self.idle.lock().expect("no request panics").pop_front()?;
            if is_open(&stream) {
                return Some(stream);
            }
        }
    }

    fn report(&self, n_sent: u32) {
        let mut seen = self.seen.lock().expect("no request panics");
        seen.latencies.sort_unstable();
        let at = |share: usize| {
            let place = (seen.latencies.len() * share / 100).min(seen.latencies.len().saturating_sub(1));
            seen.latencies.get(place).copied().unwrap_or_default().as_millis()
        };
        println!("sent {n_sent}");
        println!("failed {}", seen.n_failed);
        println!("ms {} {} {}", at(50), at(99), at(100));
        seen.servers.iter().for_each(|(server, n)| println!("server {server} {n}"));
        seen.failures.iter().for_each(|failure| println!("failure {failure}"));
    }
}

/// Whether the other end has not closed a connection on which nothing is awaited.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let waits = peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    waits && stream.set_nonblocking(false).is_ok()
}

fn describe(stream: &TcpStream, error: anyhow::Error) -> anyhow::Error {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(from), Ok(to)) => error.context(format!("{from} to {to}")),
        _ => error,
    }
}
