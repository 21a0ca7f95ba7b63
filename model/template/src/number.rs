//! Go's number literals and how Go prints numbers.

use serde_json::Number;

/// Parses an integer or floating-point literal of Go; `None` if it is none or
/// does not fit.
pub(crate) fn parse(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let plain = digits.replace('_', "").to_ascii_lowercase();
    let (radix, body) = match plain.as_bytes() {
        [b'0', b'x', ..] => (16, &plain[2..]),
        [b'0', b'o', ..] => (8, &plain[2..]),
        [b'0', b'b', ..] => (2, &plain[2..]),
        [b'0', rest @ ..] if !rest.is_empty() && rest.iter().all(u8::is_ascii_digit) => (8, &plain[1..]),
        _ => (10, &plain[..]),
    };
    if body.starts_with(['+', '-']) {
        return None;
    }
    if let Ok(magnitude) = u64::from_str_radix(body, radix) {
        return match negative {
            false => Some(Number::from(magnitude)),
            true => 0_i64.checked_sub_unsigned(magnitude).map(Number::from),
        };
    }
    // Rust would also take "inf" and "nan", which start with a letter.
    if radix != 10 {
        return None;
    }
    let value: f64 = plain.parse().ok()?;
    Number::from_f64(if negative { -value } else { value })
}

/// Prints a number as Go's `%v` does: integers plainly, floats as `%g` with an
/// exponent only below 1e-4 and from 1e21.
pub(crate) fn print(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => print_float(float),
        _ => number.to_string(),
    }
}

fn print_float(float: f64) -> String {
    let magnitude = float.abs();
    if magnitude == 0.0 || (1e-4..1e21).contains(&magnitude) {
        return format!("{float}");
    }
    exponent(&format!("{float:e}"))
}

/// Turns Rust's exponent, `1e-7`, into Go's, `1e-07`.
pub(crate) fn exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text.to_owned();
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_go_s() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(parse(text).as_ref().map(print).as_deref(), expect, "{text}");
        };
        check("0", Some("0"));
        check("-3", Some("-3"));
        check("+7", Some("7"));
        check("0x1F", Some("31"));
        check("0b101", Some("5"));
        check("0o17", Some("15"));
        check("017", Some("15"));
        check("1_000", Some("1000"));
        check("1.5", Some("1.5"));
        check(".5", Some("0.5"));
        check("1e3", Some("1000"));
        check("1e21", Some("1e+21"));
        check("1e-7", Some("1e-07"));
        check("-9223372036854775808", Some("-9223372036854775808"));
        check("1x", None);
        check("-", None);
        check("--1", None);
        check("0x-1", None);
        check("-inf", None);
        check("1e999", None);
    }
}
