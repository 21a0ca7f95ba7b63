//! Forgetting connections whose backend is gone.
//!
//! Rules are asked for a connection's first packet only: what is established goes on to its backend for as
//! long as conntrack remembers it. Once forgotten, the next packet is a first one again: TCP meets a backend
//! that knows nothing of it and is reset, UDP goes to a backend that is there.

use super::expression::Family;
use super::ingress::number;
use super::socket::{Error, Socket};
use super::wire;
use skep_model::endpoint::Transport;
use std::net::IpAddr;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const STATISTICS: u16 = SUBSYSTEM | 5;
const ENTRIES: u16 = 1;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const IDENTITY: u16 = 12;
const DNAT: u32 = 1 << 5;

/// Which connections to forget: those rewritten to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vanished {
    /// The address that connections were given to.
    pub backend: IpAddr,
    /// Only those that were opened to this address; all when `None`.
    pub through: Option<IpAddr>,
    /// Only this port of the backend; all when `None`.
    pub port: Option<u16>,
    /// Only this protocol; all when `None`.
    pub transport: Option<Transport>,
}

impl Vanished {
    /// Whether a connection was given to the backend.
    pub fn had(&self, connection: &Connection) -> bool {
        connection.answers_from == self.backend
            && self.through.is_none_or(|through| connection.opened_to == through)
            && self.port.is_none_or(|port| connection.answers_from_port == Some(port))
            && self.transport.is_none_or(|transport| connection.protocol == Some(number(transport)))
    }
}

/// What is told of a tracked connection whose destination was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where its opener sent it.
    pub opened_to: IpAddr,
    /// Where it was sent instead.
    pub answers_from: IpAddr,
    /// The port there, if its protocol has any.
    pub answers_from_port: Option<u16>,
    /// The number of its protocol.
    pub protocol: Option<u8>,
}

/// Forgets the namespace's connections that were rewritten and are no more wanted, and tells how many there were.
///
/// # Errors
/// When the kernel refuses to list or delete; a connection that ended meanwhile is no error.
pub fn forget(socket: &mut Socket, is_unwanted: impl Fn(&Connection) -> bool) -> Result<usize, Error> {
    let mut n_forgotten = 0;
    // For a list the kernel walks the table of the whole machine, which may take it
    // some ten milliseconds: both families at once, and only where there is anything.
    if socket.ask("count the connections", STATISTICS, ENTRIES)? == 0 {
        return Ok(0);
    }
    for body in socket.dump(GET, 0, |_| {})? {
        let attributes = body.get(4..).unwrap_or_default();
        let Some(entry) = Entry::parse(attributes).filter(|entry| is_unwanted(&entry.connection)) else { continue };
        let family = Family::of(entry.connection.opened_to).number();
        n_forgotten += usize::from(delete(socket, family, &entry)?);
    }
    Ok(n_forgotten)
}

fn delete(socket: &mut Socket, family: u8, entry: &Entry<'_>) -> Result<bool, Error> {
    const NESTED: u16 = 0x8000;
    let result = socket.request("forget a connection", DELETE, family, |request| {
        request.bytes(TUPLE_ORIGINAL | NESTED, entry.original);
        // The number tells it from a newer connection with the same addresses and ports.
        request.bytes(IDENTITY, entry.identity);
    });
    match result {
        Ok(()) => Ok(true),
        Err(Error::Refused { errno: nix::errno::Errno::ENOENT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A tracked connection, with what names it to the kernel.
struct Entry<'a> {
    original: &'a [u8],
    identity: &'a [u8],
    connection: Connection,
}

impl<'a> Entry<'a> {
    /// Reads one whose destination was rewritten; others do not matter.
    fn parse(attributes: &'a [u8]) -> Option<Self> {
        let original = wire::find(attributes, TUPLE_ORIGINAL)?;
        let reply = wire::find(attributes, TUPLE_REPLY)?;
        let is_rewritten = wire::find(attributes, STATUS).and_then(wire::be32)? & DNAT != 0;
        let protocol = wire::find(reply, 2).unwrap_or_default();
        let connection = Connection {
            opened_to: address(original, 2, 4)?,
            answers_from: address(reply, 1, 3)?,
            answers_from_port: wire::find(protocol, 2).and_then(wire::be16),
            protocol: wire::find(protocol, 1).and_then(|value| value.first().copied()),
        };
        let identity = wire::find(attributes, IDENTITY)?;
        is_rewritten.then_some(Self { original, identity, connection })
    }
}

fn address(tuple: &[u8], kind4: u16, kind6: u16) -> Option<IpAddr> {
    let addresses = wire::find(tuple, 1)?;
    if let Some(value) = wire::find(addresses, kind4) {
        return Some(<[u8; 4]>::try_from(value).ok()?.into());
    }
    Some(<[u8; 16]>::try_from(wire::find(addresses, kind6)?).ok()?.into())
}
