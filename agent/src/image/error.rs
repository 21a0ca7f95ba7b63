//! What can go wrong with an image, in terms a user can act on.
//!
//! Every variant names the operation and the object. [`ImageError::is_temporary`] is the one
//! question the task manager asks: is it worth trying again later?

use std::path::PathBuf;

/// A failed operation of the image store.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is no image reference.
    #[error("invalid reference format: {text:?}: {reason}")]
    InvalidReference {
        /// What was given.
        text: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A file operation of the store failed.
    #[error("cannot {operation} {}", path.display())]
    Store {
        /// What was being done.
        operation: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process holds the store.
    #[error("the image store {} is in use by another process", path.display())]
    StoreInUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// No image of that name, digest or id is on this node.
    #[error("No such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// More than one image has an id with that prefix.
    #[error("image id prefix {prefix} is ambiguous: {n_matches} images have it")]
    AmbiguousPrefix {
        /// What was asked for.
        prefix: String,
        /// How many images it fits.
        n_matches: usize,
    },
    /// The image is used by a task of this node.
    #[error("conflict: unable to remove image {name}: a task on this node uses image {id}")]
    InUse {
        /// What was asked for.
        name: String,
        /// The image's short id.
        id: String,
    },
    /// The image has more than one name and was named by its id.
    #[error("conflict: unable to delete {id}: image is referenced by {n_references} names (use force)")]
    ManyReferences {
        /// The image's short id.
        id: String,
        /// How many names it has.
        n_references: usize,
    },
    /// An archive or folder is not a usable image.
    #[error("cannot load the image: {reason}")]
    BadArchive {
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest, index or config cannot be understood.
    #[error("cannot use {object}: {reason}")]
    BadDocument {
        /// Which document, with its digest.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Content does not have the digest it is named by.
    #[error("{object} is damaged: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What was being read: a layer, a config, a manifest.
        object: String,
        /// The digest it is named by.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// Content is longer or shorter than its descriptor says.
    #[error("{object} is damaged: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// What was being read.
        object: String,
        /// Bytes its descriptor promises.
        expected: u64,
        /// Bytes that came, or the number at which reading stopped.
        actual: u64,
    },
    /// A limit of the store was reached.
    #[error("{object} exceeds the limit of {limit} {unit}")]
    TooLarge {
        /// What is too large.
        object: String,
        /// The limit.
        limit: u64,
        /// Of what: bytes, entries, layers.
        unit: &'static str,
    },
    /// A layer cannot be unpacked.
    #[error("cannot unpack layer {layer}: {entry}: {reason}")]
    BadLayer {
        /// The layer's digest.
        layer: String,
        /// The member of the archive, or "archive".
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest list has nothing for this platform.
    #[error("no image for platform {platform} in {object}; it has {available}")]
    NoPlatform {
        /// The list's reference or digest.
        object: String,
        /// What was wanted, as os/arch[/variant].
        platform: String,
        /// What there is.
        available: String,
    },
    /// The registry has no such image.
    #[error("manifest for {reference} not found: manifest unknown")]
    NotFound {
        /// The reference asked for.
        reference: String,
    },
    /// The registry wants other credentials, or any.
    #[error("pull access denied for {reference}: the registry refused the credentials or wants some")]
    Unauthorized {
        /// The reference asked for.
        reference: String,
    },
    /// The registry could not be reached.
    #[error("cannot reach registry {registry}: {reason}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// The chain of causes.
        reason: String,
    },
    /// The registry stopped answering.
    #[error("registry {registry} did not answer in time while {doing}")]
    TimedOut {
        /// Host and port.
        registry: String,
        /// What was waited for.
        doing: String,
    },
    /// The registry reports trouble of its own, or too many requests.
    #[error("registry {registry} failed with status {status}")]
    RegistryFailed {
        /// Host and port.
        registry: String,
        /// HTTP status code.
        status: u16,
    },
    /// The registry's answer makes no sense.
    #[error("registry {registry} answered with something unusable: {reason}")]
    RegistryAnswer {
        /// Host and port.
        registry: String,
        /// What was wrong.
        reason: String,
    },
    /// The reader of an archive stopped delivering, or failed.
    #[error("cannot read the image archive")]
    Input {
        /// Why it failed.
        source: std::io::Error,
    },
    /// The writer of an export failed or stopped taking bytes.
    #[error("cannot write the image archive")]
    Output {
        /// Why it failed.
        source: std::io::Error,
    },
    /// The client for registries cannot be set up.
    #[error("cannot set up the registry client: {reason}")]
    Client {
        /// What is missing.
        reason: String,
    },
    /// The runtime is going down and took the blocking work with it.
    #[error("the image operation was cut off by the end of the process")]
    ShuttingDown,
    /// The work panicked: the image brought a bug to light.
    #[error("a bug came to light over this image, which is left alone: {said}")]
    Bug {
        /// What the panic said.
        said: String,
    },
}

impl ImageError {
    /// Whether the same call may succeed later without anyone changing anything: the network and
    /// the registry's own failures. A wrong digest, a missing tag or a refused password are final.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::RegistryFailed { .. } | Self::ShuttingDown)
    }

    pub(super) fn store(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Store { operation, path, source }
    }

    pub(super) fn archive(reason: impl Into<String>) -> Self {
        Self::BadArchive { reason: reason.into() }
    }
}

/// Shorthand of this module.
pub type Result<T> = std::result::Result<T, ImageError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_network_is_worth_a_second_try() {
        let registry = || "r.example".to_owned();
        let temporary = [
            ImageError::Unreachable { registry: registry(), reason: "refused".into() },
            ImageError::TimedOut { registry: registry(), doing: "reading".into() },
            ImageError::RegistryFailed { registry: registry(), status: 503 },
        ];
        let last = [
            ImageError::NotFound { reference: "a".into() },
            ImageError::Unauthorized { reference: "a".into() },
            ImageError::DigestMismatch { object: "layer".into(), expected: "a".into(), actual: "b".into() },
        ];
        assert!(temporary.iter().all(ImageError::is_temporary));
        assert!(!last.iter().any(ImageError::is_temporary));
    }
}
