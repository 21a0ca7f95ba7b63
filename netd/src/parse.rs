//! From messages to objects: parsed once, believed from then on.

use crate::engine::Change;
use ipnet::IpNet;
use skep_model::{Id, NetworkId, TaskId};
use skep_netd_core::{Endpoint, EndpointId, Network, Node, Object, ObjectKey, Site};
use skep_proto::v1;
use std::net::IpAddr;

/// What does not fit, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Unfit {
    /// Which field.
    pub field: &'static str,
    /// Why.
    pub reason: String,
}

fn unfit(field: &'static str) -> impl FnOnce(String) -> Unfit {
    move |reason| Unfit { field, reason }
}

/// One step of a stream.
#[derive(Clone, Debug)]
pub enum Step {
    /// What follows is complete.
    Reset,
    /// A change.
    Change(Change),
    /// What came before has this version.
    Commit(u64),
}

/// Reads one message of a stream.
///
/// # Errors
/// Names the field that does not fit.
pub fn step(message: v1::NetdChange) -> Result<Step, Unfit> {
    use v1::netd_change::Change as Wire;
    let put = |object: Object| match object.check() {
        Ok(()) => Ok(Step::Change(Change::Put(object))),
        Err(error) => Err(unfit("object")(error.to_string())),
    };
    match message.change.ok_or_else(|| unfit("change")("it is empty".to_owned()))? {
        Wire::Reset(_) => Ok(Step::Reset),
        Wire::Commit(0) => Err(unfit("commit")("versions begin at 1".to_owned())),
        Wire::Commit(version) => Ok(Step::Commit(version)),
        Wire::Node(node) => put(Object::Node(parse_node(&node)?)),
        Wire::Network(message) => put(Object::Network(network_id(&message.id)?, network(&message)?)),
        Wire::Endpoint(message) => {
            let id = endpoint_id(message.id.as_ref())?;
            put(Object::Endpoint(id, endpoint(&message)?))
        }
        // Until the engine takes them.
        Wire::Overlay(_) | Wire::PutTask(_) | Wire::RemoveTask(_) => Err(unfit("change")("is not taken yet".to_owned())),
        Wire::RemoveNetwork(id) => Ok(Step::Change(Change::Remove(ObjectKey::Network(network_id(&id)?)))),
        Wire::RemoveEndpoint(id) => Ok(Step::Change(Change::Remove(ObjectKey::Endpoint(endpoint_id(Some(&id))?)))),
    }
}

/// A task's id.
///
/// # Errors
/// If it is none.
pub fn task_id(text: &str) -> Result<TaskId, Unfit> {
    text.parse().map_err(|error: skep_model::id::InvalidId| unfit("task")(error.to_string()))
}

fn network_id(text: &str) -> Result<NetworkId, Unfit> {
    text.parse().map_err(|error: skep_model::id::InvalidId| unfit("network")(error.to_string()))
}

fn endpoint_id(message: Option<&v1::NetdEndpointId>) -> Result<EndpointId, Unfit> {
    let message = message.ok_or_else(|| unfit("id")("it is missing".to_owned()))?;
    let owner = message.owner.parse::<Id>().map_err(|error| unfit("owner")(error.to_string()))?;
    Ok(EndpointId { network: network_id(&message.network)?, owner })
}

fn address(field: &'static str, bytes: &[u8]) -> Result<IpAddr, Unfit> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let parsed = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    parsed.map_err(|_| unfit(field)(format!("an address has 4 or 16 bytes, not {}", bytes.len())))
}

fn parse_node(message: &v1::NetdNode) -> Result<Node, Unfit> {
    let port = u16::try_from(message.port).map_err(|_| unfit("port")(format!("{} is not a UDP port", message.port)))?;
    Ok(Node { address: address("address", &message.address)?, port, mtu: message.mtu })
}

fn network(message: &v1::NetdNetwork) -> Result<Network, Unfit> {
    let subnet = |subnet: &v1::NetdSubnet| {
        let base = address("subnets", &subnet.address)?;
        let prefix =
            u8::try_from(subnet.prefix).map_err(|_| unfit("subnets")(format!("{} is no prefix length", subnet.prefix)))?;
        IpNet::new(base, prefix).map_err(|error| unfit("subnets")(error.to_string()))
    };
    let subnets = message.subnets.iter().map(subnet).collect::<Result<_, _>>()?;
    Ok(Network { vni: message.vni, subnets, mtu: Some(message.mtu).filter(|mtu| *mtu != 0) })
}

fn endpoint(message: &v1::NetdEndpoint) -> Result<Endpoint, Unfit> {
    use v1::netd_endpoint::Site as Wire;
    let addresses = message.addresses.iter().map(|bytes| address("addresses", bytes)).collect::<Result<_, _>>()?;
    let site = match message.site.as_ref().ok_or_else(|| unfit("site")("it is missing".to_owned()))? {
        Wire::Interface(number) => {
            let interface = u8::try_from(*number).map_err(|_| unfit("interface")(format!("{number} is above 255")))?;
            Site::Here { interface }
        }
        Wire::Node(bytes) => Site::There(address("node", bytes)?),
    };
    Ok(Endpoint { addresses, site })
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::netd_change::Change as Wire;

    fn check(change: Option<Wire>, expected: &str) {
        let said = match step(v1::NetdChange { change }) {
            Ok(step) => format!("{step:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let id = "0000000000000000000000000";
        let node = |address: &[u8], port, mtu| {
            Some(Wire::Node(v1::NetdNode { id: String::new(), address: address.to_vec(), port, mtu }))
        };
        let network = |vni, address: &[u8], prefix| {
            let subnets = vec![v1::NetdSubnet { address: address.to_vec(), prefix }];
            Some(Wire::Network(v1::NetdNetwork { id: id.into(), vni, subnets, mtu: 0 }))
        };
        let endpoint = |addresses: &[&[u8]], site| {
            let id = Some(v1::NetdEndpointId { network: id.into(), owner: id.into() });
            Some(Wire::Endpoint(v1::NetdEndpoint { id, addresses: addresses.iter().map(|bytes| bytes.to_vec()).collect(), site }))
        };
        check(None, "change: it is empty");
        check(Some(Wire::Commit(0)), "commit: versions begin at 1");
        check(Some(Wire::RemoveNetwork("x".into())), "network: \"x\" is not an id: an id has 25 characters of 0-9 and a-z");
        check(node(&[1, 2, 3], 4789, 1500), "address: an address has 4 or 16 bytes, not 3");
        check(node(&[10, 0, 0, 1], 70_000, 1500), "port: 70000 is not a UDP port");
        check(node(&[10, 0, 0, 1], 4789, 1329), "object: no overlay fits an MTU of 1329");
        check(node(&[127, 0, 0, 1], 4789, 1500), "object: 127.0.0.1 cannot be the address of an interface");
        check(network(0, &[10, 0, 0, 0], 8), "object: a VXLAN network number is 1 to 16777215, not 0");
        check(network(5, &[10, 0, 0, 1], 8), "object: 10.0.0.1/8 is not a subnet: it has host bits");
        check(network(5, &[10, 0, 0, 0], 33), "subnets: invalid IP prefix length");
        check(endpoint(&[&[10, 0, 0, 1]], None), "site: it is missing");
        check(
            endpoint(&[], Some(v1::netd_endpoint::Site::Interface(0))),
            "object: there must be 1 to 8 addresses or subnets, not 0",
        );
        check(endpoint(&[&[10, 0, 0, 1]], Some(v1::netd_endpoint::Site::Interface(256))), "interface: 256 is above 255");
    }
}
