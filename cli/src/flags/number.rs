//! Shares of CPUs, ratios, and booleans as Go's flags read them.

/// Parses a number of CPUs, such as `0.5`, to billionths of a core.
pub fn cpus(text: &str) -> Result<u64, String> {
    let invalid = || format!("invalid number of CPUs {text:?}: write it as 0.5 or 2, with at most nine decimals");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || text == "." || !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        return Err(invalid());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    whole.checked_mul(1_000_000_000).and_then(|nanos| nanos.checked_add(fraction)).ok_or_else(invalid)
}

/// Parses a ratio from 0 to 1.
pub fn ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("invalid ratio {text:?}: a ratio is a number from 0 to 1")),
    }
}

/// Parses a count, such as a number of tasks.
pub fn count(text: &str) -> Result<u64, String> {
    whole(text, 0, u64::MAX)
}

/// Parses a limit of processes; 0 is none.
pub fn pids(text: &str) -> Result<u64, String> {
    whole(text, 0, skep_model::resources::PIDS_MAX)
}

/// Parses a number of replicas.
pub fn replicas(text: &str) -> Result<u64, String> {
    whole(text, 0, skep_model::service::REPLICAS_MAX)
}

/// Parses a count that is stored in 32 bits.
pub fn count32(text: &str) -> Result<u32, String> {
    whole(text, 0, u32::MAX)
}

/// Parses a count of at least 1.
pub fn positive(text: &str) -> Result<u64, String> {
    whole(text, 1, u64::MAX)
}

/// Parses the length of a subnet's mask.
pub fn mask_length(text: &str) -> Result<u32, String> {
    whole(text, 1, skep_model::cluster::SUBNET_SIZE_MAX)
}

/// Parses what the kernel adds to a task's OOM score.
pub fn oom_score_adj(text: &str) -> Result<i32, String> {
    whole(text, -1000, 1000)
}

/// Parses how many old tasks a slot keeps; a negative number keeps all.
pub fn history(text: &str) -> Result<i64, String> {
    whole(text, i64::MIN, i64::MAX)
}

/// A whole number within bounds, as its error says.
fn whole<T>(text: &str, min: T, max: T) -> Result<T, String>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<i128>,
{
    // The library takes `+5`, as Go does.
    let number = text.parse::<i128>().ok().and_then(|number| T::try_from(number).ok());
    number.filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        let bounds = format!("{min} to {max}");
        format!("invalid number {text:?}: it must be a whole number from {bounds}")
    })
}

/// Parses an IP address.
pub fn address(text: &str) -> Result<std::net::IpAddr, String> {
    text.parse().map_err(|_| format!("invalid address {text:?}: write it as 10.0.0.53 or fd00::53"))
}

/// Parses a boolean as Go does.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid boolean {text:?}: true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_exact() {
        let table = [
            ("0.5", Some(500_000_000)),
            ("2", Some(2_000_000_000)),
            (".001", Some(1_000_000)),
            ("1.", Some(1_000_000_000)),
            ("0.0000000001", None),
            ("-1", None),
            ("", None),
            (".", None),
            ("1e3", None),
            ("99999999999999", None),
        ];
        for (text, nanos) in table {
            assert_eq!(cpus(text).ok(), nanos, "{text}");
        }
    }

    #[test]
    fn whole_numbers_say_their_bounds() {
        let texts = ["-1", "abc", "", "1.5", "99999999999999999999999999999999999999999"];
        for text in texts {
            let expected = format!("invalid number {text:?}: it must be a whole number from 0 to 18446744073709551615");
            assert_eq!(count(text), Err(expected));
            let expected = format!("invalid number {text:?}: it must be a whole number from 0 to 100000");
            assert_eq!(replicas(text), Err(expected));
        }
        assert_eq!((count("0"), count32("7"), positive("1"), mask_length("29")), (Ok(0), Ok(7), Ok(1), Ok(29)));
        assert!(replicas("100000").is_ok() && replicas("100001").is_err());
        assert!(positive("0").is_err() && mask_length("30").is_err() && count32("4294967296").is_err());
        assert_eq!((oom_score_adj("-1000"), history("-1")), (Ok(-1000), Ok(-1)));
        let expected = "invalid number \"1001\": it must be a whole number from -1000 to 1000";
        assert_eq!(oom_score_adj("1001"), Err(expected.into()));
    }

    #[test]
    fn ratios_and_booleans_have_bounds() {
        assert_eq!([ratio("0"), ratio("0.25"), ratio("1")], [Ok(0.0), Ok(0.25), Ok(1.0)]);
        assert!([ratio("1.1"), ratio("-0.1"), ratio("NaN"), ratio("")].iter().all(Result::is_err));
        assert_eq!((boolean("true"), boolean("0"), boolean("yes").is_err()), (Ok(true), Ok(false), true));
    }
}
