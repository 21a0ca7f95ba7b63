//! The manager: one value that events go into and actions come out of.
//!
//! It owns the parts and their order, nothing more: consensus first, then what
//! committed, then the leader's turn, then what the agents are to be told.
//!
//! An event is only taken in by [`Manager::handle`]; its consequences are worked
//! out in [`Manager::take_actions`], so that whatever arrived together is agreed
//! and synced together.

mod applying;
mod calls;
mod joining;
mod leading;
mod proposals;
mod quorum;
mod recovered;
#[cfg(test)]
mod tests;

pub use recovered::{Recovered, may_start};

use crate::action::Action;
use crate::clock::{ClusterClock, Moment};
use crate::consensus::Consensus;
use crate::consensus::reads::Reads;
use crate::event::Event;
use crate::membership::members::Directory;
use crate::mint::{Mint, Purpose};
use crate::publication::Passage;
use crate::store::watch::Watches;
use crate::store::{SnapshotContent, Store};
use crate::ticket::Ticket;
use crate::timing;
use calls::{Waiting, WaitingFor};
use leading::{Leading, Told};
use proposals::Proposals;
use quorum::Quorum;
use raft::eraftpb;
use skep_model::{NodeId, Now, SessionId, TaskId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a manager must know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its node.
    pub node: NodeId,
    /// Its raft id; not 0.
    pub raft_id: u64,
    /// `host:port` at which it is reached now, whatever the store says; empty = as the
    /// store says.
    pub address: String,
    /// The newest stored format that it can read.
    pub format_max: u32,
    /// Raft id → `host:port` of the members, as the reply to the join named them;
    /// used until the store says it.
    pub peers: BTreeMap<u64, String>,
    /// Drafting a service of this name panics: a fault that tests plant. `None` in earnest.
    pub planted_panic: Option<String>,
}

/// What is known of a manager's part, for `info` and for checkers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its raft id.
    pub raft_id: u64,
    /// The current term.
    pub term: u64,
    /// The leader's raft id; 0 if none is known.
    pub leader: u64,
    /// It leads by raft's rules.
    pub is_leader: bool,
    /// It leads, and its store has everything that was agreed before.
    pub is_ready: bool,
    /// The highest index known to be agreed.
    pub commit: u64,
    /// The index up to which the store has applied.
    pub applied: u64,
    /// The first index that the log still holds.
    pub first: u64,
    /// The last index of the log.
    pub last: u64,
    /// Voting members.
    pub voters: Vec<u64>,
    /// Learning members.
    pub learners: Vec<u64>,
}

/// The brain of a manager.
#[derive(Debug)]
pub struct Manager {
    config: Config,
    mint: Mint,
    /// Boot time: for everything that is timed in this process.
    now: Time,
    /// Wall time: for people alone.
    wall: Time,
    clock: ClusterClock,
    consensus: Consensus,
    store: Store,
    /// A shared clone of the store as it is, made when first asked for.
    view: Option<Arc<Store>>,
    /// A snapshot that raft has taken and the store has not.
    received: Option<(u64, SnapshotContent)>,
    directory: Directory,
    proposals: Proposals,
    /// Joins that are recorded and wait for raft: raft id → who waits for what.
    joining: BTreeMap<u64, Vec<(Ticket, skep_model::request::Outcome)>>,
    reads: Reads,
    watches: Watches,
    waiting: BTreeMap<Ticket, Waiting>,
    deadlines: BTreeSet<(Time, Ticket)>,
    leading: Option<Leading>,
    told: Told,
    quorum: Quorum,
    /// A majority has answered what the dispatcher asked.
    is_confirmed: bool,
    /// The term in which what is under way was proposed.
    led_term: u64,
    sessions: BTreeSet<SessionId>,
    snapshot_at: u64,
    is_saving: bool,
    /// One could not be saved: the next attempt.
    save_not_before: Time,
    bytes_since_snapshot: usize,
    members_due: bool,
    actions: Vec<Action>,
    is_unsettled: bool,
    is_stopped: bool,
}

impl Manager {
    /// A manager as it was when it stopped, or a new one. `seed` is fresh
    /// randomness at every start of a real process.
    pub fn new(config: Config, seed: u64, recovered: Recovered, now: impl Into<Now>) -> Self {
        let now: Now = now.into();
        assert!(config.raft_id != 0, "a manager has a raft id before it starts");
        let mut mint = Mint::new(seed);
        let (log, store, membership) = recovered.begin();
        let snapshot_at = store.version;
        let reads = Reads::new(mint.number(Purpose::Choice));
        let directory = Directory::new(&store, config.peers.clone(), (config.raft_id, config.address.clone()));
        // A store without a cluster is one to which nothing has happened: its log is whole.
        let watches = Watches::new(store.version, store.cluster().map(|_| now.wall));
        let consensus = Consensus::new(config.raft_id, log, membership, &mut mint, now.boot);
        Self {
            config,
            mint,
            now: now.boot,
            wall: now.wall,
            clock: ClusterClock::new(&store, now),
            consensus,
            store,
            view: None,
            received: None,
            directory,
            proposals: Proposals::default(),
            joining: BTreeMap::new(),
            reads,
            watches,
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            leading: None,
            told: Told::default(),
            quorum: Quorum::default(),
            is_confirmed: false,
            led_term: 0,
            sessions: BTreeSet::new(),
            snapshot_at,
            is_saving: false,
            save_not_before: Time::ZERO,
            bytes_since_snapshot: 0,
            members_due: false,
            actions: Vec::new(),
            is_unsettled: true,
            is_stopped: false,
        }
    }

    /// One thing happened.
    pub fn handle(&mut self, now: impl Into<Now>, event: Event) {
        if self.is_stopped {
            return;
        }
        let now: Now = now.into();
        let lag = now.boot.since(self.now);
        self.now = self.now.max(now.boot);
        self.wall = now.wall;
        if lag >= timing::LAG_MAX {
            self.with_leading(|leading, now, _| leading.dispatcher.lagged(now.local));
        }
        self.is_unsettled = true;
        match event {
            // It comes when nothing else waits: what nodes said has been heard by now.
            Event::Tick if std::mem::take(&mut self.is_confirmed) => {
                self.with_leading(|leading, _, _| leading.dispatcher.confirmed());
            }
            Event::Tick => {}
            Event::Persisted { n } => {
                for message in self.consensus.persisted(n) {
                    self.send(message);
                }
            }
            Event::Peer(mut message) => {
                self.directory.learn(&mut message);
                // A snapshot comes with its content, as an event of its own.
                if message.get_msg_type() != eraftpb::MessageType::MsgSnapshot {
                    self.consensus.step(self.now, *message, &mut self.mint);
                }
            }
            Event::PeerUnreachable { raft_id } => self.consensus.unreachable(raft_id),
            Event::SnapshotReceived { message, content } => self.receive_snapshot(*message, *content),
            Event::SnapshotSent { raft_id, ok } => self.consensus.snapshot_sent(raft_id, ok),
            Event::SnapshotSaved { index } => self.compact(index),
            Event::SnapshotNotSaved => {
                self.is_saving = false;
                self.save_not_before = self.now + timing::SNAPSHOT_AGAIN;
            }
            Event::Request { ticket, request, mutation } => self.request(ticket, request, mutation),
            Event::Read { ticket, consistency } => self.read(ticket, consistency),
            Event::Watch { ticket, after: Some(after) } => self.begin_watch(ticket, after),
            Event::Watch { ticket, after: None } => self.watch(ticket, WaitingFor::Watch),
            Event::WatchSince { ticket, since } => self.watch(ticket, WaitingFor::WatchSince(since)),
            Event::Gone { ticket } => self.gone(ticket),
            Event::SessionOpened { session, hello } => self.session_opened(session, *hello),
            Event::Programmed { session, version } => {
                self.with_leading(|leading, _, store| leading.dispatcher.programmed(store, session, version))
            }
            Event::PlacesFailed { session, faults } => {
                self.with_leading(|leading, _, store| leading.dispatcher.places_failed(store, session, faults));
            }
            Event::Heartbeat { session } => {
                self.with_leading(|leading, now, _| leading.dispatcher.heartbeat(now.local, session));
            }
            Event::Status { session, updates } => {
                self.with_leading(|leading, now, store| leading.dispatcher.status(now.local, store, session, updates));
            }
            Event::ValuesLeftOut { session, values } => {
                self.with_leading(|leading, now, _| leading.dispatcher.values_left_out(now.local, session, &values));
            }
            Event::SessionClosed { session, is_goodbye } => {
                self.sessions.remove(&session);
                self.with_leading(|leading, now, _| leading.dispatcher.closed(now.local, session, is_goodbye));
            }
            Event::StepDown => {
                self.consensus.hand_over(self.now);
            }
        }
    }

    /// What the world should do about it, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        if std::mem::take(&mut self.is_unsettled) {
            self.settle();
        }
        std::mem::take(&mut self.actions)
    }

    /// When to call again if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        if self.is_stopped {
            return None;
        }
        if self.is_unsettled {
            return Some(self.now);
        }
        let leading = self.leading.as_ref();
        [
            Some(self.consensus.next_wakeup()),
            self.deadlines.first().map(|(at, _)| *at),
            self.reads.next_wakeup(),
            leading.and_then(|leading| leading.leader.next_wakeup()).map(|at| self.clock.local(at)),
            leading.and_then(|leading| leading.dispatcher.next_gate()).map(|at| self.clock.local(at)),
            leading.and_then(|leading| leading.dispatcher.next_deadline()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The present moment, as a leader counts it.
    fn moment(&self) -> Moment {
        self.clock.moment(self.now)
    }

    /// Cluster time as this manager has it.
    pub fn cluster_time(&self) -> Time {
        self.moment().cluster
    }

    /// The state of the cluster as this manager has it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is known of this manager's part.
    pub fn status(&self) -> Status {
        let members = self.consensus.members();
        Status {
            raft_id: self.consensus.raft_id(),
            term: self.consensus.term(),
            leader: self.consensus.leader(),
            is_leader: self.consensus.is_leader(),
            is_ready: self.leads(),
            commit: self.consensus.commit(),
            applied: self.store.version,
            first: self.consensus.log().first(),
            last: self.consensus.log().last(),
            voters: members.voters.clone(),
            learners: members.learners.clone(),
        }
    }

    /// Where the newest change of a task's publication stands; `None` if this is not
    /// the leader, or has no such task.
    pub fn passage(&self, task: TaskId) -> Option<Passage> {
        let leading = self.leading.as_ref().filter(|_| self.leads())?;
        Some(leading.dispatcher.barrier().passage(self.store.task(task)?))
    }

    /// Whether it leads and its store is up to date. Between an event and its
    /// actions raft may have moved on already.
    fn leads(&self) -> bool {
        self.leading.as_ref().is_some_and(|leading| self.consensus.is_leader() && leading.term == self.consensus.term())
    }

    /// An entry of the log, while it is kept.
    pub fn log_entry(&self, index: u64) -> Option<&eraftpb::Entry> {
        self.consensus.log().entry(index)
    }

    /// Works until nothing more follows from what happened.
    fn settle(&mut self) {
        let ticks_before = self.consensus.next_wakeup();
        self.consensus.advance(self.now, &mut self.mint);
        self.members_due |= ticks_before != self.consensus.next_wakeup();
        while !self.is_stopped {
            let Some(round) = self.consensus.round(self.now, &mut self.mint) else {
                self.follow_leadership();
                self.watch_quorum();
                self.expire();
                self.serve_reads();
                self.save_snapshot();
                self.lead();
                if self.consensus.has_work() { continue } else { break }
            };
            self.carry_out(round);
        }
    }

    /// A shared clone of the store as it is.
    fn view(&mut self) -> Arc<Store> {
        self.view.get_or_insert_with(|| Arc::new(self.store.clone())).clone()
    }

    fn halt(&mut self, sentence: String) {
        self.actions.push(Action::Halt { sentence });
        self.is_stopped = true;
    }
}
