//! What there is of a container after a restart of the daemon, or after its shim could not be heard: adopted, ended, or run
//! again. Silence ends nothing.

use super::{Phase, Stopping, TaskMachine};
use crate::event::{Exit, Found};
use skep_model::{Now, TaskState};

/// Why a container is gone without an exit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The node was restarted: no fault of the task's.
    Node,
    /// Somebody killed its shim.
    Shim,
}

impl Loss {
    fn text(self) -> &'static str {
        match self {
            Self::Node => "the node was restarted",
            Self::Shim => "the shim of the container was killed",
        }
    }
}

impl TaskMachine {
    /// What there is of its container.
    pub fn found(&mut self, now: Now, found: Found, has_session: bool) {
        match self.phase {
            Phase::Searching => {
                self.stopping = Stopping::No;
                self.adopt(now, found, has_session);
            }
            // Its shim could not be heard, and may have said something meanwhile.
            Phase::Starting | Phase::Running => match found {
                Found::Running { pid, attempt, healthy, has_check } => {
                    self.started(now, attempt, pid, has_check);
                    if let Some(healthy) = healthy {
                        self.health(now, attempt, healthy, "");
                    }
                }
                Found::Exited { exit, .. } if exit.attempt >= self.status.attempt => self.exited(now, exit, has_session, true),
                // The restart that was asked for did not reach it.
                Found::Exited { .. } => self.phase = Phase::Waiting { at: now.boot, in_place: true },
                Found::StartFailed { attempt, error } if attempt >= self.status.attempt => {
                    self.could_not_start(now, &error, has_session);
                }
                Found::StartFailed { .. } => self.phase = Phase::Waiting { at: now.boot, in_place: true },
                Found::Fresh | Found::Killed | Found::Nothing => self.shim_lost(now, has_session),
            },
            Phase::Idle | Phase::Preparing | Phase::Prepared | Phase::Waiting { .. } | Phase::Ended => {}
        }
    }

    fn adopt(&mut self, now: Now, found: Found, has_session: bool) {
        match found {
            // Recorded and not started: the daemon died in between, and nobody else did it.
            Found::Fresh => self.phase = Phase::Idle,
            Found::Running { pid, attempt, healthy, has_check } => self.adopt_running(now, pid, attempt, has_check, healthy),
            Found::Exited { exit, shim_lives } => self.adopt_exited(now, exit, has_session, shim_lives),
            Found::StartFailed { attempt, error } => {
                self.phase = Phase::Starting;
                self.status.attempt = self.status.attempt.max(attempt);
                self.could_not_start(now, &error, has_session);
            }
            Found::Killed => self.gone(now, Loss::Shim, has_session),
            Found::Nothing => self.machine_restarted(now, has_session),
        }
    }

    /// Nothing is left of a task that had been started: the machine was restarted.
    fn machine_restarted(&mut self, now: Now, has_session: bool) {
        if self.status.state < TaskState::Starting {
            self.phase = Phase::Idle;
            return;
        }
        self.gone(now, Loss::Node, has_session);
    }

    /// Its container is gone without an exit. With a manager at hand the task has
    /// failed; without one it is run again, made anew, if its policy allows, after the
    /// policy's delay. What this daemon was not told to run waits for a manager.
    fn gone(&mut self, now: Now, cause: Loss, has_session: bool) {
        if self.task.plan.desired > TaskState::Running {
            return self.end(TaskState::Shutdown, now, "shutdown");
        }
        self.stopping = Stopping::No;
        self.stop_cause = None;
        match self.restart_at(now, true) {
            Some(at) if !has_session => {
                self.cause = Some(cause);
                self.status.error = cause.text().into();
                self.phase = if self.may_start() { Phase::Waiting { at, in_place: false } } else { Phase::Idle };
                self.touch(now, cause.text());
            }
            _ => self.end_as_lost(now, cause),
        }
    }

    fn adopt_running(&mut self, now: Now, pid: i32, attempt: u64, has_check: bool, healthy: Option<bool>) {
        self.phase = Phase::Starting;
        self.at_attempt(attempt);
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

    fn adopt_exited(&mut self, now: Now, mut exit: Exit, has_session: bool, shim_lives: bool) {
        let is_of_earlier = exit.attempt < self.status.attempt;
        if is_of_earlier && !shim_lives {
            // What became of the newest attempt is not on record: it ended with the machine.
            return self.machine_restarted(now, has_session);
        }
        if is_of_earlier {
            // The newest attempt never reached the shim.
            exit.attempt = self.status.attempt;
        }
        self.phase = Phase::Running;
        self.at_attempt(exit.attempt);
        if self.status.state < TaskState::Starting {
            self.advance(TaskState::Starting, now, "starting");
        }
        self.exited(now, exit, has_session, shim_lives);
    }

    fn at_attempt(&mut self, attempt: u64) {
        self.is_dirty |= attempt != self.status.attempt;
        self.status.attempt = attempt;
    }

    /// The shim is gone, and everything it held.
    pub fn shim_lost(&mut self, now: Now, has_session: bool) {
        if !matches!(self.phase, Phase::Ended | Phase::Idle | Phase::Preparing | Phase::Prepared) {
            self.gone(now, Loss::Shim, has_session);
        }
    }

    /// With a session, a task whose container is gone and that has not been started
    /// again is the manager's to replace.
    pub fn session_up(&mut self, now: Now) {
        if let (Some(cause), Phase::Idle | Phase::Waiting { .. }) = (self.cause, &self.phase) {
            self.end_as_lost(now, cause);
        }
    }

    fn end_as_lost(&mut self, now: Now, cause: Loss) {
        match cause {
            Loss::Node => self.evicted(now, cause.text()),
            Loss::Shim => self.fail(now, cause.text()),
        }
    }
}
