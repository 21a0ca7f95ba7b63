//! The replicated store: tables of objects, their indexes, and the outcomes of
//! recent requests.
//!
//! Tables are persistent ordered maps, so a clone of the store is cheap and
//! never changes: reads, snapshots and slow listings work on a clone while the
//! loop goes on. [`apply`] is the only writer. It is a pure function of the
//! store, the index and the transaction: no clock, no chance, no unordered map.

pub mod apply;
mod claims;
pub mod codec;
mod conflict;
pub mod index;
mod object;
pub mod requests;
pub mod resolve;
pub mod snapshot;
mod state;
pub mod watch;
mod weight;

#[cfg(test)]
mod tests;

pub use conflict::Conflict;
pub use index::TaskCounts;
pub use object::{Change, StoredObject};
pub use snapshot::SnapshotContent;
pub use state::{Store, Table};
