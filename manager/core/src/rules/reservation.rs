//! What a task holds until it has ended, and what it still lacks.

use super::ending::Ending;
use super::references::needs_ingress;
use skep_model::TaskState;
use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use skep_model::task::Task;

/// Whether the task's reservation is set aside on its node.
pub(crate) fn holds_reservation(task: &Task) -> bool {
    (TaskState::Assigned..=TaskState::Running).contains(&task.status.state)
}

/// Whether a task has its addresses: it has not ended, or may be running although
/// the leader gave it up.
pub(crate) fn holds_addresses(task: &Task) -> bool {
    matches!(Ending::of(task), None | Some(Ending::Expelled))
}

/// Whether a task is to be on networks and has no addresses yet.
pub(crate) fn lacks_addresses(task: &Task) -> bool {
    task.networks.is_empty() && (!task.spec.networks.is_empty() || needs_ingress(&task.ports))
}

/// The ports that a node must have free for a task.
pub(crate) fn host_ports(task: &Task) -> impl Iterator<Item = (u16, Transport)> {
    let is_fixed = |port: &&PublishedPort| port.publish_mode == PublishMode::Host && port.published_port != 0;
    task.ports.iter().filter(is_fixed).map(|port| (port.published_port, port.transport))
}
