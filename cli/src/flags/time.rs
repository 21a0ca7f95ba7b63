//! Points in time: RFC 3339, a date, seconds since 1970, or how long ago.

use super::duration;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use skep_model::Time;

/// Parses a time; `now` is what a duration counts back from.
pub fn parse(text: &str, now: Time) -> Result<Time, String> {
    let invalid = || {
        format!("invalid time {text:?}: write it as 2026-01-02T13:23:37Z, as seconds since 1970, or as 42m for 42 minutes ago")
    };
    if let Ok(ago) = duration::parse(text)
        && text != "0"
    {
        return Ok(now - ago);
    }
    if text.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction: String = format!("{fraction:0<9}").chars().take(9).collect();
        let seconds: u64 = seconds.parse().map_err(|_| invalid())?;
        let nanos: u64 = fraction.parse().map_err(|_| invalid())?;
        return seconds.checked_mul(1_000_000_000).and_then(|total| total.checked_add(nanos)).map(Time).ok_or_else(invalid);
    }
    let zoned = |text: &str| text.parse::<Timestamp>().ok();
    let local = |text: &str| text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let timestamp = zoned(text).or_else(|| local(text)).ok_or_else(invalid)?;
    u64::try_from(timestamp.as_nanosecond()).map(Time).map_err(|_| invalid())
}

/// What the clock says.
pub fn now() -> Time {
    u64::try_from(Timestamp::now().as_nanosecond()).map_or(Time::ZERO, Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_many_forms() {
        let now = Time(1_000_000 * 1_000_000_000);
        let table = [
            ("42m", Some(997_480_000_000_000)),
            ("1970-01-01T00:00:10Z", Some(10_000_000_000)),
            ("1970-01-01T01:00:10+01:00", Some(10_000_000_000)),
            ("1970-01-01T00:00:10.5Z", Some(10_500_000_000)),
            ("1970-01-01T00:00:10", Some(10_000_000_000)),
            ("1970-01-02", Some(86_400_000_000_000)),
            ("100", Some(100_000_000_000)),
            ("100.25", Some(100_250_000_000)),
            ("yesterday", None),
            ("", None),
            ("1960-01-01T00:00:00Z", None),
        ];
        for (text, nanos) in table {
            assert_eq!(parse(text, now).ok(), nanos.map(Time), "{text}");
        }
    }
}
