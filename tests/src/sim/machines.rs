//! Machines: a disk, perhaps a manager, and ways to fail.

use super::agents::Daemon;
use super::calls::Origin;
use super::clocks::Clock;
use super::containers::Host;
use super::disk::{Disk, SnapshotFile, decode};
use super::kernels::Kernel;
use super::plant::Plant;
use super::random::Dice;
use super::{Happening, Simulation, trace};
use raft::eraftpb::{Message, MessageType};
use skep_manager_core::event::{Event, Ticket};
use skep_manager_core::manager::{Config, Manager, Recovered, may_start};
use skep_model::node::{Availability, NodeSpec, Role};
use skep_model::version::FORMAT_MAX;
use skep_model::{NodeId, Now, RequestId, Time};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

/// Something on its way to a machine.
#[derive(Debug, Clone)]
pub(super) enum Parcel {
    /// A raft message.
    Raft(Box<Message>),
    /// A snapshot and the message that belongs to it; who sent it, from which process.
    Snapshot { message: Box<Message>, file: SnapshotFile, from: usize, incarnation: u32 },
    /// A snapshot was delivered, or not.
    SnapshotSent { raft_id: u64, ok: bool, incarnation: u32 },
    /// A request or read.
    Call(Origin),
    /// An order to step down.
    StepDown,
}

/// One machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) number: usize,
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) disk: Disk,
    pub(super) manager: Option<Manager>,
    /// Rises with every start of the process.
    pub(super) incarnation: u32,
    pub(super) is_up: bool,
    pub(super) is_lost: bool,
    pub(super) is_paused: bool,
    /// What arrived during a pause.
    pub(super) held: Vec<Happening>,
    pub(super) tickets: BTreeMap<Ticket, Origin>,
    pub(super) next_ticket: u64,
    /// A request to become a member, under way.
    pub(super) join: Option<RequestId>,
    /// Addresses that the reply to the join named.
    pub(super) peers: BTreeMap<u64, String>,
    /// It is never to be a manager.
    pub(super) is_worker: bool,
    /// What outlives the daemon.
    pub(super) host: Host,
    /// Its network; outlives the daemon too.
    pub(super) kernel: Kernel,
    pub(super) daemon: Option<Daemon>,
    pub(super) availability: Availability,
    pub(super) zone: usize,
    /// What the operator wants of it.
    pub(super) wanted: Option<Role>,
    /// Its log is lost: the operator demotes it, and promotes it again only once that is done.
    pub(super) has_lost_log: bool,
    pub(super) clock: Clock,
    /// When its manager was started last.
    pub(super) started_at: Option<Time>,
    /// When it went on after a pause.
    pub(super) went_on_at: Option<Time>,
    /// Since when it is paused.
    pub(super) stopped_at: Option<Time>,
    /// When it, and not everything with it, last went on after a pause.
    pub(super) resumed_at: Option<Time>,
    wake_at: Option<Time>,
}

impl Machine {
    pub(super) fn new(number: usize, is_worker: bool, clock: Clock, dice: &mut Dice) -> Self {
        Self {
            number,
            node: NodeId::from_random(dice.id()),
            address: format!("m{number}:2377"),
            disk: Disk::default(),
            manager: None,
            incarnation: 0,
            is_up: true,
            is_lost: false,
            is_paused: false,
            held: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            join: None,
            peers: BTreeMap::new(),
            is_worker,
            host: Host::default(),
            kernel: Kernel::default(),
            daemon: None,
            availability: Availability::Active,
            zone: number % 2,
            wanted: Some(if is_worker { Role::Worker } else { Role::Manager }),
            has_lost_log: false,
            clock,
            started_at: None,
            went_on_at: None,
            stopped_at: None,
            resumed_at: None,
            wake_at: None,
        }
    }

    /// What the operator wants a node of this role to be.
    pub(super) fn wanted_spec(&self, role: Role) -> NodeSpec {
        let labels = [("zone".to_string(), format!("z{}", self.zone))].into();
        NodeSpec { labels, desired_role: role, availability: self.availability, ..NodeSpec::default() }
    }

    /// Its raft id; 0 if it has none.
    pub(super) fn raft_id(&self) -> u64 {
        self.disk.raft_id.unwrap_or(0)
    }

    pub(super) fn wanted_role(&self) -> Role {
        self.wanted.unwrap_or(Role::Worker)
    }
}

thread_local! {
    static IS_SIMULATING: Cell<bool> = const { Cell::new(false) };
}

/// A panic of a core is a violation to report, not a text on the terminal.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_SIMULATING.get() {
                usual(info);
            }
        }));
    });
}

pub(super) fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    quiet_panics();
    IS_SIMULATING.set(true);
    let result = catch_unwind(AssertUnwindSafe(act));
    IS_SIMULATING.set(false);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        format!("the core panicked: {}", text.unwrap_or_default())
    })
}

impl Simulation {
    /// The first machine begins a cluster.
    pub(super) fn found_cluster(&mut self) -> Result<(), String> {
        let raft_id = self.dice.other.number() >> 1;
        self.machines[0].disk.raft_id = Some(raft_id);
        self.start_manager(0, Recovered::bootstrap(raft_id))?;
        self.bootstrap(raft_id);
        Ok(())
    }

    /// Starts the manager of a machine from what is on its disk, if it has one.
    pub(super) fn start(&mut self, number: usize) -> Result<(), String> {
        let machine = &self.machines[number];
        let Some(raft_id) = machine.disk.raft_id else { return Ok(()) };
        if !may_start(machine.disk.is_used, machine.disk.has_log) && !self.has_plant(Plant::VoteWithoutLog) {
            self.coverage.count("manager: refused to start without its log");
            self.note(format!("machine {number} does not start its manager: its log is lost"));
            return Ok(());
        }
        if machine.disk.is_rotten && !self.has_plant(Plant::IgnoreRot) {
            self.coverage.count("manager: refused to start from a rotten log");
            self.note(format!("machine {number} does not start its manager: its log has rotted"));
            return Ok(());
        }
        let recovered = machine.disk.recover()?;
        // A founder that crashed before its first record was durable founds again.
        let is_founder = number == 0 && machine.disk.is_empty() && machine.peers.is_empty();
        let recovered = if is_founder { Recovered::bootstrap(raft_id) } else { recovered };
        self.start_manager(number, recovered)
    }

    pub(super) fn start_manager(&mut self, number: usize, recovered: Recovered) -> Result<(), String> {
        let seed = self.dice.other.number();
        let now = self.clock(number);
        let machine = &mut self.machines[number];
        let raft_id = machine.disk.raft_id.expect("a manager starts with a raft id");
        let config = Config {
            node: machine.node,
            raft_id,
            address: machine.address.clone(),
            format_max: FORMAT_MAX,
            peers: machine.peers.clone(),
            planted_panic: None,
        };
        machine.incarnation += 1;
        machine.tickets.clear();
        machine.wake_at = None;
        machine.manager = Some(guarded(|| Manager::new(config, seed, recovered, now))?);
        machine.started_at = Some(self.now);
        self.checkers.restarted(number);
        self.note(format!("machine {number} starts its manager"));
        self.give(number, Event::Tick)
    }

    /// Stops the manager of a machine at once; what was on its way to the disk is
    /// the disk's affair.
    pub(super) fn stop_manager(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.manager = None;
        machine.incarnation += 1;
        machine.tickets.clear();
        machine.wake_at = None;
        self.watcher.broken(number);
        self.break_links_of(number);
    }

    /// Hands an event to a manager and carries out what it wants.
    pub(super) fn give(&mut self, number: usize, event: Event) -> Result<(), String> {
        self.give_at(number, self.clock(number), event)
    }

    /// The same, at a time that the machine's clocks show.
    fn give_at(&mut self, number: usize, now: Now, event: Event) -> Result<(), String> {
        if self.machines[number].manager.is_none() {
            return Ok(());
        }
        self.events += 1;
        self.note(format!("m{number} < {}", trace::event(&event)));
        let later = self.dice.other.chance(self.profile.batching);
        let is_of_nodes = matches!(
            event,
            Event::Programmed { .. } | Event::PlacesFailed { .. } | Event::SessionOpened { .. } | Event::SessionClosed { .. }
        );
        let machine = &mut self.machines[number];
        let manager = machine.manager.as_mut().expect("it was just seen");
        let actions = guarded(|| {
            manager.handle(now, event);
            if later { Vec::new() } else { manager.take_actions() }
        })
        .map_err(|text| format!("machine {number}: {text}"))?;
        if let Some(manager) = &self.machines[number].manager {
            self.checkers.observe(self.now, number, manager, &mut self.coverage)?;
        }
        self.check_fallen()?;
        self.check_barrier(number, is_of_nodes)?;
        for action in actions {
            self.carry_out(number, action)?;
        }
        self.follow_leader();
        self.schedule_wake(number);
        Ok(())
    }

    fn schedule_wake(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        let Some(wakeup) = machine.manager.as_ref().and_then(Manager::next_wakeup) else { return };
        // A process is never woken at once, nor at the same time twice.
        let at = machine.clock.when(wakeup).max(self.now + Duration::from_micros(50));
        if machine.wake_at.is_none_or(|known| at < known || known <= self.now) {
            machine.wake_at = Some(at);
            let incarnation = machine.incarnation;
            self.at(at, Happening::Wake { machine: number, incarnation });
        }
    }

    pub(super) fn wake(&mut self, number: usize, incarnation: u32) -> Result<(), String> {
        let machine = &mut self.machines[number];
        if machine.incarnation != incarnation || machine.wake_at != Some(self.now) {
            return Ok(());
        }
        if machine.is_paused {
            machine.held.push(Happening::Wake { machine: number, incarnation });
            return Ok(());
        }
        machine.wake_at = None;
        self.give(number, Event::Tick)
    }

    pub(super) fn arrive(&mut self, number: usize, parcel: Parcel) -> Result<(), String> {
        let machine = &mut self.machines[number];
        if machine.is_paused {
            machine.held.push(Happening::Arrive { machine: number, parcel });
            return Ok(());
        }
        if let Parcel::Call(origin) = parcel {
            return self.call_arrives(number, origin);
        }
        if !machine.is_up || machine.manager.is_none() {
            return Ok(());
        }
        match parcel {
            Parcel::Raft(message) => {
                let message = self.maybe_skip_term_check(number, message);
                self.give(number, Event::Peer(message))
            }
            Parcel::Snapshot { message, file, from, incarnation } => {
                self.snapshot_arrives(number, message, file, from, incarnation)
            }
            Parcel::SnapshotSent { raft_id, ok, incarnation } if machine.incarnation == incarnation => {
                self.give(number, Event::SnapshotSent { raft_id, ok })
            }
            Parcel::SnapshotSent { .. } | Parcel::Call(_) => Ok(()),
            Parcel::StepDown => self.give(number, Event::StepDown),
        }
    }

    fn maybe_skip_term_check(&self, number: usize, mut message: Box<Message>) -> Box<Message> {
        if self.is_term_skipped(&message)
            && let Some(manager) = &self.machines[number].manager
        {
            message.term = message.term.max(manager.status().term);
        }
        message
    }

    /// An answer of an older term is rare: where one is taken for an answer of this
    /// term, some come late.
    pub(super) fn lateness(&mut self, message: &Message) -> Duration {
        let per_million = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse => 500_000,
            MessageType::MsgAppendResponse => 20_000,
            _ => 0,
        };
        if self.has_plant(Plant::SkipTermCheck) && self.dice.network.chance(per_million) {
            return self.dice.network.between(Duration::ZERO, Duration::from_secs(3));
        }
        Duration::ZERO
    }

    fn is_term_skipped(&self, message: &Message) -> bool {
        use MessageType::{MsgAppend, MsgAppendResponse, MsgRequestVoteResponse};
        let is_answer = matches!(message.get_msg_type(), MsgAppendResponse | MsgRequestVoteResponse | MsgAppend);
        is_answer && self.has_plant(Plant::SkipTermCheck)
    }

    fn snapshot_arrives(
        &mut self,
        number: usize,
        message: Box<Message>,
        mut file: SnapshotFile,
        from: usize,
        incarnation: u32,
    ) -> Result<(), String> {
        if self.has_plant(Plant::LossySnapshot) {
            file.records = std::sync::Arc::new(without_last_record(&file.records));
        }
        let content = Box::new(decode(&file)?);
        let raft_id = self.machines[number].disk.raft_id.unwrap_or(0);
        self.machines[number].disk.received = Some(file);
        let delay = self.dice.network.around(self.profile.latency.1);
        let ok = self.network.is_open(number, from);
        self.after(delay, Happening::Arrive { machine: from, parcel: Parcel::SnapshotSent { raft_id, ok, incarnation } });
        self.give(number, Event::SnapshotReceived { message, content })
    }

    /// The power of a machine goes.
    pub(super) fn crash(&mut self, number: usize) {
        self.crash_daemon(number);
        let forgotten = self.machines[number].host.power_fails();
        self.checkers.tasks.forgotten(&forgotten);
        self.machines[number].kernel.power_fails();
        self.machines[number].clock.reboot(self.now);
        self.coverage.count("fault: crash");
    }

    /// The daemon of a machine dies, manager and agent. Its containers go on.
    pub(super) fn crash_daemon(&mut self, number: usize) {
        self.stop_manager(number);
        self.stop_agent(number);
        let machine = &mut self.machines[number];
        machine.is_up = false;
        machine.is_paused = false;
        machine.held.clear();
        machine.join = None;
        let damage = machine.disk.crash(&mut self.dice.disk);
        machine.disk.free_at = self.now;
        if self.options.plant == Some(Plant::ForgetVote) {
            machine.disk.forget_vote();
        }
        if self.options.plant == Some(Plant::ForgetMembership) {
            machine.disk.forget_membership();
        }
        if damage.lost > 0 {
            self.coverage.count("fault: unsynced batches lost");
        }
        if damage.is_torn {
            self.coverage.count("fault: last batch torn");
        }
        self.note(format!("machine {number} crashes, {damage:?}"));
    }

    pub(super) fn restart(&mut self, number: usize) -> Result<(), String> {
        let machine = &mut self.machines[number];
        if machine.is_up || machine.is_lost {
            return Ok(());
        }
        machine.is_up = true;
        self.quorum_lost_since = None;
        self.coverage.count("fault: restart");
        self.start(number)?;
        self.start_agent(number)
    }

    /// A paused process goes on with what has arrived meanwhile.
    pub(super) fn resume(&mut self, number: usize) -> Result<(), String> {
        if !std::mem::take(&mut self.machines[number].is_paused) {
            return Ok(());
        }
        self.note(format!("machine {number} goes on"));
        self.machines[number].wake_at = None;
        self.machines[number].went_on_at = Some(self.now);
        let stopped_at = self.machines[number].stopped_at.take();
        if let Some(stopped_at) = stopped_at.filter(|_| self.has_plant(Plant::HideLag)) {
            self.hide_lag(number, stopped_at)?;
        }
        for happening in std::mem::take(&mut self.machines[number].held) {
            match happening {
                Happening::Wake { incarnation, .. } if incarnation == self.machines[number].incarnation => {
                    self.give(number, Event::Tick)?;
                }
                Happening::Wake { .. } => {}
                other => self.happen(other)?,
            }
        }
        Ok(())
    }

    /// The time that a process was stopped for passes for it in small steps, as if it had
    /// been there and heard nothing (a planted bug).
    fn hide_lag(&mut self, number: usize, stopped_at: Time) -> Result<(), String> {
        let clock = self.machines[number].clock;
        let mut at = stopped_at;
        while at < self.now {
            at = at + Duration::from_millis(100);
            self.give_at(number, clock.at(at), Event::Tick)?;
        }
        Ok(())
    }

    /// The manager is no member any more: it stops and deletes its log.
    pub(super) fn wipe(&mut self, number: usize) {
        self.note(format!("machine {number} deletes its log"));
        self.stop_manager(number);
        let machine = &mut self.machines[number];
        machine.disk.wipe();
        machine.peers.clear();
        machine.join = None;
        self.coverage.count("role: removed");
    }

    /// Tells coverage when somebody else leads.
    fn follow_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(term) = self.machines[leader].manager.as_ref().map(|manager| manager.status().term) else { return };
        if self.last_leader.is_some_and(|(known, at)| known != leader && term > at) {
            self.coverage.count("raft: leader changed");
            if self.is_writing() {
                self.coverage.count("raft: leader changed during a write");
            }
        }
        self.last_leader = Some((leader, term));
    }
}

/// All records but the last one (a planted bug).
pub(super) fn without_last_record(records: &[u8]) -> Vec<u8> {
    let (mut at, mut last) = (0, 0);
    while at < records.len() {
        last = at;
        let mut rest = &records[at..];
        let before = rest.len();
        let Ok(length) = prost::decode_length_delimiter(&mut rest) else { break };
        at += before - rest.len() + length;
    }
    records[..last].to_vec()
}
