//! How long ago, in docker's words: `2 minutes`, `About an hour`.

use jiff::Timestamp;
use skep_model::Time;
use std::time::Duration;

/// The words for a length of time.
pub fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (duration.as_secs_f64() / 3600.0).round() as u64);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// The words for a point in the past, with `ago`; the other words stay small.
pub fn ago(time: Time, now: Time) -> String {
    format!("{} ago", words(now.since(time)))
}

/// RFC 3339 in UTC, with nanoseconds where there are some.
pub fn stamp(time: Time) -> String {
    Timestamp::from_nanosecond(i128::from(time.0)).map_or_else(|_| "0001-01-01T00:00:00Z".into(), |stamp| stamp.to_string())
}

/// As Go prints a time.
pub fn go(time: Time) -> String {
    let stamp = stamp(time);
    format!("{} +0000 UTC", stamp.trim_end_matches('Z').replace('T', " "))
}

/// As docker prints a time for people: Go's form, in small letters.
pub fn people(time: Time) -> String {
    go(time).to_lowercase()
}

/// RFC 3339 in UTC, always with nine decimals, as logs and events print it.
pub fn exact_stamp(time: Time) -> String {
    Timestamp::from_nanosecond(i128::from(time.0)).map_or_else(|_| "0001-01-01T00:00:00Z".into(), |stamp| format!("{stamp:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_dockers_words() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (2 * 3600, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ];
        for (seconds, expected) in table {
            assert_eq!(words(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn stamps_are_rfc_3339() {
        assert_eq!(stamp(Time(1_500_000_000)), "1970-01-01T00:00:01.5Z");
        assert_eq!(people(Time(1_500_000_000)), "1970-01-01 00:00:01.5 +0000 utc");
        assert_eq!(exact_stamp(Time(1_500_000_000)), "1970-01-01T00:00:01.500000000Z");
    }
}
