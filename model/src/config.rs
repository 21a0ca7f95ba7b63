//! Configs: values with versions that everyone with access may read.
//!
//! They are stored and delivered as secrets are, sealed, so that one mechanism
//! serves both; only the API returns them in the clear.

use crate::ConfigId;
use crate::versioned::{ValueVersion, Versioned, VersionedSpec};

/// A config's value is shorter than this, in bytes (1000 KiB, as Swarm's).
pub const CONFIG_MAX: usize = 1000 * 1024;

/// A config.
pub type Config = Versioned<ConfigId, false>;
/// The section of a config that users write.
pub type ConfigSpec = VersionedSpec<false>;
/// One version of a config.
pub type ConfigVersion = ValueVersion<false>;
