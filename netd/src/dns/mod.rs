//! Answers to names, in the namespace of each task.

use crate::settled::{Settled, Turn};
use skep_model::TaskId;
use std::collections::BTreeMap;

/// The ports of 127.0.0.11 on which a task's questions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// Over UDP.
    pub udp: u16,
    /// Over TCP.
    pub tcp: u16,
}

/// Everybody who answers.
#[derive(Debug, Default)]
pub struct Resolvers {
    listeners: BTreeMap<TaskId, Listeners>,
}

impl Resolvers {
    /// Brings what is answered in line, opens what is missing, and closes what a
    /// task that went had.
    pub async fn settle(&mut self, turn: &Turn<'_>) -> Settled {
        let _ = turn;
        Settled::default()
    }

    /// Who listens where.
    pub fn listeners(&self) -> &BTreeMap<TaskId, Listeners> {
        &self.listeners
    }
}
