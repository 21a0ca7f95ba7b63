//! Docker's objects and events as JSON: what `inspect`, `--format` and `events` print, and what a
//! REST server would send and receive.
//!
//! - **From the model**: [`Service`], [`Node`], [`Task`], [`Network`], [`Secret`], [`Config`] and
//!   [`Event`] have Docker's keys, in Docker's order and types, and leave out what Docker leaves
//!   out. `docker/tests` compares each of them with what the docker CLI prints.
//! - **To the model**: [`ServiceSpec`], [`NetworkSpec`], [`ValueSpec`] and [`NodeSpec`] are read
//!   from Docker's JSON. Unlike Docker, which drops keys that it does not know, a key with a
//!   value that this version does not have is refused by name. A spec that is written and read
//!   again is the same spec.
//! - **Our own keys** stand beside Docker's, after them, in the object that they say something
//!   of: `Version` in a reference to a secret, `StopDrain` in a container, `Deployment` in a
//!   service. One key that held all of them would repeat the object's shape, and a template would
//!   have to match a reference with its version by position. They are absent where they say
//!   nothing, and none has the name of a key of Docker's.
//!
//! Nothing in here asks for the time or does IO; times and networks are arguments.

mod attachment;
mod cluster;
mod deployment;
mod event;
mod meta;
mod network;
mod networks;
mod node;
mod read;
mod scalar;
mod service;
mod task;
mod value;
mod word;

pub use cluster::{ClusterSpec, RaftConfig};
pub use deployment::{Deployment, deployment_state, update_state};
pub use event::{Action, Actor, Event};
pub use network::{Network, NetworkSpec, Population};
pub use networks::Networks;
pub use node::{NETWORK_DRIVERS, Node, NodeSpec, TrustRoot, reachability};
pub use scalar::stamp;
pub use service::{Service, ServiceSpec, UpdateStatus};
pub use task::{Task, publication};
pub use value::{Config, Secret, Value, ValueSpec};
pub use word::Word;
