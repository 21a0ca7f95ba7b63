//! Placement constraints: Swarm's grammar and meaning.
//!
//! `key == value` or `key != value`. Values compare without regard to case, no
//! globs. An unknown key matches no node; a missing label counts as empty.

use crate::Refusal;
use crate::node::{Node, Role};
use std::net::IpAddr;

/// What a constraint can ask of, beside labels.
const KEYS: [&str; 6] = ["node.id", "node.hostname", "node.role", "node.platform.os", "node.platform.arch", "node.ip"];
/// What keys of labels begin with.
const LABELS: [&str; 2] = ["node.labels.", "engine.labels."];

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

    /// Refuses what no node can ever satisfy, or every node does: an unknown key, and a value
    /// that a key cannot have.
    pub fn check(&self) -> Result<(), Refusal> {
        let text = format!("{}{}{}", self.key, if self.is_equal { "==" } else { "!=" }, self.value);
        let refuse = |reason: String| Err(Refusal::invalid("placement constraint", &text, reason));
        let key = self.key.to_ascii_lowercase();
        let is_label = |prefix: &str| key.strip_prefix(prefix).is_some_and(|label| !label.is_empty());
        if !KEYS.contains(&key.as_str()) && !LABELS.iter().any(|prefix| is_label(prefix)) {
            let known = KEYS.join(", ");
            return refuse(format!(
                "key '{}' is not known; the keys are {known}, node.labels.NAME and engine.labels.NAME",
                self.key
            ));
        }
        let is_role = ["manager", "worker"].iter().any(|role| role.eq_ignore_ascii_case(&self.value));
        if key == "node.role" && !is_role {
            return refuse("a node's role is manager or worker".into());
        }
        let is_address = self.value.parse::<IpAddr>().is_ok() || self.value.parse::<ipnet::IpNet>().is_ok();
        if key == "node.ip" && !is_address {
            return refuse("node.ip is compared with an address or a subnet, such as 10.0.0.0/24".into());
        }
        Ok(())
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

    #[test]
    fn what_no_node_can_satisfy_is_refused_by_name() {
        let table = [
            ("node.role==manager", None),
            ("Node.Role != Worker", None),
            ("node.labels.zone==a", None),
            ("engine.labels.ssd==true", None),
            ("node.ip!=10.0.0.0/8", None),
            ("node.ip==fd00::1", None),
            ("node.rol==manager", Some("key 'node.rol' is not known; the keys are node.id, node.hostname, node.role")),
            ("node.label.zone==a", Some("node.labels.NAME")),
            ("node.labels.==a", Some("is not known")),
            ("hostname==m1", Some("node.hostname")),
            ("node.role==manger", Some("a node's role is manager or worker")),
            ("node.ip==m1", Some("an address or a subnet")),
        ];
        for (text, reason) in table {
            let checked = Constraint::parse(text).expect(text).check().map_err(|refusal| refusal.to_string());
            match reason {
                None => assert_eq!(checked, Ok(()), "{text}"),
                Some(reason) => assert!(checked.as_ref().is_err_and(|error| error.contains(reason)), "{text}: {checked:?}"),
            }
        }
    }
}
