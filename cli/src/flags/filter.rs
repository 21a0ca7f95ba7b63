//! `--filter KEY=VALUE`: checked here against the keys that the managers accept,
//! so that a typing error costs no round trip.

use crate::failure::Failure;
use skep_model::{Kind, filter};

/// One filter as it was given.
pub fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned())),
        _ => Err(format!("invalid filter {text:?}: write it as KEY=VALUE")),
    }
}

/// Refuses what a list of this kind would refuse.
pub fn check(kind: Kind, filters: &[(String, String)]) -> Result<(), Failure> {
    let mut checked = filters.iter().map(|(key, value)| filter::check(kind, key, value));
    checked.try_for_each(|result| result.map_err(|refusal| Failure::usage(refusal.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_key_and_a_value() {
        assert_eq!(parse("Name= web "), Ok(("name".into(), "web".into())));
        assert!(parse("role").is_err() && parse("=x").is_err());
        assert!(check(Kind::Node, &[parse("role=king").expect("a pair")]).is_err());
    }
}
