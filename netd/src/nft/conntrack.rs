//! Forgetting connections whose backend is gone.
//!
//! Rules are asked for a connection's first packet only: what is established goes on to its backend for as
//! long as conntrack remembers it. Once forgotten, the next packet is a first one again: TCP meets a backend
//! that knows nothing of it and is reset, UDP goes to a backend that is there.

use super::ingress::number;
use super::socket::{Error, Socket};
use super::wire;
use skep_model::endpoint::Transport;
use std::net::IpAddr;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
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

/// Forgets the namespace's connections to backends that are gone, and tells how many there were.
///
/// # Errors
/// When the kernel refuses to list or delete; a connection that ended meanwhile is no error.
pub fn forget(socket: &mut Socket, vanished: &[Vanished]) -> Result<usize, Error> {
    let mut n_forgotten = 0;
    for family in [2u8, 10] {
        if !vanished.iter().any(|gone| gone.backend.is_ipv4() == (family == 2)) {
            continue;
        }
        for body in socket.dump(GET, family, |_| {})? {
            let attributes = body.get(4..).unwrap_or_default();
            let Some(connection) = Connection::parse(attributes) else { continue };
            if vanished.iter().any(|gone| connection.went_to(gone)) {
                n_forgotten += usize::from(delete(socket, family, &connection)?);
            }
        }
    }
    Ok(n_forgotten)
}

fn delete(socket: &mut Socket, family: u8, connection: &Connection<'_>) -> Result<bool, Error> {
    const NESTED: u16 = 0x8000;
    let result = socket.request("forget a connection", DELETE, family, |request| {
        request.bytes(TUPLE_ORIGINAL | NESTED, connection.original);
        // The number tells it from a newer connection with the same addresses and ports.
        request.bytes(IDENTITY, connection.identity);
    });
    match result {
        Ok(()) => Ok(true),
        Err(Error::Refused { errno: nix::errno::Errno::ENOENT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is needed of a tracked connection.
struct Connection<'a> {
    original: &'a [u8],
    identity: &'a [u8],
    rewritten: bool,
    opened_to: IpAddr,
    answers_from: IpAddr,
    answers_from_port: Option<u16>,
    protocol: Option<u8>,
}

impl<'a> Connection<'a> {
    fn parse(attributes: &'a [u8]) -> Option<Self> {
        let original = wire::find(attributes, TUPLE_ORIGINAL)?;
        let reply = wire::find(attributes, TUPLE_REPLY)?;
        Some(Self {
            original,
            identity: wire::find(attributes, IDENTITY)?,
            rewritten: wire::find(attributes, STATUS).and_then(wire::be32)? & DNAT != 0,
            opened_to: address(original, 2, 4)?,
            answers_from: address(reply, 1, 3)?,
            answers_from_port: wire::find(reply, 2).and_then(|protocol| wire::find(protocol, 2)).and_then(wire::be16),
            protocol: wire::find(reply, 2).and_then(|protocol| wire::find(protocol, 1)).and_then(|value| value.first().copied()),
        })
    }

    fn went_to(&self, gone: &Vanished) -> bool {
        self.rewritten
            && self.answers_from == gone.backend
            && gone.through.is_none_or(|through| self.opened_to == through)
            && gone.port.is_none_or(|port| self.answers_from_port == Some(port))
            && gone.transport.is_none_or(|transport| self.protocol == Some(number(transport)))
    }
}

fn address(tuple: &[u8], kind4: u16, kind6: u16) -> Option<IpAddr> {
    let addresses = wire::find(tuple, 1)?;
    if let Some(value) = wire::find(addresses, kind4) {
        return Some(<[u8; 4]>::try_from(value).ok()?.into());
    }
    Some(<[u8; 16]>::try_from(wire::find(addresses, kind6)?).ok()?.into())
}
