//! Secrets: sealed values with versions.

use crate::sealed::Sealed;
use crate::service::Annotations;
use crate::{Meta, SecretId, Section, Time};

/// A secret's value is shorter than this, in bytes (500 KiB, as Swarm's).
pub const SECRET_MAX: usize = 500 * 1024;
/// A secret or config keeps at most this many versions; the oldest that no task
/// and no service refers to goes first.
pub const VERSIONS_MAX: usize = 20;

/// A secret. Writer: users (`spec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub id: SecretId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// Name, labels and versions.
    pub spec: Section<SecretSpec>,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSpec {
    /// Name and labels.
    pub annotations: Annotations,
    /// All kept versions, oldest first, numbers rising; never empty.
    pub versions: Vec<SecretVersion>,
    /// The number that references without a version follow.
    pub current: u64,
}

/// One version of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// 1, 2, 3, …; never reused.
    pub n: u64,
    /// The value under the cluster's sealing key.
    pub sealed: Sealed,
    /// 16 hex digits of a keyed hash: equal values have equal fingerprints.
    pub fingerprint: String,
    /// When it was added.
    pub created_at: Time,
}
