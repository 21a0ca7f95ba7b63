//! Snapshots: the store as records in key order, and back.

use super::Store;

/// The decoded content of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SnapshotContent {
    /// The store as it was; its indexes are rebuilt while decoding.
    pub store: Store,
}
