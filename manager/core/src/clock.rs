//! Cluster time: what the newest entry that was applied says, advanced by this
//! manager's own boot time.
//!
//! A follower sets its clock by every entry. A leader's clock only grows, and what it
//! proposes carries it; so the next leader goes on from the last entry applied, plus
//! what has passed since on its own machine. Wall clocks have no part in it.

use crate::store::Store;
use skep_model::{Now, Time};

/// One moment, as the leader counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Boot time of this manager's machine, for what is kept in memory.
    pub local: Time,
    /// Cluster time, for what is stored.
    pub cluster: Time,
}

/// Both clocks show the same: what a test needs that tells them not apart.
impl From<Time> for Moment {
    fn from(time: Time) -> Self {
        Self { local: time, cluster: time }
    }
}

/// Two clocks, and what they showed at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClusterClock(Moment);

impl ClusterClock {
    /// The clock of a manager that starts. That of a new cluster begins at wall time.
    pub(crate) fn new(store: &Store, now: Now) -> Self {
        let cluster = if store.time == Time::ZERO { now.wall } else { store.time };
        Self(Moment { local: now.boot, cluster })
    }

    /// Sets the clock by what was applied just now.
    pub(crate) fn set(&mut self, store: &Store, local: Time) {
        if store.time != Time::ZERO {
            self.0 = Moment { local, cluster: store.time };
        }
    }

    /// The present moment.
    pub(crate) fn moment(&self, local: Time) -> Moment {
        Moment { local, cluster: self.0.cluster.when_other_showed(self.0.local, local) }
    }

    /// The boot time at which cluster time will be `at`.
    pub(crate) fn local(&self, at: Time) -> Time {
        self.0.local.when_other_showed(self.0.cluster, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn cluster_time_begins_at_wall_time_and_goes_on_from_what_was_applied() {
        let mut store = Store::empty(1);
        let mut clock = ClusterClock::new(&store, Now { boot: at(50), wall: at(9_000) });
        assert_eq!(clock.moment(at(52)).cluster, at(9_002));
        clock.set(&store, at(55));
        assert_eq!(clock.moment(at(60)).cluster, at(9_010), "nothing was applied that says the time");
        store.time = at(8_000);
        clock.set(&store, at(70));
        assert_eq!(clock.moment(at(71)), Moment { local: at(71), cluster: at(8_001) });
        assert_eq!((clock.local(at(8_005)), clock.local(at(7_999))), (at(75), at(69)));
        let restarted = ClusterClock::new(&store, Now { boot: at(3), wall: at(20_000) });
        assert_eq!(restarted.moment(at(3)).cluster, at(8_000));
        assert_eq!(restarted.local(at(8_000) + Duration::from_secs(1)), at(4));
    }
}
