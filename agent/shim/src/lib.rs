//! What an agent needs to run one task in its own `skep-shim` process: the protocol, the state on disk, the log.
//!
//! One shim is one small single-threaded process per container. It creates the container, holds its stdio, probes
//! its health, reaps it and writes down its exit. It outlives the agent: the agent finds it again by its state
//! folder ([`state::ShimState`]), talks to it over `shim.sock` ([`client::connect`]) and reads its log without it
//! ([`log`]).
//!
//! Invariants:
//! - Secret values and environment travel only over a socket, in frames that are wiped after use. They are never in
//!   arguments, in the shim's own environment or in a file of the state folder.
//! - This library never starts a thread, and nothing in it needs an async runtime.
//! - Whatever a dead shim leaves behind is removed by [`state::cleanup_orphan`] from the state folder and the cgroup
//!   path alone.

pub mod capabilities;
pub mod cgroup;
pub mod client;
pub mod devices;
pub mod file;
pub mod limits;
pub mod log;
pub mod process;
pub mod protocol;
pub mod sensitive;
pub mod spec;
pub mod state;
pub mod wire;
