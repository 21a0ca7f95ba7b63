//! Durations in the words of Go, which are Swarm's: `1m30s`, `2160h0m0s`, `500ms`.

use std::time::Duration;

/// Prints a duration as Go does: `1m30s`, `2160h0m0s`, `500ms`.
pub fn print(duration: Duration) -> String {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let fraction = |unit: u64, name: &str| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        if rest == 0 {
            return format!("{whole}{name}");
        }
        let width = unit.ilog10() as usize;
        format!("{whole}.{}{name}", format!("{rest:0width$}").trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
            let rest = Duration::from_nanos(nanos % 60_000_000_000);
            let (seconds, below) = (rest.as_secs(), rest.subsec_nanos());
            let seconds = match below {
                0 => format!("{seconds}s"),
                _ => format!("{seconds}.{}s", format!("{below:09}").trim_end_matches('0')),
            };
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, _) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_gos_are() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300_000_000, "300ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (7_776_000_000_000_000, "2160h0m0s"),
        ];
        for (nanos, printed) in table {
            assert_eq!(print(Duration::from_nanos(nanos)), printed);
        }
    }
}
