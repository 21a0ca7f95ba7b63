//! The states of a task, their order, and who may move a task where.
//!
//! Names, numbers and order are Swarm's. An observed state never decreases; a
//! desired state never decreases. [`TRANSITIONS`] is the one table of who may
//! make which step.

use std::fmt;
use std::str::FromStr;

/// A state of a task, observed or desired.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u16)]
pub enum TaskState {
    /// Made by an orchestrator.
    #[default]
    New = 0,
    /// Allocated; waits for a node.
    Pending = 64,
    /// The scheduler chose a node.
    Assigned = 192,
    /// The node's agent has taken it.
    Accepted = 256,
    /// The image, root file system and secrets are being made ready.
    Preparing = 320,
    /// Prepared; starts as soon as desired.
    Ready = 384,
    /// Started, not yet running: the first healthy result is awaited.
    Starting = 448,
    /// Runs, and is healthy where it has a health check.
    Running = 512,
    /// Ended by itself with exit code 0.
    Complete = 576,
    /// Ended because that was desired.
    Shutdown = 640,
    /// Ended with an error after it had started.
    Failed = 704,
    /// Could not be started.
    Rejected = 768,
    /// Desired only: to be deleted once it has ended.
    Remove = 800,
    /// Its node is gone for good.
    Orphaned = 832,
}

/// Who makes a step of the observed state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The leader: orchestrator, allocator, scheduler, enforcer, dispatcher.
    Leader,
    /// The agent of the node the task is assigned to.
    Agent,
}

use TaskState::*;

/// Every state in order.
pub const ALL: [TaskState; 14] = [
    New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running, Complete, Shutdown, Failed, Rejected, Remove, Orphaned,
];

/// Who may move an observed state from where to where. What is not here is an
/// illegal step. An agent may skip states that it passed too quickly to report.
pub const TRANSITIONS: &[(Owner, &[TaskState], &[TaskState])] = &[
    (Owner::Leader, &[New], &[Pending]),
    (Owner::Leader, &[New, Pending], &[Assigned]),
    // A task without a node that is no longer wanted never starts.
    (Owner::Leader, &[New, Pending], &[Shutdown]),
    // The enforcer rejects tasks whose node no longer meets the constraints.
    (Owner::Leader, &[Assigned, Accepted, Preparing, Ready, Starting, Running], &[Rejected]),
    // The node was removed, or down for a day.
    (Owner::Leader, &[Assigned, Accepted, Preparing, Ready, Starting, Running], &[Orphaned]),
    (Owner::Agent, &[Assigned], &[Accepted, Preparing, Ready, Starting, Running, Complete, Shutdown, Failed, Rejected]),
    (Owner::Agent, &[Accepted], &[Preparing, Ready, Starting, Running, Complete, Shutdown, Failed, Rejected]),
    (Owner::Agent, &[Preparing], &[Ready, Starting, Running, Complete, Shutdown, Failed, Rejected]),
    (Owner::Agent, &[Ready], &[Starting, Running, Complete, Shutdown, Failed, Rejected]),
    (Owner::Agent, &[Starting], &[Running, Complete, Shutdown, Failed]),
    (Owner::Agent, &[Running], &[Complete, Shutdown, Failed]),
];

impl TaskState {
    /// Whether `owner` may move a task's observed state from here to `next`.
    pub fn may_become(self, next: TaskState, owner: Owner) -> bool {
        TRANSITIONS.iter().any(|(who, from, to)| *who == owner && from.contains(&self) && to.contains(&next))
    }

    /// Whether a task in this observed state has ended and stays so.
    pub fn is_final(self) -> bool {
        self > Running
    }

    /// The number that goes over the wire, as Swarm's.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The state with that number.
    pub fn from_number(number: u16) -> Option<TaskState> {
        ALL.into_iter().find(|state| state.number() == number)
    }

    /// The name in lower case, as filters and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            New => "new",
            Pending => "pending",
            Assigned => "assigned",
            Accepted => "accepted",
            Preparing => "preparing",
            Ready => "ready",
            Starting => "starting",
            Running => "running",
            Complete => "complete",
            Shutdown => "shutdown",
            Failed => "failed",
            Rejected => "rejected",
            Remove => "remove",
            Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for TaskState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_lowercase();
        ALL.into_iter().find(|state| state.name() == wanted).ok_or_else(|| format!("{text:?} is not a task state"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_goes_back_and_no_end_is_left() {
        for from in ALL {
            for to in ALL {
                for owner in [Owner::Leader, Owner::Agent] {
                    if from.may_become(to, owner) {
                        assert!(from < to && !from.is_final() && to != Remove, "{from} to {to}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for state in ALL {
            assert_eq!(state.name().parse(), Ok(state));
            assert_eq!(TaskState::from_number(state.number()), Some(state));
        }
    }
}
