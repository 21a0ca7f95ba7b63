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
    fn ratios_and_booleans_have_bounds() {
        assert_eq!([ratio("0"), ratio("0.25"), ratio("1")], [Ok(0.0), Ok(0.25), Ok(1.0)]);
        assert!([ratio("1.1"), ratio("-0.1"), ratio("NaN"), ratio("")].iter().all(Result::is_err));
        assert_eq!((boolean("true"), boolean("0"), boolean("yes").is_err()), (Ok(true), Ok(false), true));
    }
}
