//! Calls from outside: sent, lost, answered late, repeated with the same id.

use super::machines::Parcel;
use super::plant::Plant;
use super::{Happening, Simulation};
use skep_manager_core::event::{Consistency, Event, Ticket};
use skep_manager_core::store::Store;
use skep_model::request::{Mutation, Outcome};
use skep_model::{Refusal, RequestId, Time};
use std::sync::Arc;
use std::time::Duration;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A client.
    Client(usize),
    /// The operator.
    Operator,
    /// A machine that wants to become a manager.
    Joiner(usize),
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) caller: Caller,
    pub(super) request: RequestId,
    /// What is asked for; `None` = a read.
    pub(super) mutation: Option<Box<Mutation>>,
    attempt: u32,
    target: usize,
    /// Where the next attempt goes, if a manager said so.
    hint: Option<usize>,
    /// A read must see at least this version.
    floor: u64,
}

/// A call as it arrives at a machine.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    call: u64,
    attempt: u32,
    request: RequestId,
    mutation: Option<Box<Mutation>>,
}

impl Origin {
    /// The request's id, if it is one.
    pub(super) fn request(&self) -> Option<RequestId> {
        self.mutation.as_ref().map(|_| self.request)
    }
}

/// What a call is answered.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// A request's outcome.
    Outcome(Result<Outcome, Refusal>),
    /// A read's view.
    View(Result<Arc<Store>, Refusal>),
}

impl Simulation {
    /// Begins a call; it is repeated until it is answered for good.
    pub(super) fn call(&mut self, caller: Caller, request: RequestId, mutation: Option<Mutation>) {
        self.sequence += 1;
        let target = self.leader().unwrap_or(0);
        let target = if self.dice.clients.chance(300_000) { self.some_manager() } else { target };
        let floor = self.checkers.read_floor();
        let call = Call { caller, request, mutation: mutation.map(Box::new), attempt: 0, target, hint: None, floor };
        self.calls.insert(self.sequence, call);
        self.send_call(self.sequence);
    }

    /// A machine that is, was or may be a manager.
    fn some_manager(&mut self) -> usize {
        let managers: Vec<usize> =
            self.machines.iter().filter(|machine| !machine.is_worker).map(|machine| machine.number).collect();
        *self.dice.clients.pick(&managers)
    }

    fn send_call(&mut self, number: u64) {
        let is_lost = self.dice.clients.chance(self.profile.loss / 4);
        let new_id = RequestId(self.dice.clients.id());
        let delay = self.dice.clients.between(self.profile.latency.0, self.profile.latency.1);
        let timeout = self.dice.clients.between(Duration::from_millis(600), Duration::from_secs(4));
        let has_plant = self.has_plant(Plant::NewIdOnRetry);
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.attempt += 1;
        if call.attempt > 1 && call.mutation.is_some() {
            self.coverage.count("request: repeated with its id");
            if has_plant {
                call.request = new_id;
            }
        }
        let (attempt, target) = (call.attempt, call.target);
        let origin = Origin { call: number, attempt, request: call.request, mutation: call.mutation.clone() };
        if !is_lost {
            self.after(delay, Happening::Arrive { machine: target, parcel: Parcel::Call(origin) });
        }
        self.after(timeout, Happening::CallAgain { call: number, attempt });
    }

    pub(super) fn call_again(&mut self, number: u64, attempt: u32) -> Result<(), String> {
        let target = self.some_manager();
        if let Some(call) = self.calls.get_mut(&number)
            && call.attempt == attempt
        {
            call.target = call.hint.take().unwrap_or(target);
            self.send_call(number);
        }
        Ok(())
    }

    pub(super) fn call_arrives(&mut self, number: usize, origin: Origin) -> Result<(), String> {
        let machine = &mut self.machines[number];
        if !machine.is_up || machine.manager.is_none() {
            return Ok(());
        }
        let ticket = Ticket(machine.next_ticket);
        machine.next_ticket += 1;
        machine.tickets.insert(ticket, origin.clone());
        let event = match origin.mutation {
            Some(mutation) => Event::Request { ticket, request: origin.request, mutation },
            None if self.has_plant(Plant::StaleRead) => Event::Read { ticket, consistency: Consistency::Stale },
            None => Event::Read { ticket, consistency: Consistency::Linearizable },
        };
        self.give(number, event)?;
        self.check_quorum_told(number, ticket)
    }

    /// Where the quorum has been lost for a while, whoever asks is told so at once.
    fn check_quorum_told(&self, number: usize, ticket: Ticket) -> Result<(), String> {
        let is_over = self.quorum_lost_since.is_some_and(|since| self.now.since(since) >= Duration::from_secs(4));
        let machine = &self.machines[number];
        let is_voter = machine.manager.as_ref().is_some_and(|manager| manager.status().voters.contains(&machine.raft_id()));
        // One that has just started has yet to find out.
        let is_new = |at: Option<Time>| at.is_some_and(|at| self.now.since(at) < Duration::from_secs(2));
        let has_listened = !is_new(machine.started_at) && !is_new(machine.went_on_at);
        if is_over && is_voter && has_listened && self.profile.batching == 0 && machine.tickets.contains_key(&ticket) {
            return Err(format!("machine {number} lets {ticket:?} wait although the quorum is lost"));
        }
        Ok(())
    }

    /// A manager answers; the answer may be lost.
    pub(super) fn answer(&mut self, number: usize, ticket: Ticket, answer: Answer) {
        let Some(origin) = self.machines[number].tickets.remove(&ticket) else { return };
        if self.dice.clients.chance(self.profile.loss / 4) {
            return;
        }
        let delay = self.dice.clients.between(self.profile.latency.0, self.profile.latency.1);
        self.after(delay, Happening::Answer { call: origin.call, attempt: origin.attempt, answer });
    }

    pub(super) fn answered(&mut self, number: u64, attempt: u32, answer: Answer) -> Result<(), String> {
        let Some(call) = self.calls.get(&number) else { return Ok(()) };
        let is_present = call.attempt == attempt;
        let refusal = match &answer {
            Answer::Outcome(Err(refusal)) | Answer::View(Err(refusal)) => Some(refusal),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.coverage.count(format!("refusal: {}", refusal_name(refusal)));
        }
        if let Some(refusal) = refusal.filter(|refusal| refusal.is_retryable()) {
            if is_present {
                self.retry(number, attempt, refusal);
            }
            return Ok(());
        }
        // An old answer to a repeated request is as good as a new one.
        let call = self.calls.remove(&number).expect("it was just seen");
        match (call.caller, answer) {
            (Caller::Client(client), Answer::View(Ok(view))) => self.client_read(client, &view, call.floor),
            (Caller::Client(client), Answer::Outcome(result)) => self.client_done(client, call.request, result),
            (Caller::Operator, Answer::Outcome(result)) => self.operator_done(result),
            (Caller::Joiner(machine), Answer::Outcome(result)) => self.join_done(machine, result),
            (caller, answer) => Err(format!("{caller:?} was answered {answer:?}")),
        }
    }

    fn retry(&mut self, number: u64, attempt: u32, refusal: &Refusal) {
        let pause = self.dice.clients.between(Duration::from_millis(20), Duration::from_millis(300));
        let hint = match refusal {
            Refusal::NotLeader { leader: Some(node), .. } => self.machines.iter().position(|machine| machine.node == *node),
            _ => None,
        };
        if let Some(call) = self.calls.get_mut(&number) {
            call.hint = hint;
        }
        // The present attempt is over; a new one begins after the pause.
        self.after(pause, Happening::CallAgain { call: number, attempt });
    }
}

pub(super) fn refusal_name(refusal: &Refusal) -> String {
    let text = format!("{refusal:?}");
    text.chars().take_while(char::is_ascii_alphanumeric).collect()
}
