//! What a node is told of its overlay networks.

use crate::Malformed;
use crate::v1::{self, overlay_change::Change};
use crate::wire::{Wire, border, field, message};
use skep_model::overlay::{Endpoint, EndpointId, LocalTask, NodeNetwork, NodeService, OverlayChange, Peer, ServiceNetwork};

message!(Peer { node, address, ingress });
message!(NodeNetwork { id, name, vni, pools, mtu, internal, ingress });
message!(NodeService { id, name, networks, ingress_ports });
message!(ServiceNetwork { network, virtual_addresses, aliases });
message!(EndpointId { network, task });
message!(Endpoint { id, service, node, addresses, names, is_published });
message!(LocalTask { id, service, attachments, has_gateway, host_ports, hostname, dns });

impl Wire<v1::OverlayChange> for OverlayChange {
    fn encode(&self) -> v1::OverlayChange {
        let change = match self {
            Self::PutPeer(peer) => Change::PutPeer(peer.encode()),
            Self::PutNetwork(network) => Change::PutNetwork(network.encode()),
            Self::PutService(service) => Change::PutService(service.encode()),
            Self::PutEndpoint(endpoint) => Change::PutEndpoint(endpoint.encode()),
            Self::RemoveEndpoint(id) => Change::RemoveEndpoint(id.encode()),
            Self::RemoveService(id) => Change::RemoveService(id.encode()),
            Self::RemoveNetwork(id) => Change::RemoveNetwork(id.encode()),
            Self::RemovePeer(id) => Change::RemovePeer(id.encode()),
        };
        v1::OverlayChange { change: Some(change) }
    }

    fn decode(wire: v1::OverlayChange) -> Result<Self, Malformed> {
        Ok(match wire.change.ok_or_else(Malformed::missing)? {
            Change::PutPeer(peer) => Self::PutPeer(field("put_peer", peer)?),
            Change::PutNetwork(network) => Self::PutNetwork(field("put_network", network)?),
            Change::PutService(service) => Self::PutService(field("put_service", service)?),
            Change::PutEndpoint(endpoint) => Self::PutEndpoint(field("put_endpoint", endpoint)?),
            Change::RemoveEndpoint(id) => Self::RemoveEndpoint(field("remove_endpoint", id)?),
            Change::RemoveService(id) => Self::RemoveService(field("remove_service", id)?),
            Change::RemoveNetwork(id) => Self::RemoveNetwork(field("remove_network", id)?),
            Change::RemovePeer(id) => Self::RemovePeer(field("remove_peer", id)?),
        })
    }
}

border!(OverlayChange, v1::OverlayChange);
