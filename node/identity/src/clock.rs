//! Wall time for the shells, through one function.
//!
//! A test starts a node with another time by an offset that the binary sets once,
//! before anything else reads the clock; TLS reads the same clock through
//! [`WallClock`]. Cores take the time as an argument and never call this.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use skep_model::Time;

static OFFSET_MS: OnceLock<i64> = OnceLock::new();

/// The offset was set before; it can be set only once in a process.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the clock offset is already set to {0} ms")]
pub struct OffsetAlreadySet(pub i64);

/// Moves this process's wall clock by `offset_ms` milliseconds, for good.
///
/// # Errors
/// If an offset was set before.
pub fn set_offset_ms(offset_ms: i64) -> Result<(), OffsetAlreadySet> {
    OFFSET_MS.set(offset_ms).map_err(|_| OffsetAlreadySet(offset_ms_set()))
}

/// The offset in force, in milliseconds.
pub fn offset_ms_set() -> i64 {
    OFFSET_MS.get().copied().unwrap_or(0)
}

/// The wall time, offset included. A clock before 1970 reads as 1970.
#[allow(clippy::disallowed_methods)] // This is the one function that reads the wall clock.
pub fn now() -> Time {
    let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    shifted(Time::ZERO + real, offset_ms_set())
}

/// Whole seconds since 1970 of a time.
pub fn unix_seconds(time: Time) -> u64 {
    time.0 / 1_000_000_000
}

/// A time as people read it, in UTC: `2026-01-31T08:15:00Z`.
pub fn readable(time: Time) -> String {
    let seconds = unix_seconds(time);
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The clock as TLS wants it.
#[derive(Debug, Clone, Copy)]
pub struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(now().0)))
    }
}

fn shifted(time: Time, offset_ms: i64) -> Time {
    let by = Duration::from_millis(offset_ms.unsigned_abs());
    if offset_ms < 0 { time - by } else { time + by }
}

/// Days since 1970 to year, month and day of the Gregorian calendar: years are
/// counted from March, so that the leap day is the last of a year.
fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        for (seconds, expect) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(readable(Time(seconds * 1_000_000_000)), expect);
        }
    }

    #[test]
    fn an_offset_moves_both_ways() {
        let noon = Time::from_millis(10_000);
        assert_eq!(shifted(noon, 500), Time::from_millis(10_500));
        assert_eq!(shifted(noon, -500), Time::from_millis(9_500));
        assert_eq!(shifted(noon, i64::MIN), Time::ZERO);
    }
}
