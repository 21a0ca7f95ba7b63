//! Outcomes of recent requests, so that a repeat gets the first outcome.
//!
//! Part of the replicated state: every replica remembers the same ones. Entries
//! older than [`crate::timing::REQUEST_MEMORY`] (in cluster time, which no wall clock moves)
//! or beyond [`crate::timing::REQUEST_MEMORY_MAX`] go, oldest first, at apply.

use crate::timing;
use rpds::RedBlackTreeMapSync;
use skep_model::request::Outcome;
use skep_model::{RequestId, Time};

/// Remembered outcomes, by id and by age.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) outcomes: RedBlackTreeMapSync<RequestId, (Time, Outcome)>,
    pub(crate) by_age: RedBlackTreeMapSync<(Time, RequestId), ()>,
}

impl Requests {
    /// What an earlier call with this id was answered.
    pub(crate) fn outcome(&self, request: RequestId) -> Option<Outcome> {
        self.outcomes.get(&request).map(|(_, outcome)| *outcome)
    }

    /// Keeps an outcome from `now` on; the oldest goes if there are too many.
    pub(crate) fn remember(&mut self, request: RequestId, now: Time, outcome: Outcome) {
        self.outcomes.insert_mut(request, (now, outcome));
        self.by_age.insert_mut((now, request), ());
        while self.outcomes.size() > timing::REQUEST_MEMORY_MAX {
            self.forget_oldest();
        }
    }

    /// Drops what is too old at `now`.
    pub(crate) fn forget_old(&mut self, now: Time) {
        while let Some(((at, _), ())) = self.by_age.first()
            && now.since(*at) > timing::REQUEST_MEMORY
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((&oldest, ())) = self.by_age.first() {
            self.by_age.remove_mut(&oldest);
            self.outcomes.remove_mut(&oldest.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn outcomes_are_kept_for_their_time_and_no_longer() {
        let outcome = Outcome { id: skep_model::Id::from_random([1; 16]), version: 3, number: 0 };
        let (first, second) = (RequestId([1; 16]), RequestId([2; 16]));
        let start = Time::from_millis(1_000);
        let mut requests = Requests::default();
        requests.remember(first, start, outcome);
        requests.remember(second, start + Duration::from_secs(1), outcome);
        requests.forget_old(start + timing::REQUEST_MEMORY);
        assert_eq!(requests.outcome(first), Some(outcome));
        requests.forget_old(start + timing::REQUEST_MEMORY + Duration::from_nanos(1));
        assert_eq!(requests.outcome(first), None);
        assert_eq!(requests.outcome(second), Some(outcome));
        assert_eq!(requests.by_age.size(), 1);
    }
}
