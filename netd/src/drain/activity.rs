//! Which connections are busy, from what was seen of them and when.
//!
//! All times are since the drain began; what came before it is cut off at 0 only
//! where it does not matter, as nothing that old is busy.

use super::diag::{Connection, Cookie};
use std::collections::BTreeMap;
use std::time::Duration;

/// A connection that moved no byte for this long is idle.
pub const IDLE_AFTER: Duration = Duration::from_secs(1);

/// What is known of one connection.
#[derive(Clone, Copy, Debug)]
struct Seen {
    moved: u64,
    /// Until when it is busy if nothing moves any more.
    busy_until: Duration,
}

/// The connections of one task.
#[derive(Debug, Default)]
pub struct Activity {
    seen: BTreeMap<Cookie, Seen>,
}

impl Activity {
    /// Takes what the kernel listed; connections that are not in it have ended.
    pub fn take(&mut self, now: Duration, connections: &[Connection]) {
        let earlier = std::mem::take(&mut self.seen);
        let seen = connections.iter().map(|connection| {
            let busy_until = (now + IDLE_AFTER).saturating_sub(connection.quiet_for);
            let busy_until = match earlier.get(&connection.cookie) {
                // What is sent again and again without an answer moves nothing.
                Some(before) if before.moved == connection.moved => before.busy_until,
                Some(before) => busy_until.max(before.busy_until),
                None => busy_until,
            };
            (connection.cookie, Seen { moved: connection.moved, busy_until })
        });
        self.seen = seen.collect();
    }

    /// Forgets a connection that ended.
    pub fn end(&mut self, cookie: Cookie) {
        self.seen.remove(&cookie);
    }

    /// How many are busy.
    pub fn n_busy(&self, now: Duration) -> usize {
        self.seen.values().filter(|seen| seen.busy_until > now).count()
    }

    /// When the last of them is idle if no byte moves any more; `None` if all are.
    pub fn idle_at(&self, now: Duration) -> Option<Duration> {
        self.seen.values().map(|seen| seen.busy_until).filter(|until| *until > now).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn connection(cookie: Cookie, moved: u64, quiet_ms: u64) -> Connection {
        Connection { cookie, moved, quiet_for: ms(quiet_ms) }
    }

    #[test]
    fn a_connection_is_busy_for_a_second_after_its_last_byte() {
        let mut activity = Activity::default();
        activity.take(ms(0), &[connection(1, 10, 1000), connection(2, 10, 5000), connection(3, 10, 400)]);
        assert_eq!((activity.n_busy(ms(0)), activity.idle_at(ms(0))), (1, Some(ms(600))));
        assert_eq!((activity.n_busy(ms(600)), activity.idle_at(ms(600))), (0, None));
        // It moved bytes meanwhile, the last of them 100 ms ago; another woke up.
        activity.take(ms(600), &[connection(1, 11, 50), connection(3, 30, 100)]);
        assert_eq!((activity.n_busy(ms(600)), activity.idle_at(ms(600))), (2, Some(ms(1550))));
        activity.end(1);
        assert_eq!((activity.n_busy(ms(600)), activity.idle_at(ms(600))), (1, Some(ms(1500))));
    }

    #[test]
    fn what_is_sent_again_without_an_answer_does_not_count() {
        let mut activity = Activity::default();
        activity.take(ms(0), &[connection(1, 10, 0)]);
        activity.take(ms(1000), &[connection(1, 10, 20)]);
        assert_eq!(activity.idle_at(ms(1000)), None);
    }

    #[test]
    fn one_that_is_not_listed_any_more_has_ended() {
        let mut activity = Activity::default();
        activity.take(ms(0), &[connection(1, 10, 0)]);
        activity.take(ms(10), &[]);
        assert_eq!(activity.n_busy(ms(10)), 0);
    }
}
