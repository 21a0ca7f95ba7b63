//! Durations as Go writes them: `1m30s`, `1.5h`, `300ms`, `0`.

pub use skep_model::duration::print;
use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Parses a duration that is not negative.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}: write it as 1m30s, with the units ns, us, ms, s, m and h");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?.1;
        let nanos = scaled(number, scale).ok_or_else(invalid)?;
        total = total.checked_add(nanos).filter(|&total| i64::try_from(total).is_ok()).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

/// A decimal number times a scale, without rounding errors of floats.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let table = [
            ("1m30s", Some(90_000_000_000), "1m30s"),
            ("2160h", Some(7_776_000_000_000_000), "2160h0m0s"),
            ("1.5h", Some(5_400_000_000_000), "1h30m0s"),
            ("300ms", Some(300_000_000), "300ms"),
            ("1.5s", Some(1_500_000_000), "1.5s"),
            (".5s", Some(500_000_000), "500ms"),
            ("10us", Some(10_000), "10µs"),
            ("1500ns", Some(1_500), "1.5µs"),
            ("0", Some(0), "0s"),
            ("", None, ""),
            ("5", None, ""),
            ("-5s", None, ""),
            ("5x", None, ""),
            ("1..5s", None, ""),
            ("s", None, ""),
            ("99999999999h", None, ""),
        ];
        for (text, nanos, printed) in table {
            let found = parse(text).ok();
            assert_eq!(found, nanos.map(Duration::from_nanos), "{text}");
            assert_eq!(found.map(print).unwrap_or_default(), printed, "{text}");
        }
    }
}
