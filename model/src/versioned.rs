//! What secrets and configs have in common: a name, labels and a value that has versions.
//!
//! One mechanism serves both, from the store to the command line. They stay two
//! types, told apart by the parameter `CONFIDENTIAL`, so that nothing written for
//! the one is taken for the other: a secret's value is shown to tasks only, a
//! config's to everyone with access.

use crate::sealed::Sealed;
use crate::service::Annotations;
use crate::{Meta, Section, Time};

/// At most this many versions are kept; the oldest that no task and no service
/// refers to goes first.
pub const VERSIONS_MAX: usize = 20;

/// A secret or a config, with an id of type `I`. Writer: users (`spec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<I, const CONFIDENTIAL: bool> {
    /// Its id.
    pub id: I,
    /// When it was made and last changed.
    pub meta: Meta,
    /// Name, labels and versions.
    pub spec: Section<VersionedSpec<CONFIDENTIAL>>,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedSpec<const CONFIDENTIAL: bool> {
    /// Name and labels.
    pub annotations: Annotations,
    /// All kept versions, oldest first, numbers rising; never empty.
    pub versions: Vec<ValueVersion<CONFIDENTIAL>>,
    /// The number that references without a version follow.
    pub current: u64,
}

/// One version of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueVersion<const CONFIDENTIAL: bool> {
    /// 1, 2, 3, …; never reused.
    pub n: u64,
    /// The value under the cluster's sealing key.
    pub sealed: Sealed,
    /// 16 hex digits; equal values have equal fingerprints. A secret's is of a
    /// keyed hash, a config's of its SHA-256.
    pub fingerprint: String,
    /// When it was added.
    pub created_at: Time,
}
