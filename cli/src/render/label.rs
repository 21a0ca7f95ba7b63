//! Labels in filters.

use std::collections::BTreeMap;

/// Whether labels hold `key` or `key=value`.
pub fn holds(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|actual| actual == value),
        None => labels.contains_key(wanted),
    }
}
