//! Consensus: a raft node without a disk, a network or a clock.
//!
//! It turns messages and ticks into *rounds*: what to persist, what to send, what
//! was agreed. A message that promises something (a vote, an acknowledgement)
//! leaves only when everything up to it is durable; a leader's own messages leave
//! at once, since what it sends promises nothing. Several batches may be on their
//! way to the disk at a time.
//!
//! Not in here: what entries and snapshots hold, and who may be a member
//! ([`crate::membership`] decides).

pub(crate) mod log;
mod quorum;
pub(crate) mod reads;
mod round;

pub use round::Persist;
pub(crate) use round::Round;

use crate::mint::{Mint, Purpose};
use crate::timing;
use log::Log;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, HardState, Message, MessageType, SnapshotMetadata,
};
use raft::{RawNode, SnapshotStatus, StateRole, Storage};
use round::Batch;
use skep_model::Time;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of entries in one append message.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Append messages on their way to one follower.
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Bytes of entries that were proposed and are not yet agreed.
const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of entries applied in one round.
const ROUND_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Batches on their way to the disk. Beyond them raft is asked for nothing, so that what
/// comes meanwhile is one batch later; whoever waits for this member's word waits longer.
pub(crate) const BATCHES_IN_FLIGHT_MAX: usize = 1024;
/// The raft node of one manager.
pub(crate) struct Consensus {
    raw: RawNode<Log>,
    next_tick: Time,
    next_n: u64,
    /// On their way to the disk, oldest first.
    in_flight: VecDeque<Batch>,
    /// A commit index that was not worth a sync of its own.
    hard_state: Option<HardState>,
    membership: (u64, ConfState),
    is_membership_new: bool,
    /// When each member was last heard of.
    heard: BTreeMap<u64, Time>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consensus(raft id {}, term {}, {:?})", self.raw.raft.id, self.raw.raft.term, self.raw.raft.state)
    }
}

impl Consensus {
    /// A raft node that continues from a log. `membership` is that of the index
    /// named with it, which may be later than the log's beginning.
    pub(crate) fn new(raft_id: u64, mut log: Log, membership: (u64, ConfState), mint: &mut Mint, now: Time) -> Self {
        log.membership = membership.1.clone();
        log.membership_index = membership.0;
        let config = raft::Config {
            id: raft_id,
            election_tick: timing::ELECTION_TICKS,
            heartbeat_tick: timing::HEARTBEAT_TICKS,
            applied: log.applied.index,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            // raft 0.7 may batch entries into an empty message that follows another
            // index, and the receiver then acknowledges what it does not have.
            batch_append: false,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: ROUND_BYTES_MAX,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger).unwrap_or_else(|error| panic!("raft cannot start from this log: {error}"));
        let mut consensus = Self {
            raw,
            next_tick: now + timing::TICK,
            next_n: 1,
            in_flight: VecDeque::new(),
            hard_state: None,
            membership,
            is_membership_new: true,
            heard: BTreeMap::new(),
        };
        consensus.draw_timeout(mint);
        consensus
    }

    /// Lets time pass. A process that slept counts one tick, so that it looks
    /// into its mail before it calls an election.
    pub(crate) fn advance(&mut self, now: Time, mint: &mut Mint) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = if now < self.next_tick + timing::TICK { self.next_tick + timing::TICK } else { now + timing::TICK };
        // A last voter elects itself at once, without a message that waits for
        // the disk; what it still writes as a follower must be durable by then.
        let is_waiting = self.in_flight.iter().any(|batch| batch.has_entries);
        if self.raw.raft.state != StateRole::Leader && self.raw.raft.prs().is_singleton() && is_waiting {
            return;
        }
        // raft cannot campaign between taking a snapshot and its being durable.
        if self.is_installing() {
            return;
        }
        self.raw.tick();
        self.draw_timeout(mint);
    }

    /// When the next tick is due.
    pub(crate) fn next_wakeup(&self) -> Time {
        self.next_tick
    }

    /// A message from another manager. What raft does not know, it drops.
    pub(crate) fn step(&mut self, now: Time, message: Message, mint: &mut Mint) {
        // Proposals and hand-overs are never forwarded by skep; nobody may inject one.
        let is_foreign = matches!(message.get_msg_type(), MessageType::MsgPropose | MessageType::MsgTransferLeader);
        let is_too_early = message.get_msg_type() == MessageType::MsgTimeoutNow && self.is_installing();
        if is_foreign || is_too_early || message.to != self.raw.raft.id {
            return;
        }
        self.heard.insert(message.from, now);
        if let Err(error) = self.raw.step(message) {
            // A peer that was removed, or a message that is only for local use.
            debug_assert!(!matches!(error, raft::Error::Store(_)), "raft could not read its log: {error}");
        }
        self.draw_timeout(mint);
    }

    /// A snapshot that has arrived whole. Whether raft takes it: then a round will name it.
    pub(crate) fn receive(&mut self, now: Time, message: Message, mint: &mut Mint) -> bool {
        let index = message.get_snapshot().get_metadata().index;
        self.step(now, message, mint);
        self.raw.snap().is_some_and(|taken| taken.get_metadata().index == index)
    }

    /// Whether [`Self::round`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.is_full() && (self.raw.has_ready() || self.is_membership_new)
    }

    /// Whether the disk has to catch up first.
    fn is_full(&self) -> bool {
        self.in_flight.len() >= BATCHES_IN_FLIGHT_MAX
    }

    /// Whether what was to be made durable has waited for too long.
    pub(crate) fn is_disk_stalled(&self, now: Time) -> bool {
        self.in_flight.front().is_some_and(|batch| now.since(batch.at) >= timing::DISK_STALL_MAX)
    }

    /// Whether what is applied has caught up with the recorded membership.
    pub(crate) fn can_snapshot(&self) -> bool {
        self.raw.store().applied.index >= self.membership.0
    }

    /// Everything up to batch `n` is durable. Answers the messages that waited for it.
    pub(crate) fn persisted(&mut self, n: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        let (mut ready, mut snapshot) = (None, None);
        while self.in_flight.front().is_some_and(|batch| batch.n <= n) {
            let batch = self.in_flight.pop_front().expect("it was just seen");
            ready = Some(batch.ready);
            snapshot = batch.snapshot.or(snapshot);
            messages.extend(batch.messages);
        }
        if let Some(ready) = ready {
            self.raw.on_persist_ready(ready);
        }
        // raft lets a snapshot count as applied only once it is durable.
        if let Some(index) = snapshot
            && index > self.raw.raft.raft_log.applied()
        {
            self.raw.advance_apply_to(index);
        }
        messages
    }

    /// The next round, if there is anything to do. What it commits has been
    /// applied, and [`Self::applied`] called, before the next one is asked for.
    pub(crate) fn round(&mut self, now: Time, mint: &mut Mint) -> Option<Round> {
        self.draw_timeout(mint);
        if self.is_full() {
            return None;
        }
        if !self.raw.has_ready() {
            return self.persist_membership(now).map(|persist| Round { persist: Some(persist), ..Round::default() });
        }
        let mut ready = self.raw.ready();
        let mut round = Round { messages: ready.take_messages(), ..Round::default() };
        let mut persist = Persist { at: now, ..Persist::default() };
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            self.raw.mut_store().reset(&metadata);
            self.set_membership(metadata.index, metadata.get_conf_state().clone());
            persist.snapshot = Some(metadata.clone());
            round.snapshot = Some(metadata);
        }
        if let Some(hard_state) = ready.hs() {
            self.raw.mut_store().hard_state = hard_state.clone();
        }
        if ready.hs().is_some() {
            self.hard_state = ready.hs().cloned();
        }
        persist.entries = ready.take_entries();
        self.raw.mut_store().append(&persist.entries);
        round.committed = ready.take_committed_entries();
        round.reads = ready.take_read_states();
        let waiting = ready.take_persisted_messages();
        let number = ready.number();
        let must_sync = ready.must_sync();
        self.raw.advance_append_async(ready);
        if must_sync || self.is_membership_new {
            round.persist = Some(self.batch(persist, number, waiting));
        } else if let Some(last) = self.in_flight.back_mut() {
            last.ready = number;
            last.messages.extend(waiting);
        } else {
            self.raw.on_persist_ready(number);
            round.messages.extend(waiting);
        }
        Some(round)
    }

    /// The entry at `index` has been applied; a change of membership has been
    /// carried out by [`Self::change_membership`] before.
    pub(crate) fn applied(&mut self, index: u64, term: u64) {
        let membership = self.membership.1.clone();
        let log = self.raw.mut_store();
        log.applied = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        log.applied.set_conf_state(membership);
        self.raw.advance_apply_to(index);
    }

    /// A change of membership was agreed at `index`. Whether it changed anything:
    /// what is contained in the recorded membership is not carried out twice.
    pub(crate) fn change_membership(&mut self, index: u64, change: &ConfChangeV2) -> bool {
        if index <= self.membership.0 {
            return false;
        }
        match self.raw.apply_conf_change(change) {
            Ok(members) => {
                self.set_membership(index, members);
                true
            }
            // Every replica comes to the same error, and nothing changes on any.
            Err(_) => false,
        }
    }

    /// Proposes an entry. Answers its index, or `None` if this is not a leader
    /// that can take it now.
    pub(crate) fn propose(&mut self, data: Vec<u8>) -> Option<u64> {
        if self.raw.raft.state != StateRole::Leader || self.is_handing_over() {
            return None;
        }
        self.raw.propose(Vec::new(), data).ok()?;
        Some(self.raw.raft.raft_log.last_index())
    }

    /// Proposes to add, promote or remove one member; nothing happens while
    /// another change is under way.
    pub(crate) fn propose_change(&mut self, kind: ConfChangeType, raft_id: u64) {
        if self.raw.raft.state != StateRole::Leader || self.is_handing_over() || self.raw.raft.has_pending_conf() {
            return;
        }
        let single = ConfChangeSingle { change_type: kind, node_id: raft_id, ..ConfChangeSingle::default() };
        let change = ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() };
        // If raft drops it, the next look at the members proposes it again.
        let _ = self.raw.propose_conf_change(Vec::new(), change);
    }

    /// Whether a change of membership is under way.
    pub(crate) fn is_changing(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Asks raft up to which index a read must wait; answered in [`Round::reads`], or never.
    pub(crate) fn read_index(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    /// A peer could not be reached.
    pub(crate) fn unreachable(&mut self, raft_id: u64) {
        self.raw.report_unreachable(raft_id);
    }

    /// A snapshot was delivered to a peer, or not.
    pub(crate) fn snapshot_sent(&mut self, raft_id: u64, ok: bool) {
        self.raw.report_snapshot(raft_id, if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// Begins to hand leadership to the voter that lacks least. Whether there is
    /// one. A learner that is on its way to a vote is waited for: without this
    /// manager the remaining voters alone might be no majority.
    pub(crate) fn hand_over(&mut self, now: Time) -> bool {
        if self.raw.raft.state != StateRole::Leader || self.membership.1.learners.iter().any(|id| self.is_active(now, *id)) {
            return false;
        }
        if self.is_handing_over() {
            return true;
        }
        let own = self.raw.raft.id;
        let candidates = self.membership.1.voters.iter().copied().filter(|id| *id != own && self.is_active(now, *id));
        let best = candidates.max_by_key(|id| (self.stored(*id), u64::MAX - id));
        if let Some(best) = best {
            self.raw.transfer_leader(best);
        }
        best.is_some()
    }

    /// Whether leadership is being handed over: proposals are dropped meanwhile.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Forgets entries before `index` minus the number that slow followers may
    /// still need. Answers the first index that is kept.
    pub(crate) fn compact(&mut self, index: u64) -> u64 {
        let first = (index + 1).saturating_sub(timing::KEEP_ENTRIES);
        self.raw.mut_store().compact(first);
        self.raw.store().first()
    }

    /// Own raft id.
    pub(crate) fn raft_id(&self) -> u64 {
        self.raw.raft.id
    }

    /// The current term.
    pub(crate) fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Raft id of the leader; 0 if none is known.
    pub(crate) fn leader(&self) -> u64 {
        self.raw.raft.leader_id
    }

    /// Whether this node leads by raft's rules; its store may still lag.
    pub(crate) fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The highest index known to be agreed.
    pub(crate) fn commit(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The log, for the tests' checkers.
    pub(crate) fn log(&self) -> &Log {
        self.raw.store()
    }

    /// What a snapshot of the store as it is now would say.
    pub(crate) fn snapshot_metadata(&self) -> &SnapshotMetadata {
        &self.raw.store().applied
    }

    fn is_installing(&self) -> bool {
        self.in_flight.iter().any(|batch| batch.snapshot.is_some())
    }

    /// raft draws election timeouts from a source of its own; whenever it did,
    /// ours takes the place, so that a seed is one history.
    fn draw_timeout(&mut self, mint: &mut Mint) {
        if self.raw.raft.election_elapsed == 0 && self.raw.raft.state != StateRole::Leader {
            let ticks = timing::ELECTION_TICKS as u64;
            let drawn = ticks + mint.below(Purpose::Election, ticks);
            self.raw.raft.set_randomized_election_timeout(drawn as usize);
        }
    }

    fn set_membership(&mut self, index: u64, mut members: ConfState) {
        // raft lists members in the order of a hash map.
        members.voters.sort_unstable();
        members.learners.sort_unstable();
        self.raw.mut_store().membership_index = index;
        self.membership = (index, members);
        self.is_membership_new = true;
    }

    fn persist_membership(&mut self, now: Time) -> Option<Persist> {
        if !self.is_membership_new {
            return None;
        }
        let ready = self.in_flight.back().map_or(0, |batch| batch.ready);
        Some(self.batch(Persist { at: now, ..Persist::default() }, ready, Vec::new()))
    }

    fn batch(&mut self, mut persist: Persist, ready: u64, messages: Vec<Message>) -> Persist {
        persist.n = self.next_n;
        self.next_n += 1;
        persist.hard_state = self.hard_state.take();
        if std::mem::take(&mut self.is_membership_new) {
            persist.membership = Some(self.membership.clone());
        }
        let has_entries = !persist.entries.is_empty();
        let snapshot = persist.snapshot.as_ref().map(|metadata| metadata.index);
        let (n, at) = (persist.n, persist.at);
        self.in_flight.push_back(Batch { n, ready, has_entries, snapshot, messages, at });
        persist
    }

    /// The term of an applied or appended entry, while it is kept.
    pub(crate) fn entry_term(&self, index: u64) -> Option<u64> {
        self.raw.store().term(index).ok()
    }
}
