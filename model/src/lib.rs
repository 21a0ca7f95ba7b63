//! The nouns of skep and their invariants: one vocabulary for every package.
//!
//! Nothing in here does anything: no IO, no clock, no randomness, no unordered
//! maps. Times and random bytes are arguments. Wire messages are translated to
//! these types at the border (`skep-proto`), so a value that exists is valid in
//! form; whether it is valid *in the cluster* is decided in `manager/core`.
//!
//! A stored object consists of sections with a version and one writer each:
//! `spec` is written for users, `status` and `description` for the agent that
//! reported them, `plan` by the leader. See [`object::Section`].

pub mod address;
pub mod assignment;
pub mod cluster;
pub mod config;
pub mod constraint;
pub mod container;
pub mod deployment;
pub mod duration;
pub mod endpoint;
pub mod filter;
pub mod guard;
pub mod id;
pub mod image;
pub mod name;
pub mod network;
pub mod node;
pub mod object;
pub mod overlay;
pub mod place;
pub mod refusal;
pub mod request;
pub mod resources;
pub mod said;
pub mod sealed;
pub mod secret;
pub mod service;
pub mod task;
pub mod task_state;
pub mod text;
pub mod time;
pub mod version;
pub mod versioned;

pub use id::{ClusterId, ConfigId, Id, NetworkId, NodeId, RequestId, SecretId, ServiceId, SessionId, TaskId};
pub use object::{Kind, Meta, Object, ObjectRef, Section};
pub use refusal::Refusal;
pub use task_state::TaskState;
pub use time::{Now, Time};
