//! The connected clients: frames in, frames out, none of which may hold the shim up.
//!
//! Every client sees the status first and every event after it. A client that does not read is dropped once its
//! backlog reaches a limit; it can connect again and gets the status again.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use skep_shim::protocol::{FromShim, Numbered, Reply, ToShim};
use skep_shim::wire::{self, Inbox};
use zeroize::Zeroizing;

const BACKLOG_MAX: usize = 4 << 20;
const CLIENTS_MAX: usize = 16;

struct Peer {
    key: u64,
    stream: UnixStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    alive: bool,
}

/// All of them, and the socket new ones come to.
#[derive(Default)]
pub struct Peers {
    listener: Option<UnixListener>,
    peers: Vec<Peer>,
    next_key: u64,
}

impl Peers {
    /// Takes connections from this socket on.
    pub fn listen(&mut self, listener: UnixListener) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Adds a connection and greets it.
    pub fn add(&mut self, stream: UnixStream, greeting: &FromShim) -> std::io::Result<()> {
        stream.set_nonblocking(true)?;
        self.next_key += 1;
        self.peers.push(Peer { key: self.next_key, stream, inbox: Inbox::default(), outbox: Vec::new(), alive: true });
        self.send(self.next_key, greeting);
        Ok(())
    }

    /// Whether anyone is connected.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Descriptors to wait for, and whether writing is awaited as well.
    pub fn watched(&self) -> Vec<(RawFd, bool)> {
        let peers = self.peers.iter().map(|peer| (peer.stream.as_raw_fd(), !peer.outbox.is_empty()));
        let listener = self.listener.iter().map(|listener| (listener.as_raw_fd(), false));
        peers.chain(listener).collect()
    }

    /// Accepts who is allowed: root, or whoever the shim itself runs as.
    pub fn accept(&mut self, greeting: impl Fn() -> FromShim) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            if self.peers.len() < CLIENTS_MAX && is_allowed(&stream) {
                // One that fails at once is dropped; it sees its connection end.
                let _ = self.add(stream, &greeting());
            }
        }
    }

    /// Reads what is there; returns whole requests with the key of who asked.
    pub fn receive(&mut self) -> Vec<(u64, ToShim)> {
        let mut found = Vec::new();
        for peer in &mut self.peers {
            while let Some(message) = peer.read_one() {
                found.push((peer.key, message));
            }
        }
        self.peers.retain(|peer| peer.alive);
        found
    }

    /// Sends to one.
    pub fn send(&mut self, key: u64, message: &FromShim) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.key == key) {
            peer.send(message);
        }
    }

    /// Sends to all.
    pub fn broadcast(&mut self, message: &FromShim) {
        for peer in &mut self.peers {
            peer.send(message);
        }
    }

    /// Writes what is waiting, as far as it goes.
    pub fn flush(&mut self) {
        for peer in &mut self.peers {
            peer.flush();
        }
        self.peers.retain(|peer| peer.alive);
    }
}

impl Peer {
    fn read_one(&mut self) -> Option<ToShim> {
        let mut buffer = Zeroizing::new([0u8; 64 << 10]);
        while self.alive {
            let wanted = self.inbox.wanted();
            match self.stream.read(&mut buffer[..wanted]) {
                Ok(0) => self.alive = false,
                Ok(n) => match self.inbox.push(&buffer[..n]) {
                    Ok(Some(body)) => match wire::decode(&body) {
                        Ok(message) => return Some(message),
                        // A request that a newer agent knows.
                        Err(_) => match wire::decode::<Numbered>(&body) {
                            Ok(Numbered { id }) => {
                                let result = Err("this shim is older than the request and does not know it".to_owned());
                                self.send(&FromShim::Reply(Reply { id, result }));
                            }
                            Err(_) => self.alive = false,
                        },
                    },
                    Ok(None) => {}
                    Err(_) => self.alive = false,
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.alive = false,
            }
        }
        None
    }

    fn send(&mut self, message: &FromShim) {
        match wire::encode(message) {
            Ok(frame) if self.outbox.len() + frame.len() <= BACKLOG_MAX => self.outbox.extend_from_slice(&frame),
            _ => self.alive = false,
        }
        self.flush();
    }

    fn flush(&mut self) {
        while self.alive && !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(n) => {
                    self.outbox.drain(..n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.alive = false,
            }
        }
    }
}

fn is_allowed(stream: &UnixStream) -> bool {
    nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}
