//! What agents observed, on its way into the store.
//!
//! A report counts if the task is on that node and the step is one that an agent
//! may make; what is stale or out of place is ignored, since agents repeat
//! everything with each session. Reports of one task that wait are merged: the
//! latest state wins. More about a state that a task is in already is written once a
//! second at most, so that no node fills the log with words.

use crate::store::Store;
use crate::timing;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::assignment::StatusUpdate;
use skep_model::endpoint::{PublishMode, PublishedPort};
use skep_model::said::line;
use skep_model::task::{LOG_TAIL_LINES_MAX, MESSAGE_MAX, Task, TaskStatus};
use skep_model::task_state::Owner;
use skep_model::{Kind, NodeId, ObjectRef, TaskId, TaskState, Time};
use std::collections::BTreeMap;

/// The longest line of a log tail, in bytes.
const LOG_LINE_MAX: usize = 1024;
/// The longest id of a container, in bytes.
const CONTAINER_ID_MAX: usize = 128;
/// Reports that wait at most; an agent whose reports are dropped repeats them
/// with its next session.
const REPORTS_MAX: usize = 200_000;

/// Reports that have not been written yet.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: BTreeMap<TaskId, (NodeId, TaskStatus)>,
    /// When more about a state that a task was in already was written last, while that
    /// holds the next back.
    said: BTreeMap<TaskId, Time>,
    /// Reports that are being written.
    in_flight: BTreeMap<TaskId, (NodeId, TaskStatus)>,
}

impl Reports {
    /// Takes the reports of one node.
    pub(super) fn add(&mut self, store: &Store, node: NodeId, updates: Vec<StatusUpdate>) {
        for update in updates {
            if self.waiting.len() >= REPORTS_MAX && !self.waiting.contains_key(&update.task) {
                continue;
            }
            let known = self.waiting.get(&update.task).map(|(_, status)| status.state);
            let Some(task) = store.task(update.task).filter(|task| task.plan.node == Some(node)) else { continue };
            let is_older = known.is_some_and(|known| update.status.state < known);
            if !is_older && is_acceptable(task, &update.status) {
                self.waiting.insert(update.task, (node, bounded(update.status)));
            }
        }
    }

    /// When a report that waits may be written.
    pub(super) fn next_wakeup(&self) -> Option<Time> {
        let held = self.waiting.keys().filter_map(|task| self.said.get(task));
        held.min().map(|at| *at + timing::SAME_STATE_REPORTS)
    }

    /// The node is gone, and what it said with it.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        self.waiting.retain(|_, (reporter, _)| *reporter != node);
    }

    /// A report was written, or could not be: then it is looked at again, unless
    /// a newer one waits.
    pub(super) fn settled(&mut self, task: TaskId, committed: bool) {
        if let Some(report) = self.in_flight.remove(&task).filter(|_| !committed) {
            self.waiting.entry(task).or_insert(report);
        }
    }

    /// Everything that waits and still counts, as few transactions as fit.
    pub(super) fn transactions(&mut self, store: &Store, now: Time) -> Vec<Transaction> {
        self.said.retain(|_, at| now < *at + timing::SAME_STATE_REPORTS);
        let mut transactions: Vec<Transaction> = Vec::new();
        let mut bytes = 0;
        for (id, (node, status)) in std::mem::take(&mut self.waiting) {
            let Some(task) = store.task(id).filter(|task| task.plan.node == Some(node)) else { continue };
            let Some(merged) = merged(task, status.clone(), now) else { continue };
            if merged.state == task.status.state {
                // A step always counts at once; words about one do not fill the log.
                if self.said.contains_key(&id) {
                    self.waiting.insert(id, (node, status));
                    continue;
                }
                self.said.insert(id, now);
            }
            self.in_flight.insert(id, (node, status));
            let status = merged;
            bytes += size(&status);
            let is_full = transactions.last().is_none_or(|last| last.writes.len() >= timing::TRANSACTION_WRITES_MAX);
            if is_full || bytes > timing::TRANSACTION_BYTES_MAX / 2 {
                transactions.push(Transaction::new(now));
                bytes = size(&status);
            }
            let transaction = transactions.last_mut().expect("one was pushed if there was none");
            let object = ObjectRef { kind: Kind::Task, id: id.0 };
            transaction.preconditions.push(Precondition::Unchanged(object, SectionName::Status, task.status.version));
            transaction.writes.push(Write::TaskStatus(id, status));
        }
        transactions
    }
}

/// Whether an agent may say this of a task: a legal step, or more about the
/// state that it is in.
fn is_acceptable(task: &Task, status: &TaskStatus) -> bool {
    let (from, to) = (task.status.state, status.state);
    if from == to {
        return from >= TaskState::Accepted && !from.is_final();
    }
    from.may_become(to, Owner::Agent)
}

/// The status to store; `None` if it says nothing new. Times by which the leader
/// decides are the leader's own.
fn merged(task: &Task, status: TaskStatus, now: Time) -> Option<TaskStatus> {
    if !is_acceptable(task, &status) {
        return None;
    }
    let old = &task.status.value;
    let attempt = status.attempt.max(old.attempt);
    let is_running = status.state == TaskState::Running;
    // A task that its agent restarted in place has to prove itself anew.
    let is_restarted = is_running && attempt > old.attempt;
    let running_since = match old.running_since {
        Some(since) if !is_restarted => Some(since),
        _ if is_running => Some(now),
        // It ran so shortly that only its end was reported: for how long, its node says.
        _ => status.running_since.map(|since| now - status.timestamp.since(since)),
    };
    // A node settles the ports that it was told of, and no others.
    let is_asked = |port: &&PublishedPort| task.ports.iter().any(|asked| is_settled(asked, port));
    let ports: Vec<PublishedPort> = status.ports.iter().filter(is_asked).take(task.ports.len()).cloned().collect();
    let merged = TaskStatus {
        attempt,
        applied_at: if status.state == old.state { old.applied_at } else { now },
        running_since,
        container: status.container.clone().or_else(|| old.container.clone()),
        ports: if ports.is_empty() { old.ports.clone() } else { ports },
        is_evicted: status.is_evicted && status.state.is_final(),
        ..status
    };
    let is_news = TaskStatus { timestamp: old.timestamp, ..merged.clone() } != *old;
    is_news.then_some(merged)
}

fn is_settled(asked: &PublishedPort, port: &PublishedPort) -> bool {
    let number = if asked.published_port == 0 { port.published_port } else { asked.published_port };
    asked.publish_mode == PublishMode::Host && *port == PublishedPort { published_port: number, ..asked.clone() }
}

fn bounded(mut status: TaskStatus) -> TaskStatus {
    status.message = line(&status.message, MESSAGE_MAX);
    status.error = line(&status.error, MESSAGE_MAX);
    if let Some(container) = &mut status.container {
        container.container_id = line(&container.container_id, CONTAINER_ID_MAX);
    }
    let surplus = status.log_tail.len().saturating_sub(LOG_TAIL_LINES_MAX);
    status.log_tail.drain(..surplus);
    status.log_tail.iter_mut().for_each(|text| *text = line(text, LOG_LINE_MAX));
    status
}

fn size(status: &TaskStatus) -> usize {
    300 + 16 * status.ports.len()
        + status.message.len()
        + status.error.len()
        + status.log_tail.iter().map(String::len).sum::<usize>()
}
