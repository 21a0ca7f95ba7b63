//! The keys and words of filters: one table for whoever asks and whoever answers.

use crate::{Kind, Refusal, TaskState};
use std::collections::BTreeMap;

/// The keys of events. Those of kinds that a cluster does not have choose nothing.
pub const EVENT_KEYS: [&str; 15] = [
    "config",
    "container",
    "daemon",
    "event",
    "id",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// The keys of watches besides those of events.
pub const WATCH_KEYS: [&str; 2] = ["name", "task"];

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

/// Refuses a key that no list of this kind knows, and a word that its key does not have.
pub fn check(kind: Kind, key: &str, value: &str) -> Result<(), Refusal> {
    if !keys(kind).contains(&key) {
        let known = keys(kind).join(", ");
        return Err(Refusal::invalid("filter", key, format!("lists of {kind}s know the keys {known}")));
    }
    let words: &[&str] = match key {
        "role" => &["worker", "manager"],
        "membership" => &["accepted", "pending"],
        "mode" => &["replicated", "global", "replicated-job", "global-job"],
        "runtime" => &["container"],
        "scope" => &["swarm", "local", "global"],
        "type" => &["custom", "builtin"],
        "dangling" if boolean(value).is_none() => &["true", "false"],
        "desired-state" => {
            let state = value.parse::<TaskState>().map(drop);
            return state.map_err(|text| Refusal::invalid("filter desired-state", value, text));
        }
        _ => return Ok(()),
    };
    if words.contains(&value) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("filter {key}"), value, format!("it can be {}", words.join(", "))))
}

/// Refuses a key that events do not have.
pub fn check_event(key: &str) -> Result<(), Refusal> {
    if EVENT_KEYS.contains(&key) {
        return Ok(());
    }
    Err(Refusal::invalid("filter", key, format!("events know the keys {}", EVENT_KEYS.join(", "))))
}

/// Refuses a key that watches do not have.
pub fn check_watch(key: &str) -> Result<(), Refusal> {
    if EVENT_KEYS.contains(&key) || WATCH_KEYS.contains(&key) {
        return Ok(());
    }
    let known = [&EVENT_KEYS[..], &WATCH_KEYS].concat().join(", ");
    Err(Refusal::invalid("filter", key, format!("watches know the keys {known}")))
}

/// The words that Go's flags take for a boolean.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Whether labels hold `key` or `key=value`.
pub fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|actual| actual == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked_by_kind() {
        let table = [
            (Kind::Node, "role", "worker", true),
            (Kind::Node, "role", "king", false),
            (Kind::Node, "colour", "red", false),
            (Kind::Service, "mode", "global", true),
            (Kind::Service, "role", "worker", false),
            (Kind::Task, "desired-state", "running", true),
            (Kind::Task, "desired-state", "flying", false),
            (Kind::Secret, "names", "x", true),
            (Kind::Config, "names", "x", false),
            (Kind::Network, "driver", "overlay", true),
            (Kind::Network, "scope", "swarm", true),
            (Kind::Network, "scope", "world", false),
            (Kind::Network, "dangling", "true", true),
            (Kind::Network, "dangling", "0", true),
            (Kind::Network, "dangling", "maybe", false),
            (Kind::Network, "mode", "global", false),
        ];
        for (kind, key, value, valid) in table {
            assert_eq!(check(kind, key, value).is_ok(), valid, "{kind} {key}={value}");
        }
        assert!(check_event("service").is_ok());
        let text = check_event("colour").expect_err("unknown").to_string();
        assert!(text.starts_with("invalid filter \"colour\": events know the keys config, "), "{text}");
        assert!(check_watch("service").is_ok() && check_watch("task").is_ok() && check_event("task").is_err());
        let text = check_watch("colour").expect_err("unknown").to_string();
        assert!(text.starts_with("invalid filter \"colour\": watches know the keys config, "), "{text}");
    }
}
