//! What netd must know of links that are not its own: how large a packet the
//! underlay carries, and which addresses are taken.

use super::{Kernel, KernelError, read};
use ipnet::IpNet;
use rtnetlink::packet_route::link::LinkAttribute;
use skep_model::network::MTU_MAX;
use skep_netd_core::Namespace;
use std::net::IpAddr;

/// Why this node's namespace has no IPv6, if it has none.
pub fn lacks_ipv6() -> Option<String> {
    skep_model::node::lacks_ipv6(|setting| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{setting}")).ok())
}

impl Kernel {
    /// Whether links or addresses that are not ours changed since the last call.
    pub fn take_hint(&mut self) -> bool {
        std::mem::take(&mut self.hint)
    }

    /// The largest packet of the link that has this address, in bytes; none = no
    /// link of the node has it.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub async fn underlay_mtu(&self, address: IpAddr) -> Result<Option<u32>, KernelError> {
        let Some(scope) = self.scopes.get(&Namespace::Node) else { return Ok(None) };
        let found = read::addresses(Namespace::Node, scope).await?;
        let Some((index, _)) = found.into_iter().find(|(_, net)| net.addr() == address) else { return Ok(None) };
        let link = read::link(Namespace::Node, scope, index).await?;
        Ok(link.and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                // No link of ours can have more, and loopback has.
                LinkAttribute::Mtu(bytes) => Some((*bytes).min(MTU_MAX)),
                _ => None,
            })
        }))
    }

    /// The subnets that the node has addresses in or routes to, other than by our
    /// links, loopback and link-local ones, and default routes.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub async fn occupied(&self) -> Result<Vec<IpNet>, KernelError> {
        let Some(scope) = self.scopes.get(&Namespace::Node) else { return Ok(Vec::new()) };
        let addresses = read::addresses(Namespace::Node, scope).await?;
        let of_links = addresses.into_iter().filter(|(index, _)| !scope.names.contains_key(index)).map(|(_, net)| net.trunc());
        let routes = read::destinations(Namespace::Node, scope).await?;
        let is_of_others = |net: &IpNet| match net.addr() {
            _ if net.prefix_len() == 0 => false,
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_multicast(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_multicast(),
        };
        Ok(of_links.chain(routes).filter(is_of_others).collect())
    }
}
