//! The agent: its tasks, the chain of assignments, and what goes out.

use crate::action::Action;
use crate::event::{Event, Found, RecoveredTask, UnreadableTask};
use crate::task::{Surroundings, TaskMachine, WITHDRAW_MARGIN};
use skep_model::assignment::{AssignmentChange, Assignments, SessionInfo, StatusUpdate};
use skep_model::task::{Task, TaskStatus, cut};
use skep_model::{ConfigId, Now, SecretId, SessionId, TaskId, TaskState, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long managers wait for nodes, as long as none has said it.
const BARRIER_DEFAULT: Duration = Duration::from_secs(5);

/// The state of an agent.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    tasks: BTreeMap<TaskId, TaskMachine>,
    /// Tasks of which there is a folder or a shim and no record, and what was found of
    /// each. They are left alone until a manager says completely what is to be here.
    unknown: BTreeMap<TaskId, Option<Found>>,
    secrets: BTreeSet<(SecretId, u64)>,
    configs: BTreeSet<(ConfigId, u64)>,
    has_session: bool,
    /// The session that is up, or was last.
    session: Option<SessionId>,
    /// The newest term that was heard of; older ones are refused.
    term: u64,
    /// The version of the chain; `None` until a session's complete set.
    version: Option<u64>,
    /// Counts chains; 0 until the first.
    chain: u64,
    /// Where the tasks of networks are is known: a manager told it, now or before a restart.
    knows_networks: bool,
    /// How long managers wait for nodes; zero until one says.
    barrier_timeout: Duration,
    /// How far the network was reported to be, of this chain.
    programmed: u64,
    actions: Vec<Action>,
    /// Tasks to step: something of theirs changed.
    dirty: BTreeSet<TaskId>,
    /// (when, task) of every task's next wakeup.
    wakeups: BTreeSet<(Time, TaskId)>,
    wakeup_of: BTreeMap<TaskId, Time>,
}

impl Agent {
    /// An agent that finds these tasks on its node; [`Event::Found`] says of each that
    /// has not ended what there is of its container. `knows_networks`: what a manager
    /// last told of overlay networks was found, too.
    pub fn new(recovered: Vec<RecoveredTask>, knows_networks: bool, now: impl Into<Now>) -> Self {
        let now = now.into();
        let mut agent = Self { knows_networks, ..Self::default() };
        for RecoveredTask { id, task, status, is_released } in recovered {
            let Some(task) = task else {
                agent.unknown.insert(id, None);
                continue;
            };
            agent.tasks.insert(id, TaskMachine::recovered(task, status, is_released));
            agent.dirty.insert(id);
        }
        agent.run(now);
        agent
    }

    /// One thing happened.
    pub fn handle(&mut self, now: impl Into<Now>, event: Event) {
        let now = now.into();
        match event {
            Event::Tick => {}
            Event::SessionUp { session, info } => {
                self.told(&info);
                self.session_up(now, session, info.term);
            }
            Event::Told { info } => self.told(&info),
            Event::SessionDown => self.session_down(),
            Event::Assignments { term, assignments, unreadable } => self.assignments(now, term, *assignments, unreadable),
            Event::Prepared { task, ports } => self.on(task, |machine, _| machine.prepared(now, ports)),
            Event::PrepareFailed { task, error } | Event::StartFailed { task, error } => {
                self.on(task, |machine, has_session| machine.could_not_start(now, &error, has_session));
            }
            Event::Started { task, attempt, pid, has_check } => {
                self.on(task, |machine, _| machine.started(now, attempt, pid, has_check));
            }
            Event::Health { task, attempt, healthy, output } => {
                self.on(task, |machine, _| machine.health(now, attempt, healthy, &output));
            }
            Event::Exited { task, exit } if self.unknown.contains_key(&task) => {
                self.unknown.insert(task, Some(Found::Exited { exit, shim_lives: true }));
            }
            Event::Exited { task, exit } => self.on(task, |machine, has_session| machine.exited(now, exit, has_session, true)),
            Event::Found { task, found } if self.unknown.contains_key(&task) => drop(self.unknown.insert(task, Some(found))),
            Event::Found { task, found } => self.on(task, |machine, has_session| machine.found(now, found, has_session)),
            Event::Drained { task } => self.on(task, |machine, _| machine.drained()),
            Event::NetworkProgrammed { chain, version } => self.programmed(chain, version),
            Event::ShimLost { task } if self.unknown.contains_key(&task) => {
                self.unknown.insert(task, Some(Found::Killed));
            }
            Event::ShimLost { task } => self.on(task, |machine, has_session| machine.shim_lost(now, has_session)),
        }
        self.run(now);
    }

    /// What the world should do about it, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// When to call again if nothing happens.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.wakeups.first().map(|(time, _)| *time)
    }

    /// What was last observed of every task: the first message of a session.
    pub fn statuses(&self) -> Vec<StatusUpdate> {
        self.tasks.values().map(|machine| StatusUpdate { task: machine.id(), status: machine.status.clone() }).collect()
    }

    /// The tasks this node has, ended ones included.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().map(|machine| &machine.task)
    }

    /// What holds in the whole cluster; a limit that runs already stays as it is.
    fn told(&mut self, info: &SessionInfo) {
        if info.term >= self.term {
            self.barrier_timeout = info.barrier_timeout;
        }
    }

    fn withdraw_max(&self) -> Duration {
        let waits = if self.barrier_timeout.is_zero() { BARRIER_DEFAULT } else { self.barrier_timeout };
        waits + WITHDRAW_MARGIN
    }

    fn session_up(&mut self, now: Now, session: SessionId, term: u64) {
        if term < self.term {
            return self.reset(format!("the manager speaks for term {term}, but term {} was heard of", self.term));
        }
        self.term = term;
        self.has_session = true;
        self.session = Some(session);
        self.version = None;
        for (id, machine) in &mut self.tasks {
            machine.session_up(now);
            self.dirty.insert(*id);
        }
        // What happened while the session was being opened is in no hello.
        let statuses = self.statuses();
        if !statuses.is_empty() {
            self.actions.push(Action::Report(statuses));
        }
    }

    fn session_down(&mut self) {
        self.has_session = false;
        self.version = None;
        // The values stay: tasks that are still assigned may yet be prepared.
        self.dirty.extend(self.tasks.keys().copied());
    }

    fn assignments(&mut self, now: Now, term: u64, assignments: Assignments, unreadable: Vec<UnreadableTask>) {
        if term < self.term || !self.has_session {
            return;
        }
        if !assignments.is_complete && self.version != Some(assignments.applies_to) {
            let have = self.version.map_or("nothing".into(), |version| version.to_string());
            return self.reset(format!("assignments apply to version {}, this node has {have}", assignments.applies_to));
        }
        let Assignments { is_complete, results_in, changes, .. } = assignments;
        if is_complete {
            self.keep_only(&changes, &unreadable);
            self.knows_networks = true;
            self.chain += 1;
            self.programmed = 0;
        }
        self.version = Some(results_in);
        let (mut overlay, mut others) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                AssignmentChange::Overlay(change) => overlay.push(change),
                other => others.push(other),
            }
        }
        // First, so that what a task is made with knows the networks; and for every
        // link, so that the version advances.
        self.actions.push(Action::Network { chain: self.chain, version: results_in, is_complete, changes: overlay });
        for change in others {
            self.change(now, change);
        }
        self.refuse(now, unreadable);
    }

    /// Tasks that cannot be read are not started. What there is of one already stays as
    /// it is: of that, only what is desired could have changed.
    fn refuse(&mut self, now: Now, unreadable: Vec<UnreadableTask>) {
        let is_here = |id: &TaskId| self.tasks.contains_key(id) || self.unknown.contains_key(id);
        let refused = unreadable.into_iter().filter(|task| !is_here(&task.id));
        let statuses: Vec<StatusUpdate> = refused
            .map(|UnreadableTask { id, observed, error }| {
                let (state, message) = match observed {
                    early if early < TaskState::Starting => (TaskState::Rejected, "rejected"),
                    _ => (TaskState::Failed, "failed"),
                };
                let error = cut(&format!("this node cannot read the task: {error}"));
                StatusUpdate {
                    task: id,
                    status: TaskStatus { message: message.into(), error, ..TaskStatus::new(state, now.wall) },
                }
            })
            .collect();
        if !statuses.is_empty() {
            self.actions.push(Action::Report(statuses));
        }
    }

    /// The network is that far: said once, and only of the session's own chain.
    fn programmed(&mut self, chain: u64, version: u64) {
        let is_news = chain == self.chain && version > self.programmed && self.version.is_some_and(|told| version <= told);
        if let Some(session) = self.session.filter(|_| is_news && self.has_session) {
            self.programmed = version;
            self.actions.push(Action::ReportProgrammed { session, version });
        }
    }

    /// A complete set: what it does not name is not to be here. A task that cannot be
    /// read is named all the same.
    fn keep_only(&mut self, changes: &[AssignmentChange], unreadable: &[UnreadableTask]) {
        let named: BTreeSet<TaskId> = changes
            .iter()
            .filter_map(|change| if let AssignmentChange::PutTask(task) = change { Some(task.id) } else { None })
            .chain(unreadable.iter().map(|task| task.id))
            .collect();
        let secrets: BTreeSet<_> = changes
            .iter()
            .filter_map(|change| if let AssignmentChange::PutSecret(id, n) = change { Some((*id, *n)) } else { None })
            .collect();
        let configs: BTreeSet<_> = changes
            .iter()
            .filter_map(|change| if let AssignmentChange::PutConfig(id, n) = change { Some((*id, *n)) } else { None })
            .collect();
        let gone: Vec<TaskId> = self.tasks.keys().chain(self.unknown.keys()).filter(|id| !named.contains(id)).copied().collect();
        for id in gone {
            self.remove(id);
        }
        for (id, n) in self.secrets.difference(&secrets).copied().collect::<Vec<_>>() {
            self.drop_secret(id, n);
        }
        for (id, n) in self.configs.difference(&configs).copied().collect::<Vec<_>>() {
            self.drop_config(id, n);
        }
    }

    fn change(&mut self, now: Now, change: AssignmentChange) {
        match change {
            AssignmentChange::PutSecret(id, version) => {
                self.secrets.insert((id, version));
            }
            AssignmentChange::PutConfig(id, version) => {
                self.configs.insert((id, version));
            }
            AssignmentChange::PutTask(task) => self.put(now, task),
            AssignmentChange::RemoveTask(id) => self.remove(id),
            AssignmentChange::RemoveSecret(id, version) => self.drop_secret(id, version),
            AssignmentChange::RemoveConfig(id, version) => self.drop_config(id, version),
            AssignmentChange::MayStop(id) => self.on(id, |machine, _| machine.may_stop()),
            // Taken out before.
            AssignmentChange::Overlay(_) => {}
        }
    }

    fn put(&mut self, now: Now, task: Arc<Task>) {
        let id = task.id;
        self.dirty.insert(id);
        if let Some(machine) = self.tasks.get_mut(&id) {
            let is_news = machine.task.plan.desired != task.plan.desired;
            machine.assigned(task);
            if is_news && machine.is_recorded() {
                self.actions.push(Action::Save { task: machine.task.clone(), status: machine.status.clone() });
            }
            return;
        }
        if let Some(found) = self.unknown.remove(&id) {
            let status = task.status.value.clone();
            let mut machine = TaskMachine::recovered(task.clone(), status, false);
            machine.assigned(task);
            if let Some(found) = found {
                machine.found(now, found, self.has_session);
            }
            self.tasks.insert(id, machine);
            return;
        }
        // Started here as far as the manager knows, but nothing is known of it.
        let is_lost = task.status.state >= TaskState::Starting;
        let machine = if is_lost { TaskMachine::lost(task, now) } else { TaskMachine::new(task, now) };
        self.tasks.insert(id, machine);
    }

    fn remove(&mut self, id: TaskId) {
        if self.tasks.remove(&id).is_some() | self.unknown.remove(&id).is_some() {
            self.dirty.remove(&id);
            self.set_wakeup(id, None);
            self.actions.push(Action::Remove { task: id });
            self.actions.push(Action::Forget { task: id });
        }
    }

    fn drop_secret(&mut self, id: SecretId, version: u64) {
        if self.secrets.remove(&(id, version)) {
            self.actions.push(Action::DropSecret(id, version));
        }
    }

    fn drop_config(&mut self, id: ConfigId, version: u64) {
        if self.configs.remove(&(id, version)) {
            self.actions.push(Action::DropConfig(id, version));
        }
    }

    fn reset(&mut self, reason: String) {
        self.has_session = false;
        self.version = None;
        self.actions.push(Action::ResetSession { reason });
    }

    fn on(&mut self, id: TaskId, act: impl FnOnce(&mut TaskMachine, bool)) {
        if let Some(machine) = self.tasks.get_mut(&id) {
            act(machine, self.has_session);
            self.dirty.insert(id);
        }
    }

    /// Steps every task that something happened to, or whose time has come.
    fn run(&mut self, now: Now) {
        while let Some((time, id)) = self.wakeups.first().copied() {
            if time > now.boot {
                break;
            }
            self.set_wakeup(id, None);
            self.dirty.insert(id);
        }
        let around = Surroundings { has_session: self.has_session, withdraw_max: self.withdraw_max() };
        let mut updates = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(machine) = self.tasks.get_mut(&id) else { continue };
            let has_networks = self.knows_networks || machine.task.networks.is_empty();
            let mut steps = Vec::new();
            let missing = missing_file(&machine.task, &self.secrets, &self.configs);
            let has_all = has_networks && missing.is_none();
            // Files come before the tasks that need them: what did not was left out.
            if let Some(missing) = missing.filter(|_| self.has_session && self.version.is_some()) {
                machine.note_missing(now, &missing);
            }
            machine.step(now, around, has_all, &mut steps);
            let wakeup = machine.next_wakeup();
            if machine.take_dirty() {
                if machine.is_recorded() {
                    // Before what it asks for: nothing starts, and nothing is freed, unrecorded.
                    self.actions.push(Action::Save { task: machine.task.clone(), status: machine.status.clone() });
                }
                updates.push(StatusUpdate { task: id, status: machine.status.clone() });
            }
            self.actions.append(&mut steps);
            self.set_wakeup(id, wakeup);
        }
        if !updates.is_empty() && self.has_session {
            self.actions.push(Action::Report(updates));
        }
    }

    fn set_wakeup(&mut self, id: TaskId, at: Option<Time>) {
        if let Some(old) = self.wakeup_of.remove(&id) {
            self.wakeups.remove(&(old, id));
        }
        if let Some(at) = at {
            self.wakeup_of.insert(id, at);
            self.wakeups.insert((at, id));
        }
    }
}

/// The first file that a task references and whose value is not here, as a phrase.
/// A reference without a version cannot be in a task; it would never be present.
fn missing_file(task: &Task, secrets: &BTreeSet<(SecretId, u64)>, configs: &BTreeSet<(ConfigId, u64)>) -> Option<String> {
    let container = &task.spec.container_spec;
    let version = |version: Option<u64>| version.unwrap_or(0);
    let secret = container.secrets.iter().find(|reference| !secrets.contains(&(reference.id, version(reference.version))));
    let secret = secret.map(|reference| format!("secret {} version {}", reference.name, version(reference.version)));
    let config = container.configs.iter().find(|reference| !configs.contains(&(reference.id, version(reference.version))));
    secret.or_else(|| config.map(|reference| format!("config {} version {}", reference.name, version(reference.version))))
}

#[cfg(test)]
mod tests;
