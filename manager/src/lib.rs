//! The manager's shell: everything around the core that touches the world.
//!
//! `skep-manager-core` decides; here are the disk, the other managers, the
//! agents' sessions, the API, TLS and the opening of sealed values. The loop in
//! [`drive`] is the only one that talks to the core.

pub mod api;
mod channels;
pub mod disk;
mod drive;
mod images;
mod inbox;
mod logs;
mod peers;
mod persist;
mod probes;
mod rates;
mod sealing;
mod serve;
mod sessions;
mod snapshots;
mod start;
mod waiting;
mod watches;
mod world;

pub use api::Leadership;
pub use api::control::ControlApi;
pub use sealing::NewCluster;
pub use skep_proto::status::{from_refusal, to_refusal};
pub use start::{Founding, Manager, NoteLog, Start, StartError, found};
