//! From messages to objects: parsed once, believed from then on.

use crate::engine::{ObjectChange, owner};
use skep_model::overlay::{LocalTask, OverlayChange};
use skep_model::place::{Place, PlaceFault};
use skep_model::{NetworkId, NodeId, TaskId};
use skep_netd_core::{Node, Object, ObjectKey};
use skep_proto::{Malformed, v1};

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
    Change(ObjectChange),
    /// What came before has this version.
    Commit(u64),
}

/// Reads one message of a stream. An object that does not fit becomes one that is left
/// out, under its key and with the field that does not.
pub fn step(message: v1::NetdChange) -> Step {
    use v1::netd_change::Change as Wire;
    let change = match message.change {
        Some(Wire::Reset(_)) => return Step::Reset,
        Some(Wire::Commit(version)) => return Step::Commit(version),
        Some(change) => change,
        None => return left_out(None, &unfit("change")("it is of a kind that this skep-netd does not know".to_owned())),
    };
    let key = key(&change);
    change_of(change).map_or_else(|error| left_out(key, &error), Step::Change)
}

/// What the change is about, as far as that can be read.
fn key(change: &v1::netd_change::Change) -> Option<ObjectKey> {
    use v1::netd_change::Change as Wire;
    use v1::overlay_change::Change as Overlay;
    Some(match change {
        Wire::Reset(_) | Wire::Commit(_) => return None,
        Wire::Node(_) => ObjectKey::Node,
        Wire::PutTask(task) => ObjectKey::Task(task.id.parse().ok()?),
        Wire::RemoveTask(id) => ObjectKey::Task(id.parse().ok()?),
        Wire::Overlay(change) => match change.change.as_ref()? {
            Overlay::PutPeer(peer) => ObjectKey::Peer(peer.node.parse().ok()?),
            Overlay::PutNetwork(network) => ObjectKey::Network(network.id.parse().ok()?),
            Overlay::PutService(service) => ObjectKey::Service(service.id.parse().ok()?),
            Overlay::PutEndpoint(v1::Endpoint { id, .. }) => ObjectKey::Endpoint(id.clone()?.try_into().ok()?),
            Overlay::RemovePeer(id) => ObjectKey::Peer(id.parse().ok()?),
            Overlay::RemoveNetwork(id) => ObjectKey::Network(id.parse().ok()?),
            Overlay::RemoveService(id) => ObjectKey::Service(id.parse().ok()?),
            Overlay::RemoveEndpoint(id) => ObjectKey::Endpoint(id.clone().try_into().ok()?),
        },
    })
}

fn left_out(key: Option<ObjectKey>, error: &Unfit) -> Step {
    let reason = match key {
        // A node's faults are its own; whose address it is that does not fit is said.
        Some(ObjectKey::Peer(node)) => format!("the node {node} is left out: {error}"),
        _ => format!("it is left out: {error}"),
    };
    Step::Change(ObjectChange::LeaveOut(key, PlaceFault::blocking(key.map_or(Place::Node, owner), reason)))
}

fn change_of(change: v1::netd_change::Change) -> Result<ObjectChange, Unfit> {
    use v1::netd_change::Change as Wire;
    match change {
        Wire::Reset(_) | Wire::Commit(_) => Err(unfit("change")("it is none".to_owned())),
        Wire::Node(message) => put(Object::Node(node(&message)?)),
        Wire::PutTask(message) => put(Object::Task(task(message)?)),
        Wire::RemoveTask(id) => Ok(ObjectChange::RemoveNamespace(task_id(&id)?)),
        Wire::Overlay(message) => match OverlayChange::try_from(message).map_err(|error| malformed("overlay", &error))? {
            OverlayChange::PutPeer(peer) => put(Object::Peer(peer)),
            OverlayChange::PutNetwork(network) => put(Object::Network(network)),
            OverlayChange::PutService(service) => put(Object::Service(service)),
            OverlayChange::PutEndpoint(endpoint) => put(Object::Endpoint(endpoint)),
            OverlayChange::RemovePeer(id) => remove(ObjectKey::Peer(id)),
            OverlayChange::RemoveNetwork(id) => remove(ObjectKey::Network(id)),
            OverlayChange::RemoveService(id) => remove(ObjectKey::Service(id)),
            OverlayChange::RemoveEndpoint(id) => remove(ObjectKey::Endpoint(id)),
        },
    }
}

fn put(object: Object) -> Result<ObjectChange, Unfit> {
    match object.check() {
        Ok(()) => Ok(ObjectChange::Put(object)),
        Err(error) => Err(unfit("object")(error.to_string())),
    }
}

fn remove(key: ObjectKey) -> Result<ObjectChange, Unfit> {
    Ok(ObjectChange::Remove(key))
}

fn malformed(field: &'static str, error: &Malformed) -> Unfit {
    unfit(field)(error.to_string())
}

/// A task of this node.
///
/// # Errors
/// If a field of it does not fit.
pub fn task(message: v1::LocalTask) -> Result<LocalTask, Unfit> {
    let task = LocalTask::try_from(message).map_err(|error| malformed("task", &error))?;
    let object = Object::Task(task.clone());
    object.check().map(|()| task).map_err(|error| unfit("task")(error.to_string()))
}

/// A network's id.
///
/// # Errors
/// If it is none.
pub fn network_id(text: &str) -> Result<NetworkId, Unfit> {
    text.parse().map_err(|error: skep_model::id::InvalidId| unfit("network")(error.to_string()))
}

/// A task's id.
///
/// # Errors
/// If it is none.
pub fn task_id(text: &str) -> Result<TaskId, Unfit> {
    text.parse().map_err(|error: skep_model::id::InvalidId| unfit("task")(error.to_string()))
}

fn node(message: &v1::NetdNode) -> Result<Node, Unfit> {
    let id: NodeId = message.id.parse().map_err(|error: skep_model::id::InvalidId| unfit("node")(error.to_string()))?;
    let address = message.address.parse().map_err(|_| unfit("address")(format!("{:?} is not an address", message.address)))?;
    let port = u16::try_from(message.port).map_err(|_| unfit("port")(format!("{} is not a UDP port", message.port)))?;
    Ok(Node { id, address, port, is_isolated: message.is_isolated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::netd_change::Change as Wire;

    fn check(change: Option<Wire>, expected: &str) {
        let said = match step(v1::NetdChange { change }) {
            Step::Change(ObjectChange::LeaveOut(key, fault)) => {
                format!("{} of {}: {}", key.map_or("an object", |_| "the object"), fault.place, fault.reason)
            }
            step => format!("{step:?}"),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let id = "0000000000000000000000000";
        let node = |id: &str, address: &str, port| {
            Some(Wire::Node(v1::NetdNode { id: id.to_owned(), address: address.to_owned(), port, is_isolated: false }))
        };
        let overlay = |change| Some(Wire::Overlay(v1::OverlayChange { change: Some(change) }));
        let network = |vni, mtu| {
            let network = v1::NodeNetwork { id: id.to_owned(), vni, mtu, ..Default::default() };
            overlay(v1::overlay_change::Change::PutNetwork(network))
        };
        let of_node = |reason: &str| format!("the object of node: it is left out: {reason}");
        let of_network = |reason: &str| format!("the object of network {id}: it is left out: object: invalid {reason}");
        check(None, "an object of node: it is left out: change: it is of a kind that this skep-netd does not know");
        check(
            Some(Wire::RemoveTask("x".into())),
            "an object of node: it is left out: task: \"x\" is not an id: an id has 25 characters of 0-9 and a-z",
        );
        check(node("x", "10.0.0.1", 4789), &of_node("node: \"x\" is not an id: an id has 25 characters of 0-9 and a-z"));
        check(node(id, "10.0.0", 4789), &of_node("address: \"10.0.0\" is not an address"));
        check(node(id, "10.0.0.1", 70_000), &of_node("port: 70000 is not a UDP port"));
        check(node(id, "10.0.0.1", 0), &of_node("object: invalid port \"0\": 0 is not a UDP port"));
        let unspecified = "object: invalid data path address \"0.0.0.0\": it is the unspecified address; name an address of this node \
                           that other nodes reach";
        check(node(id, "0.0.0.0", 4789), &of_node(unspecified));
        check(network(0, None), &of_network("network number (VNI) \"0\": it is 1 to 16777215"));
        check(network(5, Some(575)), &of_network("MTU \"575\": it is a number of bytes between 576 and 65535"));
        check(
            overlay(v1::overlay_change::Change::PutEndpoint(v1::Endpoint::default())),
            "an object of node: it is left out: overlay: malformed message: put_endpoint.id: must be given",
        );
    }
}
