//! What no two objects may have at once: numbers and subnets of networks, the one
//! ingress network, published ports.
//!
//! Derived from the tables and kept by `apply`, as the indexes are; so two requests
//! that were admitted at the same time never both get what only one may have.
//! Addresses are not here: only the leader's turn gives them, to one owner each.

use super::conflict::Conflict;
use ipnet::IpNet;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use skep_model::network::{Network, VNI_FIRST, VNI_LAST};
use skep_model::service::Service;
use skep_model::{NetworkId, ServiceId};
use std::net::IpAddr;
use std::ops::Bound;

/// A port and its protocol.
pub(crate) type Port = (u16, Transport);

/// What was given last, so that what is freed is given late. It outlives the
/// networks, and is only a hint: it is not replicated.
#[derive(Clone, Debug, Default)]
struct Newest {
    /// With the version at which each was given.
    vni: (u64, u32),
    ipv4: (u64, Option<IpNet>),
    ipv6: (u64, Option<IpNet>),
}

/// Everything that has one owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    vnis: RedBlackTreeMapSync<u32, NetworkId>,
    /// By first address; none overlaps another.
    subnets: RedBlackTreeMapSync<IpAddr, (IpNet, NetworkId)>,
    ingress: Option<NetworkId>,
    ingress_ports: RedBlackTreeMapSync<Port, ServiceId>,
    /// Several services may share one: the scheduler keeps them apart.
    host_ports: RedBlackTreeSetSync<(Port, ServiceId)>,
    newest: Newest,
}

impl Claims {
    /// The network over which published ports are reached, if there is one.
    pub(crate) fn ingress(&self) -> Option<NetworkId> {
        self.ingress
    }

    /// The next number that no network has; `None` if all are taken.
    pub(crate) fn next_vni(&self) -> Option<u32> {
        let start = self.newest.vni.1.max(VNI_FIRST - 1);
        (start + 1..=VNI_LAST).chain(VNI_FIRST..=start).find(|vni| !self.vnis.contains_key(vni))
    }

    /// The subnet of a family that was chosen last, whether or not its network is
    /// still there.
    pub(crate) fn newest_subnet(&self, ipv4: bool) -> Option<IpNet> {
        if ipv4 { self.newest.ipv4.1 } else { self.newest.ipv6.1 }
    }

    /// A subnet that shares addresses with this one, and the network that has it.
    pub(crate) fn overlapping(&self, subnet: IpNet) -> Option<(IpNet, NetworkId)> {
        let (first, last) = (subnet.network(), subnet.broadcast());
        let before = self.subnets.range((Bound::<IpAddr>::Unbounded, Bound::Included(first))).next_back();
        let inside = self.subnets.range((Bound::Included(first), Bound::Included(last))).next();
        let overlaps = |other: &IpNet| other.contains(&subnet) || subnet.contains(other);
        before.into_iter().chain(inside).map(|(_, claim)| *claim).find(|(other, _)| overlaps(other))
    }

    /// The service that publishes a port through the ingress network.
    pub(crate) fn ingress_port(&self, port: Port) -> Option<ServiceId> {
        self.ingress_ports.get(&port).copied()
    }

    /// A service other than `except` that publishes a port on the nodes of its tasks.
    pub(crate) fn host_port(&self, port: Port, except: Option<ServiceId>) -> Option<ServiceId> {
        let first = (port, ServiceId::from_random([0; 16]));
        let same = self
            .host_ports
            .range((Bound::Included(first), Bound::Unbounded))
            .map_while(|(other, service)| (*other == port).then_some(*service));
        same.into_iter().find(|service| Some(*service) != except)
    }

    /// A service that publishes any port through the ingress network.
    pub(crate) fn any_ingress_port(&self) -> Option<ServiceId> {
        self.ingress_ports.values().next().copied()
    }

    pub(super) fn add_network(&mut self, network: &Network) -> Result<(), Conflict> {
        let id = network.id;
        let plan = &network.plan;
        if network.spec.ingress {
            if let Some(other) = self.ingress {
                return Err(Conflict::IngressExists(other));
            }
            self.ingress = Some(id);
        }
        if plan.vni != 0 {
            if self.vnis.contains_key(&plan.vni) {
                return Err(Conflict::NumberTaken(plan.vni));
            }
            self.vnis.insert_mut(plan.vni, id);
        }
        for pool in &plan.pools {
            if let Some((subnet, network)) = self.overlapping(pool.subnet) {
                return Err(Conflict::SubnetTaken { subnet, network });
            }
            self.subnets.insert_mut(pool.subnet.network(), (pool.subnet, id));
        }
        if plan.version >= self.newest.vni.0 {
            self.newest.vni = (plan.version, plan.vni);
        }
        let was_chosen = |subnet: &IpNet| !network.spec.pools.iter().any(|asked| asked.subnet == *subnet);
        for subnet in plan.pools.iter().map(|pool| pool.subnet).filter(was_chosen) {
            let newest = if matches!(subnet, IpNet::V4(_)) { &mut self.newest.ipv4 } else { &mut self.newest.ipv6 };
            if plan.version >= newest.0 {
                *newest = (plan.version, Some(subnet));
            }
        }
        Ok(())
    }

    pub(super) fn remove_network(&mut self, network: &Network) {
        if self.ingress == Some(network.id) {
            self.ingress = None;
        }
        self.vnis.remove_mut(&network.plan.vni);
        for pool in &network.plan.pools {
            self.subnets.remove_mut(&pool.subnet.network());
        }
    }

    pub(super) fn add_service(&mut self, service: &Service) -> Result<(), Conflict> {
        for (port, mode) in published(&service.plan.endpoint.ports) {
            let other = match mode {
                PublishMode::Ingress => self.ingress_port(port).or_else(|| self.host_port(port, Some(service.id))),
                PublishMode::Host => self.ingress_port(port).filter(|other| *other != service.id),
            };
            if let Some(other) = other {
                return Err(Conflict::PortTaken { port: port.0, transport: port.1, service: other });
            }
            match mode {
                PublishMode::Ingress => self.ingress_ports.insert_mut(port, service.id),
                PublishMode::Host => self.host_ports.insert_mut((port, service.id)),
            }
        }
        Ok(())
    }

    pub(super) fn remove_service(&mut self, service: &Service) {
        for (port, mode) in published(&service.plan.endpoint.ports) {
            match mode {
                PublishMode::Ingress => drop(self.ingress_ports.remove_mut(&port)),
                PublishMode::Host => drop(self.host_ports.remove_mut(&(port, service.id))),
            }
        }
    }
}

/// The ports that are claimed; one that the kernel chooses is not.
fn published(ports: &[PublishedPort]) -> impl Iterator<Item = (Port, PublishMode)> {
    ports.iter().filter(|port| port.published_port != 0).map(|port| ((port.published_port, port.transport), port.publish_mode))
}
