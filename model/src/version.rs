//! Versions of skep itself: the program and its stored formats.

/// The release of this build, as `skep version` prints it.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The newest format of log entries and snapshots that this build can write.
/// The cluster object holds the lowest `format_max` among its managers and
/// proposers never exceed it.
pub const FORMAT_MAX: u32 = 1;

/// The newest version of the session and peer protocols that this build speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// The oldest version of the session and peer protocols that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
