//! Outcomes of recent requests, so that a repeat gets the first outcome.
//!
//! Part of the replicated state: every replica remembers the same ones. Entries
//! older than [`crate::timing::REQUEST_MEMORY`] (by the time in the transactions)
//! or beyond [`crate::timing::REQUEST_MEMORY_MAX`] go, oldest first, at apply.

use rpds::RedBlackTreeMapSync;
use skep_model::request::Outcome;
use skep_model::{RequestId, Time};

/// Remembered outcomes, by id and by age.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) outcomes: RedBlackTreeMapSync<RequestId, (Time, Outcome)>,
    pub(crate) by_age: RedBlackTreeMapSync<(Time, RequestId), ()>,
}

impl Requests {
    /// What an earlier call with this id was answered.
    pub(crate) fn outcome(&self, request: RequestId) -> Option<Outcome> {
        self.outcomes.get(&request).map(|(_, outcome)| *outcome)
    }
}
