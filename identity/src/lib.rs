//! Who a node is, and what keeps its secrets.
//!
//! The shells (manager, agent, node, netd) share this crate: the root CA and node
//! certificates, join tokens, the sealed keystore, the sealing of values that go into the
//! cluster's store, and TLS in both directions. The cores never see it: keys and plaintext
//! end here.
//!
//! Invariants: a secret value is zeroized when it is dropped and has no `Debug`
//! that shows it; no error text holds a token, a key or a value; wall time comes
//! from [`skep_host::clock::now`] alone, certificates included; every handshake and every
//! connection attempt has a deadline. Nothing in here knows an RPC: which role
//! may call what is decided by the shell that serves it.

pub mod ca;
pub mod certificate;
pub mod keystore;
pub mod refusal;
pub mod seal;
pub mod secret;
pub mod tls;
pub mod token;

pub use certificate::NodeIdentity;
pub use refusal::Refusal;
pub use secret::SecretBytes;
pub use skep_model::node::Role;
