//! The nodes' agents: what a leader tells them arrives here.
//!
//! This is their place in the simulation. Every action that concerns a session
//! comes through [`Agents::carry_out`], and what agents answer leaves as events
//! for the manager that they have their session with. There are none yet, so a
//! leader that tells one anything is wrong.

use skep_manager_core::action::Action;
use skep_manager_core::event::Event;
use skep_model::Time;

/// All simulated agents.
#[derive(Debug, Default)]
pub struct Agents {
    answers: Vec<(usize, Event)>,
}

impl Agents {
    /// A manager on a machine wants something told to an agent. Answers what is
    /// wrong with that, if anything is.
    pub fn carry_out(&mut self, _now: Time, machine: usize, action: &Action) -> Result<(), String> {
        match action {
            Action::SendInfo { session, .. } | Action::SendAssignments { session, .. } | Action::CloseSession { session, .. } => {
                Err(format!("machine {machine} speaks to session {session}, which nobody opened"))
            }
            _ => Ok(()),
        }
    }

    /// Events for managers, with the machine they go to.
    pub fn take_answers(&mut self) -> Vec<(usize, Event)> {
        std::mem::take(&mut self.answers)
    }
}
