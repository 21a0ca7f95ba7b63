//! Everything that an agent can want done.

use skep_model::assignment::StatusUpdate;
use skep_model::overlay::OverlayChange;
use skep_model::task::{Task, TaskStatus};
use skep_model::{ConfigId, SecretId, SessionId, TaskId};
use std::sync::Arc;
use std::time::Duration;

/// One thing to be done by the shell, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make everything ready for the task: pull the image, unpack, make its network
    /// namespace if it has one of the network daemon's. Answer with `Prepared` or
    /// `PrepareFailed`, unless `Remove` comes first.
    Prepare {
        /// The task.
        task: Arc<Task>,
        /// The attempt that will run.
        attempt: u64,
    },
    /// Let the prepared container run, once every `Save` of the task before this is
    /// durable. Answer with `Started` or `StartFailed`.
    Start {
        /// The task.
        task: TaskId,
    },
    /// Have the shim run the container again, in place, once every `Save` of the task
    /// before this is durable. Answer as `Start`.
    Restart {
        /// The task.
        task: TaskId,
        /// The attempt that will run.
        attempt: u64,
    },
    /// Answer with `Drained` once no connection of the task's is busy, or `limit`
    /// has passed.
    Drain {
        /// The task.
        task: TaskId,
        /// The longest that busy connections may go on.
        limit: Duration,
    },
    /// Ask the container to stop: signal, then after `grace` SIGKILL. Answer
    /// with `Exited`.
    Stop {
        /// The task.
        task: TaskId,
        /// From the signal to SIGKILL.
        grace: Duration,
    },
    /// A task that is to end does not in time: kill its shim and all its processes.
    /// Answer with `ShimLost`.
    Kill {
        /// The task.
        task: TaskId,
    },
    /// The task has ended: free everything but its logs, once every `Save` before this
    /// is durable. Asked for again after a restart that came before it was done.
    Release {
        /// The task.
        task: TaskId,
    },
    /// Nothing of the task is wanted any more: abort what is under way, kill
    /// what runs, free everything, logs included.
    Remove {
        /// The task.
        task: TaskId,
    },
    /// Bring the node's network to one more link of the chain of assignments. Answer
    /// with `NetworkProgrammed` once the kernel holds it and every link before it.
    Network {
        /// The chain; each begins with a complete set.
        chain: u64,
        /// The link.
        version: u64,
        /// Whether what is not named is gone.
        is_complete: bool,
        /// What is new of the overlay networks; there may be nothing.
        changes: Vec<OverlayChange>,
    },
    /// Tell the manager how far the network is, if this session is still the one.
    ReportProgrammed {
        /// The session whose chain it is of.
        session: SessionId,
        /// Every link up to this one is in the kernel.
        version: u64,
    },
    /// Record a task and its status durably, in the order in which this is asked. A
    /// restarted daemon hands over the newest record that got so far.
    Save {
        /// The assignment.
        task: Arc<Task>,
        /// The newest status.
        status: TaskStatus,
    },
    /// Forget a recorded task, once `Remove` is done.
    Forget {
        /// The task.
        task: TaskId,
    },
    /// No task needs this version any more: zeroize it.
    DropSecret(SecretId, u64),
    /// No task needs this version any more.
    DropConfig(ConfigId, u64),
    /// Tell the manager, while there is a session; a new session starts with
    /// all statuses anyway.
    Report(Vec<StatusUpdate>),
    /// The chain of assignments is broken: open a new session.
    ResetSession {
        /// Why.
        reason: String,
    },
}
