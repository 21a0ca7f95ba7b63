//! The one owner of everything: it takes commands and the kernel's events, plans,
//! and carries out.
//!
//! Until the first complete set of objects was committed, netd only watches: after
//! its own restart it cannot know what should be there, and removes nothing. From
//! then on whatever differs without having been asked for is drift: repaired,
//! counted, and named.

use crate::kernel::{Kernel, KernelError};
use skep_model::TaskId;
use skep_netd_core::{Desired, InvalidObject, Mirror, Namespace, Object, ObjectKey, Op, Place, plan};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// In this time every namespace is read in full once.
const AUDIT_PERIOD: Duration = Duration::from_secs(30);
/// The pause before what failed is tried again.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// Repairs that are kept by name.
const REPAIRS_MAX: usize = 256;
/// Rounds of planning before other work gets its turn.
const ROUNDS_MAX: usize = 8;

/// How far the kernel is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// The stream of changes that is in charge; 0 = none was yet.
    pub stream: u64,
    /// The kernel holds everything up to this version of it.
    pub version: u64,
}

/// One change of the desired state.
#[derive(Clone, Debug)]
pub enum Change {
    /// A new or changed object.
    Put(Object),
    /// An object that is gone.
    Remove(ObjectKey),
}

/// What the engine can be told.
#[derive(Debug)]
pub enum Command {
    /// Changes up to a version.
    Commit {
        /// The stream it came on; those of older streams are ignored.
        stream: u64,
        /// The version.
        version: u64,
        /// Whether networks and endpoints that are not in it are gone.
        is_complete: bool,
        /// The changes.
        changes: Vec<Change>,
    },
    /// A task needs its namespace.
    MakeNamespace(TaskId, oneshot::Sender<Result<PathBuf, String>>),
    /// A task does not need its namespace any more.
    RemoveNamespace(TaskId, oneshot::Sender<Result<(), String>>),
    /// Someone wants to know how it goes.
    Status(oneshot::Sender<Status>),
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Everything up to this version is in the kernel.
    pub programmed_through: u64,
    /// Tasks with a namespace.
    pub tasks: Vec<TaskId>,
    /// Repairs by kind of row.
    pub repaired: BTreeMap<String, u64>,
    /// Repairs that only an audit found the need for.
    pub repaired_by_audit: u64,
    /// The last repairs, newest last.
    pub repairs: VecDeque<String>,
    /// Operations carried out.
    pub operations: u64,
    /// Times that events were lost.
    pub overruns: u64,
    /// What failed and is tried again.
    pub failures: Vec<String>,
}

/// The engine.
pub struct Engine {
    desired: Desired,
    mirror: Mirror,
    kernel: Kernel,
    /// Where to look.
    dirty: BTreeSet<Place>,
    /// Of these, what was asked for: there a difference is no drift.
    asked: BTreeSet<Place>,
    failures: BTreeMap<Place, String>,
    tasks: BTreeSet<TaskId>,
    is_complete: bool,
    committed: Programmed,
    programmed: watch::Sender<Programmed>,
    status: Status,
    audited: Option<Namespace>,
    next_audit: Instant,
    next_retry: Option<Instant>,
}

impl Engine {
    /// Takes over whatever the kernel holds, and changes nothing.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub async fn adopt(mut kernel: Kernel) -> Result<Self, KernelError> {
        let (mut desired, mut mirror) = (Desired::new(), Mirror::new());
        kernel.catch_up(&mut mirror).await?;
        let tasks: BTreeSet<TaskId> = kernel.namespaces().list()?.into_iter().collect();
        for task in &tasks {
            // A task by itself is always right.
            let _: Result<_, InvalidObject> = desired.put(Object::Task(*task));
        }
        let next_audit = Instant::now() + AUDIT_PERIOD;
        Ok(Self {
            desired,
            mirror,
            kernel,
            dirty: BTreeSet::new(),
            asked: BTreeSet::new(),
            failures: BTreeMap::new(),
            tasks,
            is_complete: false,
            committed: Programmed::default(),
            programmed: watch::Sender::new(Programmed::default()),
            status: Status::default(),
            audited: None,
            next_audit,
            next_retry: None,
        })
    }

    /// The version that the kernel holds everything up to.
    pub fn programmed(&self) -> watch::Receiver<Programmed> {
        self.programmed.subscribe()
    }

    /// Works until nobody can command any more.
    ///
    /// # Errors
    /// If the kernel's events cannot be waited for.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> std::io::Result<()> {
        loop {
            let wakeup = self.next_retry.map_or(self.next_audit, |retry| retry.min(self.next_audit));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return Ok(()),
                },
                waited = self.kernel.wait() => {
                    waited?;
                    self.settle(false).await;
                }
                () = tokio::time::sleep_until(wakeup) => self.wake().await,
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Commit { stream, .. } if stream < self.committed.stream => {}
            Command::Commit { stream, version, is_complete, changes } => {
                self.take_changes(is_complete, changes);
                self.committed = Programmed { stream, version };
                self.settle(false).await;
            }
            Command::MakeNamespace(task, reply) => {
                let touched = self.desired.put(Object::Task(task)).unwrap_or_default();
                self.tasks.insert(task);
                self.ask(touched);
                self.settle(false).await;
                let path = self.kernel.namespaces().path(task);
                // Whoever asked may have gone; the namespace stays for the next.
                let _ = reply.send(self.outcome(task).map(|()| path));
            }
            Command::RemoveNamespace(task, reply) => {
                let touched = self.desired.remove(ObjectKey::Task(task));
                self.tasks.remove(&task);
                self.ask(touched);
                self.settle(false).await;
                let _ = reply.send(self.outcome(task));
            }
            Command::Status(reply) => {
                let _ = reply.send(self.report());
            }
        }
    }

    fn take_changes(&mut self, is_complete: bool, changes: Vec<Change>) {
        if is_complete {
            let kept: BTreeSet<ObjectKey> = changes
                .iter()
                .filter_map(|change| match change {
                    Change::Put(object) => Some(object.key()),
                    Change::Remove(_) => None,
                })
                .collect();
            let gone = self.desired.objects().into_iter().filter(|key| !matches!(key, ObjectKey::Task(_)) && !kept.contains(key));
            for key in gone.collect::<Vec<_>>() {
                let touched = self.desired.remove(key);
                self.ask(touched);
            }
        }
        for change in changes {
            let touched = match change {
                Change::Put(object) => self.desired.put(object).unwrap_or_default(),
                Change::Remove(key) => self.desired.remove(key),
            };
            self.ask(touched);
        }
        if is_complete && !self.is_complete {
            self.is_complete = true;
            // What was found at the start may differ without anybody's fault.
            let all = self.desired.places().chain(self.mirror.places()).collect();
            self.ask(all);
        }
    }

    fn ask(&mut self, touched: BTreeSet<Place>) {
        self.asked.extend(&touched);
        self.dirty.extend(touched);
    }

    /// Whether everything in a task's namespace went well.
    fn outcome(&self, task: TaskId) -> Result<(), String> {
        let of_task = self.failures.iter().find(|(place, _)| place.namespace == Namespace::Task(task));
        of_task.map_or(Ok(()), |(_, failure)| Err(failure.clone()))
    }

    fn report(&self) -> Status {
        Status {
            programmed_through: self.programmed.borrow().version,
            tasks: self.tasks.iter().copied().collect(),
            overruns: self.kernel.overruns,
            failures: self.failures.values().cloned().collect(),
            ..self.status.clone()
        }
    }

    async fn wake(&mut self) {
        let now = Instant::now();
        if self.next_retry.is_some_and(|retry| retry <= now) {
            self.next_retry = None;
            let failed: BTreeSet<Place> = self.failures.keys().copied().collect();
            self.ask(failed);
            self.settle(false).await;
        }
        if self.next_audit <= now {
            let open: Vec<Namespace> = self.kernel.open_namespaces().collect();
            let next = open.iter().copied().find(|namespace| self.audited.is_none_or(|last| *namespace > last));
            self.audited = next.or(open.first().copied());
            if let Some(namespace) = self.audited {
                self.kernel.mark_stale(namespace);
            }
            let share = u32::try_from(open.len().max(1)).unwrap_or(u32::MAX);
            self.next_audit = now + AUDIT_PERIOD / share;
            self.settle(true).await;
        }
    }

    /// Plans and carries out until nothing is left to do.
    async fn settle(&mut self, is_audit: bool) {
        let mut is_settled = false;
        for round in 0..ROUNDS_MAX {
            match self.kernel.catch_up(&mut self.mirror).await {
                Ok(touched) => self.dirty.extend(touched),
                Err(error) => return self.postpone(&error),
            }
            if !self.is_complete {
                self.dirty = self.dirty.intersection(&self.asked).copied().collect();
            }
            let ops = plan(&self.desired, &self.mirror, &self.dirty);
            self.failures.retain(|place, _| !self.dirty.contains(place));
            self.dirty.clear();
            is_settled = ops.is_empty();
            if is_settled {
                break;
            }
            for op in ops {
                self.execute(&op, is_audit && round == 0).await;
            }
        }
        if is_settled && self.failures.is_empty() {
            self.asked.clear();
            let committed = self.committed;
            self.programmed.send_if_modified(|programmed| std::mem::replace(programmed, committed) != committed);
        } else {
            self.next_retry.get_or_insert_with(|| Instant::now() + RETRY_PERIOD);
        }
    }

    fn postpone(&mut self, error: &KernelError) {
        tracing::warn!(%error, "the kernel could not be read; it is tried again");
        self.next_retry.get_or_insert_with(|| Instant::now() + RETRY_PERIOD);
    }

    async fn execute(&mut self, op: &Op, is_audit: bool) {
        let place = op.place();
        if !self.asked.contains(&place) {
            self.count_drift(op, is_audit);
        }
        self.status.operations += 1;
        match self.kernel.execute(op, &mut self.mirror).await {
            Ok(()) => tracing::debug!(%op, "done"),
            Err(error) => {
                let text = describe(&error);
                tracing::warn!(error = text, "an operation failed; it is tried again");
                // Perhaps the mirror was wrong.
                self.kernel.mark_stale(place.namespace);
                self.failures.insert(place, text);
                self.asked.insert(place);
            }
        }
    }

    fn count_drift(&mut self, op: &Op, is_audit: bool) {
        let place = op.place();
        tracing::warn!(%op, is_audit, "the kernel drifted; repairing");
        *self.status.repaired.entry(place.key.kind().to_owned()).or_default() += 1;
        self.status.repaired_by_audit += u64::from(is_audit);
        if self.status.repairs.len() == REPAIRS_MAX {
            self.status.repairs.pop_front();
        }
        self.status.repairs.push_back(op.to_string());
    }
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
