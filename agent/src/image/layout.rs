//! Where the store keeps what on disk, and how a file gets there.
//!
//! ```text
//! blobs/sha256/HEX     manifests, configs, layers as they came
//! layers/CHAIN/diff    unpacked layers, by chain id
//! layers/CHAIN/link    the layer's short name
//! l/SHORT              a link to layers/CHAIN/diff
//! references/HEX       one small file per name: what the name means
//! tmp/                 what is being made; emptied when the store is opened
//! ```
//! Everything is made in `tmp` and renamed to its place after an fsync, so a name that exists is
//! whole. The root is 0700: layers hold set-id programs.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::digest::Digest;
use super::document::DOCUMENT_MAX;
use super::error::{ImageError, Result};

/// Begins the name of a part of a blob.
const PARTIAL: &str = "partial-";

/// The store's folders.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    n_temporary: AtomicU64,
}

impl Layout {
    /// Makes the folders that are missing and empties `tmp`. The caller holds the store's lock.
    pub(super) fn open(root: &Path) -> Result<Self> {
        for name in ["blobs/sha256", "layers", "l", "references"] {
            let path = root.join(name);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(ImageError::store("make", path))?;
        }
        let layout = Self { root: root.to_owned(), n_temporary: AtomicU64::new(0) };
        let tmp = layout.tmp();
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ImageError::store("empty", tmp)(error)),
            _ => {}
        }
        fs::create_dir(&tmp).map_err(ImageError::store("make", tmp))?;
        // The shim's overlay of an image without layers still needs a lower folder.
        let empty = layout.empty();
        DirBuilder::new().recursive(true).mode(0o755).create(&empty).map_err(ImageError::store("make", empty))?;
        Ok(layout)
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn empty(&self) -> PathBuf {
        self.root.join("l/empty")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers().join(chain.hex())
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join("l")
    }

    pub(super) fn references(&self) -> PathBuf {
        self.root.join("references")
    }

    pub(super) fn reference(&self, name: &str) -> PathBuf {
        self.references().join(Digest::of(name.as_bytes()).hex())
    }

    /// A name in `tmp` that nothing else uses.
    pub(super) fn temporary(&self, what: &str) -> PathBuf {
        let n = self.n_temporary.fetch_add(1, Ordering::Relaxed);
        self.tmp().join(format!("{what}-{n}"))
    }

    /// Where what has come of a blob is until it is whole.
    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.tmp().join(format!("{PARTIAL}{}", digest.hex()))
    }

    /// The blob of which a file in `tmp` is a part.
    pub(super) fn digest_of_partial(path: &Path) -> Option<Digest> {
        Digest::from_hex(path.file_name()?.to_str()?.strip_prefix(PARTIAL)?)
    }

    /// Moves a whole, synced file or folder from `tmp` to its place and syncs the folder it is in.
    pub(super) fn settle(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(ImageError::store("put in place", to))?;
        sync_folder_of(to)
    }

    /// Writes a small file whole or not at all.
    pub(super) fn write(&self, to: &Path, bytes: &[u8]) -> Result<()> {
        let from = self.temporary("file");
        let write = || -> io::Result<()> {
            let mut file = new_file(&from)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(ImageError::store("write", &from))?;
        self.settle(&from, to)
    }

    /// Keeps a document as a blob.
    pub(super) fn write_document(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.blob(&digest);
        if !path.exists() {
            self.write(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Reads a document and proves that it is what its name says.
    pub(super) fn read_document(&self, digest: &Digest, kind: &str) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let bytes = read_small(&path, DOCUMENT_MAX)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ImageError::DigestMismatch {
                object: format!("{kind} {digest}"),
                expected: digest.to_string(),
                actual: actual.to_string(),
            });
        }
        Ok(bytes)
    }
}

/// A new file for the store's eyes only.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// The whole of a file that must not exceed `limit` bytes.
pub(super) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(ImageError::store("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(ImageError::TooLarge { object: path.display().to_string(), limit, unit: "bytes" });
    }
    Ok(bytes)
}

/// Makes a rename or removal in the folder of `path` last.
pub(super) fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|file| file.sync_all()).map_err(ImageError::store("sync", folder))
}
