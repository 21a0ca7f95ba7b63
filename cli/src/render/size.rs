//! Amounts of bytes for people.

/// Decimal units with three digits, as image sizes: `12.3MB`.
pub fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

/// Binary units with four digits, as memory: `1.953GiB`.
pub fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    let whole = (size as u64).max(1).ilog10() as usize + 1;
    let text = format!("{size:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        let table = [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1024, "1.02kB", "1KiB"),
            (12_345_678, "12.3MB", "11.77MiB"),
            (2_097_152_000, "2.1GB", "1.953GiB"),
        ];
        for (bytes, small, exact) in table {
            assert_eq!((decimal(bytes).as_str(), binary(bytes).as_str()), (small, exact));
        }
    }
}
