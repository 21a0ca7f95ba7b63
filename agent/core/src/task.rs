//! The life of one task on its node: one machine, driven by what is desired and
//! what was observed. `step` is level-triggered: it may be called at any time
//! and asks for nothing twice.

use crate::action::Action;
use crate::event::Exit;
use skep_model::endpoint::{Publication, PublishedPort};
use skep_model::service::RestartCondition;
use skep_model::task::{ContainerStatus, Task, TaskStatus, cut};
use skep_model::{TaskId, TaskState, Time};
use std::sync::Arc;
use std::time::Duration;

/// The message of a task whose files only a manager can bring.
pub const WAITING_FOR_MANAGER: &str = "waiting for a manager";
/// How much longer than a manager waits for every node a task that was to be found
/// waits for word that it is not any more.
pub const WITHDRAW_MARGIN: Duration = Duration::from_secs(1);
/// How much longer than the limit the network daemon may take to say so.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);
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

/// How far the end of a container that runs has come. A task that was to be found
/// is first withdrawn everywhere, then drained, and only then asked to stop; each
/// step has a deadline, and none needs a manager to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// It is to run.
    No,
    /// Waits for word that no node sends anybody to it any more.
    Withdrawing(Time),
    /// Waits for its connections to become idle.
    Draining(Time),
    /// It was asked to stop; if it has not ended then, it is killed.
    Signalled(Time),
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
            machine.evicted(now, "the node lost the state of this task");
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
            stopping: Stopping::No,
            may_stop: false,
            stop_cause: None,
            has_check: false,
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

    /// It is withdrawn wherever it was to be found.
    pub fn may_stop(&mut self) {
        self.may_stop = true;
    }

    /// None of its connections is busy any more, or the limit has passed.
    pub fn drained(&mut self) {
        if let Stopping::Draining(until) = &mut self.stopping {
            // The next step finds it over, whatever the clock says.
            *until = Time::ZERO;
        }
    }

    /// What only a manager can bring, where it needs any of that.
    fn needs_manager(&self) -> Option<&'static str> {
        let container = &self.task.spec.container_spec;
        if !container.secrets.is_empty() || !container.configs.is_empty() {
            return Some("waits for a manager: its secrets and configs are not kept on the node's disk");
        }
        (!self.task.networks.is_empty())
            .then_some("waits for a manager: where its networks' tasks are is not kept on the node's disk")
    }

    /// Asks for what is next. `has_all`: every file that it references is present,
    /// and its networks are known.
    pub fn step(&mut self, now: Time, around: Surroundings, has_all: bool, actions: &mut Vec<Action>) {
        let Surroundings { has_session, withdraw_max } = around;
        let is_wanted = self.task.plan.desired <= TaskState::Running;
        match self.phase.clone() {
            Phase::Idle if !is_wanted => self.end(TaskState::Shutdown, now, "shutdown"),
            Phase::Idle if has_all => self.prepare(now, actions),
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
            Phase::Preparing | Phase::Prepared | Phase::Starting | Phase::Waiting(_) | Phase::Ended => {}
        }
        if self.phase == Phase::Ended && !self.is_released {
            self.is_released = true;
            actions.push(Action::Release { task: self.id() });
        }
    }

    /// The end of a container that runs, one step at a time. A step that needs no
    /// waiting is followed by the next at once.
    fn step_running(&mut self, now: Time, is_wanted: bool, withdraw_max: Duration, actions: &mut Vec<Action>) {
        if self.stopping == Stopping::No && !is_wanted {
            self.stopping = Stopping::Withdrawing(if self.is_to_be_found() { now + withdraw_max } else { now });
        }
        match self.stopping {
            Stopping::Withdrawing(until) if now >= until || self.may_stop => self.drain(now, actions),
            Stopping::Draining(until) if now >= until => self.stop(now, actions),
            // Whoever is sent to an unhealthy container is not served by waiting.
            Stopping::No | Stopping::Withdrawing(_) | Stopping::Draining(_) if self.stop_cause.is_some() => {
                self.stop(now, actions)
            }
            Stopping::Signalled(until) if now >= until => {
                self.stopping = Stopping::Signalled(now + STOP_MARGIN);
                actions.push(Action::Kill { task: self.id() });
            }
            _ => {}
        }
    }

    /// Whether anybody may have been sent to it.
    fn is_to_be_found(&self) -> bool {
        let is_reachable = !self.task.networks.is_empty() || !self.task.ports.is_empty();
        is_reachable && self.task.plan.endpoint.publication != Publication::Unpublished
    }

    fn drain(&mut self, now: Time, actions: &mut Vec<Action>) {
        let limit = self.task.spec.container_spec.drain_limit();
        if limit.is_zero() || !self.is_to_be_found() {
            return self.stop(now, actions);
        }
        self.stopping = Stopping::Draining(now + limit + DRAIN_MARGIN);
        actions.push(Action::Drain { task: self.id(), limit });
    }

    fn stop(&mut self, now: Time, actions: &mut Vec<Action>) {
        let grace = self.task.spec.container_spec.stop_grace();
        self.stopping = Stopping::Signalled(now + grace + STOP_MARGIN);
        actions.push(Action::Stop { task: self.id(), grace });
    }

    /// When to step again if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        match (&self.phase, self.stopping) {
            (Phase::Waiting(at), _) => Some(*at),
            (Phase::Running, Stopping::Withdrawing(at) | Stopping::Draining(at) | Stopping::Signalled(at)) => Some(at),
            _ => None,
        }
    }

    /// Everything is ready, these ports of the node included.
    pub fn prepared(&mut self, now: Time, ports: Vec<PublishedPort>) {
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
        self.status.is_healthy = false;
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

    /// The container ended.
    pub fn exited(&mut self, now: Time, exit: Exit, has_session: bool, can_restart: bool) {
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
            None => self.evicted(now, "the node was restarted"),
        }
    }

    /// With a session, a task that the machine's restart ended and that has not
    /// been prepared again is the manager's to replace.
    pub fn session_up(&mut self, now: Time) {
        if self.phase == Phase::Idle && self.status.attempt > 0 {
            self.evicted(now, "the node was restarted");
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
        let Some(text) = self.needs_manager() else { return };
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

    /// It ended with its node, not by itself.
    fn evicted(&mut self, now: Time, error: &str) {
        self.status.is_evicted = true;
        self.fail(now, error);
    }

    fn fail(&mut self, now: Time, error: &str) {
        self.status.error = cut(error);
        let state = if self.status.state < TaskState::Starting { TaskState::Rejected } else { TaskState::Failed };
        self.end(state, now, if state == TaskState::Rejected { "rejected" } else { "failed" });
    }

    fn end(&mut self, state: TaskState, now: Time, message: &str) {
        self.phase = Phase::Ended;
        self.stopping = Stopping::No;
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
