//! Go's scalars in JSON: times in RFC 3339, durations in nanoseconds, floats of 32 bits, and the
//! zero values that `omitempty` leaves out.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_model::Time;
use std::time::Duration;

/// Whether a value is the one that Go's `omitempty` leaves out.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Nanoseconds; what does not fit is as long as can be.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A time in RFC 3339, in UTC, with as many decimals as it has. [`Time::ZERO`], which is no
/// time, is Go's zero time.
pub fn stamp(time: Time) -> String {
    if time == Time::ZERO {
        return "0001-01-01T00:00:00Z".into();
    }
    let (seconds, nanos) = (time.0 / 1_000_000_000, time.0 % 1_000_000_000);
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let decimals = match nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{decimals}Z")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar. Years are
/// counted from March, so that a leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const FROM_0000_03_01: u64 = 719_468;
    let days = days + FROM_0000_03_01;
    let (cycle, day_of_cycle) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let leap_days = day_of_cycle / 1_460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // Months have 30.6 days on average, from March on.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

/// A float of 32 bits, written with the digits that it needs, and without a fraction where it
/// has none, as Go writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Float(pub f32);

impl Serialize for Float {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && (0.0..1e9).contains(&self.0) {
            return serializer.serialize_u64(self.0 as u64);
        }
        // The shortest digits that mean this number of 32 bits.
        serializer.serialize_f64(self.0.to_string().parse().unwrap_or_else(|_| f64::from(self.0)))
    }
}

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(f64::deserialize(deserializer)? as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_docker_prints_them() {
        for (nanos, expected) in [
            (0, "0001-01-01T00:00:00Z"),
            (1_500_000_000, "1970-01-01T00:00:01.5Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (951_868_799_000_000_001, "2000-02-29T23:59:59.000000001Z"),
            (1_078_012_800_000_000_000, "2004-02-29T00:00:00Z"),
            (1_795_962_089_632_525_450, "2026-11-29T14:21:29.63252545Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(stamp(Time(nanos)), expected);
        }
    }

    #[test]
    fn floats_have_the_digits_of_32_bits() {
        for (float, expected) in [(0.0, "0"), (1.0, "1"), (0.1, "0.1"), (0.25, "0.25"), (0.333, "0.333")] {
            let value = serde_json::to_value(Float(float)).expect("a number");
            assert_eq!(value.to_string(), expected);
            assert_eq!(serde_json::from_value::<Float>(value).expect("a number").0, float);
        }
    }
}
