//! `--filter KEY=VALUE`: checked here against the keys that the managers accept,
//! so that a typing error costs no round trip.

use super::number;
use crate::failure::Failure;
use skep_model::{Kind, TaskState};

/// One filter as it was given.
pub fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned())),
        _ => Err(format!("invalid filter {text:?}: write it as KEY=VALUE")),
    }
}

/// The keys that a list of this kind accepts.
pub fn keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Node => &["id", "name", "label", "node.label", "role", "membership"],
        Kind::Service => &["id", "name", "label", "mode", "runtime"],
        Kind::Task => &["id", "name", "label", "service", "node", "desired-state", "runtime"],
        Kind::Secret => &["id", "name", "names", "label"],
        Kind::Config => &["id", "name", "label"],
        Kind::Network => &["driver", "id", "label", "name", "scope", "type", "dangling"],
        Kind::Cluster => &[],
    }
}

/// Refuses what a list of this kind would refuse.
pub fn check(kind: Kind, filters: &[(String, String)]) -> Result<(), Failure> {
    for (key, value) in filters {
        if !keys(kind).contains(&key.as_str()) {
            let known = keys(kind).join(", ");
            return Err(Failure::usage(format!("invalid filter '{key}': lists of {kind}s know {known}")));
        }
        let words: &[&str] = match key.as_str() {
            "role" => &["worker", "manager"],
            "membership" => &["accepted", "pending"],
            "mode" => &["replicated", "global", "replicated-job", "global-job"],
            "runtime" => &["container"],
            "scope" => &["swarm", "local", "global"],
            "type" => &["custom", "builtin"],
            "dangling" => {
                number::boolean(value).map_err(|error| Failure::usage(format!("invalid filter '{key}={value}': {error}")))?;
                continue;
            }
            "desired-state" => {
                value.parse::<TaskState>().map_err(|error| Failure::usage(format!("invalid filter '{key}={value}': {error}")))?;
                continue;
            }
            _ => continue,
        };
        if !words.contains(&value.as_str()) {
            return Err(Failure::usage(format!("invalid filter '{key}={value}': expected one of {}", words.join(", "))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked_by_kind() {
        let table = [
            (Kind::Node, "role=worker", true),
            (Kind::Node, "role=king", false),
            (Kind::Node, "colour=red", false),
            (Kind::Service, "mode=global", true),
            (Kind::Service, "role=worker", false),
            (Kind::Task, "desired-state=running", true),
            (Kind::Task, "desired-state=flying", false),
            (Kind::Secret, "names=x", true),
            (Kind::Config, "names=x", false),
            (Kind::Network, "driver=overlay", true),
            (Kind::Network, "scope=swarm", true),
            (Kind::Network, "scope=world", false),
            (Kind::Network, "dangling=true", true),
            (Kind::Network, "dangling=maybe", false),
            (Kind::Network, "mode=global", false),
        ];
        for (kind, text, valid) in table {
            let filter = parse(text).expect(text);
            assert_eq!(check(kind, &[filter]).is_ok(), valid, "{text}");
        }
        assert!(parse("role").is_err() && parse("=x").is_err());
    }
}
