//! The brain of an agent: what a node should do next.
//!
//! Events in, actions out, as in `skep-manager-core`: no IO, no clock, no
//! randomness, no unordered maps. The shell (`skep-agent`) and the simulator
//! interpret [`Action`].
//!
//! Invariants: a task moves forward only; a container is started at most once
//! for each (task, attempt), and only when that is on record; with a session only
//! the manager restarts, by a new task; without one the agent may restart a
//! container under the same policy. A task that a restarted daemon only finds on
//! disk is not started before a manager names it, unless its service says
//! `--start-offline`. A container that runs is never ended because it, its shim or
//! its record cannot be read. Values of secrets never get here: only which versions are present.

pub mod action;
pub mod agent;
pub mod event;
pub mod task;

pub use action::Action;
pub use agent::Agent;
pub use event::{Event, Exit, Found, RecoveredTask, UnreadableTask};
