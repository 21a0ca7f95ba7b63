//! Where the daemon is: a unix socket of this machine, nothing else so far.

use crate::failure::Failure;
use std::fmt;
use std::path::PathBuf;

/// The socket that is asked when nothing else is said.
pub const DEFAULT: &str = "/run/skep/skep.sock";

/// A daemon's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub PathBuf);

impl Address {
    /// Parses `unix:///path` or an absolute path.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self(PathBuf::from(path)));
        }
        let what = text.split_once("://").map_or(text, |(scheme, _)| scheme);
        Err(Failure::usage(format!(
            "host {text:?}: {what:?} is not supported by this version of skep; give a socket of this machine as unix:///PATH"
        )))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_sockets_are_hosts() {
        let table = [
            ("unix:///run/x.sock", Some("unix:///run/x.sock")),
            ("/run/x.sock", Some("unix:///run/x.sock")),
            ("tcp://10.0.0.1:2377", None),
            ("ssh://m1", None),
            ("unix://relative", None),
            ("", None),
        ];
        for (text, expected) in table {
            let found = Address::parse(text).map(|address| address.to_string());
            assert_eq!(found.as_deref().ok(), expected, "{text}");
        }
        let refusal = Address::parse("tcp://10.0.0.1:2377").expect_err("not supported").text;
        assert!(refusal.contains("\"tcp\" is not supported") && refusal.contains("unix:///PATH"), "{refusal}");
    }
}
