//! What this node and its links can do, as one value: it filters rows, and says what is
//! missing.
//!
//! Rows are derived as if everything were there. What needs something that is missing
//! is left out ([`Capabilities::admits`]) until it is there, and the rest works without;
//! what is missing is named ([`Capabilities::missing`]). Limits of single links are the
//! MTU's alone: the kernel takes IPv6 away from a link that is too small for it.
//!
//! Not here: whether the kernel deletes conntrack entries by a filter. It answers that
//! to each request, and either way the same entries go.

use crate::name::Name;
use crate::row::{Namespace, Place};
use skep_model::network::MTU_MIN_IPV6;
use skep_model::node::lacks_room;
use skep_model::place::{Place as Owner, PlaceFault};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What the node has and lacks. Nothing is known of a new one but that it has IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    underlay_mtu: Option<u32>,
    lacks_ipv6: Option<String>,
    links_without_ipv6: BTreeSet<(Namespace, Name)>,
}

impl Capabilities {
    /// The largest packet of the underlay, in bytes; none while no link has the node's
    /// address.
    pub fn underlay_mtu(&self) -> Option<u32> {
        self.underlay_mtu
    }

    /// Whether a row can be at a place.
    pub fn admits(&self, place: &Place) -> bool {
        let is_on = |link: Name| !self.links_without_ipv6.contains(&(place.namespace, link));
        !place.key.needs_ipv6() || self.lacks_ipv6.is_none() && place.key.link().is_none_or(is_on)
    }

    /// What is missing on a node with this address on the underlay, and the rest works
    /// without.
    pub fn missing(&self, underlay: Option<IpAddr>) -> Vec<PlaceFault> {
        let lacks_room = || lacks_room(underlay?, self.underlay_mtu?);
        let of_node = self.lacks_ipv6.clone().or_else(lacks_room);
        let of_node = of_node.map(|why| PlaceFault::lasting(Owner::Node, format!("networks work over IPv4 only: {why}")));
        let of_tasks = self.links_without_ipv6.iter().filter_map(|(namespace, link)| match namespace {
            Namespace::Task(task) => {
                let why = format!("the task has no IPv6 on {link}: it is switched off (net.ipv6.conf.{link}.disable_ipv6=1)");
                Some(PlaceFault::lasting(Owner::Task(*task), why))
            }
            Namespace::Node => None,
        });
        of_node.into_iter().chain(of_tasks).collect()
    }

    /// Notes the largest packet of the underlay; whether it is another.
    pub(crate) fn set_underlay_mtu(&mut self, mtu: Option<u32>) -> bool {
        std::mem::replace(&mut self.underlay_mtu, mtu) != mtu
    }

    /// Notes why the node has no IPv6, or that it has it; whether that is news.
    pub(crate) fn set_lacks_ipv6(&mut self, why: Option<String>) -> bool {
        let is_news = self.lacks_ipv6 != why;
        self.lacks_ipv6 = why;
        is_news
    }

    /// Notes whether IPv6 is switched off on a link; whether that is news.
    pub(crate) fn set_link_without_ipv6(&mut self, namespace: Namespace, link: Name, is_off: bool) -> bool {
        let key = (namespace, link);
        if is_off { self.links_without_ipv6.insert(key) } else { self.links_without_ipv6.remove(&key) }
    }
}

/// Whether links with this MTU carry IPv6.
pub fn carries_ipv6(mtu: u32) -> bool {
    mtu >= MTU_MIN_IPV6
}

/// Whether links with this MTU carry the family of an address.
pub fn carries(mtu: u32, address: IpAddr) -> bool {
    address.is_ipv4() || carries_ipv6(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Key, Setting, Sysctl};
    use skep_model::TaskId;

    fn link(name: &str) -> Name {
        Name::new(name).unwrap()
    }

    #[test]
    fn what_needs_ipv6_is_left_out_where_there_is_none() {
        let task = TaskId::from_random([1; 16]);
        let address = |text: &str| Key::Address(link("eth0"), text.parse().unwrap());
        let (v4, v6) = (Place::task(task, address("10.0.0.2/24")), Place::task(task, address("fd00::2/64")));
        let forward = Place::node(Key::Sysctl(Sysctl::Forward6));
        let other = Place::task(task, Key::Setting(link("eth1"), Setting::AcceptAdvertisements));
        let mut found = Capabilities::default();
        let admitted = |found: &Capabilities| [v4, v6, forward, other].map(|place| found.admits(&place));
        assert_eq!(admitted(&found), [true; 4]);
        assert!(found.set_link_without_ipv6(Namespace::Task(task), link("eth0"), true));
        assert_eq!(admitted(&found), [true, false, true, true]);
        assert!(found.set_lacks_ipv6(Some("it is switched off".to_owned())));
        assert_eq!(admitted(&found), [true, false, false, false]);
        assert!(found.set_lacks_ipv6(None) && found.set_link_without_ipv6(Namespace::Task(task), link("eth0"), false));
        assert_eq!(admitted(&found), [true; 4]);
        assert!(!found.set_lacks_ipv6(None), "that is no news");
    }

    #[test]
    fn what_is_missing_is_named_once() {
        let underlay = Some(IpAddr::from([192, 0, 2, 1]));
        let task = TaskId::from_random([1; 16]);
        let mut found = Capabilities::default();
        assert_eq!(found.missing(underlay), []);
        found.set_underlay_mtu(Some(1200));
        found.set_lacks_ipv6(Some("it is switched off".to_owned()));
        let why = PlaceFault::lasting(Owner::Node, "networks work over IPv4 only: it is switched off".to_owned());
        assert_eq!(found.missing(underlay), [why]);
        found.set_lacks_ipv6(None);
        found.set_link_without_ipv6(Namespace::Task(task), link("eth0"), true);
        let places: Vec<Owner> = found.missing(underlay).into_iter().map(|fault| fault.place).collect();
        assert_eq!(places, [Owner::Node, Owner::Task(task)], "the underlay is too small");
        assert_eq!(found.missing(None).len(), 1);
    }
}
