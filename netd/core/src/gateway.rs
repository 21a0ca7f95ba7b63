//! The gateway bridge: the way out of the node for its tasks.
//!
//! It is the node's own: no other node knows of its subnets, and every node may
//! have the same. Its addresses are given here, one offset for each task and both
//! families. An offset that was given back is reused as late as possible. What
//! was given is in the kernel and nowhere else; a new process is told of it with
//! [`Gateway::keep`] before it gives any.

use crate::name::{Name, gateway_bridge_name};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::TaskId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Subnets that are tried, in this order.
const SUBNETS_V4: [Ipv4Net; 6] = [
    Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 19, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 22, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 28, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 224, 0), 20),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 0, 0), 16),
];
/// Subnets that are tried on a node with v6.
const SUBNETS_V6: [Ipv6Net; 2] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd73, 0x6b65, 0x7067, 0x7762, 0, 0, 0, 0), 64),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd73, 0x6b65, 0x7067, 0x7763, 0, 0, 0, 0), 64),
];
/// The bridge itself; tasks come after it.
const BRIDGE_OFFSET: u32 = 1;

/// The gateway bridge and who has which address behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
    tasks: BTreeMap<TaskId, u32>,
    taken: BTreeMap<u32, TaskId>,
    /// Where the search for the next free offset begins.
    next: u32,
}

impl Gateway {
    /// A gateway in these subnets.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Self {
        Self { v4, v6, tasks: BTreeMap::new(), taken: BTreeMap::new(), next: BRIDGE_OFFSET + 1 }
    }

    /// The first subnets that overlap nothing the node has addresses or routes in;
    /// none = every one of them does.
    pub fn choose(occupied: &[IpNet], wants_v6: bool) -> Option<Self> {
        let is_free = |net: IpNet| !occupied.iter().any(|other| other.contains(&net) || net.contains(other));
        let v4 = SUBNETS_V4.into_iter().find(|net| is_free(IpNet::V4(*net)))?;
        let v6 = SUBNETS_V6.into_iter().find(|net| wants_v6 && is_free(IpNet::V6(*net)));
        Some(Self::new(v4, v6))
    }

    /// The name of the bridge.
    pub fn bridge(&self) -> Name {
        gateway_bridge_name()
    }

    /// Its subnets.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + use<> {
        [Some(IpNet::V4(self.v4)), self.v6.map(IpNet::V6)].into_iter().flatten()
    }

    /// The bridge's own addresses, with the length of their subnets.
    pub fn own(&self) -> Vec<IpNet> {
        self.at(BRIDGE_OFFSET)
    }

    /// The addresses of a task behind it, with the length of their subnets.
    pub fn addresses(&self, task: TaskId) -> Vec<IpNet> {
        self.offset(task).map(|offset| self.at(offset)).unwrap_or_default()
    }

    /// The number that a task's addresses and the name of its pair are made of.
    pub fn offset(&self, task: TaskId) -> Option<u32> {
        self.tasks.get(&task).copied()
    }

    /// Gives a task addresses, unless it has them; none = all are taken.
    pub fn give(&mut self, task: TaskId) -> Option<u32> {
        if let Some(offset) = self.offset(task) {
            return Some(offset);
        }
        let first = BRIDGE_OFFSET + 1;
        let is_free = |offset: &u32| !self.taken.contains_key(offset);
        let offset = (self.next..=self.last()).chain(first..self.next).find(is_free)?;
        self.insert(task, offset);
        Some(offset)
    }

    /// Notes the address that a task was found with. What cannot be is ignored:
    /// the task gets another address then.
    pub fn keep(&mut self, task: TaskId, address: IpAddr) {
        let IpAddr::V4(address) = address else { return };
        let is_possible = self.v4.contains(&address) && !self.tasks.contains_key(&task);
        let offset = u32::from(address).wrapping_sub(u32::from(self.v4.network()));
        if is_possible && (BRIDGE_OFFSET + 1..=self.last()).contains(&offset) && !self.taken.contains_key(&offset) {
            self.insert(task, offset);
        }
    }

    /// Takes a task's addresses back.
    pub fn take_back(&mut self, task: TaskId) {
        if let Some(offset) = self.tasks.remove(&task) {
            self.taken.remove(&offset);
        }
    }

    fn insert(&mut self, task: TaskId, offset: u32) {
        self.tasks.insert(task, offset);
        self.taken.insert(offset, task);
        self.next = self.next.max(offset + 1);
        if self.next > self.last() {
            self.next = BRIDGE_OFFSET + 1;
        }
    }

    /// The one before the broadcast address.
    fn last(&self) -> u32 {
        u32::from(self.v4.broadcast()) - u32::from(self.v4.network()) - 1
    }

    fn at(&self, offset: u32) -> Vec<IpNet> {
        let v4 = Ipv4Addr::from(u32::from(self.v4.network()) + offset);
        let v6 = self.v6.map(|net| (Ipv6Addr::from(u128::from(net.network()) + u128::from(offset)), net.prefix_len()));
        let nets = [Some((IpAddr::V4(v4), self.v4.prefix_len())), v6.map(|(v6, prefix)| (IpAddr::V6(v6), prefix))];
        let net = |(address, prefix)| IpNet::new(address, prefix).expect("the prefix is of the address's family");
        nets.into_iter().flatten().map(net).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: u8) -> TaskId {
        TaskId::from_random([number; 16])
    }

    #[test]
    fn a_subnet_that_overlaps_nothing_is_chosen() {
        let check = |occupied: &[&str], wants_v6, expected: Option<&str>| {
            let occupied: Vec<IpNet> = occupied.iter().map(|net| net.parse().unwrap()).collect();
            let chosen = Gateway::choose(&occupied, wants_v6);
            let text = chosen.map(|gateway| gateway.own().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            assert_eq!(text.as_deref(), expected);
        };
        check(&[], false, Some("172.18.0.1/16"));
        check(&["172.18.4.0/24", "10.0.0.0/8"], false, Some("172.19.0.1/16"));
        check(&["172.16.0.0/12"], true, Some("192.168.224.1/20 fd73:6b65:7067:7762::1/64"));
        check(&["fd73:6b65::/32"], true, Some("172.18.0.1/16"));
        check(&["0.0.0.0/0"], false, None);
    }

    #[test]
    fn an_address_has_one_owner_and_is_reused_late() {
        let mut gateway = Gateway::new("192.0.2.0/29".parse().unwrap(), None);
        assert_eq!((1..=5).map(|n| gateway.give(task(n))).collect::<Vec<_>>(), [2, 3, 4, 5, 6].map(Some));
        assert_eq!(gateway.give(task(6)), None, "7 is the broadcast address");
        gateway.take_back(task(2));
        gateway.take_back(task(4));
        assert_eq!(gateway.give(task(3)), Some(4), "who has one keeps it");
        assert_eq!((gateway.give(task(7)), gateway.give(task(8)), gateway.give(task(9))), (Some(3), Some(5), None));
    }

    #[test]
    fn what_was_found_is_kept() {
        let mut gateway = Gateway::new("192.0.2.0/29".parse().unwrap(), None);
        for (number, address) in [(1, "192.0.2.3"), (2, "192.0.2.3"), (3, "192.0.2.1"), (4, "198.51.100.2"), (5, "192.0.2.7")] {
            gateway.keep(task(number), address.parse().unwrap());
        }
        assert_eq!((1..=5).map(|n| gateway.offset(task(n))).collect::<Vec<_>>(), [Some(3), None, None, None, None]);
        assert_eq!(gateway.give(task(2)), Some(4));
    }
}
