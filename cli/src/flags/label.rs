//! `key=value` pairs: labels and kernel parameters.

use std::collections::BTreeMap;

/// Parses a label; a key alone has an empty value.
pub fn parse(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() {
        return Err(format!("invalid label {text:?}: it has no key"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses a kernel parameter, which needs a value.
pub fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("invalid sysctl {text:?}: write it as KEY=VALUE")),
    }
}

/// All of them; the last of one key wins.
pub fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_need_a_key() {
        assert_eq!(parse("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse("a"), Ok(("a".into(), String::new())));
        assert!(parse("=b").is_err() && parse("").is_err());
        assert!(sysctl("net.core.somaxconn=1").is_ok() && sysctl("x").is_err() && sysctl("x=").is_err());
    }
}
