//! After a restart of the daemon: what is on disk of the tasks that it had, and who
//! looks for their containers.
//!
//! Nothing is ended here. A record that cannot be read makes a task unknown, not its
//! container unwanted; that is a manager's to say. Every container is looked for by an
//! attendant of its own, so a shim that takes its time delays nobody else.

use crate::runtime::records::{Asked, Record};
use crate::runtime::{Local, Runtime, attend};
use skep_agent_core::RecoveredTask;
use skep_model::service::NetworkMode;
use skep_model::task::TaskStatus;
use skep_model::{TaskId, TaskState, Time};
use std::io;
use std::sync::Arc;

impl Runtime {
    /// Reads what is on disk of every task, and begins to look for the containers of
    /// those that have not ended: `Found` says of each what there is. Blocks.
    ///
    /// # Errors
    /// If the folders of tasks cannot be listed.
    pub fn recover(self: &Arc<Self>) -> io::Result<Vec<RecoveredTask>> {
        let tasks = self.folders.list()?;
        Ok(tasks.into_iter().map(|task| self.recover_one(task)).collect())
    }

    fn recover_one(self: &Arc<Self>, id: TaskId) -> RecoveredTask {
        let folder = self.folders.of(id);
        if let Some(image) = folder.leased() {
            self.leases().insert(id, image);
        }
        let record = self.records.load(id).unwrap_or_else(|error| {
            tracing::warn!(task = %id, %error, "the record of a task is of no use; what there is of it is kept until a manager is reached");
            None
        });
        let Some(Record { task, is_of_this_boot }) = record else {
            self.network.keep_unknown(id);
            self.look(id, Local::default(), None);
            let status = TaskStatus::new(TaskState::New, Time::ZERO);
            return RecoveredTask { id, task: None, status, is_released: false };
        };
        let status = task.status.value.clone();
        let task = Arc::new(task);
        if !status.state.is_final() {
            if task.spec.network == NetworkMode::Bridge {
                // It was filled in when the task was made, so it can be again.
                let hostname = super::spec::hostname(&self.settings, &task).unwrap_or_default();
                self.network.adopt(&task, hostname, folder.path());
            }
            let asked = Asked { attempt: status.attempt, is_of_this_boot };
            let local = Local { task: Some(task.clone()), attempt: status.attempt, ..Local::default() };
            self.look(id, local, Some(asked));
        }
        RecoveredTask { id, task: Some(task), status, is_released: folder.is_released() }
    }

    fn look(self: &Arc<Self>, id: TaskId, mut local: Local, asked: Option<Asked>) {
        local.attendant = Some(attend::find(self, id, asked));
        self.lock().insert(id, local);
    }
}
