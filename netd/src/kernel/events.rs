//! What the kernel announces, taken into the mirror.
//!
//! A link's message is only a hint: the link is read anew, since some messages
//! tell only a part. That it was down for a moment is believed at once, as the
//! kernel silently drops rows then.

use super::scope::Scope;
use super::{Kernel, KernelError, read};
use crate::netlink::socket::{Received, receive};
use crate::netlink::wire;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use skep_netd_core::{Key, Mirror, Namespace, Place, Value};
use std::collections::BTreeSet;

/// Takes a datagram of events. Whatever fails, the cure is that of an overrun: read all anew.
fn take(scope: &Scope) -> Received {
    receive(&scope.events).unwrap_or(Received::Overrun)
}

/// Throws away all waiting events; whether some were lost before.
pub fn discard(scope: &Scope) -> bool {
    let mut lost = false;
    loop {
        match take(scope) {
            Received::Datagram(_) => {}
            Received::Nothing => return lost,
            // The error is reported once, then the socket goes on.
            Received::Overrun if lost => return true,
            Received::Overrun => lost = true,
        }
    }
}

impl Kernel {
    pub(super) async fn take_events(
        &mut self,
        namespace: Namespace,
        mirror: &mut Mirror,
    ) -> Result<BTreeSet<Place>, KernelError> {
        let mut touched = BTreeSet::new();
        loop {
            let Some(scope) = self.scopes.get(&namespace) else { return Ok(touched) };
            match take(scope) {
                Received::Nothing => return Ok(touched),
                Received::Overrun => {
                    self.overruns += 1;
                    self.stale.insert(namespace);
                    return Ok(touched);
                }
                Received::Datagram(datagram) => {
                    for message in messages(&datagram) {
                        touched.extend(self.take_event(namespace, message, mirror).await?);
                    }
                }
            }
        }
    }

    async fn take_event(
        &mut self,
        namespace: Namespace,
        message: RouteNetlinkMessage,
        mirror: &mut Mirror,
    ) -> Result<BTreeSet<Place>, KernelError> {
        let Some(scope) = self.scopes.get_mut(&namespace) else { return Ok(BTreeSet::new()) };
        if namespace == Namespace::Node && is_of_others(&message, scope) {
            self.hint = true;
            match &message {
                RouteNetlinkMessage::NewLink(link) => {
                    foreign_name(link).into_iter().for_each(|name| self.advertised.came(link.header.index, name));
                }
                RouteNetlinkMessage::DelLink(link) => self.advertised.went(link.header.index),
                _ => {}
            }
        }
        let at = |key| Place { key, namespace };
        Ok(match &message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                let is_gone =
                    matches!(message, RouteNetlinkMessage::DelLink(_)) && link.header.interface_family != AddressFamily::Bridge;
                return take_link(namespace, scope, link, is_gone, mirror).await;
            }
            RouteNetlinkMessage::NewAddress(address) => read::address_row(namespace, address, &scope.names)
                .map(|key| mirror.set(at(key), Value::Present))
                .unwrap_or_default(),
            RouteNetlinkMessage::DelAddress(address) => {
                read::address_row(namespace, address, &scope.names).map(|key| mirror.forget(at(key))).unwrap_or_default()
            }
            RouteNetlinkMessage::NewNeighbour(row) => match read::neighbour_row(namespace, row, &scope.names) {
                Some((key, Some(value))) => mirror.set(at(key), value),
                Some((key, None)) => mirror.forget(at(key)),
                None => BTreeSet::new(),
            },
            RouteNetlinkMessage::DelNeighbour(row) => {
                read::neighbour_row(namespace, row, &scope.names).map(|(key, _)| mirror.forget(at(key))).unwrap_or_default()
            }
            RouteNetlinkMessage::NewRoute(route) => {
                // A route may silently take the place of another; the table tells.
                let row = read::route_row(namespace, route, &scope.names);
                let is_known = match row {
                    Some((key, value)) => mirror.get(&at(key)) == Some(&value),
                    None => namespace == Namespace::Node || !read::is_made_by_task(route),
                };
                if !is_known {
                    self.stale.insert(namespace);
                }
                BTreeSet::new()
            }
            RouteNetlinkMessage::DelRoute(route) => {
                read::route_row(namespace, route, &scope.names).map(|(key, _)| mirror.forget(at(key))).unwrap_or_default()
            }
            RouteNetlinkMessage::NewRule(rule) if namespace != Namespace::Node => {
                read::rule_row(rule).map(|(key, value)| mirror.set(at(key), value)).unwrap_or_default()
            }
            RouteNetlinkMessage::DelRule(rule) if namespace != Namespace::Node => {
                read::rule_row(rule).map(|(key, _)| mirror.forget(at(key))).unwrap_or_default()
            }
            _ => BTreeSet::new(),
        })
    }
}

/// Whether a message is about a link or address that is not ours.
fn is_of_others(message: &RouteNetlinkMessage, scope: &Scope) -> bool {
    let index = match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => link.header.index,
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => address.header.index,
        _ => return false,
    };
    !scope.names.contains_key(&index)
}

/// The name of a link, if it is not ours: one of ours is not noted yet when its first event comes.
fn foreign_name(link: &LinkMessage) -> Option<&str> {
    let name =
        link.attributes.iter().find_map(|it| if let LinkAttribute::IfName(name) = it { Some(name.as_str()) } else { None });
    name.filter(|_| read::own_name(Namespace::Node, link).is_none())
}

async fn take_link(
    namespace: Namespace,
    scope: &mut Scope,
    link: &LinkMessage,
    is_gone: bool,
    mirror: &mut Mirror,
) -> Result<BTreeSet<Place>, KernelError> {
    let index = link.header.index;
    let known = scope.names.get(&index).copied();
    let at = |key| Place { key, namespace };
    if is_gone {
        scope.names.remove(&index);
        known.map(|name| scope.ends.remove(&name));
        return Ok(known.map(|name| forget_link(mirror, namespace, name)).unwrap_or_default());
    }
    if known.is_none() && read::own_name(namespace, link).is_none() {
        return Ok(BTreeSet::new());
    }
    let mut touched = BTreeSet::new();
    if let Some(name) = known.filter(|_| !link.header.flags.contains(LinkFlags::Up)) {
        touched.extend(mirror.forget(at(Key::Up(name))));
    }
    touched.extend(observe(namespace, scope, index, mirror).await?);
    Ok(touched)
}

fn forget_link(mirror: &mut Mirror, namespace: Namespace, name: skep_netd_core::Name) -> BTreeSet<Place> {
    mirror.forget(Place { key: Key::Link(name), namespace })
}

/// Reads a link and takes its rows into the mirror.
pub async fn observe(
    namespace: Namespace,
    scope: &mut Scope,
    index: u32,
    mirror: &mut Mirror,
) -> Result<BTreeSet<Place>, KernelError> {
    let known = scope.names.get(&index).copied();
    let message = read::link(namespace, scope, index).await?;
    let name = message.as_ref().and_then(|message| read::own_name(namespace, message));
    let mut touched = BTreeSet::new();
    if let Some(old) = known.filter(|known| Some(*known) != name) {
        scope.names.remove(&index);
        touched.extend(forget_link(mirror, namespace, old));
    }
    let (Some(message), Some(name)) = (message, name) else { return Ok(touched) };
    scope.note(index, name);
    match read::end(&message) {
        Some(end) => drop(scope.ends.insert(name, end)),
        None => drop(scope.ends.remove(&name)),
    }
    let rows = read::link_rows(namespace, &message, &scope.names);
    for key in [Key::Link(name), Key::Mtu(name), Key::Mac(name), Key::Port(name), Key::Up(name)] {
        if !rows.iter().any(|(found, _)| *found == key) {
            touched.extend(mirror.forget(Place { key, namespace }));
        }
    }
    for (key, value) in rows {
        touched.extend(mirror.set(Place { key, namespace }, value));
    }
    Ok(touched)
}

fn messages(datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    let read = |message| match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) => Some(message),
        Ok(_) => None,
        Err(error) => {
            // The audit sees what we could not read here.
            tracing::debug!(%error, "an event could not be read");
            None
        }
    };
    wire::split(datagram).filter_map(read).collect()
}
