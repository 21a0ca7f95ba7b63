//! Points in time, as an argument.
//!
//! Cores never ask for the time: every call carries it. There are three clocks, and
//! a [`Time`] counts the nanoseconds of one of them; those of two are never compared.
//!
//! - *Boot time* (`CLOCK_BOOTTIME`) of one machine: grows steadily, also while the
//!   machine sleeps, and cannot be set. Every timer counts in it. It means nothing to
//!   another machine, nor after the next boot.
//! - *Cluster time*: what is stored and compared (when a task may start, when a
//!   deployment last progressed, how old a request is). Every entry of the log carries
//!   it; the leader's boot time advances it, and the next leader goes on from the last
//!   one applied. It began at the founder's wall time.
//! - *Wall time*, since 1970-01-01 UTC: for people and certificates. It may be set, so
//!   nothing else is decided by it.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds of one of the clocks above.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The beginning of a clock; also "never" or "not known" where a field says so.
    pub const ZERO: Time = Time(0);

    /// A time this long after the beginning of a clock.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// How long this is after `earlier`; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time of this clock at which another clock showed `there`, given that it
    /// showed `anchor` when this one showed `self`.
    pub fn when_other_showed(self, anchor: Time, there: Time) -> Time {
        if there >= anchor { self + there.since(anchor) } else { self - anchor.since(there) }
    }
}

/// What the clocks of a process show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The machine's boot time.
    pub boot: Time,
    /// Its wall time.
    pub wall: Time,
}

/// Both clocks show the same: what a test needs that tells them not apart.
impl From<Time> for Now {
    fn from(time: Time) -> Self {
        Self { boot: time, wall: time }
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, duration: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}
