//! The end of a container that runs: withdrawn everywhere, drained, asked to stop, killed. Each step has a deadline, and none
//! needs a manager to go on.

use super::TaskMachine;
use crate::action::Action;
use skep_model::endpoint::Publication;
use skep_model::{Now, Time};
use std::time::Duration;

/// How much longer than a manager waits for every node a task that was to be found
/// waits for word that it is not any more.
pub const WITHDRAW_MARGIN: Duration = Duration::from_secs(1);
/// How much longer than the limit the network daemon may take to say so.
const DRAIN_MARGIN: Duration = Duration::from_secs(2);
/// How much longer than the grace period a shim may take to stop a container.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// How far the end of a container that runs has come. A task that was to be found
/// is first withdrawn everywhere, then drained, and only then asked to stop; each
/// step has a deadline, and none needs a manager to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopping {
    /// It is to run.
    No,
    /// Waits for word that no node sends anybody to it any more.
    Withdrawing(Time),
    /// Waits for its connections to become idle.
    Draining(Time),
    /// It was asked to stop; if it has not ended then, it is killed.
    Signalled(Time),
}

impl TaskMachine {
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

    /// The end of a container that runs, one step at a time. A step that needs no
    /// waiting is followed by the next at once.
    pub(super) fn step_running(&mut self, now: Now, is_wanted: bool, withdraw_max: Duration, actions: &mut Vec<Action>) {
        if self.stopping == Stopping::No && !is_wanted {
            self.stopping = Stopping::Withdrawing(if self.is_to_be_found() { now.boot + withdraw_max } else { now.boot });
        }
        match self.stopping {
            Stopping::Withdrawing(until) if now.boot >= until || self.may_stop => self.drain(now, actions),
            Stopping::Draining(until) if now.boot >= until => self.stop(now, actions),
            // Whoever is sent to an unhealthy container is not served by waiting.
            Stopping::No | Stopping::Withdrawing(_) | Stopping::Draining(_) if self.stop_cause.is_some() => {
                self.stop(now, actions)
            }
            Stopping::Signalled(until) if now.boot >= until => {
                self.stopping = Stopping::Signalled(now.boot + STOP_MARGIN);
                actions.push(Action::Kill { task: self.id() });
            }
            _ => {}
        }
    }

    /// It is to end, and nobody can say what there is of it: a shim that stays silent
    /// for as long as a whole stop may take is killed with its container.
    pub(super) fn end_unheard(&mut self, now: Now, withdraw_max: Duration, actions: &mut Vec<Action>) {
        match self.stopping {
            Stopping::Signalled(until) if now.boot >= until => {
                self.stopping = Stopping::Signalled(now.boot + STOP_MARGIN);
                actions.push(Action::Kill { task: self.id() });
            }
            Stopping::Signalled(_) => {}
            _ => {
                self.stopping =
                    Stopping::Signalled(now.boot + withdraw_max + self.task.spec.container_spec.stop_grace() + STOP_MARGIN)
            }
        }
    }

    /// Whether anybody may have been sent to it.
    fn is_to_be_found(&self) -> bool {
        let is_reachable = !self.task.networks.is_empty() || !self.task.ports.is_empty();
        is_reachable && self.task.plan.endpoint.publication != Publication::Unpublished
    }

    fn drain(&mut self, now: Now, actions: &mut Vec<Action>) {
        let limit = self.task.spec.container_spec.drain_limit();
        if limit.is_zero() || !self.is_to_be_found() {
            return self.stop(now, actions);
        }
        self.stopping = Stopping::Draining(now.boot + limit + DRAIN_MARGIN);
        actions.push(Action::Drain { task: self.id(), limit });
    }

    fn stop(&mut self, now: Now, actions: &mut Vec<Action>) {
        let grace = self.task.spec.container_spec.stop_grace();
        self.stopping = Stopping::Signalled(now.boot + grace + STOP_MARGIN);
        actions.push(Action::Stop { task: self.id(), grace });
    }
}
