//! Placement constraints: Swarm's grammar and meaning.
//!
//! `key == value` or `key != value`. Values compare without regard to case, no
//! globs. An unknown key matches no node; a missing label counts as empty.

use crate::Refusal;
use crate::node::{Node, Role};
use std::net::IpAddr;

/// One parsed constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    is_equal: bool,
    value: String,
}

impl Constraint {
    /// Parses `key==value` or `key!=value`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |reason: String| Refusal::invalid("placement constraint", text, reason);
        let (key, is_equal, value) = if let Some((key, value)) = text.split_once("==") {
            (key, true, value)
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, false, value)
        } else {
            return Err(refuse("constraint expected one operator from ==, !=".into()));
        };
        let (key, value) = (key.trim(), value.trim());
        if !is_key(key) {
            return Err(refuse(format!("key '{key}' is invalid")));
        }
        if !is_value(value) {
            return Err(refuse(format!("value '{value}' is invalid")));
        }
        Ok(Self { key: key.into(), is_equal, value: value.into() })
    }

    /// Whether `node` satisfies it.
    pub fn matches(&self, node: &Node) -> bool {
        let same = |actual: &str| actual.eq_ignore_ascii_case(&self.value) == self.is_equal;
        let key = self.key.to_ascii_lowercase();
        match key.as_str() {
            "node.id" => same(node.id.as_str()),
            "node.hostname" => same(&node.description.hostname),
            "node.role" => same(if node.plan.role == Role::Manager { "manager" } else { "worker" }),
            "node.platform.os" => same(&node.description.platform.os),
            "node.platform.arch" => same(&node.description.platform.architecture),
            "node.ip" => self.matches_address(&node.status.address),
            _ if key.starts_with("node.labels.") => same(label(&node.spec.labels, &self.key["node.labels.".len()..])),
            _ if key.starts_with("engine.labels.") => {
                same(label(&node.description.engine_labels, &self.key["engine.labels.".len()..]))
            }
            _ => false,
        }
    }

    fn matches_address(&self, address: &str) -> bool {
        let Ok(address) = address.parse::<IpAddr>() else { return false };
        let contained = match self.value.parse::<ipnet::IpNet>() {
            Ok(net) => net.contains(&address),
            Err(_) => self.value.parse::<IpAddr>() == Ok(address),
        };
        contained == self.is_equal
    }
}

fn label<'a>(labels: &'a std::collections::BTreeMap<String, String>, key: &str) -> &'a str {
    labels.get(key).map_or("", String::as_str)
}

fn is_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 1
        && (bytes[0].is_ascii_alphabetic() || bytes[0] == b'_')
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_value(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b":-_.*()?+[]\\^$|/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_swarms() {
        let table = [
            ("node.labels.ssd==true", true),
            ("node.role != manager", true),
            ("node.ip==10.0.0.0/8", true),
            ("node.role", false),
            ("==x", false),
            ("1x==y", false),
            ("node.role==", false),
            ("node.role=={x}", false),
        ];
        for (text, valid) in table {
            assert_eq!(Constraint::parse(text).is_ok(), valid, "{text}");
        }
    }
}
