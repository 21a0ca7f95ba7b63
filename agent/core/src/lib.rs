//! The brain of an agent: what a node should do next.
//!
//! Events in, actions out, as in `skep-manager-core`: no IO, no clock, no
//! randomness, no unordered maps. The shell (`skep-agent`) and the simulator
//! interpret [`Action`].
//!
//! Invariants: a task moves forward only; a container is started at most once
//! for each (task, attempt); with a session only the manager restarts, by a new
//! task; without one the agent may restart a container *in place* under the same
//! policy. Values of secrets never get here: only which versions are present.

pub mod action;
pub mod agent;
pub mod event;
pub mod task;

pub use action::Action;
pub use agent::Agent;
pub use event::{Event, Exit, Found, RecoveredTask};
