//! Keeps names and sockets in step with what the node was told.

use super::{Listeners, NameServer};
use crate::settled::{Settled, Turn, describe};
use skep_model::TaskId;
use skep_netd_core::Namespace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Whom the node asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Everybody who answers.
#[derive(Debug)]
pub struct Resolvers {
    server: NameServer,
    listeners: BTreeMap<TaskId, Listeners>,
    /// Tasks whose sockets could not be opened yet.
    pending: BTreeSet<TaskId>,
}

impl Default for Resolvers {
    fn default() -> Self {
        let server = NameServer::new(PathBuf::from(RESOLV_CONF));
        Self { server, listeners: BTreeMap::new(), pending: BTreeSet::new() }
    }
}

impl Resolvers {
    /// Brings what is answered in line, opens what is missing, and closes what a
    /// task that went had.
    pub async fn settle(&mut self, turn: &Turn<'_>) -> Settled {
        if !turn.dirty.is_empty() {
            self.server.change(|names| names.follow(turn.overlay, turn.dirty));
        }
        let mut settled = Settled::default();
        let mut tasks = std::mem::take(&mut self.pending);
        tasks.extend(&turn.dirty.tasks);
        for task in tasks {
            let namespace = Namespace::Task(task);
            if turn.overlay.task(task).is_none() {
                self.listeners.remove(&task);
                self.server.close(task).await;
                continue;
            }
            let Some(descriptor) = turn.namespace(namespace) else {
                // It comes with the rows, or they say what keeps it from coming.
                self.pending.insert(task);
                continue;
            };
            match self.server.open(task, descriptor) {
                Ok(listeners) => drop(self.listeners.insert(task, listeners)),
                Err(error) => {
                    self.pending.insert(task);
                    settled.failures.insert(namespace, describe(&error));
                }
            }
        }
        // Whatever else was held for a netd before us is nobody's any more.
        self.server.keep_only(|task| self.pending.contains(task));
        settled
    }

    /// Who listens where.
    pub fn listeners(&self) -> &BTreeMap<TaskId, Listeners> {
        &self.listeners
    }

    /// The server behind the sockets.
    pub fn server(&self) -> &NameServer {
        &self.server
    }
}
