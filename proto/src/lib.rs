//! The wire: messages of package `skep.v1` and their translation at the border.
//!
//! A message is what arrives; a value of `skep-model` is what is believed. Every
//! `TryFrom` here parses once, checks form and limits, and answers what does not
//! fit with [`Malformed`]; behind it nothing is checked for form again. The other
//! direction cannot fail. Encoding is canonical (ordered maps, no unknown fields),
//! so replicas may compare bytes.
//!
//! Not in here: sockets, and whether a value makes sense in the cluster. Clients
//! and servers of the services exist only behind feature `rpc`, so that the cores
//! link messages without a runtime.

pub mod assignment;
mod confidential;
pub mod limits;
mod malformed;
mod object;
mod overlay;
mod refusal;
pub mod request;
#[cfg(test)]
mod round_trip;
mod session;
#[cfg(feature = "rpc")]
pub mod status;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wire;

pub use malformed::Malformed;

/// The generated messages, and with feature `rpc` the modules `*_client` and
/// `*_server`. Documented in `proto/skep/v1/*.proto`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/skep.v1.rs"));
}

/// The encoded descriptors of all messages and services.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The largest message of a service, in bytes, where no other limit is named.
pub const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// The largest message of a session, in bytes; longer assignments are split.
pub const SESSION_MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// The largest page of a list, in bytes: with the rest of its answer below [`MESSAGE_MAX`].
pub const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The most objects of a page.
pub const PAGE_OBJECTS_MAX: usize = 2_000;
/// The largest answer to a read or event of a watch, in bytes.
pub const READ_REPLY_MAX: usize = 64 * 1024 * 1024;
/// The largest message between managers, in bytes.
pub const RAFT_MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// The largest piece of a snapshot or image, in bytes.
pub const CHUNK_MAX: usize = 1024 * 1024;
