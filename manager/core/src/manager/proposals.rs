//! What this leader has proposed and not yet seen agreed, and who waits for it.
//!
//! A request id is in flight at most once: a repeat while the first is under way
//! waits with it, and one that comes later finds its outcome in the store.

use crate::ticket::Ticket;
use crate::transaction::Transaction;
use skep_model::request::{Mutation, Outcome};
use skep_model::{Refusal, RequestId};
use std::collections::BTreeMap;

/// For whom a transaction was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A request.
    Request(RequestId),
    /// A turn of the leader.
    Turn,
    /// The dispatcher.
    Dispatch,
    /// The members.
    Members,
}

/// A transaction on its way.
#[derive(Debug)]
pub(crate) struct Proposal {
    /// The term in which it was proposed.
    pub(crate) term: u64,
    /// For whom.
    pub(crate) origin: Origin,
    /// What.
    pub(crate) transaction: Transaction,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Call {
    /// What was asked for, to be admitted again after a conflict.
    pub(crate) mutation: Box<Mutation>,
    /// Who waits.
    pub(crate) tickets: Vec<Ticket>,
    /// How often it was admitted.
    pub(crate) attempts: u32,
    /// It has been proposed: its outcome is unknown if leadership is lost.
    pub(crate) is_proposed: bool,
    /// Decided without a change; told when leadership is confirmed.
    pub(crate) verdict: Option<Result<Outcome, Refusal>>,
}

impl Call {
    /// A request that nobody has looked at.
    pub(crate) fn new(mutation: Box<Mutation>, ticket: Ticket) -> Self {
        Self { mutation, tickets: vec![ticket], attempts: 0, is_proposed: false, verdict: None }
    }
}

/// Everything under way, by index and by request id.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    by_index: BTreeMap<u64, Proposal>,
    pub(crate) calls: BTreeMap<RequestId, Call>,
    n_turn: usize,
    n_dispatch: usize,
    n_members: usize,
    n_requests: usize,
}

impl Proposals {
    /// A transaction was proposed at `index`.
    pub(crate) fn add(&mut self, index: u64, proposal: Proposal) {
        *self.counter(proposal.origin) += 1;
        if let Origin::Request(request) = proposal.origin
            && let Some(call) = self.calls.get_mut(&request)
        {
            call.is_proposed = true;
        }
        let previous = self.by_index.insert(index, proposal);
        assert!(previous.is_none(), "two proposals have the index {index} in one term");
    }

    /// The proposal that was agreed at `index` in `term`, if it was ours.
    pub(crate) fn take(&mut self, index: u64, term: u64) -> Option<Proposal> {
        let proposal = self.by_index.remove(&index)?;
        *self.counter(proposal.origin) -= 1;
        (proposal.term == term).then_some(proposal)
    }

    /// Whether something of this origin is under way.
    pub(crate) fn has(&mut self, origin: Origin) -> bool {
        *self.counter(origin) > 0
    }

    /// Forgets everything, because leadership is lost. Answers the calls.
    pub(crate) fn abandon(&mut self) -> BTreeMap<RequestId, Call> {
        std::mem::take(self).calls
    }

    /// Whoever held this ticket has gone away. What was decided without a change, and is to
    /// be told to nobody now, is decided anew if it is asked for again.
    pub(crate) fn forget_ticket(&mut self, request: RequestId, ticket: Ticket) {
        let Some(call) = self.calls.get_mut(&request) else { return };
        call.tickets.retain(|waiting| *waiting != ticket);
        if call.tickets.is_empty() && call.verdict.is_some() {
            self.calls.remove(&request);
        }
    }

    fn counter(&mut self, origin: Origin) -> &mut usize {
        match origin {
            Origin::Turn => &mut self.n_turn,
            Origin::Dispatch => &mut self.n_dispatch,
            Origin::Members => &mut self.n_members,
            Origin::Request(_) => &mut self.n_requests,
        }
    }
}
