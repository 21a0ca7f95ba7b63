//! After a restart of the daemon: what is still there of the tasks it knew.
//!
//! Shims that live are adopted by their state folder. What nobody knows any more
//! is killed and removed.

use crate::runtime::{Local, Runtime, attend};
use skep_agent_core::{Exit, Found, RecoveredTask};
use skep_identity::clock;
use skep_model::TaskId;
use skep_model::service::NetworkMode;
use skep_model::task::Task;
use skep_shim::protocol::{HealthState, Phase, Status};
use skep_shim::state::{ExitRecord, ShimState};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Runtime {
    /// Looks for every saved task, adopts what lives and removes what is left of
    /// tasks that are not saved.
    pub async fn recover(self: &Arc<Self>, saved: Vec<Task>) -> Vec<RecoveredTask> {
        self.remove_unknown(saved.iter().map(|task| task.id).collect());
        let mut recovered = Vec::new();
        for task in saved {
            let status = task.status.value.clone();
            let found = if status.state.is_final() { Found::Nothing } else { self.find(&task).await };
            recovered.push(RecoveredTask { task: Arc::new(task), status, found });
        }
        recovered
    }

    async fn find(self: &Arc<Self>, task: &Task) -> Found {
        let folder = self.folders.of(task.id);
        let is_alive = match ShimState::read(&folder.state()) {
            Ok(Some(state)) => state.shim_is_alive().unwrap_or(false),
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(task = %task.id, %error, "could not read a shim's state");
                false
            }
        };
        if is_alive {
            match attend::adopt(self, task.id, &folder).await {
                Ok((attendant, status)) => {
                    if let Some(found) = found(&status, &folder.log()) {
                        self.adopted(task, &status, attendant).await;
                        return found;
                    }
                }
                Err(error) => tracing::warn!(task = %task.id, %error, "could not adopt a shim"),
            }
        }
        let record = ExitRecord::read(&folder.state()).ok().flatten().filter(|record| record.error.is_none());
        let exit = record.map(|record| attend::exit(&record, &folder.log()));
        if let Err(error) = self.folders.destroy_container(task.id, &self.cgroup(task.id)) {
            tracing::error!(task = %task.id, %error, "could not remove what was left of a container");
        }
        match exit {
            Some(exit) => Found::Exited { exit, shim_lives: false },
            // It ran on this very boot, so its shim was killed with it; the machine's
            // restart is told from that by the status only.
            None => Found::Nothing,
        }
    }

    async fn adopted(self: &Arc<Self>, task: &Task, status: &Status, attendant: attend::Attendant) {
        let reference = crate::image::Reference::parse(&task.spec.container_spec.image).ok();
        let image = match reference {
            Some(reference) => self.images.image_for(&reference).await.ok().flatten(),
            None => None,
        };
        let attempt = attend::from_shim(status.attempt);
        let task = Arc::new(task.clone());
        if task.spec.network == NetworkMode::Bridge {
            // It was filled in when the task was made, so it can be again.
            let hostname = super::spec::hostname(&self.settings, &task).unwrap_or_default();
            self.network.adopt(&task, hostname, self.folders.of(task.id).path());
        }
        let attendant = Some(attendant);
        let local = Local { task: task.clone(), attempt, image, namespace: None, preparing: None, attendant };
        self.lock().insert(task.id, local);
        tracing::info!(task = %task.id, pid = status.pid, "adopted a container");
    }

    fn remove_unknown(&self, known: BTreeSet<TaskId>) {
        let tasks = match self.folders.list() {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::error!(%error, "could not list the folders of tasks");
                return;
            }
        };
        for task in tasks.into_iter().filter(|task| !known.contains(task)) {
            let removed = self.folders.destroy_container(task, &self.cgroup(task)).and_then(|()| self.folders.remove(task));
            if let Err(error) = removed {
                tracing::error!(%task, %error, "could not remove what was left of an unknown task");
            }
        }
    }
}

fn found(status: &Status, log: &std::path::Path) -> Option<Found> {
    match status.phase {
        Phase::Waiting => None,
        Phase::Running => Some(Found::Running {
            pid: status.pid.unwrap_or_default(),
            attempt: attend::from_shim(status.attempt),
            healthy: status.health.as_ref().and_then(|health| match health.state {
                HealthState::Starting => None,
                HealthState::Healthy => Some(true),
                HealthState::Unhealthy => Some(false),
            }),
            has_check: status.health.is_some(),
        }),
        Phase::Exited => {
            let exit = status.exit.as_ref().map_or_else(
                || Exit {
                    attempt: attend::from_shim(status.attempt),
                    code: 255,
                    oom_killed: false,
                    at: clock::now(),
                    log_tail: Vec::new(),
                },
                |record| attend::exit(record, log),
            );
            Some(Found::Exited { exit, shim_lives: true })
        }
    }
}
