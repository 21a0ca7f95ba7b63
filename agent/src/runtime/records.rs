//! What a restarted daemon knows of a task: one small file in the task's folder,
//! written durably before the task starts and whenever its status changes after
//! that. It holds references to secrets, never values.
//!
//! Invariants: records of one task are written in the order in which they are asked
//! for, the newest alone where several wait; records of different tasks do not wait
//! for each other. A record that the disk refuses is tried again until it is there
//! or nothing is wanted of the task any more.

use super::folders::Folders;
use crate::framed::{self, FramedError, Kind};
use prost::Message;
use skep_model::TaskId;
use skep_model::task::{Task, TaskStatus};
use skep_proto::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A record, in the first format.
const KIND: Kind = *b"skeptsk1";
/// Bytes that a record may have.
const RECORD_MAX: u64 = 16 << 20;
/// Between two tries to write a record that the disk refused.
const AGAIN: Duration = Duration::from_secs(1);

/// The body of the file.
#[derive(Clone, PartialEq, Message)]
struct Body {
    /// The kernel's id of the boot on which the attempt was first recorded.
    #[prost(string, tag = "1")]
    boot: String,
    /// The assignment, with the status as this node knows it.
    #[prost(message, optional, tag = "2")]
    task: Option<v1::Task>,
}

/// A record that was read.
#[derive(Debug)]
pub(crate) struct Record {
    /// The assignment; its status is the one recorded.
    pub task: Task,
    /// Its attempt was first recorded since the machine was started. What is noted of an
    /// attempt after a restart does not make it one of this boot.
    pub is_of_this_boot: bool,
}

/// The attempt and boot of a record: what tells a start that was never asked for from
/// one that ended with the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The newest attempt on record.
    pub attempt: u64,
    /// See [`Record::is_of_this_boot`].
    pub is_of_this_boot: bool,
}

/// What waits to be written of one task.
#[derive(Debug)]
struct Lane {
    next: Option<Vec<u8>>,
    is_writing: bool,
    n_asked: u64,
    written: Arc<watch::Sender<Written>>,
}

/// How far a lane is, and why it is no farther.
#[derive(Clone, Debug, Default)]
struct Written {
    n: u64,
    error: Option<String>,
}

/// The records of all tasks. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    folders: Folders,
    boot: Arc<str>,
    /// The newest attempt of each task, and the boot on which it was first recorded.
    attempts: Arc<Mutex<BTreeMap<TaskId, (u64, String)>>>,
    lanes: Arc<Mutex<BTreeMap<TaskId, Lane>>>,
}

impl Records {
    /// Records in these folders, written from now on as of this boot.
    pub fn new(folders: Folders, boot: String) -> Self {
        Self { folders, boot: boot.into(), attempts: Arc::default(), lanes: Arc::default() }
    }

    /// The record of a task; none if nothing was recorded. Blocks.
    pub fn load(&self, task: TaskId) -> Result<Option<Record>, FramedError> {
        let Some(body) = framed::read(&self.folders.of(task).record(), KIND, RECORD_MAX)? else { return Ok(None) };
        let Body { boot, task: message } = Body::decode(&*body).map_err(|_| FramedError::Damaged)?;
        let read = message.and_then(|message| Task::try_from(message).ok()).filter(|read| read.id == task);
        let task = read.ok_or(FramedError::Damaged)?;
        let is_of_this_boot = *boot == *self.boot;
        self.attempts().insert(task.id, (task.status.value.attempt, boot));
        Ok(Some(Record { task, is_of_this_boot }))
    }

    /// The boot on which an attempt is first recorded: this one, if it is news.
    fn boot_of(&self, task: TaskId, attempt: u64) -> String {
        let mut attempts = self.attempts();
        let known = attempts.entry(task).or_insert_with(|| (attempt, self.boot.to_string()));
        if known.0 != attempt {
            *known = (attempt, self.boot.to_string());
        }
        known.1.clone()
    }

    /// Records a task and its status, soon.
    pub fn save(&self, task: &Task, status: &TaskStatus) {
        let mut object = task.clone();
        object.status.value = status.clone();
        let boot = self.boot_of(task.id, status.attempt);
        let bytes = Body { boot, task: Some(v1::Task::from(&object)) }.encode_to_vec();
        let mut lanes = self.lock();
        let lane =
            lanes.entry(task.id).or_insert_with(|| Lane { next: None, is_writing: false, n_asked: 0, written: Arc::default() });
        lane.n_asked += 1;
        lane.next = Some(bytes);
        if !std::mem::replace(&mut lane.is_writing, true) {
            tokio::spawn(self.clone().write(task.id));
        }
    }

    /// Waits until everything asked for so far is durable.
    ///
    /// # Errors
    /// A sentence, if the disk refuses.
    pub async fn settled(&self, task: TaskId) -> Result<(), String> {
        let Some((n_asked, mut written)) = self.lock().get(&task).map(|lane| (lane.n_asked, lane.written.subscribe())) else {
            return Ok(());
        };
        let written = written.wait_for(|written| written.n >= n_asked || written.error.is_some()).await;
        match written.as_deref() {
            Ok(Written { error: Some(error), n }) if *n < n_asked => Err(format!("could not record the task: {error}")),
            // A closed lane: nothing is wanted of the task any more.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Waits until everything of all tasks is durable, or refused, for at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let tasks: Vec<TaskId> = self.lock().keys().copied().collect();
        let all = async {
            for task in tasks {
                // What the disk refuses was said.
                let _ = self.settled(task).await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("the daemon ends before every task is on record");
        }
    }

    /// Nothing is wanted of the task any more: what waits is dropped, and what is being
    /// written is waited for.
    pub async fn close(&self, task: TaskId) {
        self.attempts().remove(&task);
        let Some(mut written) = self.lock().get_mut(&task).map(|lane| {
            lane.next = None;
            lane.written.subscribe()
        }) else {
            return;
        };
        if self.lock().remove(&task).is_some_and(|lane| lane.is_writing) {
            // The writer drops its end when it is done.
            while written.changed().await.is_ok() {}
        }
    }

    /// Writes what waits of a task until nothing does.
    async fn write(self, task: TaskId) {
        let Some(written) = self.lock().get(&task).map(|lane| lane.written.clone()) else { return };
        loop {
            let Some((n, bytes)) = self.next(task, &written) else { return };
            let folder = self.folders.of(task);
            let result = tokio::task::spawn_blocking({
                let bytes = bytes.clone();
                move || {
                    folder.make_own()?;
                    framed::write(&folder.record(), KIND, &bytes)
                }
            });
            let error = match result.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the daemon is stopping".into()),
            };
            match error {
                None => drop(written.send_replace(Written { n, error: None })),
                Some(error) => {
                    tracing::error!(%task, %error, "could not record a task; it is tried again");
                    written.send_modify(|written| written.error = Some(error));
                    self.put_back(task, &written, bytes);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn next(&self, task: TaskId, written: &Arc<watch::Sender<Written>>) -> Option<(u64, Vec<u8>)> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(&task).filter(|lane| Arc::ptr_eq(&lane.written, written))?;
        match lane.next.take() {
            Some(bytes) => Some((lane.n_asked, bytes)),
            None => {
                lane.is_writing = false;
                None
            }
        }
    }

    fn put_back(&self, task: TaskId, written: &Arc<watch::Sender<Written>>, bytes: Vec<u8>) {
        if let Some(lane) = self.lock().get_mut(&task).filter(|lane| Arc::ptr_eq(&lane.written, written)) {
            lane.next.get_or_insert(bytes);
        }
    }

    fn attempts(&self) -> MutexGuard<'_, BTreeMap<TaskId, (u64, String)>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::service::TaskSpec;
    use skep_model::task::TaskPlan;
    use skep_model::{Meta, Section, ServiceId, TaskState, Time};

    fn task(number: u8) -> Task {
        Task {
            id: TaskId::from_random([number; 16]),
            meta: Meta::default(),
            service_id: ServiceId::from_random([9; 16]),
            service_name: "web".into(),
            service_labels: std::collections::BTreeMap::new(),
            slot: 1,
            spec: Arc::new(TaskSpec { start_offline: true, ..TaskSpec::default() }),
            spec_version: 1,
            networks: Vec::new(),
            ports: Vec::new(),
            plan: Section::new(TaskPlan::new(TaskState::Running, Time::ZERO)),
            status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
        }
    }

    fn status(state: TaskState, attempt: u64) -> TaskStatus {
        TaskStatus { attempt, ..TaskStatus::new(state, Time::from_millis(7)) }
    }

    #[tokio::test]
    async fn the_newest_record_is_found_again() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::open(data.path(), data.path()).unwrap();
        let records = Records::new(folders.clone(), "this".into());
        let task = task(1);
        assert!(records.load(task.id).unwrap().is_none());
        for attempt in 0..50 {
            records.save(&task, &status(TaskState::Starting, attempt));
        }
        records.settled(task.id).await.unwrap();
        let found = records.load(task.id).unwrap().unwrap();
        assert_eq!((found.task.status.value.attempt, found.is_of_this_boot), (49, true));
        assert!(found.task.spec.start_offline);
        let rebooted = Records::new(folders.clone(), "next".into());
        assert!(!rebooted.load(task.id).unwrap().unwrap().is_of_this_boot);
        // What is noted of an attempt later does not make it one of the later boot.
        let of_next_boot = || Records::new(folders.clone(), "next".into()).load(task.id).unwrap().unwrap().is_of_this_boot;
        for (attempt, expected) in [(49, false), (50, true)] {
            rebooted.save(&task, &status(TaskState::Running, attempt));
            rebooted.settled(task.id).await.unwrap();
            assert_eq!(of_next_boot(), expected, "attempt {attempt}");
        }
        assert_eq!(folders.list().unwrap(), [task.id]);
        // A record of another task in this one's place is none.
        let other = TaskId::from_random([2; 16]);
        std::fs::create_dir_all(folders.of(other).path()).unwrap();
        std::fs::copy(folders.of(task.id).record(), folders.of(other).record()).unwrap();
        assert!(records.load(other).is_err());
    }

    #[tokio::test]
    async fn a_record_that_the_disk_refuses_is_said_and_tried_again() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::open(data.path(), data.path()).unwrap();
        let records = Records::new(folders.clone(), "this".into());
        let task = task(1);
        // A file where the folder should be.
        std::fs::write(folders.of(task.id).path(), "").unwrap();
        records.save(&task, &status(TaskState::Starting, 0));
        let refused = records.settled(task.id).await.unwrap_err();
        assert!(refused.starts_with("could not record the task: "), "{refused}");
        std::fs::remove_file(folders.of(task.id).path()).unwrap();
        let mut written = records.lock()[&task.id].written.subscribe();
        tokio::time::timeout(Duration::from_secs(20), written.wait_for(|written| written.n == 1)).await.unwrap().unwrap();
        assert!(records.load(task.id).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_closed_record_does_not_come_back() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::open(data.path(), data.path()).unwrap();
        let records = Records::new(folders.clone(), "this".into());
        let task = task(1);
        for _ in 0..20 {
            records.save(&task, &status(TaskState::Running, 0));
            records.close(task.id).await;
            folders.remove(task.id).unwrap();
            tokio::task::yield_now().await;
            assert_eq!(folders.list().unwrap(), []);
        }
        records.settled(task.id).await.unwrap();
    }
}
