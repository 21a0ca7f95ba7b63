//! Why a request was not carried out: decisions are values.
//!
//! A refusal names the field, the value and the way out where there is one.
//! One file of the manager maps these to gRPC status codes and back; the text
//! is what a user reads, so it stands by itself and never holds a secret.

use crate::{Kind, NodeId};
use std::fmt;

/// The most ids that a refusal of an ambiguous reference names.
pub const AMBIGUOUS_IDS_MAX: usize = 8;

/// A request that was refused; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No object of this kind has that name, id or id prefix.
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// The name, id or prefix as it was given.
        reference: String,
    },
    /// Several objects match a reference.
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// The name or prefix as it was given.
        reference: String,
        /// How many match.
        matches: usize,
        /// The ids of the first [`AMBIGUOUS_IDS_MAX`] of them.
        ids: Vec<String>,
    },
    /// The name is taken.
    NameConflict {
        /// The kind of object.
        kind: Kind,
        /// The name that is taken.
        name: String,
    },
    /// The object is still referred to.
    InUse {
        /// The kind of object.
        kind: Kind,
        /// The name of the object.
        name: String,
        /// What refers to it, as a phrase: "the following service: web".
        by: String,
    },
    /// A field has a value that cannot be accepted.
    Invalid {
        /// The field, as the user knows it.
        field: String,
        /// The value as it was given, cut to 128 characters; empty for secrets.
        value: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The object changed since the caller read it.
    OutOfSequence,
    /// The state of the cluster does not allow it; the text says what to do.
    FailedPrecondition(String),
    /// Behaviour that is not built; named so that nothing is silently ignored.
    Unsupported {
        /// The flag, key or option.
        what: String,
    },
    /// The request exceeds a limit.
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A bounded pool has nothing left.
    Exhausted(String),
    /// The caller may not do this.
    PermissionDenied(String),
    /// This manager is not the leader; ask the one named, or retry.
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
        /// Where it is reached now, `host:port`; empty if that is not known. Whoever asks may
        /// know an older address, or none.
        address: String,
    },
    /// The cluster has no leader now; the request may be retried with its id.
    Unavailable(String),
    /// Too few managers are online for anything to be decided; the text names them. It
    /// lasts until somebody brings them back; the request may be retried with its id then.
    NoQuorum(String),
    /// The outcome is unknown: leadership was lost while the proposal was under
    /// way. The request may be repeated with the same id.
    Aborted,
}

impl Refusal {
    /// A refusal of one field's value.
    pub fn invalid(field: impl Into<String>, value: impl AsRef<str>, reason: impl Into<String>) -> Self {
        let value = value.as_ref().chars().take(128).collect();
        Self::Invalid { field: field.into(), value, reason: reason.into() }
    }

    /// Whether the same call with the same request id may be repeated: on
    /// another manager, or on this one a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotLeader { .. } | Self::Unavailable(_) | Self::Aborted | Self::NoQuorum(_))
    }

    /// Whether it is worth repeating the call at once: what stands against it passes by
    /// itself in about a second.
    pub fn passes_soon(&self) -> bool {
        self.is_retryable() && !matches!(self, Self::NoQuorum(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { kind, reference } => write!(f, "{kind} {reference} not found"),
            Self::Ambiguous { kind, reference, matches, ids } => {
                write!(f, "{kind} {reference} is ambiguous ({matches} matches found")?;
                if !ids.is_empty() {
                    write!(f, ": {}", ids.join(", "))?;
                }
                f.write_str(if ids.len() < *matches && !ids.is_empty() { ", …)" } else { ")" })
            }
            Self::NameConflict { kind, name } => write!(f, "name conflicts with an existing object: {kind} {name} exists"),
            Self::InUse { kind, name, by } => write!(f, "{kind} '{name}' is in use by {by}"),
            Self::Invalid { field, value, reason } if value.is_empty() => write!(f, "invalid {field}: {reason}"),
            Self::Invalid { field, value, reason } => write!(f, "invalid {field} {value:?}: {reason}"),
            Self::OutOfSequence => f.write_str("update out of sequence: the object was changed meanwhile, read it again"),
            Self::FailedPrecondition(text)
            | Self::Exhausted(text)
            | Self::PermissionDenied(text)
            | Self::Unavailable(text)
            | Self::NoQuorum(text) => f.write_str(text),
            Self::Unsupported { what } => write!(f, "{what} is not supported by this version of skep"),
            Self::TooLarge { what, limit } => write!(f, "{what} is too large: the limit is {limit}"),
            Self::NotLeader { leader: Some(node), .. } => write!(f, "this manager is not the leader; the leader is node {node}"),
            Self::NotLeader { leader: None, .. } => f.write_str("this manager is not the leader, and no leader is known"),
            Self::Aborted => f.write_str("leadership changed while the request was under way; its outcome is unknown"),
        }
    }
}

impl std::error::Error for Refusal {}
