//! The life of one task on its node: one machine, driven by what is desired and
//! what was observed. `step` is level-triggered: it may be called at any time
//! and asks for nothing twice. What it waits for counts in boot time, what it reports
//! in wall time.

mod finding;
mod stopping;

use finding::Loss;
use stopping::Stopping;
pub use stopping::WITHDRAW_MARGIN;

use crate::action::Action;
use crate::event::Exit;
use skep_model::endpoint::PublishedPort;
use skep_model::service::RestartCondition;
use skep_model::task::{ContainerStatus, Task, TaskStatus, cut};
use skep_model::{Now, TaskId, TaskState, Time};
use std::sync::Arc;
use std::time::Duration;

/// The message of a task whose files only a manager can bring.
pub const WAITING_FOR_MANAGER: &str = "waiting for a manager";
/// The message of a task whose secret or config did not come with it.
pub const WAITING_FOR_FILE: &str = "waiting for a file";
/// What there is of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// A restarted daemon has it on record and does not know yet what there is of it.
    /// Nothing is done to a container that cannot be heard, unless it is to end.
    Searching,
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
    /// It ended and will run again at this time, for want of a manager: in place by its
    /// shim, or made anew where that is gone.
    Waiting { at: Time, in_place: bool },
    /// It ended for good, or never ran.
    Ended,
}

/// What holds for every task of the node at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// A manager can be reached: only without one a task may restart in place.
    pub has_session: bool,
    /// How long a task that was to be found waits for word that it is not any more.
    pub withdraw_max: Duration,
}

/// One task of this node.
#[derive(Clone, Debug)]
pub struct TaskMachine {
    pub(crate) task: Arc<Task>,
    pub(crate) status: TaskStatus,
    phase: Phase,
    stopping: Stopping,
    /// The manager said that it is withdrawn wherever it was to be found.
    may_stop: bool,
    /// Why the agent itself stopped it: an unhealthy container.
    stop_cause: Option<String>,
    has_check: bool,
    /// When restarts without a manager happened that the policy's window still counts.
    restarts: Vec<Time>,
    /// A manager named it to this daemon. What was only found on disk may have been
    /// replaced elsewhere meanwhile.
    is_confirmed: bool,
    /// The attempt that is being started is one of the same shim.
    is_in_place: bool,
    /// Why its container is gone: the failure that a manager hears of if it comes back
    /// before the task is started again.
    cause: Option<Loss>,
    is_dirty: bool,
    is_released: bool,
}

impl TaskMachine {
    /// A task that was just assigned.
    pub fn new(task: Arc<Task>, now: Now) -> Self {
        let mut status = task.status.value.clone();
        status.attempt = 0;
        let mut machine = Self::with(task, status, Phase::Idle);
        machine.is_confirmed = true;
        machine.advance(TaskState::Accepted, now, "accepted");
        machine
    }

    /// A task that the manager believes to have been started here, of which
    /// nothing is known: it must not be run a second time under this id.
    pub fn lost(task: Arc<Task>, now: Now) -> Self {
        let status = task.status.value.clone();
        let mut machine = Self::with(task, status, Phase::Ended);
        if !machine.status.state.is_final() {
            machine.evicted(now, "the node lost the state of this task");
        }
        machine
    }

    /// A task that a restarted daemon has on record. An ended one has nothing left to
    /// be looked for, but may still have to be released.
    pub fn recovered(task: Arc<Task>, status: TaskStatus, is_released: bool) -> Self {
        let phase = if status.state.is_final() { Phase::Ended } else { Phase::Searching };
        let mut machine = Self::with(task, status, phase);
        machine.is_dirty = false;
        machine.is_released = is_released;
        machine
    }

    fn with(task: Arc<Task>, status: TaskStatus, phase: Phase) -> Self {
        Self {
            task,
            status,
            phase,
            stopping: Stopping::No,
            may_stop: false,
            stop_cause: None,
            has_check: false,
            restarts: Vec::new(),
            is_confirmed: false,
            is_in_place: false,
            cause: None,
            is_dirty: true,
            is_released: false,
        }
    }

    /// The task's id.
    pub fn id(&self) -> TaskId {
        self.task.id
    }

    /// Whether it is to be found again after a restart of the daemon. Until it starts,
    /// the manager has all that there is to know of it.
    pub fn is_recorded(&self) -> bool {
        self.status.state >= TaskState::Starting
    }

    /// Whether its status changed since the last call.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.is_dirty)
    }

    /// The manager sent it again: only what is desired may have changed.
    pub fn assigned(&mut self, task: Arc<Task>) {
        self.is_confirmed = true;
        if task.plan.desired >= self.task.plan.desired {
            self.task = task;
        }
    }

    /// Whether it may be started as far as this daemon was told: a task that was only
    /// found on disk may have been replaced elsewhere.
    fn may_start(&self) -> bool {
        self.is_confirmed || self.task.spec.start_offline
    }

    /// What only a manager can bring.
    fn needs_manager(&self) -> &'static str {
        let container = &self.task.spec.container_spec;
        if !self.may_start() {
            return "waits for a manager: it may have been replaced meanwhile, and its service does not say --start-offline";
        }
        if !container.secrets.is_empty() || !container.configs.is_empty() {
            return "waits for a manager: its secrets and configs are not kept on the node's disk";
        }
        "waits for a manager: where its networks' tasks are is not known on this node"
    }

    /// Asks for what is next. `has_all`: every file that it references is present,
    /// and its networks are known.
    pub fn step(&mut self, now: Now, around: Surroundings, has_all: bool, actions: &mut Vec<Action>) {
        let Surroundings { has_session, withdraw_max } = around;
        let is_wanted = self.task.plan.desired <= TaskState::Running;
        match self.phase.clone() {
            Phase::Searching if !is_wanted => self.end_unheard(now, withdraw_max, actions),
            Phase::Idle if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Idle if has_all && self.may_start() => self.prepare(now, actions),
            Phase::Idle if !has_session => self.note_wait(now),
            Phase::Idle => {}
            Phase::Preparing if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Prepared if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Prepared if self.task.plan.desired == TaskState::Running => {
                self.phase = Phase::Starting;
                self.advance(TaskState::Starting, now, "starting");
                actions.push(Action::Start { task: self.id() });
            }
            Phase::Running => self.step_running(now, is_wanted, withdraw_max, actions),
            Phase::Waiting { .. } if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            // The manager is back: from now on it decides, by a new task.
            Phase::Waiting { .. } if has_session => self.end_as_exited(now),
            Phase::Waiting { at, in_place } if now.boot >= at => {
                self.restarts.push(now.boot);
                self.status.attempt += 1;
                self.is_in_place = in_place;
                if in_place {
                    self.phase = Phase::Starting;
                    self.touch(now, "restarted in place");
                    actions.push(Action::Restart { task: self.id(), attempt: self.status.attempt });
                } else if has_all {
                    self.touch(now, "restarted, as no manager can be reached");
                    self.prepare(now, actions);
                } else {
                    self.phase = Phase::Idle;
                    self.note_wait(now);
                }
            }
            Phase::Searching | Phase::Preparing | Phase::Prepared | Phase::Starting | Phase::Waiting { .. } | Phase::Ended => {}
        }
        if self.phase == Phase::Ended && !self.is_released {
            self.is_released = true;
            actions.push(Action::Release { task: self.id() });
        }
    }

    /// When to step again if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        match (&self.phase, self.stopping) {
            (Phase::Waiting { at, .. }, _) => Some(*at),
            (Phase::Searching | Phase::Running, Stopping::Withdrawing(at) | Stopping::Draining(at) | Stopping::Signalled(at)) => {
                Some(at)
            }
            _ => None,
        }
    }

    /// Everything is ready, these ports of the node included.
    pub fn prepared(&mut self, now: Now, ports: Vec<PublishedPort>) {
        if self.phase != Phase::Preparing {
            return;
        }
        self.phase = Phase::Prepared;
        self.is_dirty |= ports != self.status.ports;
        self.status.ports = ports;
        if self.status.attempt == 0 {
            self.advance(TaskState::Ready, now, "prepared");
        }
    }

    /// Preparing or starting came to nothing. A task that is restarted for want of a
    /// manager is tried again.
    pub fn could_not_start(&mut self, now: Now, error: &str, has_session: bool) {
        if !matches!(self.phase, Phase::Preparing | Phase::Prepared | Phase::Starting) {
            return;
        }
        let is_wanted = self.task.plan.desired <= TaskState::Running;
        let is_retried = !has_session && is_wanted && self.status.attempt > 0;
        match self.restart_at(now, true) {
            Some(at) if is_retried => {
                self.status.error = cut(error);
                self.phase = Phase::Waiting { at, in_place: self.phase == Phase::Starting && self.is_in_place };
                self.touch(now, "could not be started; tried again, as no manager can be reached");
            }
            _ => self.fail(now, error),
        }
    }

    /// The container runs.
    pub fn started(&mut self, now: Now, attempt: u64, pid: i32, has_check: bool) {
        if self.phase != Phase::Starting || attempt != self.status.attempt {
            return;
        }
        self.phase = Phase::Running;
        self.cause = None;
        self.has_check = has_check;
        self.status.is_healthy = false;
        self.status.container = Some(ContainerStatus { container_id: self.id().to_string(), pid, exit_code: 0 });
        if has_check {
            self.touch(now, "started, first health result awaited");
        } else {
            self.running(now);
        }
    }

    /// A health check gave a result that counts.
    pub fn health(&mut self, now: Now, attempt: u64, healthy: bool, output: &str) {
        if self.phase != Phase::Running || attempt != self.status.attempt {
            return;
        }
        if healthy {
            if !self.status.is_healthy {
                self.status.is_healthy = true;
                self.running(now);
            }
        } else if self.stop_cause.is_none() {
            let output = output.trim();
            let detail = if output.is_empty() { String::new() } else { format!(": {output}") };
            self.stop_cause = Some(format!("unhealthy container{detail}"));
        }
    }

    /// The container ended; its shim lives, or does not.
    pub fn exited(&mut self, now: Now, exit: Exit, has_session: bool, shim_lives: bool) {
        if !matches!(self.phase, Phase::Starting | Phase::Running) || exit.attempt != self.status.attempt {
            return;
        }
        let is_wanted = self.task.plan.desired <= TaskState::Running;
        let code = exit.code;
        self.stopping = Stopping::No;
        self.status.log_tail = exit.log_tail;
        self.status.container.get_or_insert_default().exit_code = code;
        let cause = self.stop_cause.take();
        self.status.error = match (&cause, code, exit.oom_killed) {
            // It was told to stop, and did so in good order.
            (Some(cause), 0, _) => cut(&format!("task: {cause}")),
            (Some(cause), _, _) => cut(&format!("task: non-zero exit ({code}): {cause}")),
            // The exit decides: a process whose child was killed may have coped.
            (None, 0, _) => String::new(),
            (None, _, true) => format!("task: non-zero exit ({code}): out of memory"),
            (None, _, false) => format!("task: non-zero exit ({code})"),
        };
        if !is_wanted {
            self.status.error.clear();
            return self.end(TaskState::Shutdown, now, "shutdown");
        }
        let is_failure = code != 0 || cause.is_some();
        match self.restart_at(now, is_failure) {
            Some(at) if !has_session && (shim_lives || self.may_start()) => {
                self.phase = Phase::Waiting { at, in_place: shim_lives };
                self.touch(now, "ended; restarts in place, as no manager can be reached");
            }
            _ if exit.oom_killed && !is_failure => {
                self.end(TaskState::Complete, now, "finished; one of its processes was killed for lack of memory");
            }
            _ => self.end_as_exited(now),
        }
    }

    fn prepare(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.phase = Phase::Preparing;
        if self.status.attempt == 0 {
            self.advance(TaskState::Preparing, now, "preparing");
        }
        self.status.error.clear();
        actions.push(Action::Prepare { task: self.task.clone(), attempt: self.status.attempt });
    }

    /// The manager sent the task without the value of a file that it references.
    pub(crate) fn note_missing(&mut self, now: Now, missing: &str) {
        let is_waiting = self.phase == Phase::Idle && self.task.plan.desired <= TaskState::Running;
        let text = cut(&format!("{missing} did not come with the task: the manager could not send it, and its log says why"));
        if is_waiting && self.status.error != text {
            self.status.error = text;
            self.touch(now, WAITING_FOR_FILE);
        }
    }

    fn note_wait(&mut self, now: Now) {
        let text = self.needs_manager();
        if self.status.error != text {
            self.status.error = text.into();
            self.touch(now, WAITING_FOR_MANAGER);
        }
    }

    fn running(&mut self, now: Now) {
        self.status.running_since.get_or_insert(now.wall);
        self.status.error.clear();
        if self.status.state == TaskState::Running {
            self.touch(now, "started");
        } else {
            self.advance(TaskState::Running, now, "started");
        }
    }

    /// When the restart policy lets it run again; `None` = not.
    fn restart_at(&mut self, now: Now, is_failure: bool) -> Option<Time> {
        let policy = self.task.spec.restart_policy;
        let is_due = match policy.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => is_failure,
            RestartCondition::Any => true,
        };
        if !policy.window.is_zero() {
            self.restarts.retain(|at| now.boot.since(*at) < policy.window);
        }
        let is_allowed = policy.max_attempts == 0 || (self.restarts.len() as u64) < policy.max_attempts;
        (is_due && is_allowed).then(|| now.boot + policy.delay)
    }

    fn end_as_exited(&mut self, now: Now) {
        if self.status.error.is_empty() {
            self.end(TaskState::Complete, now, "finished");
        } else {
            self.end(TaskState::Failed, now, "failed");
        }
    }

    /// It ended with its node, not by itself.
    fn evicted(&mut self, now: Now, error: &str) {
        self.status.is_evicted = true;
        self.fail(now, error);
    }

    fn fail(&mut self, now: Now, error: &str) {
        self.status.error = cut(error);
        let state = if self.status.state < TaskState::Starting { TaskState::Rejected } else { TaskState::Failed };
        self.end(state, now, if state == TaskState::Rejected { "rejected" } else { "failed" });
    }

    fn end(&mut self, state: TaskState, now: Now, message: &str) {
        self.phase = Phase::Ended;
        self.stopping = Stopping::No;
        self.advance(state, now, message);
    }

    /// Moves the observed state forward; a step back is ignored.
    fn advance(&mut self, state: TaskState, now: Now, message: &str) {
        if state > self.status.state {
            self.status.state = state;
            self.touch(now, message);
        }
    }

    fn touch(&mut self, now: Now, message: &str) {
        self.status.timestamp = now.wall;
        self.status.message = message.into();
        self.is_dirty = true;
    }
}
