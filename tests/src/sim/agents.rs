//! The nodes' agents: the real core on every machine, and the interpreter of its actions.
//! Its session with the leader is in [`super::sessions`].

use super::containers::Deed;
use super::machines::guarded;
use super::plant::Plant;
use super::sessions::{Link, PAUSE, Word};
use super::{Happening, Simulation};
use skep_agent_core::{Action, Agent, Event, Found};
use skep_manager_core::event::Event as ManagerEvent;
use skep_manager_core::store::Store;
use skep_model::assignment::StatusUpdate;
use skep_model::{SecretId, SessionId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// A daemon that runs.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) agent: Agent,
    /// Tells this process from those before it.
    pub(super) life: u64,
    pub(super) session: Option<SessionId>,
    /// The term of the session, once it is up.
    pub(super) term: Option<u64>,
    pub(super) period: Duration,
    pub(super) pause: Duration,
    pub(super) turn: usize,
    pub(super) hint: Option<usize>,
    /// The manager of the session that ended last.
    pub(super) failed: Option<usize>,
    pub(super) wake_at: Option<Time>,
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
    pub(super) links: BTreeMap<SessionId, Link>,
    lives: u64,
}

impl Simulation {
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

    pub(super) fn lives(&self, number: usize, life: u64) -> bool {
        self.machines[number].daemon.as_ref().is_some_and(|daemon| daemon.life == life)
    }

    pub(super) fn note_reports(&mut self, updates: &[StatusUpdate]) {
        for update in updates {
            self.checkers.tasks.report(update.task, update.status.state);
        }
    }

    /// Hands an event to an agent and carries out what it wants.
    pub(super) fn agent_event(&mut self, number: usize, event: Event) -> Result<(), String> {
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
