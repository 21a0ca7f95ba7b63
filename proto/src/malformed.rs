//! The one error of decoding: which field, and what is wrong with it.

use std::fmt;

/// A message that does not say what it must, or says too much.
///
/// The value itself is never repeated, for it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {field}: {reason}")]
pub struct Malformed {
    /// The path of the field, as `spec.task_template.container_spec.env[3]`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Malformed {
    /// An error in a field of the message at hand.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same error, seen from the message that holds `outer`.
    pub fn within(self, outer: impl fmt::Display) -> Self {
        let joint = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Self { field: format!("{outer}{joint}{}", self.field), reason: self.reason }
    }

    pub(crate) fn missing() -> Self {
        Self::new("", "must be given")
    }
}

/// For users: the request had a field that cannot be accepted.
impl From<Malformed> for skep_model::Refusal {
    fn from(error: Malformed) -> Self {
        Self::invalid(error.field, "", error.reason)
    }
}
