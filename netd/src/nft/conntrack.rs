//! Conntrack flush: deleting entries whose backend is gone.
//!
//! NAT rules are asked for a connection's first packet only: what is established goes on to its backend for as
//! long as conntrack has its entry. Once that is deleted, the next packet is a first one again: TCP meets a backend
//! that knows nothing of it and is reset, UDP goes to a backend that is there.
//!
//! All namespaces share one table in the kernel, with hundreds of thousands of buckets. To list a namespace's
//! entries the kernel locks each bucket, which takes some ten milliseconds; to delete those that a filter
//! (CTA_FILTER) describes it locks only those with anything in them, which takes a fraction of one. So entries to a
//! backend are deleted by a filter ([`flush`]). Lists are for what no filter can say ([`list`]), for kernels without
//! such filters (before 6.10), and for v6: there these filters take every address but the one that they name (so
//! still 6.18), and would cut all that is to stay.

use super::expression::{Family, STATUS_DNAT, nfproto};
use super::ingress::number;
use super::socket::{Error, Socket};
use crate::netlink::uapi::*;
use crate::netlink::wire;
use nix::errno::Errno;
use skep_model::endpoint::Transport;
use skep_netd_core::Vanished;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Fields of a tuple that a filter compares, as bits: the kernel numbers them in `nf_conntrack_netlink.c` only.
mod filter {
    pub(super) const IP_SRC: u32 = 1 << 0;
    pub(super) const IP_DST: u32 = 1 << 1;
    pub(super) const PROTO_NUM: u32 = 1 << 3;
    pub(super) const PROTO_DST_PORT: u32 = 1 << 5;
}

/// The addresses and protocol of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where its opener sent it.
    pub opened_to: IpAddr,
    /// The port there, if its protocol has ports.
    pub opened_to_port: Option<u16>,
    /// Where it went after DNAT: the source of replies.
    pub answers_from: IpAddr,
    /// The number of its protocol.
    pub protocol: Option<u8>,
}

/// Entries that the namespace has, with NAT or without.
///
/// # Errors
/// When the kernel does not tell.
pub fn count(socket: &mut Socket) -> Result<u32, Error> {
    socket.ask("count the connections", IPCTNL_MSG_CT_GET_STATS, CTA_STATS_GLOBAL_ENTRIES)
}

/// Whether the kernel can filter the entries of a backend ([`flush`]).
pub fn is_searchable(vanished: &Vanished) -> bool {
    vanished.backend.is_ipv4()
}

/// Deletes the namespace's entries with DNAT to a v4 backend; `false` = this kernel cannot, and they must be listed.
///
/// # Errors
/// When the kernel refuses for any other reason.
pub fn flush(socket: &mut Socket, vanished: &Vanished) -> Result<bool, Error> {
    let IpAddr::V4(backend) = vanished.backend else { return Ok(false) };
    let flags = filter::IP_SRC | vanished.transport.map_or(0, |_| filter::PROTO_NUM);
    let result = socket.request("forget connections", IPCTNL_MSG_CT_DELETE, nfproto(Family::V4), |request| {
        request.nest(CTA_TUPLE_REPLY, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |addresses| addresses.bytes(CTA_IP_V4_SRC, &backend.octets()).done());
            if let Some(transport) = vanished.transport {
                tuple.nest(CTA_TUPLE_PROTO, |protocol| protocol.bytes(CTA_PROTO_NUM, &[number(transport)]).done());
            }
        });
        request.be32(CTA_STATUS, STATUS_DNAT).be32(CTA_STATUS_MASK, STATUS_DNAT);
        request.nest(CTA_FILTER, |filter| filter.bytes(CTA_FILTER_REPLY_FLAGS, &flags.to_ne_bytes()).done());
    });
    match result {
        Ok(()) => Ok(true),
        // Without filters it asks for a whole tuple, or says that it knows none.
        Err(Error::Refused { errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a DNAT rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DnatMatch {
    /// A port of the node, of UDP.
    Port(u16),
    /// An address.
    Address(IpAddr),
}

/// From here on one list of all connections costs less than a search for each.
const SEARCHES_MAX: usize = 256;

/// Deletes the entries of UDP that are older than a DNAT rule that matches them: their
/// senders do not stop, so that conntrack would keep for ever that they have no NAT.
/// Connections of TCP begin with a packet of their own.
///
/// # Errors
/// When the kernel refuses.
pub fn flush_bypassing(socket: &mut Socket, new: &BTreeSet<DnatMatch>) -> Result<(), Error> {
    if new.is_empty() || count(socket)? == 0 {
        return Ok(());
    }
    let is_searchable = |new: &DnatMatch| !matches!(new, DnatMatch::Address(IpAddr::V6(_)));
    if new.len() <= SEARCHES_MAX && new.iter().all(is_searchable) {
        let mut is_done = true;
        for one in new {
            is_done &= flush_bypassing_by_filter(socket, *one)?;
        }
        if is_done {
            return Ok(());
        }
    }
    for tracked in list_all(socket)? {
        let Flow { opened_to, opened_to_port, .. } = tracked.flow;
        let is_matched = || {
            new.contains(&DnatMatch::Address(opened_to))
                || opened_to_port.is_some_and(|port| new.contains(&DnatMatch::Port(port)))
        };
        if !tracked.is_rewritten && tracked.flow.protocol == Some(number(Transport::Udp)) && is_matched() {
            delete(socket, &tracked)?;
        }
    }
    Ok(())
}

/// Deletes those that one filter describes; `false` = this kernel has no filters.
fn flush_bypassing_by_filter(socket: &mut Socket, new: DnatMatch) -> Result<bool, Error> {
    let (flags, families): (u32, &[Family]) = match new {
        DnatMatch::Port(_) => (filter::PROTO_NUM | filter::PROTO_DST_PORT, &[Family::V4, Family::V6]),
        DnatMatch::Address(_) => (filter::PROTO_NUM | filter::IP_DST, &[Family::V4]),
    };
    for family in families {
        let result = socket.request("forget datagrams", IPCTNL_MSG_CT_DELETE, nfproto(*family), |request| {
            request.nest(CTA_TUPLE_ORIG, |tuple| {
                if let DnatMatch::Address(IpAddr::V4(address)) = new {
                    tuple.nest(CTA_TUPLE_IP, |addresses| addresses.bytes(CTA_IP_V4_DST, &address.octets()).done());
                }
                tuple.nest(CTA_TUPLE_PROTO, |protocol| {
                    protocol.bytes(CTA_PROTO_NUM, &[number(Transport::Udp)]);
                    if let DnatMatch::Port(port) = new {
                        protocol.bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                    }
                });
            });
            request.be32(CTA_STATUS, 0).be32(CTA_STATUS_MASK, STATUS_DNAT);
            request.nest(CTA_FILTER, |filter| filter.bytes(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes()).done());
        });
        match result {
            Ok(()) => {}
            Err(Error::Refused { errno: Errno::EINVAL | Errno::EOPNOTSUPP, .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Whether an entry has DNAT to a backend.
pub fn is_dnat_to(vanished: &Vanished, flow: &Flow) -> bool {
    flow.answers_from == vanished.backend && vanished.transport.is_none_or(|transport| flow.protocol == Some(number(transport)))
}

/// The namespace's entries with DNAT.
///
/// # Errors
/// When the kernel refuses to list them.
pub fn list(socket: &mut Socket) -> Result<Vec<ConntrackEntry>, Error> {
    Ok(list_all(socket)?.into_iter().filter(|tracked| tracked.is_rewritten).collect())
}

fn list_all(socket: &mut Socket) -> Result<Vec<ConntrackEntry>, Error> {
    // Both families at once: the walk is what costs.
    let found = socket.dump(IPCTNL_MSG_CT_GET, 0, |_| {})?;
    Ok(found.iter().filter_map(|body| ConntrackEntry::parse(wire::after_nfgenmsg(body))).collect())
}

/// Deletes one entry; whether it was still there.
///
/// # Errors
/// When the kernel refuses; a connection that ended meanwhile is no error.
pub fn delete(socket: &mut Socket, tracked: &ConntrackEntry) -> Result<bool, Error> {
    let family = nfproto(Family::of(tracked.flow.opened_to));
    let result = socket.request("forget a connection", IPCTNL_MSG_CT_DELETE, family, |request| {
        request.bytes(CTA_TUPLE_ORIG | wire::NESTED, &tracked.original);
        // The number tells it from a newer connection with the same addresses and ports.
        request.bytes(CTA_ID, &tracked.identity);
    });
    match result {
        Ok(()) => Ok(true),
        Err(Error::Refused { errno: Errno::ENOENT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An entry of conntrack, with what names it to the kernel.
#[derive(Clone, Debug)]
pub struct ConntrackEntry {
    original: Vec<u8>,
    identity: Vec<u8>,
    is_rewritten: bool,
    /// Its addresses and protocol.
    pub flow: Flow,
}

impl ConntrackEntry {
    /// Reads one.
    fn parse(attributes: &[u8]) -> Option<Self> {
        let original = wire::find(attributes, CTA_TUPLE_ORIG)?;
        let reply = wire::find(attributes, CTA_TUPLE_REPLY)?;
        let is_rewritten = wire::find(attributes, CTA_STATUS).and_then(wire::be32)? & STATUS_DNAT != 0;
        let protocol = |tuple, attribute| wire::find(tuple, CTA_TUPLE_PROTO).and_then(|value| wire::find(value, attribute));
        let flow = Flow {
            opened_to: address(original, CTA_IP_V4_DST, CTA_IP_V6_DST)?,
            opened_to_port: protocol(original, CTA_PROTO_DST_PORT).and_then(wire::be16),
            answers_from: address(reply, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            protocol: protocol(reply, CTA_PROTO_NUM).and_then(|value| value.first().copied()),
        };
        let identity = wire::find(attributes, CTA_ID)?;
        Some(Self { original: original.to_vec(), identity: identity.to_vec(), is_rewritten, flow })
    }
}

fn address(tuple: &[u8], kind4: u16, kind6: u16) -> Option<IpAddr> {
    let addresses = wire::find(tuple, CTA_TUPLE_IP)?;
    if let Some(value) = wire::find(addresses, kind4) {
        return Some(<[u8; 4]>::try_from(value).ok()?.into());
    }
    Some(<[u8; 16]>::try_from(wire::find(addresses, kind6)?).ok()?.into())
}
