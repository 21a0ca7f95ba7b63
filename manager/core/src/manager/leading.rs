//! Being the leader: turns, sessions and members.

use super::Manager;
use super::proposals::Origin;
use crate::action::Action;
use crate::clock::Moment;
use crate::dispatch::Dispatcher;
use crate::leader::Leader;
use crate::membership::members::Step;
use crate::store::Store;
use skep_model::assignment::Hello;
use skep_model::{NodeId, SessionId, Time};

/// What was last said of who leads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    term: u64,
    raft_id: u64,
    leader: Option<(NodeId, String)>,
    is_self: bool,
}

/// What only a leader has whose store is up to date.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) term: u64,
    /// When it began to.
    pub(super) since: Time,
    pub(super) leader: Leader,
    pub(super) dispatcher: Dispatcher,
}

impl Manager {
    /// Becomes the leader once the store has everything that was agreed before,
    /// and ceases to be it as soon as raft says so.
    pub(super) fn follow_leadership(&mut self) {
        let (term, is_leader) = (self.consensus.term(), self.consensus.is_leader());
        if self.leading.as_ref().is_some_and(|leading| !is_leader || leading.term != term) {
            self.leading = None;
            for session in std::mem::take(&mut self.sessions) {
                self.actions.push(Action::CloseSession { session, reason: "this manager is not the leader any more".into() });
            }
        }
        if !is_leader || self.led_term != term {
            self.abandon_calls();
            self.led_term = term;
        }
        let is_current = is_leader && self.consensus.entry_term(self.store.version) == Some(term);
        if self.leading.is_none() && is_current {
            let now = self.moment();
            self.leading = Some(Leading {
                term,
                since: self.now,
                leader: Leader::new(&self.store, now.cluster).with_planted_panic(self.config.planted_panic.clone()),
                dispatcher: Dispatcher::new(&self.store, now, term),
            });
            self.members_due = true;
        }
        self.announce();
        if self.leading.is_some() {
            let held: Vec<_> = self.proposals.calls.iter().filter(|(_, call)| call.attempts == 0).map(|(id, _)| *id).collect();
            held.into_iter().for_each(|request| self.admit(request));
        }
    }

    fn announce(&mut self) {
        let (term, raft_id, is_self) = (self.consensus.term(), self.consensus.leader(), self.leading.is_some());
        let leader = self.directory.node(raft_id).map(|node| (node, self.directory.address(raft_id)));
        let told = Told { term, raft_id, leader, is_self };
        if self.told == told {
            return;
        }
        if (self.told.term, self.told.raft_id) != (term, raft_id) {
            self.reads.ask_again();
        }
        self.actions.push(Action::LeaderChanged { term, leader: told.leader.clone(), is_self });
        self.told = told;
    }

    /// One look at everything a leader may have to do. What it proposes comes
    /// back through raft.
    pub(super) fn lead(&mut self) {
        self.with_leading(|leading, now, store| leading.leader.look_at(leading.dispatcher.pass(store, now.cluster)));
        if self.leading.is_none() || self.consensus.is_handing_over() {
            self.tell_agents();
            return;
        }
        // Another's disk may be well. If there is no other, this one goes on as it can.
        if self.consensus.is_disk_stalled(self.now) && self.consensus.hand_over(self.now) {
            self.tell_agents();
            return;
        }
        self.step_members();
        if !self.proposals.has(Origin::Dispatch) {
            let transactions = self.with_leading(|leading, now, store| leading.dispatcher.transactions(store, now));
            for transaction in transactions {
                if self.propose(Origin::Dispatch, transaction.clone()).is_err() {
                    self.with_leading(|leading, _, _| leading.dispatcher.settled(&transaction, false));
                }
            }
        }
        if !self.proposals.has(Origin::Turn) {
            let now = self.cluster_time();
            let transactions = match &mut self.leading {
                Some(leading) => leading.leader.turn(&self.store, now, &mut self.mint, leading.dispatcher.barrier()),
                None => Vec::new(),
            };
            for transaction in transactions {
                if self.propose(Origin::Turn, transaction.clone()).is_err() {
                    self.with_leading(|leading, _, _| leading.leader.refused(&transaction));
                }
            }
            let warnings = self.with_leading(|leading, _, _| leading.leader.take_warnings());
            self.actions.extend(warnings.into_iter().map(|sentence| Action::Warn { sentence }));
            // What a turn found is written with the next batch of the dispatcher.
            self.is_unsettled |=
                self.with_leading(|leading, _, store| leading.dispatcher.exclude(store, leading.leader.excluded()));
        }
        self.tell_agents();
    }

    fn step_members(&mut self) {
        if !self.members_due || self.proposals.has(Origin::Members) || self.consensus.is_changing() {
            return;
        }
        self.members_due = false;
        let since = self.leading.as_ref().map_or(self.now, |leading| leading.since);
        match self.directory.step(&self.store, &self.consensus, self.moment(), since) {
            // A refusal is temporary: the next tick looks again.
            Some(Step::Write(transaction)) => drop(self.propose(Origin::Members, *transaction)),
            Some(Step::Change(kind, raft_id)) => self.consensus.propose_change(kind, raft_id),
            Some(Step::HandOver) => drop(self.consensus.hand_over(self.now)),
            None => {}
        }
    }

    fn tell_agents(&mut self) {
        let actions = self.with_leading(|leading, now, store| leading.dispatcher.actions(store, now.local));
        for action in actions {
            if let Action::CloseSession { session, .. } = &action {
                self.sessions.remove(session);
            }
            self.actions.push(action);
        }
        // A gate that opened while it was told asks for another look.
        self.is_unsettled |= self.leading.as_ref().is_some_and(|leading| leading.dispatcher.has_passed());
    }

    pub(super) fn session_opened(&mut self, session: SessionId, hello: Hello) {
        let now = self.now;
        match &mut self.leading {
            Some(leading) => {
                self.sessions.insert(session);
                leading.dispatcher.opened(now, &self.store, session, hello);
            }
            None => self.actions.push(Action::CloseSession { session, reason: "this manager is not the leader".into() }),
        }
    }

    /// Does something with what only a leader has; nothing (the default) if this is none.
    pub(super) fn with_leading<T: Default>(&mut self, act: impl FnOnce(&mut Leading, Moment, &Store) -> T) -> T {
        let now = self.moment();
        match &mut self.leading {
            Some(leading) => act(leading, now, &self.store),
            None => T::default(),
        }
    }
}
