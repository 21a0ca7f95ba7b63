//! The life of one task on its node: one machine, driven by what is desired and
//! what was observed. `step` is level-triggered: it may be called at any time
//! and asks for nothing twice.

use crate::action::Action;
use crate::event::Exit;
use skep_model::service::RestartCondition;
use skep_model::task::{ContainerStatus, MESSAGE_MAX, Task, TaskStatus};
use skep_model::{TaskId, TaskState, Time};
use std::sync::Arc;
use std::time::Duration;

/// The stop grace period of a container that does not say.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// The message of a task whose files only a manager can bring.
pub const WAITING_FOR_MANAGER: &str = "waiting for a manager";
/// How much longer than the grace period a shim may take to stop a container.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// What there is of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing yet.
    Idle,
    /// `Prepare` is under way.
    Preparing,
    /// The shim holds a container that was not started.
    Prepared,
    /// `Start` or `Restart` is under way.
    Starting,
    /// It runs.
    Running,
    /// It ended and will run again in place at this time.
    Waiting(Time),
    /// It ended for good, or never ran.
    Ended,
}

/// One task of this node.
#[derive(Clone, Debug)]
pub struct TaskMachine {
    pub(crate) task: Arc<Task>,
    pub(crate) status: TaskStatus,
    phase: Phase,
    /// A stop was asked for; if the container has not ended then, it is killed.
    stop_deadline: Option<Time>,
    /// Why the agent itself stopped it: an unhealthy container.
    stop_cause: Option<String>,
    has_check: bool,
    is_healthy: bool,
    /// When in-place restarts happened that the policy's window still counts.
    restarts: Vec<Time>,
    is_dirty: bool,
    is_released: bool,
}

impl TaskMachine {
    /// A task that was just assigned.
    pub fn new(task: Arc<Task>, now: Time) -> Self {
        let mut status = task.status.value.clone();
        status.attempt = 0;
        let mut machine = Self::with(task, status, Phase::Idle);
        machine.advance(TaskState::Accepted, now, "accepted");
        machine
    }

    /// A task that the manager believes to have been started here, of which
    /// nothing is known: it must not be run a second time under this id.
    pub fn lost(task: Arc<Task>, now: Time) -> Self {
        let status = task.status.value.clone();
        let mut machine = Self::with(task, status, Phase::Ended);
        if !machine.status.state.is_final() {
            machine.fail(now, "the node lost the state of this task");
        }
        machine
    }

    pub(crate) fn with_status(task: Arc<Task>, status: TaskStatus) -> Self {
        Self::with(task, status, Phase::Idle)
    }

    fn with(task: Arc<Task>, status: TaskStatus, phase: Phase) -> Self {
        Self {
            task,
            status,
            phase,
            stop_deadline: None,
            stop_cause: None,
            has_check: false,
            is_healthy: false,
            restarts: Vec::new(),
            is_dirty: true,
            is_released: false,
        }
    }

    /// The task's id.
    pub fn id(&self) -> TaskId {
        self.task.id
    }

    /// Whether its status changed since the last call.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    /// The manager sent it again: only what is desired may have changed.
    pub fn assigned(&mut self, task: Arc<Task>) {
        if task.plan.desired >= self.task.plan.desired {
            self.task = task;
        }
    }

    /// Whether every secret and config version that it references is present.
    pub fn needs_files(&self) -> bool {
        let container = &self.task.spec.container_spec;
        !container.secrets.is_empty() || !container.configs.is_empty()
    }

    /// Asks for what is next. `has_session`: only without one may it restart in
    /// place. `has_files`: every file it references is present.
    pub fn step(&mut self, now: Time, has_session: bool, has_files: bool, actions: &mut Vec<Action>) {
        let is_wanted = self.task.plan.desired <= TaskState::Running;
        match self.phase.clone() {
            Phase::Idle if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Idle if has_files => self.prepare(now, actions),
            Phase::Idle if !has_session && self.needs_files() => self.note_wait(now),
            Phase::Idle => {}
            Phase::Preparing if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Prepared if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Prepared if self.task.plan.desired == TaskState::Running => {
                self.phase = Phase::Starting;
                self.advance(TaskState::Starting, now, "starting");
                actions.push(Action::Start { task: self.id() });
            }
            Phase::Running if (!is_wanted || self.stop_cause.is_some()) && self.stop_deadline.is_none() => {
                let grace = self.task.spec.container_spec.stop_grace_period.unwrap_or(STOP_GRACE);
                self.stop_deadline = Some(now + grace + STOP_MARGIN);
                actions.push(Action::Stop { task: self.id(), grace });
            }
            Phase::Running if self.stop_deadline.is_some_and(|deadline| now >= deadline) => {
                self.stop_deadline = Some(now + STOP_MARGIN);
                actions.push(Action::Kill { task: self.id() });
            }
            Phase::Waiting(_) if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            // The manager is back: from now on it decides, by a new task.
            Phase::Waiting(_) if has_session => self.end_as_exited(now),
            Phase::Waiting(at) if now >= at => {
                self.restarts.push(now);
                self.status.attempt += 1;
                self.phase = Phase::Starting;
                self.touch(now, "restarted in place");
                actions.push(Action::Restart { task: self.id(), attempt: self.status.attempt });
            }
            Phase::Preparing | Phase::Prepared | Phase::Starting | Phase::Running | Phase::Waiting(_) | Phase::Ended => {}
        }
        if self.phase == Phase::Ended && !self.is_released {
            self.is_released = true;
            actions.push(Action::Release { task: self.id() });
        }
    }

    /// When to step again if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        match self.phase {
            Phase::Waiting(at) => Some(at),
            Phase::Running => self.stop_deadline,
            _ => None,
        }
    }

    /// Everything is ready.
    pub fn prepared(&mut self, now: Time) {
        if self.phase != Phase::Preparing {
            return;
        }
        self.phase = Phase::Prepared;
        if self.status.attempt == 0 {
            self.advance(TaskState::Ready, now, "prepared");
        }
    }

    /// Preparing or starting came to nothing.
    pub fn could_not_start(&mut self, now: Time, error: &str) {
        if matches!(self.phase, Phase::Preparing | Phase::Prepared | Phase::Starting) {
            self.fail(now, error);
        }
    }

    /// The container runs.
    pub fn started(&mut self, now: Time, attempt: u64, pid: i32, has_check: bool) {
        if self.phase != Phase::Starting || attempt != self.status.attempt {
            return;
        }
        self.phase = Phase::Running;
        self.has_check = has_check;
        self.is_healthy = false;
        self.status.container = Some(ContainerStatus { container_id: self.id().to_string(), pid, exit_code: 0 });
        if has_check {
            self.touch(now, "started, first health result awaited");
        } else {
            self.running(now);
        }
    }

    /// A health check gave a result that counts.
    pub fn health(&mut self, now: Time, attempt: u64, healthy: bool, output: &str) {
        if self.phase != Phase::Running || attempt != self.status.attempt {
            return;
        }
        if healthy {
            if !self.is_healthy {
                self.is_healthy = true;
                self.running(now);
            }
        } else if self.stop_cause.is_none() {
            let output = output.trim();
            let detail = if output.is_empty() { String::new() } else { format!(": {output}") };
            self.stop_cause = Some(format!("unhealthy container{detail}"));
        }
    }

    /// The container ended.
    pub fn exited(&mut self, now: Time, exit: Exit, has_session: bool, can_restart: bool) {
        if !matches!(self.phase, Phase::Starting | Phase::Running) || exit.attempt != self.status.attempt {
            return;
        }
        let is_wanted = self.task.plan.desired <= TaskState::Running;
        let code = exit.code;
        self.stop_deadline = None;
        self.status.log_tail = exit.log_tail;
        self.status.container.get_or_insert_default().exit_code = code;
        let cause = self.stop_cause.take();
        self.status.error = match (&cause, code, exit.oom_killed) {
            (Some(cause), _, _) => cut(&format!("task: non-zero exit ({code}): {cause}")),
            (None, _, true) => format!("task: non-zero exit ({code}): out of memory"),
            (None, 0, _) => String::new(),
            (None, _, _) => format!("task: non-zero exit ({code})"),
        };
        if !is_wanted {
            self.status.error.clear();
            return self.end(TaskState::Shutdown, now, "shutdown");
        }
        let is_failure = code != 0 || cause.is_some();
        match self.restart_at(now, is_failure) {
            Some(at) if !has_session && can_restart => {
                self.phase = Phase::Waiting(at);
                self.touch(now, "ended; restarts in place, as no manager can be reached");
            }
            _ => self.end_as_exited(now),
        }
    }

    /// The shim is gone, and everything it held.
    pub fn shim_lost(&mut self, now: Time) {
        match self.phase {
            Phase::Ended | Phase::Idle => {}
            _ if self.task.plan.desired > TaskState::Running => self.end(TaskState::Shutdown, now, "shutdown"),
            _ => self.fail(now, "the shim of the container was killed"),
        }
    }

    /// Nothing is left of a task that had been started: the machine was restarted.
    /// With a manager at hand the task has failed; without one it is run again
    /// from the start, if its policy allows and it needs no files.
    pub fn machine_restarted(&mut self, now: Time) {
        if self.task.plan.desired > TaskState::Running {
            return self.end(TaskState::Shutdown, now, "shutdown");
        }
        if self.status.state < TaskState::Starting {
            self.phase = Phase::Idle;
            return;
        }
        match self.restart_at(now, true) {
            Some(_) => {
                self.phase = Phase::Idle;
                self.status.attempt += 1;
                self.touch(now, "the node was restarted");
            }
            None => self.fail(now, "the node was restarted"),
        }
    }

    /// With a session, a task that the machine's restart ended and that has not
    /// been prepared again is the manager's to replace.
    pub fn session_up(&mut self, now: Time) {
        if self.phase == Phase::Idle && self.status.attempt > 0 {
            self.fail(now, "the node was restarted");
        }
    }

    /// It was not started, whatever was asked for: the daemon died in between, so
    /// nobody will say what came of that.
    pub(crate) fn adopt_created(&mut self) {
        self.phase = Phase::Prepared;
    }

    pub(crate) fn adopt_running(&mut self, now: Time, pid: i32, attempt: u64, has_check: bool, healthy: Option<bool>) {
        self.phase = Phase::Starting;
        if attempt != self.status.attempt {
            self.status.attempt = attempt;
            self.is_dirty = true;
        }
        if self.status.state < TaskState::Starting {
            self.advance(TaskState::Starting, now, "starting");
        }
        let since = self.status.running_since;
        self.started(now, attempt, pid, has_check);
        if let Some(healthy) = healthy {
            self.health(now, attempt, healthy, "");
        }
        self.status.running_since = since.or(self.status.running_since);
    }

    pub(crate) fn adopt_exited(&mut self, exit: Exit, has_check: bool, now: Time, shim_lives: bool) {
        self.phase = Phase::Running;
        self.has_check = has_check;
        self.status.attempt = exit.attempt;
        if self.status.state < TaskState::Starting {
            self.advance(TaskState::Starting, now, "starting");
        }
        self.exited(now, exit, false, shim_lives);
    }

    pub(crate) fn adopt_ended(&mut self) {
        self.phase = Phase::Ended;
        self.is_released = true;
        self.is_dirty = false;
    }

    fn prepare(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.phase = Phase::Preparing;
        if self.status.attempt == 0 {
            self.advance(TaskState::Preparing, now, "preparing");
        }
        self.status.error.clear();
        actions.push(Action::Prepare { task: self.task.clone(), attempt: self.status.attempt });
    }

    fn note_wait(&mut self, now: Time) {
        let text = "waits for a manager: its secrets and configs are not kept on the node's disk";
        if self.status.error != text {
            self.status.error = text.into();
            self.touch(now, WAITING_FOR_MANAGER);
        }
    }

    fn running(&mut self, now: Time) {
        self.status.running_since.get_or_insert(now);
        self.status.error.clear();
        if self.status.state == TaskState::Running {
            self.touch(now, "started");
        } else {
            self.advance(TaskState::Running, now, "started");
        }
    }

    /// When the restart policy lets it run again; `None` = not.
    fn restart_at(&mut self, now: Time, is_failure: bool) -> Option<Time> {
        let policy = self.task.spec.restart_policy;
        let is_due = match policy.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => is_failure,
            RestartCondition::Any => true,
        };
        if !policy.window.is_zero() {
            self.restarts.retain(|at| now.since(*at) < policy.window);
        }
        let is_allowed = policy.max_attempts == 0 || (self.restarts.len() as u64) < policy.max_attempts;
        (is_due && is_allowed).then(|| now + policy.delay)
    }

    fn end_as_exited(&mut self, now: Time) {
        if self.status.error.is_empty() {
            self.end(TaskState::Complete, now, "finished");
        } else {
            self.end(TaskState::Failed, now, "failed");
        }
    }

    fn fail(&mut self, now: Time, error: &str) {
        self.status.error = cut(error);
        let state = if self.status.state < TaskState::Starting { TaskState::Rejected } else { TaskState::Failed };
        self.end(state, now, if state == TaskState::Rejected { "rejected" } else { "failed" });
    }

    fn end(&mut self, state: TaskState, now: Time, message: &str) {
        self.phase = Phase::Ended;
        self.stop_deadline = None;
        self.advance(state, now, message);
    }

    /// Moves the observed state forward; a step back is ignored.
    fn advance(&mut self, state: TaskState, now: Time, message: &str) {
        if state > self.status.state {
            self.status.state = state;
            self.touch(now, message);
        }
    }

    fn touch(&mut self, now: Time, message: &str) {
        self.status.timestamp = now;
        self.status.message = message.into();
        self.is_dirty = true;
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
