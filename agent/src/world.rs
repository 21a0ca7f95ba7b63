//! What the agent's actions mean here: images, shims, records, the session.

use crate::network::Network;
use crate::runtime::Runtime;
use crate::session::Outbox;
use crate::values::Values;
use skep_agent_core::Action;
use std::sync::Arc;

/// Everything that actions need.
#[derive(Debug)]
pub struct World {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) network: Arc<Network>,
    pub(crate) values: Arc<Values>,
    pub(crate) outbox: Outbox,
}

impl World {
    /// Does one thing, or starts it; never waits.
    pub fn carry_out(&self, action: Action) {
        match action {
            Action::Prepare { task, attempt } => self.runtime.prepare(task, attempt),
            Action::Start { task } => self.runtime.start(task),
            Action::Restart { task, attempt } => self.runtime.restart(task, attempt),
            Action::Drain { task, limit } => self.network.drain(task, limit),
            Action::Stop { task, grace } => self.runtime.stop(task, grace),
            Action::Kill { task } => self.runtime.kill(task),
            Action::Release { task } => self.runtime.release(task),
            Action::Remove { task } => self.runtime.remove(task),
            Action::Network { chain, version, is_complete, changes } => self.network.tell(chain, version, is_complete, changes),
            Action::ReportProgrammed { session, version } => self.outbox.programmed(session, version),
            Action::Save { task, status } => self.runtime.save(&task, &status),
            // Its record went with its folder.
            Action::Forget { .. } => {}
            Action::DropSecret(id, version) => self.values.drop_secret(id, version),
            Action::DropConfig(id, version) => self.values.drop_config(id, version),
            Action::Report(updates) => self.outbox.report(updates),
            Action::ResetSession { reason } => self.outbox.reset(reason),
        }
    }
}
