//! The sessions of agents with the leader, over the simulated network.
//!
//! A session is one stream: what is said arrives in order or the stream is dead, and each
//! end learns of that in its own time. A lost packet costs a session time, seldom its life.
//! An agent finds managers by itself (how a real one learns their addresses is its shell's
//! affair) and follows hints.

use super::agents::{Daemon, Errand};
use super::plant::Plant;
use super::sealing;
use super::{Happening, Simulation};
use skep_agent_core::Event;
use skep_manager_core::event::Event as ManagerEvent;
use skep_manager_core::store::Store;
use skep_manager_core::values::{ValueRef, open_all};
use skep_model::assignment::{AssignmentChange, Assignments, Hello, SessionInfo, StatusUpdate};
use skep_model::endpoint::Publication;
use skep_model::node::{NodeDescription, Underlay};
use skep_model::place::PlaceFaults;
use skep_model::resources::Resources;
use skep_model::service::Platform;
use skep_model::{NodeId, SecretId, SessionId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// The first pause between two attempts, and the longest.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// After this time without an answer a stream is given up, within two seconds more.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a manager may take to begin a session.
const BEGIN_MAX: Duration = Duration::from_secs(5);

/// One stream between an agent and a manager.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) agent: usize,
    pub(super) life: u64,
    pub(super) manager: usize,
    pub(super) incarnation: u32,
    pub(super) is_open: bool,
    /// Nothing overtakes: the next word arrives no earlier than this.
    pub(super) to_agent: Time,
    pub(super) to_manager: Time,
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

impl Simulation {
    /// Whether a machine's agent has a session that is up.
    pub(super) fn has_session(&self, number: usize) -> bool {
        self.machines[number].daemon.as_ref().is_some_and(|daemon| daemon.term.is_some())
    }

    /// A manager's process is gone: its sessions are dead.
    pub(super) fn break_links_of(&mut self, manager: usize) {
        let of_manager = |(session, link): (&SessionId, &Link)| (link.manager == manager && link.is_open).then_some(*session);
        let sessions: Vec<SessionId> = self.agents.links.iter().filter_map(of_manager).collect();
        for session in sessions {
            self.break_link(session);
        }
    }

    /// Whether the manager's process has been stopped for so long that the stream's
    /// keep-alives find out.
    pub(super) fn is_manager_silent(&self, session: SessionId) -> bool {
        let Some(link) = self.agents.links.get(&session) else { return false };
        let manager = &self.machines[link.manager];
        manager.is_paused && manager.stopped_at.is_some_and(|at| self.now.since(at) >= KEEP_ALIVE)
    }

    pub(super) fn of_session(&mut self, number: usize, session: SessionId) -> Option<&mut Daemon> {
        self.machines[number].daemon.as_mut().filter(|daemon| daemon.session == Some(session))
    }

    pub(super) fn open_session(&mut self, number: usize) {
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
    pub(super) fn break_link(&mut self, session: SessionId) {
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
    pub(super) fn session_ends(&mut self, number: usize, session: SessionId, hint: Option<usize>) -> Result<(), String> {
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

    pub(super) fn word_arrives(
        &mut self,
        number: usize,
        session: SessionId,
        is_to_agent: bool,
        word: Word,
    ) -> Result<(), String> {
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
