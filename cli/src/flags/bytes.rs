//! Amounts of memory: `512m`, `1.5GiB`, `4096`; units are powers of 1024.

/// Parses an amount of bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let invalid = || format!("invalid size {text:?}: write it as a number with one of the units b, k, m, g, t");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" if unit.contains('i') => return Err(invalid()),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    if unit.len() > 3 || (unit.len() == 2 && !unit.ends_with('b')) {
        return Err(invalid());
    }
    let scale = 1024_u64.pow(power);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    let part = match fraction {
        "" if number.contains('.') => return Err(invalid()),
        "" => 0.0,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("0.{digits}").parse::<f64>().map_err(|_| invalid())?
        }
        _ => return Err(invalid()),
    };
    whole
        .checked_mul(scale)
        .and_then(|bytes| bytes.checked_add((part * scale as f64) as u64))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        let table = [
            ("4096", Some(4096)),
            ("4096b", Some(4096)),
            ("512k", Some(524_288)),
            ("512m", Some(536_870_912)),
            ("512MB", Some(536_870_912)),
            ("1.5GiB", Some(1_610_612_736)),
            ("1g", Some(1_073_741_824)),
            ("0", Some(0)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1.m", None),
            ("1x", None),
            ("1 m", Some(1_048_576)),
            ("1mm", None),
            ("1ib", None),
            ("99999999p", None),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text).ok(), bytes, "{text}");
        }
    }
}
