//! Those who wait: requests, reads and watches, each with a deadline.

use super::Manager;
use super::proposals::{Call, Origin, Proposal};
use crate::action::Action;
use crate::control::{self, Admitted};
use crate::event::Consistency;
use crate::leader::BUG;
use crate::membership::joining;
use crate::store::Conflict;
use crate::store::codec;
use crate::store::watch::WatchEnd;
use crate::ticket::Ticket;
use crate::timing;
use crate::transaction::Transaction;
use skep_model::guard;
use skep_model::request::{Mutation, Outcome};
use skep_model::{Refusal, RequestId, Time};

/// How often a request whose transaction was refused is admitted anew.
const ATTEMPTS_MAX: u32 = 16;

/// What a ticket waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) deadline: Time,
    pub(super) kind: WaitingFor,
}

/// See [`Waiting`].
#[derive(Clone, Copy, Debug)]
pub(super) enum WaitingFor {
    Outcome(RequestId),
    /// A join is recorded and waits for raft.
    Membership(u64),
    Read,
    /// The read that a watch begins with.
    Watch,
    /// The same, of a watch since a point in wall time.
    WatchSince(Time),
}

impl Manager {
    pub(super) fn request(&mut self, ticket: Ticket, request: RequestId, mutation: Box<Mutation>) {
        if let Some(refusal) = self.quorum_lost() {
            return self.reply(ticket, Err(refusal));
        }
        if !self.consensus.is_leader() {
            let refusal = self.not_leader();
            return self.reply(ticket, Err(refusal));
        }
        self.wait(ticket, WaitingFor::Outcome(request));
        if let Some(call) = self.proposals.calls.get_mut(&request) {
            call.tickets.push(ticket);
            if call.verdict.is_some() {
                self.reads.add(ticket);
            }
            return;
        }
        self.proposals.calls.insert(request, Call::new(mutation, ticket));
        if self.leading.is_some() {
            self.admit(request);
        }
    }

    /// Decides on a request that is under way, on a store that is up to date.
    pub(super) fn admit(&mut self, request: RequestId) {
        let Some(call) = self.proposals.calls.get_mut(&request) else { return };
        call.attempts += 1;
        let mutation = call.mutation.clone();
        let admitted = joining::check(&self.store, &self.consensus, self.now, &mutation)
            .and_then(|()| self.judge(request, *mutation))
            .and_then(|admitted| match admitted {
                Admitted::Join(join) => {
                    let now = self.cluster_time();
                    joining::join(&self.store, &self.consensus, &self.directory, now, &mut self.mint, join).map(Admitted::Propose)
                }
                Admitted::Leave { node } => {
                    joining::leave(&self.store, &self.consensus, self.moment(), self.wall, node).map(Admitted::Propose)
                }
                other => Ok(other),
            });
        match admitted {
            Ok(Admitted::Propose(mut transaction)) => {
                assert!(transaction.outcome.is_some(), "a request was admitted without an outcome");
                transaction.request = Some(request);
                if let Err(refusal) = self.propose(Origin::Request(request), transaction) {
                    self.finish(request, Err(refusal));
                }
            }
            // Nothing changes, but the answer is remembered: a repeat after other
            // changes must not take effect.
            Ok(Admitted::Done(outcome)) => {
                let mut transaction = Transaction::new(self.cluster_time());
                (transaction.request, transaction.outcome) = (Some(request), Some(outcome));
                if let Err(refusal) = self.propose(Origin::Request(request), transaction) {
                    self.finish(request, Err(refusal));
                }
            }
            Ok(Admitted::Join(_) | Admitted::Leave { .. }) => unreachable!("joining and leaving have become transactions"),
            Err(refusal) => self.confirm(request, Err(refusal)),
        }
    }

    /// Whether a request may be, and what is to be proposed. A panic over it is a bug
    /// of ours that costs nobody else anything: it is refused with what was said.
    fn judge(&mut self, request: RequestId, mutation: Mutation) -> Result<Admitted, Refusal> {
        let (store, now, mint) = (&self.store, self.cluster_time(), &mut self.mint);
        let judged = guard::catch(|| control::admit(store, now, mint, request, mutation));
        judged.unwrap_or_else(|said| {
            let sentence = format!("{BUG}deciding about this request panicked: {said}");
            self.actions.push(Action::Warn { sentence: sentence.clone() });
            Err(Refusal::FailedPrecondition(sentence))
        })
    }

    /// Answers what needs no change, once it is sure that this is still the leader:
    /// such an answer is a read, and one that was deposed without knowing it would
    /// refuse on a store that others have left behind.
    fn confirm(&mut self, request: RequestId, result: Result<Outcome, Refusal>) {
        let Some(call) = self.proposals.calls.get_mut(&request) else { return };
        call.verdict = Some(result);
        call.tickets.iter().for_each(|ticket| self.reads.add(*ticket));
    }

    /// Proposes a transaction. It has been refused if it is too large or this
    /// manager cannot take it now.
    pub(super) fn propose(&mut self, origin: Origin, mut transaction: Transaction) -> Result<(), Refusal> {
        transaction.stamp(self.wall);
        let format = self.store.cluster().map_or(1, |cluster| cluster.plan.format.max(1));
        let data = codec::encode(&transaction, format);
        if data.len() > timing::TRANSACTION_BYTES_MAX || transaction.writes.len() > timing::TRANSACTION_WRITES_MAX {
            let limit = format!("{} bytes and {} writes", timing::TRANSACTION_BYTES_MAX, timing::TRANSACTION_WRITES_MAX);
            return Err(Refusal::TooLarge { what: "the change".into(), limit });
        }
        let Some(index) = self.consensus.propose(data) else {
            return Err(Refusal::Unavailable("the leader cannot take changes at the moment; try again".into()));
        };
        self.proposals.add(index, Proposal { term: self.consensus.term(), origin, transaction });
        Ok(())
    }

    /// A request's transaction was agreed. A conflict means that the store has
    /// moved on since it was admitted, so it is decided again on what there is now.
    pub(super) fn request_settled(&mut self, request: RequestId, conflict: Option<Conflict>) {
        let result = match (conflict, self.store.requests.outcome(request)) {
            (Some(Conflict::Repeated(outcome)), _) | (None, Some(outcome)) => Ok(outcome),
            (None, None) => panic!("a request was applied without an outcome"),
            (Some(conflict), _) => match self.proposals.calls.get(&request) {
                Some(call) if call.attempts < ATTEMPTS_MAX || conflict.is_lost_race() => return self.admit(request),
                _ => conflict.into_result(),
            },
        };
        self.finish(request, result);
    }

    /// Answers everyone who waits for a request; a join waits on for raft.
    pub(super) fn finish(&mut self, request: RequestId, result: Result<Outcome, Refusal>) {
        let Some(call) = self.proposals.calls.remove(&request) else { return };
        for ticket in call.tickets {
            match &result {
                Ok(outcome) if matches!(*call.mutation, Mutation::JoinRaft { .. }) => self.await_join(ticket, *outcome),
                _ => self.reply(ticket, result.clone()),
            }
        }
    }

    fn not_leader(&self) -> Refusal {
        let leader = self.directory.node(self.consensus.leader());
        let address = leader.map(|_| self.directory.address(self.consensus.leader())).unwrap_or_default();
        Refusal::NotLeader { leader, address }
    }

    /// Leadership is lost: what was proposed may or may not come to pass.
    pub(super) fn abandon_calls(&mut self) {
        let not_leader = self.not_leader();
        for call in self.proposals.abandon().into_values() {
            let refusal = if call.is_proposed { Refusal::Aborted } else { not_leader.clone() };
            for ticket in call.tickets {
                self.reply(ticket, Err(refusal.clone()));
            }
        }
        for ticket in std::mem::take(&mut self.joining).into_values().flatten().map(|(ticket, _)| ticket) {
            self.reply(ticket, Err(Refusal::Aborted));
        }
    }

    pub(super) fn read(&mut self, ticket: Ticket, consistency: Consistency) {
        match consistency {
            Consistency::Stale => {
                let view = self.view();
                self.actions.push(Action::ReadReady { ticket, result: Ok(view) });
            }
            Consistency::Linearizable => match self.quorum_lost() {
                Some(refusal) => self.actions.push(Action::ReadReady { ticket, result: Err(refusal) }),
                None => {
                    self.wait(ticket, WaitingFor::Read);
                    self.reads.add(ticket);
                }
            },
        }
    }

    /// A watch waits for the read that it begins with.
    pub(super) fn watch(&mut self, ticket: Ticket, kind: WaitingFor) {
        match self.quorum_lost() {
            Some(refusal) => self.actions.push(Action::WatchEnded { ticket, end: WatchEnd::Refused(refusal) }),
            None => {
                self.wait(ticket, kind);
                self.reads.add(ticket);
            }
        }
    }

    pub(super) fn serve_reads(&mut self) {
        if self.with_leading(|leading, _, _| leading.dispatcher.take_question()) {
            // An answer to what was asked for an earlier doubt says nothing of this one.
            self.is_confirmed = false;
            self.reads.remove(Ticket::OWN);
            self.reads.add(Ticket::OWN);
        }
        if let Some(context) = self.reads.question(self.now) {
            self.consensus.read_index(context);
        }
        for ticket in self.reads.ready(self.store.version) {
            if ticket == Ticket::OWN {
                self.is_confirmed = true;
                continue;
            }
            let Some(waiting) = self.waiting.get(&ticket).copied() else { continue };
            if let WaitingFor::Outcome(request) = waiting.kind {
                if let Some(verdict) = self.proposals.calls.get(&request).and_then(|call| call.verdict.clone()) {
                    self.finish(request, verdict);
                }
                continue;
            }
            self.waiting.remove(&ticket);
            self.deadlines.remove(&(waiting.deadline, ticket));
            let view = self.view();
            let version = view.version;
            if let WaitingFor::WatchSince(since) = waiting.kind {
                let (past, is_complete) = self.watches.add_since(ticket, since, version);
                self.actions.push(Action::WatchPast { ticket, view, past, is_complete });
                continue;
            }
            self.actions.push(Action::ReadReady { ticket, result: Ok(view) });
            if matches!(waiting.kind, WaitingFor::Watch) {
                self.begin_watch(ticket, version);
            }
        }
    }

    pub(super) fn begin_watch(&mut self, ticket: Ticket, after: u64) {
        match self.watches.add(ticket, after) {
            Ok(missed) if missed.is_empty() => {}
            Ok(recent) => self.actions.push(Action::WatchChanges { ticket, recent }),
            Err(end) => self.actions.push(Action::WatchEnded { ticket, end }),
        }
    }

    pub(super) fn gone(&mut self, ticket: Ticket) {
        self.watches.remove(ticket);
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.deadlines.remove(&(waiting.deadline, ticket));
            self.forget(ticket, waiting);
        }
    }

    /// Answers everyone whose time is up. What they asked for may still happen.
    pub(super) fn expire(&mut self) {
        while let Some(&(deadline, ticket)) = self.deadlines.first()
            && deadline <= self.now
        {
            self.deadlines.remove(&(deadline, ticket));
            let Some(waiting) = self.waiting.remove(&ticket) else { continue };
            self.forget(ticket, waiting);
            let refusal = Refusal::Unavailable(self.unavailable());
            self.actions.push(match waiting.kind {
                WaitingFor::Outcome(_) | WaitingFor::Membership(_) => Action::Reply { ticket, result: Err(refusal) },
                WaitingFor::Read => Action::ReadReady { ticket, result: Err(refusal) },
                WaitingFor::Watch | WaitingFor::WatchSince(_) => Action::WatchEnded { ticket, end: WatchEnd::Refused(refusal) },
            });
        }
    }

    /// Answers everyone who waits: nothing can be decided.
    pub(super) fn refuse_everybody(&mut self, refusal: &Refusal) {
        for (_, ticket) in std::mem::take(&mut self.deadlines) {
            let Some(waiting) = self.waiting.remove(&ticket) else { continue };
            self.forget(ticket, waiting);
            let refusal = refusal.clone();
            self.actions.push(match waiting.kind {
                // What was proposed may yet come to pass: so much is said by asking again.
                WaitingFor::Outcome(_) | WaitingFor::Membership(_) => Action::Reply { ticket, result: Err(refusal) },
                WaitingFor::Read => Action::ReadReady { ticket, result: Err(refusal) },
                WaitingFor::Watch | WaitingFor::WatchSince(_) => Action::WatchEnded { ticket, end: WatchEnd::Refused(refusal) },
            });
        }
    }

    fn unavailable(&self) -> String {
        if self.consensus.leader() == 0 {
            return "the swarm does not have a leader: it is possible that too few managers are online; \
                    make sure more than half of the managers are online"
                .into();
        }
        let seconds = timing::REQUEST_TIMEOUT.as_secs();
        format!("no majority of the managers answered within {seconds} s; the request may be repeated")
    }

    fn forget(&mut self, ticket: Ticket, waiting: Waiting) {
        match waiting.kind {
            WaitingFor::Outcome(request) => {
                self.proposals.forget_ticket(request, ticket);
                self.reads.remove(ticket);
            }
            WaitingFor::Membership(raft_id) => {
                if let Some(joins) = self.joining.get_mut(&raft_id) {
                    joins.retain(|(waiting, _)| *waiting != ticket);
                }
            }
            WaitingFor::Read | WaitingFor::Watch | WaitingFor::WatchSince(_) => self.reads.remove(ticket),
        }
    }

    pub(super) fn wait(&mut self, ticket: Ticket, kind: WaitingFor) {
        let deadline = self.now + timing::REQUEST_TIMEOUT;
        self.deadlines.insert((deadline, ticket));
        let previous = self.waiting.insert(ticket, Waiting { deadline, kind });
        assert!(previous.is_none(), "{ticket:?} waits for two things");
    }

    pub(super) fn reply(&mut self, ticket: Ticket, result: Result<Outcome, Refusal>) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.deadlines.remove(&(waiting.deadline, ticket));
        }
        self.actions.push(Action::Reply { ticket, result });
    }
}
