//! Linearizable reads: everyone who waits shares one round of ReadIndex.
//!
//! A read that arrives while a round is under way waits for the next one: the
//! index it is served at must be confirmed after it began. Rounds are lost with
//! messages and leaders, so one that is not answered is asked again under a new
//! name. Names hold a number drawn at the start of the process: a leader that
//! still remembers a round of an earlier process must not answer it for ours.

use crate::ticket::Ticket;
use crate::timing;
use skep_model::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a round may take until it is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(4 * timing::TICK.as_millis() as u64);

/// What the context of a read begins with: messages carry other contexts, too.
const MARK: u8 = b'r';

/// Reads that wait for an index, or for the store to reach it.
#[derive(Debug)]
pub(crate) struct Reads {
    process: u64,
    round: u64,
    asked_at: Option<Time>,
    /// Wait for the next round.
    waiting: Vec<Ticket>,
    /// Wait for the answer to the present round.
    asking: Vec<Ticket>,
    /// Wait for the store to reach an index.
    confirmed: BTreeMap<u64, Vec<Ticket>>,
}

impl Reads {
    /// No reads. `process` is a random number of this process.
    pub(crate) fn new(process: u64) -> Self {
        Self { process, round: 0, asked_at: None, waiting: Vec::new(), asking: Vec::new(), confirmed: BTreeMap::new() }
    }

    /// Adds a read.
    pub(crate) fn add(&mut self, ticket: Ticket) {
        self.waiting.push(ticket);
    }

    /// Forgets a read.
    pub(crate) fn remove(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| *waiting != ticket);
        self.asking.retain(|waiting| *waiting != ticket);
        for tickets in self.confirmed.values_mut() {
            tickets.retain(|waiting| *waiting != ticket);
        }
    }

    /// The leader changed: whoever was asked may never answer.
    pub(crate) fn ask_again(&mut self) {
        self.asked_at = None;
    }

    /// The context of a round that is to be asked now.
    pub(crate) fn question(&mut self, now: Time) -> Option<Vec<u8>> {
        if self.asked_at.is_some_and(|at| now.since(at) < RETRY_AFTER) && !self.asking.is_empty() {
            return None;
        }
        self.asking.append(&mut self.waiting);
        if self.asking.is_empty() {
            return None;
        }
        self.round += 1;
        self.asked_at = Some(now);
        Some(self.context())
    }

    /// A round was answered: its reads are served from `index` on.
    pub(crate) fn answered(&mut self, context: &[u8], index: u64) {
        if context == self.context() && !self.asking.is_empty() {
            self.confirmed.entry(index).or_default().append(&mut self.asking);
        }
    }

    /// Reads that a store at `version` can serve.
    pub(crate) fn ready(&mut self, version: u64) -> Vec<Ticket> {
        let later = self.confirmed.split_off(&(version + 1));
        std::mem::replace(&mut self.confirmed, later).into_values().flatten().collect()
    }

    /// When to look again although nothing happened.
    pub(crate) fn next_wakeup(&self) -> Option<Time> {
        self.asked_at.filter(|_| !self.asking.is_empty()).map(|at| at + RETRY_AFTER)
    }

    fn context(&self) -> Vec<u8> {
        [&[MARK], &self.process.to_be_bytes()[..], &self.round.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_a_round_and_late_ones_wait_for_the_next() {
        let now = Time::from_millis(1_000);
        let mut reads = Reads::new(7);
        (1..=2).for_each(|n| reads.add(Ticket(n)));
        let first = reads.question(now).expect("somebody waits");
        reads.add(Ticket(3));
        assert_eq!(reads.question(now), None, "a round is under way");
        reads.answered(&first, 10);
        assert_eq!(reads.ready(9), []);
        assert_eq!(reads.ready(10), [Ticket(1), Ticket(2)]);
        let second = reads.question(now).expect("the third waits");
        assert_ne!(first, second);
        reads.answered(&first, 11);
        assert_eq!(reads.ready(99), [], "an old answer confirms nothing");
        let third = reads.question(now + RETRY_AFTER).expect("it is asked again");
        reads.answered(&second, 12);
        reads.answered(&third, 13);
        assert_eq!(reads.ready(13), [Ticket(3)]);
        assert_eq!(reads.next_wakeup(), None);
    }
}
