//! Configs: values with versions that everyone with access may read.
//!
//! They are stored and delivered as secrets are, sealed, so that one mechanism
//! serves both; only the API returns them in the clear.

use crate::sealed::Sealed;
use crate::service::Annotations;
use crate::{ConfigId, Meta, Section, Time};

/// A config's value is shorter than this, in bytes (1000 KiB, as Swarm's).
pub const CONFIG_MAX: usize = 1000 * 1024;

/// A config. Writer: users (`spec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its id.
    pub id: ConfigId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// Name, labels and versions.
    pub spec: Section<ConfigSpec>,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpec {
    /// Name and labels.
    pub annotations: Annotations,
    /// All kept versions, oldest first, numbers rising; never empty.
    pub versions: Vec<ConfigVersion>,
    /// The number that references without a version follow.
    pub current: u64,
}

/// One version of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigVersion {
    /// 1, 2, 3, …; never reused.
    pub n: u64,
    /// The value under the cluster's sealing key.
    pub sealed: Sealed,
    /// 16 hex digits of its SHA-256.
    pub fingerprint: String,
    /// When it was added.
    pub created_at: Time,
}
