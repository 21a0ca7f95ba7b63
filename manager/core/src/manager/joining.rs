//! Joins that are recorded and wait for raft.

use super::Manager;
use super::calls::WaitingFor;
use crate::ticket::Ticket;
use skep_model::Refusal;
use skep_model::request::Outcome;

impl Manager {
    /// A join is recorded: it is answered once raft has the joiner as a member, or
    /// once nobody has its raft id any more because the node was demoted meanwhile.
    pub(super) fn await_join(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.kind = WaitingFor::Membership(outcome.number);
            self.joining.entry(outcome.number).or_default().push((ticket, outcome));
            self.answer_joins();
        }
    }

    pub(super) fn answer_joins(&mut self) {
        for raft_id in self.joining.keys().copied().collect::<Vec<_>>() {
            let is_member = self.consensus.is_member(raft_id);
            if !is_member && self.directory.node(raft_id).is_some() {
                continue;
            }
            for (ticket, outcome) in self.joining.remove(&raft_id).unwrap_or_default() {
                let gone = || Refusal::FailedPrecondition("the node was demoted while it joined; it may ask anew".into());
                self.reply(ticket, if is_member { Ok(outcome) } else { Err(gone()) });
            }
        }
    }
}
