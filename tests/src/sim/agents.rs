//! The nodes' agents: the real core on every machine, and its session with the
//! leader over the simulated network.
//!
//! A session is one stream: what is said arrives in order or the stream is dead,
//! and each end learns of that in its own time. A lost packet costs a session
//! time, seldom its life. A daemon finds managers by itself (how a real one
//! learns their addresses is its shell's affair) and follows hints.

use super::containers::Deed;
use super::machines::guarded;
use super::plant::Plant;
use super::sealing;
use super::{Happening, Simulation};
use skep_agent_core::{Action, Agent, Event, Found};
use skep_manager_core::event::Event as ManagerEvent;
use skep_manager_core::store::Store;
use skep_manager_core::values::{ValueRef, open_all};
use skep_model::assignment::{AssignmentChange, Assignments, Hello, SessionInfo, StatusUpdate};
use skep_model::endpoint::Publication;
use skep_model::node::{NodeDescription, Underlay};
use skep_model::place::PlaceFaults;
use skep_model::resources::Resources;
use skep_model::service::Platform;
use skep_model::{NodeId, SecretId, SessionId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// The first pause between two attempts, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// After this time without an answer a stream is given up, within two seconds more.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a manager may take to begin a session.
const BEGIN_MAX: Duration = Duration::from_secs(5);

/// A daemon that runs.
#[derive(Debug)]
pub(super) struct Daemon {
    agent: Agent,
    /// Tells this process from those before it.
    life: u64,
    session: Option<SessionId>,
    /// The term of the session, once it is up.
    term: Option<u64>,
    period: Duration,
    pause: Duration,
    turn: usize,
    hint: Option<usize>,
    /// The manager of the session that ended last.
    failed: Option<usize>,
    wake_at: Option<Time>,
}

impl Daemon {
    /// This process, and the term of its session; 0 without one.
    pub(super) fn life_and_term(&self) -> (u64, u64) {
        (self.life, self.term.unwrap_or(0))
    }

    /// Its session, once a manager has begun it.
    pub(super) fn session_that_is_up(&self) -> Option<SessionId> {
        self.session.filter(|_| self.term.is_some())
    }
}

/// One stream between an agent and a manager.
#[derive(Debug)]
struct Link {
    agent: usize,
    life: u64,
    manager: usize,
    incarnation: u32,
    is_open: bool,
    /// Nothing overtakes: the next word arrives no earlier than this.
    to_agent: Time,
    to_manager: Time,
}

/// Something said in a session.
#[derive(Debug)]
pub(super) enum Word {
    Hello(Box<Hello>),
    Heartbeat,
    Report(Vec<StatusUpdate>),
    Programmed(u64),
    Places(PlaceFaults),
    Info(Box<SessionInfo>),
    Assignments { term: u64, assignments: Box<Assignments>, values: Vec<((SecretId, u64), String)> },
    Close { reason: String, hint: Option<usize> },
}

/// Something that happens to an agent or one of its containers.
#[derive(Debug)]
pub(super) enum Errand {
    /// A container's timer.
    Container { task: TaskId, generation: u64, deed: Deed },
    /// An event of the node's world.
    Tell { life: u64, event: Event },
    /// A restarted daemon has heard a shim, or seen that there is none.
    Find { life: u64, task: TaskId },
    /// A task's record is on disk.
    Recorded { life: u64, task: TaskId },
    /// A word arrives at a manager, or at an agent.
    Word { session: SessionId, is_to_agent: bool, word: Word },
    /// One end learns that the stream is dead.
    Broken { session: SessionId, is_to_agent: bool },
    /// The network daemon has programmed its oldest link.
    Programmed { generation: u64 },
    /// A network that did not work may do so again.
    PlaceWorks,
    /// The network daemon is started again.
    NetworkBack { generation: u64 },
    /// Time for an attempt at a session.
    Open { life: u64 },
    /// Time for a heartbeat.
    Heartbeat { session: SessionId },
    /// A manager did not begin the session in time.
    BeginTimeout { session: SessionId },
    /// The agent asked to be called.
    Wake { life: u64 },
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Agents {
    links: BTreeMap<SessionId, Link>,
    lives: u64,
}

impl Simulation {
    /// Whether a machine's agent has a session that is up.
    pub(super) fn has_session(&self, number: usize) -> bool {
        self.machines[number].daemon.as_ref().is_some_and(|daemon| daemon.term.is_some())
    }

    /// The daemon of a machine starts, and adopts what it finds.
    pub(super) fn start_agent(&mut self, number: usize) -> Result<(), String> {
        self.agents.lives += 1;
        let (life, now) = (self.agents.lives, self.now);
        let turn = self.dice.agents.below(8);
        let is_record_lost = self.is_chaos() && self.dice.agents.chance(100_000);
        let which = self.dice.agents.below(1_000);
        let clock = self.clock(number);
        let machine = &mut self.machines[number];
        if is_record_lost && machine.host.lose_record(which) {
            self.coverage.count("fault: record lost");
        }
        let recovered = machine.host.recover();
        self.trace.line(now, format!("machine {number} starts its agent, which has on record {recovered:?}"));
        let tasks: Vec<TaskId> = recovered.iter().map(|task| task.id).collect();
        let agent = guarded(|| Agent::new(recovered, false, clock))?;
        let period = MS * 500;
        let daemon = Daemon {
            agent,
            life,
            session: None,
            term: None,
            period,
            pause: PAUSE.0,
            turn,
            hint: None,
            failed: None,
            wake_at: None,
        };
        machine.daemon = Some(daemon);
        self.after(MS, Happening::Agent { machine: number, errand: Errand::Open { life } });
        for task in tasks {
            let delay = self.dice.agents.between(MS, MS * 300);
            self.after(delay, Happening::Agent { machine: number, errand: Errand::Find { life, task } });
        }
        self.agent_event(number, Event::Tick)
    }

    /// The daemon of a machine dies; its containers do not.
    pub(super) fn stop_agent(&mut self, number: usize) {
        let Some(daemon) = self.machines[number].daemon.take() else { return };
        self.machines[number].host.daemon_dies();
        self.machines[number].kernel.daemon_dies();
        if let Some(session) = daemon.session {
            self.break_link(session);
        }
    }

    /// A manager's process is gone: its sessions are dead.
    pub(super) fn break_links_of(&mut self, manager: usize) {
        let of_manager = |(session, link): (&SessionId, &Link)| (link.manager == manager && link.is_open).then_some(*session);
        let sessions: Vec<SessionId> = self.agents.links.iter().filter_map(of_manager).collect();
        for session in sessions {
            self.break_link(session);
        }
    }

    /// An event of the node's world, for its agent.
    pub(super) fn tell_agent(&mut self, number: usize, delay: Duration, event: Event) {
        let Some(life) = self.machines[number].daemon.as_ref().map(|daemon| daemon.life) else { return };
        self.after(delay, Happening::Agent { machine: number, errand: Errand::Tell { life, event } });
    }

    pub(super) fn run_errand(&mut self, number: usize, errand: Errand) -> Result<(), String> {
        // Containers go on while the daemon is paused.
        if let Errand::Container { task, generation, deed } = errand {
            return self.container_does(number, task, generation, deed);
        }
        if let Errand::Programmed { generation } = errand {
            return self.programmed(number, generation);
        }
        if let Errand::NetworkBack { generation } = errand {
            self.network_is_back(number, generation);
            return Ok(());
        }
        if self.machines[number].is_paused {
            self.machines[number].held.push(Happening::Agent { machine: number, errand });
            return Ok(());
        }
        match errand {
            Errand::Container { .. } | Errand::Programmed { .. } | Errand::NetworkBack { .. } => Ok(()),
            Errand::PlaceWorks => self.place_works(number),
            Errand::Tell { life, event } if self.lives(number, life) => self.agent_event(number, event),
            Errand::Wake { life } if self.lives(number, life) => {
                if let Some(daemon) = &mut self.machines[number].daemon {
                    daemon.wake_at = None;
                }
                self.agent_event(number, Event::Tick)
            }
            Errand::Open { life } if self.lives(number, life) => {
                self.open_session(number);
                Ok(())
            }
            Errand::Find { life, task } if self.lives(number, life) => self.find(number, life, task),
            Errand::Recorded { life, task } if self.lives(number, life) => {
                self.recorded(number, task);
                Ok(())
            }
            Errand::Tell { .. } | Errand::Wake { .. } | Errand::Open { .. } | Errand::Find { .. } | Errand::Recorded { .. } => {
                Ok(())
            }
            Errand::Heartbeat { session } => {
                if self.is_manager_silent(session) {
                    self.break_link(session);
                    return Ok(());
                }
                if let Some(period) = self.of_session(number, session).map(|daemon| daemon.period) {
                    self.say(session, false, Word::Heartbeat);
                    self.after(period, Happening::Agent { machine: number, errand: Errand::Heartbeat { session } });
                }
                Ok(())
            }
            Errand::BeginTimeout { session } => {
                if self.of_session(number, session).is_some_and(|daemon| daemon.term.is_none()) {
                    self.break_link(session);
                }
                Ok(())
            }
            Errand::Broken { session, is_to_agent: true } => self.session_ends(number, session, None),
            Errand::Broken { session, is_to_agent: false } => {
                if let Some(link) = self.agents.links.remove(&session)
                    && self.machines[number].incarnation == link.incarnation
                {
                    return self.give(number, ManagerEvent::SessionClosed { session, is_goodbye: false });
                }
                Ok(())
            }
            Errand::Word { session, is_to_agent, word } => self.word_arrives(number, session, is_to_agent, word),
        }
    }

    /// A daemon looks for a container that it has on record, again and again as long as
    /// the shim is silent.
    fn find(&mut self, number: usize, life: u64, task: TaskId) -> Result<(), String> {
        let Some(mut found) = self.machines[number].host.find(&task) else {
            self.coverage.count("agent: found a silent shim");
            self.after(MS * 100, Happening::Agent { machine: number, errand: Errand::Find { life, task } });
            return Ok(());
        };
        if self.has_plant(Plant::OverlookShim) && matches!(found, Found::Running { .. }) {
            found = Found::Fresh;
        }
        let text = format!("{found:?}");
        let name: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
        self.coverage.count(format!("agent: found {name}"));
        self.agent_event(number, Event::Found { task, found })
    }

    /// Whether the manager's process has been stopped for so long that the stream's
    /// keep-alives find out.
    fn is_manager_silent(&self, session: SessionId) -> bool {
        let Some(link) = self.agents.links.get(&session) else { return false };
        let manager = &self.machines[link.manager];
        manager.is_paused && manager.stopped_at.is_some_and(|at| self.now.since(at) >= KEEP_ALIVE)
    }

    fn lives(&self, number: usize, life: u64) -> bool {
        self.machines[number].daemon.as_ref().is_some_and(|daemon| daemon.life == life)
    }

    fn of_session(&mut self, number: usize, session: SessionId) -> Option<&mut Daemon> {
        self.machines[number].daemon.as_mut().filter(|daemon| daemon.session == Some(session))
    }

    fn open_session(&mut self, number: usize) {
        let managers: Vec<usize> =
            self.machines.iter().filter(|other| !other.is_worker && !other.is_lost).map(|other| other.number).collect();
        let session = SessionId::from_random(self.dice.agents.id());
        let Some(daemon) = &mut self.machines[number].daemon else { return };
        if daemon.session.is_some() {
            return;
        }
        daemon.turn += 1;
        // Whose session ended last comes last, as in the agent's list.
        if daemon.failed == Some(managers[daemon.turn % managers.len()]) {
            daemon.turn += 1;
        }
        let manager = daemon.hint.take().unwrap_or(managers[daemon.turn % managers.len()]);
        (daemon.session, daemon.term) = (Some(session), None);
        let (life, statuses) = (daemon.life, daemon.agent.statuses());
        let incarnation = self.machines[manager].incarnation;
        let (to_agent, to_manager) = (self.now, self.now);
        let link = Link { agent: number, life, manager, incarnation, is_open: true, to_agent, to_manager };
        self.agents.links.insert(session, link);
        self.note_reports(&statuses);
        let hello = self.hello(number, statuses);
        self.say(session, false, Word::Hello(Box::new(hello)));
        self.after(BEGIN_MAX, Happening::Agent { machine: number, errand: Errand::BeginTimeout { session } });
    }

    fn hello(&self, number: usize, statuses: Vec<StatusUpdate>) -> Hello {
        let machine = &self.machines[number];
        let description = NodeDescription {
            hostname: format!("m{number}"),
            platform: Platform { architecture: "amd64".into(), os: "linux".into() },
            resources: Resources { nano_cpus: 2_000_000_000, memory_bytes: 1 << 30 },
            engine_version: "1".into(),
            engine_labels: BTreeMap::new(),
            underlay: Some(Underlay {
                address: [10, 0, 0, number as u8].into(),
                occupied: Vec::new(),
                lacks_ipv6: String::new(),
            }),
        };
        let address = format!("10.0.0.{number}");
        let (certificate_expires, not_ready) = (Time::ZERO, String::new());
        Hello { node: machine.node, description, statuses, address, certificate_expires, not_ready }
    }

    fn note_reports(&mut self, updates: &[StatusUpdate]) {
        for update in updates {
            self.checkers.tasks.report(update.task, update.status.state);
        }
    }

    /// Says something in a session, if it is not dead.
    pub(super) fn say(&mut self, session: SessionId, is_to_agent: bool, word: Word) {
        let Some(link) = self.agents.links.get(&session).filter(|link| link.is_open) else { return };
        let (agent, manager) = (link.agent, link.manager);
        // What is said must be acknowledged: one direction is not enough.
        let is_connected = self.network.is_open(agent, manager) && self.network.is_open(manager, agent);
        let is_lost = self.dice.agents.chance(self.profile.loss);
        if !is_connected || (is_lost && self.dice.agents.chance(20_000)) {
            self.coverage.count("session: broken by the network");
            return self.break_link(session);
        }
        let mut delay = self.dice.agents.between(self.profile.latency.0, self.profile.latency.1);
        if is_lost {
            delay += MS * 200;
        }
        let at = self.now + delay;
        let Some(link) = self.agents.links.get_mut(&session) else { return };
        let floor = if is_to_agent { &mut link.to_agent } else { &mut link.to_manager };
        *floor = at.max(*floor);
        let (at, machine) = (*floor, if is_to_agent { agent } else { manager });
        self.at(at, Happening::Agent { machine, errand: Errand::Word { session, is_to_agent, word } });
    }

    /// A stream dies; both ends learn of it.
    fn break_link(&mut self, session: SessionId) {
        let Some(link) = self.agents.links.get_mut(&session).filter(|link| link.is_open) else { return };
        link.is_open = false;
        let (agent, manager) = (link.agent, link.manager);
        self.note(format!("the session {session} of machine {agent} with machine {manager} breaks"));
        for (machine, is_to_agent) in [(agent, true), (manager, false)] {
            let delay = self.dice.agents.between(MS, MS * 2_000);
            self.after(delay, Happening::Agent { machine, errand: Errand::Broken { session, is_to_agent } });
        }
    }

    /// The agent's end is over: it tries again after a pause.
    fn session_ends(&mut self, number: usize, session: SessionId, hint: Option<usize>) -> Result<(), String> {
        let pause = self.dice.agents.between(MS * 500, MS * 1_000);
        let manager = self.agents.links.get(&session).map(|link| link.manager);
        let Some(daemon) = self.of_session(number, session) else { return Ok(()) };
        daemon.failed = manager;
        let was_up = daemon.term.take().is_some();
        (daemon.session, daemon.hint) = (None, hint);
        daemon.pause = if was_up { PAUSE.0 } else { (daemon.pause * 2).min(PAUSE.1) };
        let (life, pause) = (daemon.life, daemon.pause.mul_f64(pause.as_secs_f64()));
        self.after(pause, Happening::Agent { machine: number, errand: Errand::Open { life } });
        self.agent_event(number, Event::SessionDown)
    }

    fn word_arrives(&mut self, number: usize, session: SessionId, is_to_agent: bool, word: Word) -> Result<(), String> {
        let Some(link) = self.agents.links.get(&session).filter(|link| link.is_open) else { return Ok(()) };
        if is_to_agent {
            return if self.lives(number, link.life) { self.agent_hears(number, session, word) } else { Ok(()) };
        }
        let machine = &self.machines[number];
        let is_there = machine.incarnation == link.incarnation && machine.manager.is_some() && machine.is_up;
        if !is_there {
            self.break_link(session);
            return Ok(());
        }
        match word {
            Word::Hello(hello) => self.give(number, ManagerEvent::SessionOpened { session, hello }),
            Word::Heartbeat => self.give(number, ManagerEvent::Heartbeat { session }),
            Word::Report(updates) => self.give(number, ManagerEvent::Status { session, updates }),
            Word::Programmed(version) => self.give(number, ManagerEvent::Programmed { session, version }),
            Word::Places(faults) => self.give(number, ManagerEvent::PlacesFailed { session, faults }),
            Word::Info(_) | Word::Assignments { .. } | Word::Close { .. } => Ok(()),
        }
    }

    fn agent_hears(&mut self, number: usize, session: SessionId, word: Word) -> Result<(), String> {
        let Some(daemon) = self.of_session(number, session) else { return Ok(()) };
        match word {
            Word::Info(info) => {
                daemon.period = info.heartbeat_period;
                if daemon.term.replace(info.term) == Some(info.term) {
                    return self.agent_event(number, Event::Told { info });
                }
                daemon.pause = PAUSE.0;
                self.coverage.count("session: up");
                self.after(Duration::ZERO, Happening::Agent { machine: number, errand: Errand::Heartbeat { session } });
                self.say_places(number);
                self.agent_event(number, Event::SessionUp { session, info })
            }
            Word::Assignments { term, assignments, values } => {
                self.coverage.count(if assignments.is_complete { "assignments: complete" } else { "assignments: increment" });
                self.machines[number].host.values.extend(values);
                self.machines[number].host.is_told |= assignments.is_complete;
                self.agent_event(number, Event::Assignments { term, assignments, unreadable: Vec::new() })
            }
            Word::Close { reason, hint } => {
                self.coverage.count(format!("session: closed, {}", closing(&reason)));
                self.agents.links.remove(&session);
                self.session_ends(number, session, hint)
            }
            Word::Hello(_) | Word::Heartbeat | Word::Report(_) | Word::Programmed(_) | Word::Places(_) => Ok(()),
        }
    }

    /// Hands an event to an agent and carries out what it wants.
    fn agent_event(&mut self, number: usize, event: Event) -> Result<(), String> {
        let now = self.clock(number);
        self.events += 1;
        self.note(format!("a{number} < {event:?}"));
        let Some(daemon) = &mut self.machines[number].daemon else { return Ok(()) };
        let agent = &mut daemon.agent;
        let actions = guarded(|| {
            agent.handle(now, event);
            agent.take_actions()
        })
        .map_err(|text| format!("agent of machine {number}: {text}"))?;
        for action in actions {
            self.note(format!("a{number} > {action:?}"));
            self.carry_out_agent(number, action)?;
        }
        self.schedule_agent_wake(number);
        Ok(())
    }

    fn schedule_agent_wake(&mut self, number: usize) {
        let (now, clock) = (self.now, self.machines[number].clock);
        let Some(daemon) = &mut self.machines[number].daemon else { return };
        let Some(wakeup) = daemon.agent.next_wakeup() else { return };
        let at = clock.when(wakeup).max(now + Duration::from_micros(50));
        if daemon.wake_at.is_none_or(|known| at < known) {
            daemon.wake_at = Some(at);
            let life = daemon.life;
            self.at(at, Happening::Agent { machine: number, errand: Errand::Wake { life } });
        }
    }

    fn carry_out_agent(&mut self, number: usize, action: Action) -> Result<(), String> {
        match action {
            Action::Prepare { task, attempt } => return self.prepare(number, &task, attempt),
            Action::Start { task } => return self.start_container(number, task),
            Action::Restart { task, attempt } => return self.restart_in_place(number, task, attempt),
            Action::Drain { task, limit } => {
                self.coverage.count("agent: drained");
                let delay = self.dice.nets.between(MS, limit);
                self.tell_agent(number, delay, Event::Drained { task });
            }
            Action::Network { chain, version, is_complete, changes } => {
                self.hand_to_network(number, chain, version, is_complete, changes);
            }
            Action::ReportProgrammed { session, version } => {
                let daemon = self.machines[number].daemon.as_ref();
                if daemon.is_some_and(|daemon| daemon.session == Some(session) && daemon.term.is_some()) {
                    self.say(session, false, Word::Programmed(version));
                }
            }
            Action::Stop { task, grace } => self.stop_container(number, task, grace),
            Action::Kill { task } => self.kill_container(number, task),
            Action::Release { task } => self.free_container(number, task, false),
            Action::Remove { task } => self.free_container(number, task, true),
            Action::Save { task, status } => {
                let id = task.id;
                self.machines[number].host.save(task, status);
                self.record_soon(number, id);
            }
            Action::Forget { task } => self.machines[number].host.forget(task),
            Action::DropSecret(id, n) => {
                if !self.has_plant(Plant::ForgetDropSecret) {
                    self.machines[number].host.values.remove(&(id, n));
                }
            }
            Action::DropConfig(..) => {}
            Action::Report(updates) => {
                let Some(daemon) = &self.machines[number].daemon else { return Ok(()) };
                if let (Some(session), Some(_)) = (daemon.session, daemon.term)
                    && !self.has_plant(Plant::LoseReports)
                {
                    self.note_reports(&updates);
                    self.say(session, false, Word::Report(updates));
                }
            }
            Action::ResetSession { .. } => {
                self.coverage.count("session: reset by the agent");
                let Some(daemon) = &mut self.machines[number].daemon else { return Ok(()) };
                daemon.term = None;
                if let Some(session) = daemon.session {
                    self.break_link(session);
                    let errand = Errand::Broken { session, is_to_agent: true };
                    self.after(Duration::ZERO, Happening::Agent { machine: number, errand });
                }
            }
        }
        Ok(())
    }

    /// A manager tells an agent about the cluster.
    pub(super) fn send_info(&mut self, session: SessionId, info: Box<SessionInfo>) {
        self.say(session, true, Word::Info(info));
    }

    /// A manager tells an agent what to have; its shell adds the values.
    pub(super) fn send_assignments(
        &mut self,
        session: SessionId,
        term: u64,
        mut assignments: Box<Assignments>,
        view: &Store,
    ) -> Result<(), String> {
        let Some((agent, manager)) = self.agents.links.get(&session).map(|link| (link.agent, link.manager)) else {
            return Ok(());
        };
        let node = self.machines[agent].node;
        if self.has_plant(Plant::StopBeforeWithdrawn) {
            assignments.changes.extend(premature_stops(&assignments.changes));
        }
        if self.has_plant(Plant::DoubleAssign)
            && let Some(task) = view.tasks().find(|task| task.plan.node.is_some_and(|other| other != node) && task.is_active())
        {
            assignments.changes.push(AssignmentChange::PutTask(task.clone()));
        }
        for change in &assignments.changes {
            if let AssignmentChange::MayStop(task) = change {
                self.check_may_stop(manager, *task)?;
            }
            if let AssignmentChange::PutSecret(id, n) = change {
                check_referenced(view, node, *id, *n)?;
            }
        }
        let is_stale = self.has_plant(Plant::StaleSecret);
        let opened = open_all(&mut assignments, view, |value, sealed| match value {
            ValueRef::Secret(id, n) => {
                let oldest = view.secret(id).and_then(|secret| secret.spec.versions.first());
                let sealed = oldest.filter(|_| is_stale).map_or(sealed, |oldest| &oldest.sealed);
                sealing::open(id, n, sealed).map(Some)
            }
            ValueRef::Config(..) => Ok(None),
        });
        // The core names nothing that is not stored, and what is stored here opens.
        if let Some((value, why)) = opened.left_out.first() {
            return Err(format!("{value} was left out of what machine {agent} is told: {why}"));
        }
        let secret = |(value, plain): (ValueRef, Option<String>)| match value {
            ValueRef::Secret(id, n) => plain.map(|plain| ((id, n), plain)),
            ValueRef::Config(..) => None,
        };
        let values = opened.values.into_iter().filter_map(secret).collect();
        self.say(session, true, Word::Assignments { term, assignments, values });
        Ok(())
    }

    /// A manager ends a session.
    pub(super) fn close_session(&mut self, number: usize, session: SessionId, reason: String) {
        let leader = self.machines[number].manager.as_ref().map_or(0, |manager| manager.status().leader);
        let hint = self.machines.iter().position(|machine| leader != 0 && machine.disk.raft_id == Some(leader));
        self.say(session, true, Word::Close { reason, hint });
    }

    /// What agents and their nodes lack until everything is as the store wants it.
    pub(super) fn agents_lack(&self, store: &Store) -> Option<String> {
        for machine in self.machines.iter().filter(|machine| machine.is_up && !machine.is_lost) {
            let number = machine.number;
            if !self.has_session(number) {
                return Some(format!("the agent of machine {number} has no session"));
            }
            let tasks = || store.tasks_of_node(machine.node);
            let recorded: BTreeSet<TaskId> =
                tasks().filter(|task| task.status.state == TaskState::Running).map(|task| task.id).collect();
            let running: BTreeSet<TaskId> = machine.host.running().collect();
            if recorded != running {
                return Some(format!("machine {number} runs {running:?} and the store says {recorded:?}"));
            }
            if let Some(what) = self.network_lacks(machine, store) {
                return Some(what);
            }
            let live = tasks().filter(|task| (TaskState::Assigned..=TaskState::Running).contains(&task.status.state));
            let references = live.flat_map(|task| &task.spec.container_spec.secrets);
            let wanted: BTreeSet<(SecretId, u64)> =
                references.filter_map(|reference| Some((reference.id, reference.version?))).collect();
            let held: BTreeSet<(SecretId, u64)> = machine.host.values.keys().copied().collect();
            // No secret goes while a task that has not ended references it.
            if held != wanted {
                return Some(format!("machine {number} holds secrets {held:?} and its tasks reference {wanted:?}"));
            }
        }
        None
    }
}

/// Word for every withdrawn task that it may stop (a planted bug).
fn premature_stops(changes: &[AssignmentChange]) -> Vec<AssignmentChange> {
    let stop = |change: &AssignmentChange| match change {
        AssignmentChange::PutTask(task) if task.plan.endpoint.publication == Publication::Withdrawn && !task.is_wanted() => {
            Some(AssignmentChange::MayStop(task.id))
        }
        _ => None,
    };
    changes.iter().filter_map(stop).collect()
}

/// What kind of reason a session was ended for.
fn closing(reason: &str) -> &'static str {
    let kinds = [
        "is not the leader any more",
        "is not the leader",
        "opened a newer one",
        "is not part of the cluster",
        "exceeded rate limit",
        "heartbeat failure",
        "was removed from the cluster",
    ];
    kinds.into_iter().find(|kind| reason.contains(kind)).unwrap_or("another reason")
}

/// No node is sent a secret that none of its tasks references.
fn check_referenced(view: &Store, node: NodeId, id: SecretId, n: u64) -> Result<(), String> {
    let mut references = view.tasks_of_node(node).flat_map(|task| &task.spec.container_spec.secrets);
    if references.any(|reference| reference.id == id && reference.version == Some(n)) {
        return Ok(());
    }
    Err(format!("node {node} is sent secret {id} version {n}, which none of its tasks references"))
}
