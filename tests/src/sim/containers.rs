//! One node's containers: what its agent wants done with them, and what they do
//! by themselves. They outlive the daemon, not the machine.
//!
//! A container's behaviour is drawn from its image: some crash, some end by
//! themselves, some cannot be pulled, some ignore the stop signal, some become
//! unhealthy. When the world has healed everything that starts runs for good.

use super::agents::Errand;
use super::plant::Plant;
use super::{Happening, Simulation};
use skep_agent_core::{Event, Exit, Found, RecoveredTask};
use skep_model::task::{Task, TaskStatus};
use skep_model::{SecretId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Images, by what their containers do.
pub(super) const IMAGES: [&str; 8] = ["good", "good", "crashes", "job", "slow", "missing", "stubborn", "checked"];

/// Where a container stands.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Preparing,
    Created,
    /// It starts once the task is on record.
    Recording,
    /// The shim was asked to start it and has not yet. It cannot be heard meanwhile.
    Starting,
    Running {
        healthy: Option<bool>,
    },
    Exited(Exit),
    /// It could not be started; the shim is there.
    Failed(String),
}

/// A container and its shim.
#[derive(Debug, Clone)]
struct Container {
    task: Arc<Task>,
    attempt: u64,
    phase: Phase,
    /// The attempt that the shim is asked for once the task is on record.
    restart: Option<u64>,
    /// Timers of an earlier generation mean nothing.
    generation: u64,
}

/// What will happen to a container by itself.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Prepared(Result<(), String>),
    Started(Result<(), String>),
    Exits(i32),
    Health(bool),
}

/// What a node keeps when its daemon dies.
#[derive(Debug, Default)]
pub(super) struct Host {
    containers: BTreeMap<TaskId, Container>,
    /// What is on record, and of which boot; outlives a power cut.
    saved: BTreeMap<TaskId, (Arc<Task>, TaskStatus, u64)>,
    /// What is being recorded.
    unsaved: BTreeMap<TaskId, (Arc<Task>, TaskStatus)>,
    /// Tasks that are released once their end is on record.
    releasing: BTreeSet<TaskId>,
    /// The newest exit that a shim wrote down; outlives a power cut.
    exits: BTreeMap<TaskId, Exit>,
    /// The attempt that a shim of this boot was asked to start.
    asked: BTreeMap<TaskId, u64>,
    boot: u64,
    /// A manager has said completely what is to be here, to this daemon.
    pub(super) is_told: bool,
    /// Secret versions whose values the daemon holds in memory.
    pub(super) values: BTreeMap<(SecretId, u64), String>,
    /// Tasks of which nothing was wanted any more.
    removed: BTreeSet<TaskId>,
    generations: u64,
}

impl Host {
    /// Tasks whose containers run.
    pub(super) fn running(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.containers.iter().filter(|(_, it)| matches!(it.phase, Phase::Running { .. })).map(|(id, _)| *id)
    }

    pub(super) fn save(&mut self, task: Arc<Task>, status: TaskStatus) {
        self.unsaved.insert(task.id, (task, status));
    }

    pub(super) fn forget(&mut self, task: TaskId) {
        self.saved.remove(&task);
        self.unsaved.remove(&task);
    }

    /// The daemon is gone: what it was in the middle of comes to nothing. What a shim
    /// was asked for goes on.
    pub(super) fn daemon_dies(&mut self) {
        self.values.clear();
        self.unsaved.clear();
        self.releasing.clear();
        self.is_told = false;
        self.containers.retain(|_, it| !matches!(it.phase, Phase::Preparing | Phase::Created | Phase::Recording));
        self.containers.values_mut().for_each(|it| it.restart = None);
    }

    /// The power is gone, and all containers with it. The tasks of which nothing is left,
    /// since their records were lost before: nobody knows that they were started.
    pub(super) fn power_fails(&mut self) -> Vec<TaskId> {
        let started = self.containers.iter().filter(|(id, _)| !self.saved.contains_key(id));
        let forgotten = started.map(|(id, _)| *id).collect();
        self.daemon_dies();
        self.containers.clear();
        self.asked.clear();
        self.boot += 1;
        forgotten
    }

    /// A record is lost (its file is damaged), by a number that is drawn. Whether there
    /// is a shim of that task.
    pub(super) fn lose_record(&mut self, number: usize) -> bool {
        let shims: Vec<TaskId> = self.containers.keys().copied().collect();
        let lost = (!shims.is_empty()).then(|| shims[number % shims.len()]);
        lost.is_some_and(|task| self.saved.remove(&task).is_some())
    }

    /// What a new daemon has on record, and the shims of which there is no record.
    pub(super) fn recover(&mut self) -> Vec<RecoveredTask> {
        let known = self.saved.iter().map(|(id, (task, status, _))| {
            let is_released = !self.containers.contains_key(id);
            RecoveredTask { id: *id, task: Some(task.clone()), status: status.clone(), is_released }
        });
        let unknown = self.containers.keys().filter(|id| !self.saved.contains_key(id)).map(|id| RecoveredTask {
            id: *id,
            task: None,
            status: TaskStatus::new(TaskState::New, Time::ZERO),
            is_released: false,
        });
        known.chain(unknown).collect()
    }

    /// What there is of a task's container; `None` as long as its shim is silent.
    pub(super) fn find(&self, task: &TaskId) -> Option<Found> {
        let left = |exit: Option<&Exit>| exit.cloned().map(|exit| Found::Exited { exit, shim_lives: false });
        let Some(it) = self.containers.get(task) else {
            let record = self.saved.get(task);
            let exit = self.exits.get(task);
            let attempt = record.map(|(_, status, _)| status.attempt);
            return Some(match self.asked.get(task) {
                Some(asked) if attempt.is_none_or(|attempt| attempt <= *asked) => {
                    left(exit.filter(|exit| exit.attempt == *asked)).unwrap_or(Found::Killed)
                }
                _ if record.is_some_and(|(_, _, boot)| *boot == self.boot) => Found::Fresh,
                _ => left(exit).unwrap_or(Found::Nothing),
            });
        };
        match &it.phase {
            Phase::Running { healthy } => {
                Some(Found::Running { pid: pid(task), attempt: it.attempt, healthy: *healthy, has_check: has_check(&it.task) })
            }
            Phase::Exited(exit) => Some(Found::Exited { exit: exit.clone(), shim_lives: true }),
            Phase::Failed(error) => Some(Found::StartFailed { attempt: it.attempt, error: error.clone() }),
            Phase::Starting => None,
            Phase::Preparing | Phase::Created | Phase::Recording => Some(Found::Fresh),
        }
    }

    /// A container that runs, by a number that is drawn.
    fn some_running(&self, number: usize) -> Option<TaskId> {
        let running: Vec<TaskId> = self.running().collect();
        (!running.is_empty()).then(|| running[number % running.len()])
    }

    fn next(&mut self, task: TaskId, phase: Phase) -> Option<&mut Container> {
        self.generations += 1;
        let generation = self.generations;
        let container = self.containers.get_mut(&task)?;
        (container.phase, container.generation) = (phase, generation);
        Some(container)
    }
}

fn pid(task: &TaskId) -> i32 {
    2 + i32::from(task.as_str().as_bytes()[24])
}

fn image(task: &Task) -> &str {
    let image = &task.spec.container_spec.image;
    image.split(':').next().unwrap_or(image)
}

fn has_check(task: &Task) -> bool {
    image(task) == "checked"
}

const MS: Duration = Duration::from_millis(1);

impl Simulation {
    fn later(&mut self, number: usize, task: TaskId, delay: Duration, deed: Deed) {
        let Some(container) = self.machines[number].host.containers.get(&task) else { return };
        let errand = Errand::Container { task, generation: container.generation, deed };
        self.after(delay, Happening::Agent { machine: number, errand });
    }

    /// Pulls and unpacks; slowly, or in vain.
    pub(super) fn prepare(&mut self, number: usize, task: &Arc<Task>, attempt: u64) -> Result<(), String> {
        let host = &mut self.machines[number].host;
        if let Some(old) = host.containers.get(&task.id)
            && matches!(old.phase, Phase::Running { .. } | Phase::Starting | Phase::Recording)
        {
            return Err(format!("machine {number} prepares task {} while its container runs", task.id));
        }
        let references = task.spec.container_spec.secrets.iter();
        let mut values = Vec::new();
        for reference in references {
            let key = (reference.id, reference.version.unwrap_or(0));
            let Some(value) = host.values.get(&key) else {
                return Err(format!("machine {number} prepares task {} without the value of {key:?}", task.id));
            };
            values.push(value.clone());
        }
        host.generations += 1;
        let generation = host.generations;
        let container = Container { task: task.clone(), attempt, phase: Phase::Preparing, restart: None, generation };
        host.containers.insert(task.id, container);
        let is_chaos = self.is_chaos();
        let delay = if is_chaos && image(task) == "slow" { MS * 20_000 } else { MS * 300 };
        let delay = self.dice.agents.between(MS, delay);
        let fails = is_chaos && image(task) == "missing" && self.dice.agents.chance(700_000);
        if fails {
            self.coverage.count("fault: pull failed");
        }
        let told = if self.has_plant(Plant::TellSecret) { values.join(" ") } else { String::new() };
        let result = if fails { Err(format!("no such image{told}")) } else { Ok(()) };
        self.later(number, task.id, delay, Deed::Prepared(result));
        Ok(())
    }

    pub(super) fn start_container(&mut self, number: usize, task: TaskId) -> Result<(), String> {
        let host = &mut self.machines[number].host;
        let container = host.containers.get(&task);
        if container.is_none_or(|it| it.phase != Phase::Created) {
            return Err(format!("machine {number} starts task {task}, whose container is {container:?}"));
        }
        if !host.is_told && !container.is_some_and(|it| it.task.spec.start_offline) {
            return Err(format!("machine {number} starts task {task}, which no manager has named since the daemon started"));
        }
        host.next(task, Phase::Recording);
        self.record_soon(number, task);
        Ok(())
    }

    /// The shim runs the container again. Only for want of a manager.
    pub(super) fn restart_in_place(&mut self, number: usize, task: TaskId, attempt: u64) -> Result<(), String> {
        if self.has_session(number) {
            return Err(format!("machine {number} restarts task {task} in place although it has a session"));
        }
        self.coverage.count("agent: restarted in place");
        match self.machines[number].host.containers.get_mut(&task) {
            Some(container) if matches!(container.phase, Phase::Exited(_) | Phase::Failed(_)) => {
                container.restart = Some(attempt);
            }
            other => return Err(format!("machine {number} restarts task {task} in place, but there is {other:?}")),
        }
        self.record_soon(number, task);
        Ok(())
    }

    /// What the daemon wants on record of a task is written after a while.
    pub(super) fn record_soon(&mut self, number: usize, task: TaskId) {
        let Some(life) = self.machines[number].daemon.as_ref().map(|daemon| daemon.life_and_term().0) else { return };
        let delay = self.dice.agents.between(MS, MS * 100);
        self.after(delay, Happening::Agent { machine: number, errand: Errand::Recorded { life, task } });
    }

    /// It is on record: what waited for that goes on.
    pub(super) fn recorded(&mut self, number: usize, task: TaskId) {
        let host = &mut self.machines[number].host;
        if let Some((object, status)) = host.unsaved.remove(&task) {
            // What is noted of an attempt later does not make it one of a later boot.
            let known = host.saved.get(&task).filter(|(_, known, _)| known.attempt == status.attempt);
            let boot = known.map_or(host.boot, |(_, _, boot)| *boot);
            host.saved.insert(task, (object, status, boot));
        }
        if host.releasing.remove(&task) {
            host.containers.remove(&task);
            host.asked.remove(&task);
            host.exits.remove(&task);
            return;
        }
        let Some(container) = host.containers.get_mut(&task) else { return };
        match (&container.phase, container.restart.take()) {
            (Phase::Recording, _) => {}
            (Phase::Exited(_) | Phase::Failed(_), Some(attempt)) => container.attempt = attempt,
            _ => return,
        }
        host.asked.insert(task, container.attempt);
        self.start_soon(number, task);
    }

    fn start_soon(&mut self, number: usize, task: TaskId) {
        self.machines[number].host.next(task, Phase::Starting);
        // Now and then a shim takes very long, and nobody hears of it meanwhile.
        let max = if self.is_chaos() && self.dice.agents.chance(50_000) { MS * 15_000 } else { MS * 200 };
        let delay = self.dice.agents.between(MS, max);
        let fails = self.is_chaos() && self.dice.agents.chance(10_000);
        let result = if fails { Err("no such program".into()) } else { Ok(()) };
        self.later(number, task, delay, Deed::Started(result));
    }

    pub(super) fn stop_container(&mut self, number: usize, task: TaskId, grace: Duration) {
        let Some(container) = self.machines[number].host.containers.get(&task) else { return };
        let Phase::Running { healthy } = container.phase else { return };
        let is_stubborn = image(&container.task) == "stubborn";
        if is_stubborn {
            self.coverage.count("fault: stop signal ignored");
        }
        self.machines[number].host.next(task, Phase::Running { healthy });
        let delay = if is_stubborn { grace } else { self.dice.agents.between(MS, MS * 500) };
        self.later(number, task, delay, Deed::Exits(if is_stubborn { 137 } else { 143 }));
    }

    /// The shim and everything it holds are killed; the daemon sees that.
    pub(super) fn kill_container(&mut self, number: usize, task: TaskId) {
        self.machines[number].host.containers.remove(&task);
        self.tell_agent(number, MS, Event::ShimLost { task });
    }

    pub(super) fn free_container(&mut self, number: usize, task: TaskId, is_removal: bool) {
        let host = &mut self.machines[number].host;
        if is_removal {
            host.containers.remove(&task);
            host.asked.remove(&task);
            host.exits.remove(&task);
            host.removed.insert(task);
            return;
        }
        host.releasing.insert(task);
        self.record_soon(number, task);
    }

    /// A fault: a shim somewhere is killed.
    pub(super) fn kill_some_shim(&mut self) {
        let (machine, which) = (self.dice.faults.below(self.machines.len()), self.dice.faults.below(1_000));
        if let Some(task) = self.machines[machine].host.some_running(which) {
            self.coverage.count("fault: shim killed");
            self.note(format!("the shim of task {task} on machine {machine} is killed"));
            self.kill_container(machine, task);
        }
    }

    /// Something happens to a container by itself.
    pub(super) fn container_does(&mut self, number: usize, task: TaskId, generation: u64, deed: Deed) -> Result<(), String> {
        let Some(container) = self.machines[number].host.containers.get(&task) else { return Ok(()) };
        if container.generation != generation {
            return Ok(());
        }
        let attempt = container.attempt;
        self.note(format!("machine {number} container {task} {attempt} {deed:?}"));
        match deed {
            Deed::Prepared(Ok(())) => {
                self.machines[number].host.next(task, Phase::Created);
                self.tell_agent(number, Duration::ZERO, Event::Prepared { task, ports: Vec::new() });
            }
            Deed::Prepared(Err(error)) => {
                self.machines[number].host.containers.remove(&task);
                self.tell_agent(number, Duration::ZERO, Event::PrepareFailed { task, error });
            }
            Deed::Started(Err(error)) => {
                self.machines[number].host.next(task, Phase::Failed(error.clone()));
                self.tell_agent(number, Duration::ZERO, Event::StartFailed { task, error });
            }
            Deed::Started(Ok(())) => self.container_runs(number, task, attempt)?,
            Deed::Exits(code) => self.container_exits(number, task, attempt, code)?,
            Deed::Health(healthy) => {
                if let Some(Container { phase: Phase::Running { healthy: known }, .. }) =
                    self.machines[number].host.containers.get_mut(&task)
                {
                    *known = Some(healthy);
                }
                let output = if healthy { "" } else { "no answer" }.to_string();
                self.tell_agent(number, Duration::ZERO, Event::Health { task, attempt, healthy, output });
            }
        }
        Ok(())
    }

    fn container_runs(&mut self, number: usize, task: TaskId, attempt: u64) -> Result<(), String> {
        let node = self.machines[number].node;
        let host = &mut self.machines[number].host;
        if host.removed.contains(&task) {
            return Err(format!("machine {number} starts task {task}, which was removed from it"));
        }
        let Some(container) = host.next(task, Phase::Running { healthy: None }) else { return Ok(()) };
        let object = container.task.clone();
        self.checkers.tasks.started(node, &object, attempt)?;
        let has_check = has_check(&object);
        self.tell_agent(number, Duration::ZERO, Event::Started { task, attempt, pid: pid(&task), has_check });
        if has_check {
            let delay = self.dice.agents.between(MS * 100, MS * 2_000);
            self.later(number, task, delay, Deed::Health(true));
        }
        if !self.is_chaos() {
            return Ok(());
        }
        let soon = self.dice.agents.between(MS, MS * 8_000);
        let long = self.dice.agents.between(MS * 3_000, MS * 60_000);
        match image(&object) {
            "crashes" => self.later(number, task, soon, Deed::Exits(1)),
            "job" => self.later(number, task, soon, Deed::Exits(0)),
            "checked" if self.dice.agents.chance(500_000) => {
                self.coverage.count("fault: unhealthy");
                self.later(number, task, long, Deed::Health(false));
            }
            _ if self.dice.agents.chance(200_000) => self.later(number, task, long, Deed::Exits(139)),
            _ => {}
        }
        Ok(())
    }

    fn container_exits(&mut self, number: usize, task: TaskId, attempt: u64, code: i32) -> Result<(), String> {
        let log_tail = vec!["last words".to_string()];
        let exit = Exit { attempt, code, oom_killed: code == 139, at: self.now, log_tail };
        self.machines[number].host.next(task, Phase::Exited(exit.clone()));
        self.machines[number].host.exits.insert(task, exit.clone());
        if self.has_plant(Plant::RestartWithSession) && self.has_session(number) && code == 1 {
            return self.restart_in_place(number, task, attempt + 1);
        }
        self.tell_agent(number, Duration::ZERO, Event::Exited { task, exit });
        Ok(())
    }
}
