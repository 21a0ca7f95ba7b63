//! Each machine's clocks: boot time with its own beginning and drift, wall time with
//! its own error, which somebody may set.
//!
//! The simulator's time is nobody's clock: managers and agents see their machine's
//! alone, and what they ask to be woken at is in it.

use super::Simulation;
use super::plant::Plant;
use super::profile::Profile;
use super::random::Dice;
use skep_model::{Now, Time};
use std::time::Duration;

const MILLION: u128 = 1_000_000;

/// The clocks of one machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// The simulator's time when it booted, and what boot time was then.
    booted: (Time, Time),
    /// How many millionths of a second it gains in a second, less a million.
    rate: u32,
    /// Wall time is ahead of the simulator's by this much, less [`Clock::EVEN`].
    ahead: Duration,
    /// Timers run by wall time (a planted bug).
    is_wall_for_all: bool,
}

impl Clock {
    /// Wall time that is right: errors go both ways from here.
    const EVEN: Duration = Duration::from_secs(10 * 3600);

    /// A machine that boots at `now`.
    pub(super) fn draw(profile: &Profile, dice: &mut Dice, now: Time, plant: Option<Plant>) -> Self {
        let drift = profile.drift;
        let rate = 1_000_000 - drift + dice.below(2 * drift as usize + 1) as u32;
        let boot = Time::from_millis(1_000 + dice.below(10_000_000) as u64);
        let mut clock =
            Self { booted: (now, boot), rate, ahead: Self::EVEN, is_wall_for_all: plant == Some(Plant::TimersByWall) };
        clock.step(profile.skew, dice);
        clock
    }

    /// Somebody sets wall time, up to this far from where it should be. By how much it is off.
    pub(super) fn step(&mut self, most: Duration, dice: &mut Dice) -> i128 {
        self.ahead = dice.between(Self::EVEN - most, Self::EVEN + most);
        self.ahead.as_millis() as i128 - Self::EVEN.as_millis() as i128
    }

    /// The machine boots again.
    pub(super) fn reboot(&mut self, now: Time) {
        self.booted = (now, Time::from_millis(2_000));
    }

    /// What it shows when the simulator's time is `now`.
    pub(super) fn at(&self, now: Time) -> Now {
        let (since, boot) = self.booted;
        let passed = now.since(since).as_nanos() * u128::from(self.rate) / MILLION;
        let boot = boot + Duration::from_nanos(passed as u64);
        let wall = now + self.ahead - Self::EVEN;
        if self.is_wall_for_all { Now { boot: wall, wall } } else { Now { boot, wall } }
    }

    /// The simulator's time at which it shows that boot time, or has for the first time.
    pub(super) fn when(&self, shown: Time) -> Time {
        if self.is_wall_for_all {
            return shown + Self::EVEN - self.ahead;
        }
        let (since, boot) = self.booted;
        let passed = (shown.since(boot).as_nanos() * MILLION).div_ceil(u128::from(self.rate));
        since + Duration::from_nanos(passed as u64)
    }
}

impl Simulation {
    /// What a machine's clocks show.
    pub(super) fn clock(&self, number: usize) -> Now {
        self.machines[number].clock.at(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_never_early_and_at_most_a_microsecond_late() {
        let now = Time::from_millis(1_700_000_000_000);
        for rate in [950_000, 999_999, 1_000_000, 1_000_200, 1_050_000] {
            let clock = Clock { booted: (now, Time::from_millis(77)), rate, ahead: Clock::EVEN, is_wall_for_all: false };
            for nanos in [0, 1, 999_999_999, 50_000_000, 7_200_000_000_000] {
                let shown = Time::from_millis(77) + Duration::from_nanos(nanos);
                let at = clock.when(shown);
                let late = clock.at(at).boot.since(shown);
                assert!(clock.at(at).boot >= shown && late <= Duration::from_micros(1), "{rate} {nanos} {late:?}");
            }
        }
    }
}
