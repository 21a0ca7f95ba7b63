//! Secrets: sealed values with versions that only tasks see.

use crate::SecretId;
use crate::versioned::{ValueVersion, Versioned, VersionedSpec};

/// A secret's value is shorter than this, in bytes (500 KiB, as Swarm's).
pub const SECRET_MAX: usize = 500 * 1024;

/// A secret.
pub type Secret = Versioned<SecretId, true>;
/// The section of a secret that users write.
pub type SecretSpec = VersionedSpec<true>;
/// One version of a secret.
pub type SecretVersion = ValueVersion<true>;
