//! The simulator: a whole cluster in one thread, on a virtual clock, from one seed.
//!
//! The cores are the real ones. Everything around them (disks, network, clients,
//! operators, time) is interpreted here, with faults drawn from the seed, and
//! after every event the checkers look at what must never be otherwise. One seed
//! is one history: the same build replays it exactly, and the hash of its trace
//! proves it.
//!
//! A seed has two phases. In *chaos*, at least five virtual minutes, anything may
//! fail and safety must hold. Then the world *heals*: a majority is connected and
//! running, and the cluster must converge by a virtual deadline.
//!
//! Nothing in here reads a clock, draws a number that is not from the seed, or
//! iterates an unordered map.

mod agents;
mod calls;
mod checkers;
mod clients;
mod clocks;
mod containers;
mod coverage;
mod decisions;
mod disk;
mod faults;
mod forge;
mod interpret;
mod kernels;
mod machines;
mod network;
mod operator;
mod plant;
mod profile;
mod random;
mod sealing;
mod services;
mod sessions;
mod tasks;
mod trace;
mod walks;
mod watcher;

pub use coverage::{Coverage, DEMANDED};
pub use plant::{PLANTS, Plant};
pub use profile::Profile;

use agents::Agents;
use calls::{Call, Caller};
use checkers::Checkers;
use clients::Client;
use clocks::Clock;
use machines::{Machine, Parcel};
use network::Network;
use operator::Operator;
use random::Dice;
use skep_model::Time;
use skep_model::node::Availability;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use trace::Trace;
use walks::Walks;
use watcher::Watcher;

/// Virtual chaos of a seed, at least.
const CHAOS: Duration = Duration::from_secs(300);
/// Events of a seed, at least.
const EVENTS_MIN: u64 = 5_000;
/// Virtual time from healing until everything must have converged.
const CONVERGENCE: Duration = Duration::from_secs(240);
/// When the simulated world begins.
const BEGINNING: Time = Time::from_millis(1_700_000_000_000);

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// A bug of the interpreter that is to be found.
    pub plant: Option<Plant>,
    /// Print every line of the trace as it happens.
    pub is_printed: bool,
}

/// What a seed came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The planted bug, if there was one.
    pub plant: Option<Plant>,
    /// SHA-256 of the trace, in hex.
    pub hash: String,
    /// The profile that was drawn.
    pub profile: Profile,
    /// Events handled.
    pub events: u64,
    /// Virtual time that passed.
    pub passed: Duration,
    /// What was reached.
    pub coverage: Coverage,
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
}

/// Something that must never happen, and what led to it.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What, in a sentence.
    pub sentence: String,
    /// The newest lines of the trace.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, hash, events, passed, .. } = self;
        write!(f, "seed {seed}: {events} events in {} virtual s, trace {hash}", passed.as_secs())?;
        let Some(violation) = &self.violation else { return Ok(()) };
        writeln!(f)?;
        for line in &violation.trace {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "profile: {:?}", self.profile)?;
        writeln!(f, "VIOLATION: {}", violation.sentence)?;
        write!(f, "replay: cargo run --release -p skep-tests --bin simulate -- --seed {seed}")?;
        self.plant.map_or(Ok(()), |plant| write!(f, " --plant {plant}"))
    }
}

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    /// Something arrives at a machine.
    Arrive { machine: usize, parcel: Parcel },
    /// A manager asked to be called at this time.
    Wake { machine: usize, incarnation: u32 },
    /// The oldest operation on a disk is done.
    DiskDone { machine: usize, incarnation: u32 },
    /// The disk said so although it is not (a planted bug).
    DiskLied { machine: usize, incarnation: u32, n: u64 },
    /// An answer arrives at whoever called.
    Answer { call: u64, attempt: u32, answer: calls::Answer },
    /// A call was not answered in time, or is to be repeated.
    CallAgain { call: u64, attempt: u32 },
    /// A client does its next operation.
    Client { client: usize },
    /// A machine looks at its role.
    Daemon { machine: usize },
    /// The operator looks at the cluster.
    Operator,
    /// The watcher looks whether its stream lives.
    Watcher,
    /// Something happens to an agent or one of its containers.
    Agent { machine: usize, errand: agents::Errand },
    /// A fault of one kind strikes.
    Fault(faults::Fault),
    /// A crashed machine starts again.
    Restart { machine: usize },
    /// A paused machine goes on.
    Resume { machine: usize },
    /// A snapshot could not be saved.
    NotSaved { machine: usize, incarnation: u32 },
    /// A machine whose log was lost is to be a manager again.
    Promote { machine: usize },
    /// A partition ends.
    Mend { partition: u64 },
    /// A leader may decide wrongly (a planted bug).
    Forge,
    /// Chaos ends.
    Heal,
    /// Look whether everything has converged.
    Converge,
}

/// Independent streams of random choices.
#[derive(Debug)]
struct AllDice {
    network: Dice,
    disk: Dice,
    faults: Dice,
    clients: Dice,
    agents: Dice,
    nets: Dice,
    clocks: Dice,
    places: Dice,
    other: Dice,
}

/// One seed's world.
#[derive(Debug)]
struct Simulation {
    options: Options,
    profile: Profile,
    dice: AllDice,
    now: Time,
    sequence: u64,
    queue: BTreeMap<(Time, u64), Happening>,
    machines: Vec<Machine>,
    network: Network,
    agents: Agents,
    clients: Vec<Client>,
    operator: Operator,
    watcher: Watcher,
    calls: BTreeMap<u64, Call>,
    checkers: Checkers,
    walks: Walks,
    coverage: Coverage,
    trace: Trace,
    events: u64,
    healed_at: Option<Time>,
    last_leader: Option<(usize, u64)>,
    /// Since when a majority of the managers is off, by the fault of that name.
    quorum_lost_since: Option<Time>,
    /// Until when something was wrong that may make a node silent.
    troubled_until: Time,
    is_done: bool,
}

/// Runs one seed.
pub fn run(options: Options) -> Report {
    let mut simulation = Simulation::new(options);
    let result = simulation.run();
    let violation = result.err().map(|sentence| Violation { sentence, trace: simulation.trace.recent() });
    Report {
        seed: options.seed,
        plant: options.plant,
        hash: simulation.trace.hash(),
        profile: simulation.profile,
        events: simulation.events,
        passed: simulation.now.since(BEGINNING),
        coverage: simulation.coverage,
        violation,
    }
}

impl Simulation {
    fn new(options: Options) -> Self {
        let dice = |stream| Dice::new(options.seed, stream);
        let profile = Profile::draw(&mut dice(1));
        let mut other = dice(6);
        let mut clocks = dice(9);
        let machines = (0..profile.managers + profile.workers)
            .map(|number| {
                let clock = Clock::draw(&profile, &mut clocks, BEGINNING, options.plant);
                Machine::new(number, number >= profile.managers, clock, &mut other)
            })
            .collect();
        let clients =
            (0..profile.clients).map(|number| Client::new(number, dice(100 + number as u64), profile.is_large)).collect();
        Self {
            options,
            dice: AllDice {
                network: dice(2),
                disk: dice(3),
                faults: dice(4),
                clients: dice(5),
                agents: dice(7),
                nets: dice(8),
                clocks,
                places: dice(10),
                other,
            },
            now: BEGINNING,
            sequence: 0,
            queue: BTreeMap::new(),
            machines,
            network: Network::default(),
            agents: Agents::default(),
            clients,
            operator: Operator::default(),
            watcher: Watcher::default(),
            calls: BTreeMap::new(),
            checkers: Checkers::default(),
            walks: Walks::default(),
            coverage: Coverage::default(),
            trace: Trace::new(options.is_printed),
            events: 0,
            healed_at: None,
            last_leader: None,
            quorum_lost_since: None,
            troubled_until: BEGINNING,
            is_done: false,
            profile,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        self.trace.line(self.now, format!("seed {} {:?}", self.options.seed, self.profile));
        self.begin()?;
        while !self.is_done {
            if self.trace.sings() {
                return Err("the canary sings: the value of a secret is where none may be".into());
            }
            let Some((&key, _)) = self.queue.first_key_value() else {
                return Err("nothing will ever happen again".into());
            };
            let happening = self.queue.remove(&key).expect("it was just seen");
            self.now = key.0;
            self.happen(happening)?;
        }
        if self.events < EVENTS_MIN {
            return Err(format!("only {} events happened", self.events));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        self.found_cluster()?;
        for machine in 0..self.machines.len() {
            self.after(Duration::from_millis(100), Happening::Daemon { machine });
        }
        for client in 0..self.clients.len() {
            self.after(Duration::from_secs(3), Happening::Client { client });
        }
        self.after(Duration::from_millis(500), Happening::Operator);
        self.after(Duration::from_secs(3), Happening::Watcher);
        for fault in faults::Fault::ALL {
            self.schedule_fault(fault);
        }
        if self.options.plant.is_some() {
            self.after(Duration::from_secs(3), Happening::Forge);
        }
        self.after(CHAOS, Happening::Heal);
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Arrive { machine, parcel } => self.arrive(machine, parcel),
            Happening::Wake { machine, incarnation } => self.wake(machine, incarnation),
            Happening::DiskDone { machine, incarnation } => self.disk_done(machine, incarnation),
            Happening::DiskLied { machine, incarnation, n } => self.disk_lied(machine, incarnation, n),
            Happening::Answer { call, attempt, answer } => self.answered(call, attempt, answer),
            Happening::CallAgain { call, attempt } => self.call_again(call, attempt),
            Happening::Client { client } => self.client_acts(client),
            Happening::Daemon { machine } => self.daemon_looks(machine),
            Happening::Operator => self.operator_looks(),
            Happening::Watcher => self.watcher_looks(),
            Happening::Agent { machine, errand } => self.run_errand(machine, errand),
            Happening::Fault(fault) => self.strike(fault),
            Happening::Restart { machine } => self.restart(machine),
            Happening::Resume { machine } => self.resume(machine),
            Happening::NotSaved { machine, incarnation } => {
                let lives = self.machines[machine].incarnation == incarnation;
                if lives { self.give(machine, skep_manager_core::Event::SnapshotNotSaved) } else { Ok(()) }
            }
            Happening::Promote { machine } => {
                // Not before it has been demoted: its old raft id is of no use.
                if self.machines[machine].is_lost {
                    return Ok(());
                }
                if self.machines[machine].disk.raft_id.is_some() {
                    self.after(Duration::from_secs(5), Happening::Promote { machine });
                } else {
                    self.machines[machine].wanted = Some(skep_model::node::Role::Manager);
                    self.machines[machine].has_lost_log = false;
                }
                Ok(())
            }
            Happening::Mend { partition } => {
                self.network.mend(partition);
                Ok(())
            }
            Happening::Forge => self.forge(),
            Happening::Heal => self.heal(),
            Happening::Converge => self.converge(),
        }
    }

    fn at(&mut self, time: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), happening);
    }

    fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn note(&mut self, line: String) {
        self.trace.line(self.now, line);
    }

    fn is_chaos(&self) -> bool {
        self.healed_at.is_none()
    }

    fn has_plant(&self, plant: Plant) -> bool {
        self.options.plant == Some(plant)
    }

    /// The machine whose manager leads with an up-to-date store, by the newest term.
    fn leader(&self) -> Option<usize> {
        let ready = |(number, machine): (usize, &Machine)| {
            let status = machine.manager.as_ref()?.status();
            status.is_ready.then_some((status.term, number))
        };
        self.machines.iter().enumerate().filter_map(ready).max().map(|(_, number)| number)
    }

    /// Chaos ends: everything that was not lost for good runs and is connected.
    fn heal(&mut self) -> Result<(), String> {
        if self.events < EVENTS_MIN {
            self.after(Duration::from_secs(10), Happening::Heal);
            return Ok(());
        }
        self.note("the world heals".into());
        self.healed_at = Some(self.now);
        self.network.mend_all();
        // What was lost until now may show later.
        self.trouble(Duration::ZERO);
        (self.profile.loss, self.profile.duplication, self.profile.reordering, self.profile.stall) = (0, 0, 0, 0);
        self.profile.failed_sync = 0;
        for machine in 0..self.machines.len() {
            self.machines[machine].availability = Availability::Active;
            self.machines[machine].disk.full_until = BEGINNING;
            self.resume(machine)?;
            self.restart(machine)?;
            self.bring_back_network(machine);
            self.mend_place(machine)?;
        }
        self.after(Duration::from_millis(500), Happening::Converge);
        Ok(())
    }

    fn converge(&mut self) -> Result<(), String> {
        match self.lacks() {
            None => {
                self.is_done = true;
                self.check_end()
            }
            Some(what) if self.healed_at.is_some_and(|at| self.now.since(at) > CONVERGENCE) => {
                Err(format!("{} virtual s after healing {what}", CONVERGENCE.as_secs()))
            }
            Some(_) => {
                self.after(Duration::from_millis(500), Happening::Converge);
                Ok(())
            }
        }
    }

    /// What is missing until everything has converged.
    fn lacks(&self) -> Option<String> {
        let Some(leader) = self.leader() else { return Some("nobody leads".into()) };
        if !self.calls.is_empty() {
            return Some(format!("{} calls are unanswered: {:?}", self.calls.len(), self.calls.values().next()));
        }
        if let Some(wish) = self.operator.wish() {
            return Some(format!("the operator still wants {wish}"));
        }
        let status = self.machines[leader].manager.as_ref()?.status();
        if status.applied != status.last {
            return Some("the leader has not applied its log".into());
        }
        let wanted =
            self.machines.iter().filter(|machine| !machine.is_lost && machine.wanted_role() == skep_model::node::Role::Manager);
        let mut n_wanted = 0;
        for machine in wanted {
            n_wanted += 1;
            let Some(other) = machine.manager.as_ref().map(|manager| manager.status()) else {
                return Some(format!("machine {} runs no manager", machine.number));
            };
            if other.applied != status.applied || other.term != status.term || other.leader != status.raft_id {
                return Some(format!("machine {} lags: {other:?}, the leader is {status:?}", machine.number));
            }
        }
        if status.voters.len() != n_wanted || !status.learners.is_empty() {
            return Some(format!(
                "{n_wanted} voters are wanted, there are {:?} and learners {:?}",
                status.voters, status.learners
            ));
        }
        let manager = self.machines[leader].manager.as_ref()?;
        let (store, cluster_time) = (manager.store(), manager.cluster_time());
        if let Some(what) = self.agents_lack(store).or_else(|| services::lack(store, cluster_time)) {
            return Some(what);
        }
        (self.watcher.version() < self.machines[leader].manager.as_ref()?.store().version)
            .then(|| self.watcher.lacks(self.machines[leader].manager.as_ref().map(|manager| manager.store())))
            .flatten()
    }

    fn check_end(&mut self) -> Result<(), String> {
        let managers: Vec<usize> = (0..self.machines.len()).filter(|number| self.machines[*number].manager.is_some()).collect();
        for number in managers {
            if let Some(manager) = &self.machines[number].manager {
                self.checkers.check_store(number, manager.store())?;
            }
        }
        let truth = self.checkers.truth();
        if truth.encoded_records().any(|record| sealing::sings(&record)) {
            return Err("the canary sings in the store".into());
        }
        for client in &self.clients {
            client.check_end(truth)?;
        }
        self.trace.line(self.now, format!("converged at version {}", truth.version));
        Ok(())
    }

    /// Whether any call that changes something is under way.
    fn is_writing(&self) -> bool {
        self.calls.values().any(|call| matches!(call.caller, Caller::Client(_)) && call.mutation.is_some())
    }
}
