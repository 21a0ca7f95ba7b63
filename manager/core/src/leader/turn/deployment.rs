//! What a turn does to the service's deployment.

use super::draft::Draft;
use super::slots::SlotKey;
use super::writes::BYTES_MAX;
use skep_model::deployment::{Deployment, DeploymentState, LOST_NODES_MAX};
use skep_model::node::NodeState;
use skep_model::task::Task;

/// The most failures that one turn counts: they go into one transaction, with the count.
const COUNTED_MAX: usize = 250;
/// The bytes of that transaction that are left for replacements of what failed.
const COUNTED_BYTES_MAX: usize = BYTES_MAX / 2;

impl Draft<'_> {
    /// The deployment as it will be.
    pub(crate) fn deployment(&self) -> Option<&Deployment> {
        self.deployment.as_ref()
    }

    /// The deployment, to be changed.
    pub(crate) fn deployment_mut(&mut self) -> Option<&mut Deployment> {
        self.deployment.as_mut()
    }

    /// Whether this turn may count another failure; `bytes` is how much a replacement
    /// has. The others are for the next turn.
    pub(crate) fn can_count(&self, bytes: usize) -> bool {
        let n = self.counted.len();
        n == 0 || (n < COUNTED_MAX && (n + 1) * bytes <= COUNTED_BYTES_MAX)
    }

    /// The failure of a task of this slot was counted in the deployment.
    pub(crate) fn counted(&mut self, slot: SlotKey) {
        self.counted.insert(slot);
    }

    /// Replaces the deployment.
    pub(crate) fn set_deployment(&mut self, deployment: Deployment) {
        self.deployment = Some(deployment);
    }

    /// Ends the deployment.
    pub(crate) fn end_deployment(&mut self, state: DeploymentState, cause: String) {
        let now = self.now;
        if let Some(deployment) = self.deployment_mut() {
            deployment.state = state;
            deployment.cause = cause;
            deployment.ended_at = Some(now);
            deployment.next_step_at = None;
        }
    }

    /// Notes that a task has to leave its node because that is down or gone.
    pub(crate) fn note_loss(&mut self, task: &Task) {
        let node = task.plan.node.and_then(|node| self.store.node(node));
        if node.is_none_or(|node| node.status.state == NodeState::Down) {
            self.note_lost_node(task);
        }
    }

    /// Notes the node of a task that was lost with it.
    pub(crate) fn note_lost_node(&mut self, task: &Task) {
        let Some(node) = task.plan.node else { return };
        let Some(deployment) = self.deployment_mut().filter(|deployment| !deployment.state.is_final()) else { return };
        if !deployment.lost_nodes.contains(&node) && deployment.lost_nodes.len() < LOST_NODES_MAX {
            deployment.lost_nodes.push(node);
        }
    }
}
