//! What agents and the leader tell each other, except assignments.
//!
//! An agent's words are cut to their limits by the agent; a manager refuses what
//! is longer, so that no node can fill the log.

use crate::limits::DESCRIPTION_MAX;
use crate::wire::{Wire, at_most, border, field};
use crate::{Malformed, v1};
use prost::Message;
use skep_model::NodeId;
use skep_model::assignment::{Hello, SessionInfo, StatusUpdate};
use skep_model::task::{LOG_TAIL_LINES_MAX, MESSAGE_MAX, TaskStatus};

impl Wire<v1::StatusUpdate> for StatusUpdate {
    fn encode(&self) -> v1::StatusUpdate {
        v1::StatusUpdate { task_id: self.task.encode(), status: self.status.encode() }
    }

    fn decode(wire: v1::StatusUpdate) -> Result<Self, Malformed> {
        let status: TaskStatus = field("status", wire.status)?;
        check_reported(&status).map_err(|error| error.within("status"))?;
        Ok(Self { task: field("task_id", wire.task_id)?, status })
    }
}

border!(StatusUpdate, v1::StatusUpdate);

fn check_reported(status: &TaskStatus) -> Result<(), Malformed> {
    at_most("message", status.message.len(), MESSAGE_MAX, "bytes")?;
    at_most("error", status.error.len(), MESSAGE_MAX, "bytes")?;
    at_most("log_tail", status.log_tail.len(), LOG_TAIL_LINES_MAX, "lines")?;
    let longest = status.log_tail.iter().map(String::len).max().unwrap_or(0);
    at_most("log_tail", longest, MESSAGE_MAX, "bytes in a line")
}

/// The protocol range is the shells' to fill and to check.
impl Wire<v1::Hello> for Hello {
    fn encode(&self) -> v1::Hello {
        v1::Hello {
            node_id: self.node.encode(),
            description: self.description.encode(),
            statuses: self.statuses.encode(),
            address: self.address.clone(),
            certificate_expires: self.certificate_expires.encode(),
            protocol_min: skep_model::version::PROTOCOL_MIN,
            protocol_max: skep_model::version::PROTOCOL_MAX,
            not_ready: self.not_ready.clone(),
        }
    }

    fn decode(wire: v1::Hello) -> Result<Self, Malformed> {
        let description = wire.description.as_ref().map_or(0, Message::encoded_len);
        at_most("description", description, DESCRIPTION_MAX, "bytes")?;
        at_most("not_ready", wire.not_ready.len(), MESSAGE_MAX, "bytes")?;
        Ok(Self {
            node: field("node_id", wire.node_id)?,
            description: field("description", wire.description)?,
            statuses: field("statuses", wire.statuses)?,
            address: field("address", wire.address)?,
            certificate_expires: field("certificate_expires", wire.certificate_expires)?,
            not_ready: field("not_ready", wire.not_ready)?,
        })
    }
}

border!(Hello, v1::Hello);

impl Wire<v1::ManagerAddress> for (NodeId, String) {
    fn encode(&self) -> v1::ManagerAddress {
        v1::ManagerAddress { node_id: self.0.encode(), address: self.1.clone() }
    }

    fn decode(wire: v1::ManagerAddress) -> Result<Self, Malformed> {
        Ok((field("node_id", wire.node_id)?, field("address", wire.address)?))
    }
}

impl Wire<v1::SessionInfo> for SessionInfo {
    fn encode(&self) -> v1::SessionInfo {
        v1::SessionInfo {
            term: self.term,
            heartbeat_period: self.heartbeat_period.encode(),
            managers: self.managers.encode(),
            role: self.role.encode(),
            root_ca: self.root_ca.clone(),
            node_name: self.node_name.clone(),
            protocol: skep_model::version::PROTOCOL_MAX,
            data_path_port: self.data_path_port.encode(),
            barrier_timeout: self.barrier_timeout.encode(),
            isolate_nodes: self.isolate_nodes,
        }
    }

    fn decode(wire: v1::SessionInfo) -> Result<Self, Malformed> {
        Ok(Self {
            term: wire.term,
            heartbeat_period: field("heartbeat_period", wire.heartbeat_period)?,
            managers: field("managers", wire.managers)?,
            role: field("role", wire.role)?,
            root_ca: field("root_ca", wire.root_ca)?,
            node_name: field("node_name", wire.node_name)?,
            data_path_port: field("data_path_port", wire.data_path_port)?,
            barrier_timeout: field("barrier_timeout", wire.barrier_timeout)?,
            isolate_nodes: wire.isolate_nodes,
        })
    }
}

border!(SessionInfo, v1::SessionInfo);

impl TryFrom<v1::Statuses> for Vec<StatusUpdate> {
    type Error = Malformed;

    fn try_from(wire: v1::Statuses) -> Result<Self, Malformed> {
        field("updates", wire.updates)
    }
}

impl From<&[StatusUpdate]> for v1::Statuses {
    fn from(updates: &[StatusUpdate]) -> Self {
        Self { updates: updates.iter().map(Wire::encode).collect() }
    }
}
