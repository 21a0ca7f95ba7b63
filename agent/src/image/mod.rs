//! The node's images: getting them in, naming them, and giving their layers to containers.
//!
//! An [`ImageStore`] owns one folder. Content is addressed by digest and proved on the way in;
//! names are small files that point at manifests, read whenever the store is opened. Layers are
//! unpacked once, by chain id, in the form overlayfs wants.
//!
//! Invariants:
//! - a blob, a layer or a name that exists is whole; what is being made is in `tmp`;
//! - a name is written only after everything it needs is there, so a crash or a failed pull leaves
//!   at most unreachable content, which the next removal or opening sweeps away;
//! - content that a running pull or load counts on is leased, and no sweep takes it;
//! - two tasks that want the same blob or layer do the work once.
//!
//! Not here: deciding which images are needed, mounting, and anything of gRPC.

mod archive;
mod compression;
mod digest;
mod document;
mod download;
mod error;
mod export;
mod index;
mod layout;
mod pull;
mod reference;
mod store;
mod sweep;
mod tar_stream;
mod unpack;

pub use archive::Loaded;
pub use digest::Digest;
pub use document::{Healthcheck, ImageConfig, Platform};
pub use error::{ImageError, Result};
pub use pull::{Auth, Progress, Pulled, RegistryOptions, resolve};
pub use reference::Reference;
pub use store::{Image, ImageStore, ImageSummary, Removed, StoreLimits};

#[cfg(test)]
pub(crate) mod tests;
