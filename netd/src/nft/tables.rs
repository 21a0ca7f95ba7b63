//! The tables of every namespace, kept in step with what the node was told.

use crate::dns::Listeners;
use crate::settled::{Settled, Turn};
use skep_model::TaskId;
use skep_netd_core::Namespace;
use std::collections::BTreeMap;

/// The writer of tables.
#[derive(Debug, Default)]
pub struct Tables {}

impl Tables {
    /// Brings the tables of what was touched in line, and of what failed before.
    /// `listeners` are the ports on which each task's names are answered.
    pub async fn settle(&mut self, turn: &Turn<'_>, listeners: &BTreeMap<TaskId, Listeners>) -> Settled {
        let _ = (turn, listeners);
        Settled::default()
    }

    /// Waits until the kernel told that somebody else changed tables; the engine
    /// then calls [`Self::settle`]. Dropping the future loses nothing.
    pub async fn drifted(&mut self) {
        std::future::pending().await
    }

    /// Compares a namespace's tables in full at the next [`Self::settle`].
    pub fn audit(&mut self, namespace: Namespace) {
        let _ = namespace;
    }
}
