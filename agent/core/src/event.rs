//! Everything that can happen to an agent.

use skep_model::assignment::{Assignments, SessionInfo};
use skep_model::endpoint::PublishedPort;
use skep_model::task::{Task, TaskStatus};
use skep_model::{SessionId, TaskId, TaskState, Time};
use std::sync::Arc;

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The attempt that ended.
    pub attempt: u64,
    /// Its exit code; 128 + n if signal n ended it.
    pub code: i32,
    /// The kernel killed it for want of memory.
    pub oom_killed: bool,
    /// When it ended.
    pub at: Time,
    /// The last lines it wrote, newest last.
    pub log_tail: Vec<String>,
}

/// What there is of a task's container, as a restarted daemon finds it, or one that
/// lost its connection to a shim and has it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The task was recorded on this boot, and no shim was ever asked to start it:
    /// there has been no container of its newest attempt.
    Fresh,
    /// Its shim lives and the container runs.
    Running {
        /// Its first process.
        pid: i32,
        /// The attempt that runs.
        attempt: u64,
        /// The newest health result, where the container has a check that has run.
        healthy: Option<bool>,
        /// Whether the container has a health check.
        has_check: bool,
    },
    /// The container ended while nobody looked; the shim lives or left a record. The
    /// record may be of an earlier attempt than the one that was asked for.
    Exited {
        /// How.
        exit: Exit,
        /// Whether the shim still lives and can restart it in place.
        shim_lives: bool,
    },
    /// An attempt could not be started; the shim lives or left a record.
    StartFailed {
        /// Which attempt.
        attempt: u64,
        /// Why, in a sentence.
        error: String,
    },
    /// The shim was asked to start it on this boot, is gone, and left no exit.
    Killed,
    /// Nothing is left: the machine was restarted.
    Nothing,
}

/// A task of which the daemon finds something on its disk when it starts. What there
/// is of its container is said later, by [`Event::Found`]: a shim may take its time.
#[derive(Clone, Debug)]
pub struct RecoveredTask {
    /// The task.
    pub id: TaskId,
    /// The assignment as it was last recorded; `None` if there is only a folder, or a
    /// record that cannot be read. Such a task is kept until a manager has said
    /// completely what is to be here.
    pub task: Option<Arc<Task>>,
    /// The status as it was last recorded; without a task it means nothing.
    pub status: TaskStatus,
    /// Everything but its log was freed.
    pub is_released: bool,
}

/// A task that the manager put on this node, and that the node cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableTask {
    /// The task.
    pub id: TaskId,
    /// The state in which the manager has it.
    pub observed: TaskState,
    /// What is wrong with it, in a sentence.
    pub error: String,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Nothing but time passing (see `Agent::next_wakeup`).
    Tick,
    /// The manager of the session that is up said something new of the cluster.
    Told {
        /// What.
        info: Box<SessionInfo>,
    },
    /// A session with the leader is up; its first message was read.
    SessionUp {
        /// The session.
        session: SessionId,
        /// What the manager said.
        info: Box<SessionInfo>,
    },
    /// The session's stream ended.
    SessionDown,
    /// The manager said what to have. `term` is the leader's.
    Assignments {
        /// The leader's term.
        term: u64,
        /// What to have.
        assignments: Box<Assignments>,
        /// Tasks of it that this node cannot read, and therefore not start.
        unreadable: Vec<UnreadableTask>,
    },
    /// Image, root file system, files and shim are ready; nothing runs yet.
    Prepared {
        /// The task.
        task: TaskId,
        /// The node's ports that lead to it, each with its number.
        ports: Vec<PublishedPort>,
    },
    /// Preparing came to nothing.
    PrepareFailed {
        /// The task.
        task: TaskId,
        /// Why, in a sentence.
        error: String,
    },
    /// The container runs.
    Started {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u64,
        /// Its first process.
        pid: i32,
        /// Whether it has a health check, whose first result must be awaited.
        has_check: bool,
    },
    /// The container could not be started.
    StartFailed {
        /// The task.
        task: TaskId,
        /// Why, in a sentence.
        error: String,
    },
    /// A health check gave a result that counts.
    Health {
        /// The task.
        task: TaskId,
        /// The attempt that was checked.
        attempt: u64,
        /// What it said.
        healthy: bool,
        /// The check's output, for the error.
        output: String,
    },
    /// The container ended.
    Exited {
        /// The task.
        task: TaskId,
        /// How.
        exit: Exit,
    },
    /// No connection of the task's is busy any more, or the limit has passed.
    Drained {
        /// The task.
        task: TaskId,
    },
    /// The node's network has come as far as this link.
    NetworkProgrammed {
        /// The chain that the link is of.
        chain: u64,
        /// The link; all before it are in the kernel too.
        version: u64,
    },
    /// What there is of a task's container: of one that was recovered, or whose shim
    /// could not be heard for a while.
    Found {
        /// The task.
        task: TaskId,
        /// What there is.
        found: Found,
    },
    /// The shim is gone without a word.
    ShimLost {
        /// The task.
        task: TaskId,
    },
}
