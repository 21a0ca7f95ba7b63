//! Bringing one blob here, however often the connection breaks.
//!
//! What has come of a blob is kept in a file by its digest and is gone on with: within one pull after a pause that grows, in
//! the next pull, and after a pull that nobody waits for any more. The whole is believed only by its digest; if a blob that
//! was put together from pieces does not have it, it is fetched once more from its beginning.

use skep_host::room::Room;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use oci_client::client::{BlobResponse, SizedStream};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::digest::Digest;
use super::document::Descriptor;
use super::error::{ImageError, Result};
use super::pull::Session;
use super::store::blocking;

/// Bytes gathered before a write to disk.
const WRITE_BUFFER: usize = 256 << 10;
/// Tries of one blob in all, so that a connection that breaks after every byte ends some time.
const TRIES_MAX: usize = 100;

/// What there is of a blob.
struct Partial {
    path: PathBuf,
    n_bytes: u64,
    hasher: Sha256,
}

impl Partial {
    /// What an earlier pull left.
    async fn open(path: PathBuf, most: u64) -> Result<Self> {
        blocking(move || {
            let mut partial = Self { path, n_bytes: 0, hasher: Sha256::new() };
            if !partial.read(most).map_err(ImageError::store("read", &partial.path))? {
                partial.clear()?;
            }
            Ok(partial)
        })
        .await
    }

    /// Whether the file is the beginning of the blob as far as its length tells.
    fn read(&mut self, most: u64) -> io::Result<bool> {
        let mut file = match fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            other => other?,
        };
        let mut buffer = vec![0; WRITE_BUFFER];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(self.n_bytes <= most),
                n => {
                    self.hasher.update(&buffer[..n]);
                    self.n_bytes += n as u64;
                }
            }
        }
    }

    fn clear(&mut self) -> Result<()> {
        (self.n_bytes, self.hasher) = (0, Sha256::new());
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::store("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }

    /// The file, at the end of what is known of it.
    fn file(&self) -> io::Result<fs::File> {
        let mut file = fs::File::options().write(true).create(true).truncate(false).open(&self.path)?;
        file.set_len(self.n_bytes)?;
        file.seek(SeekFrom::Start(self.n_bytes))?;
        Ok(file)
    }
}

impl Session {
    /// Brings a blob into the file `to`, whole, proved and synced. The caller lets nobody else bring the same.
    pub(super) async fn download(
        &self,
        blob: &Descriptor,
        object: &str,
        to: &Path,
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let mut partial = Partial::open(to.to_owned(), blob.size).await?;
        let mut is_pieced = partial.n_bytes > 0;
        let mut pauses = self.options.pauses.iter();
        for _ in 0..TRIES_MAX {
            let before = partial.n_bytes;
            let error = match self.go_on(blob, object, &mut partial, came).await {
                Ok(()) => return Ok(()),
                Err(ImageError::DigestMismatch { .. } | ImageError::SizeMismatch { .. }) if is_pieced => {
                    tracing::warn!(%object, "what was put together from pieces is not the blob; it is fetched anew");
                    partial.clear()?;
                    is_pieced = false;
                    continue;
                }
                Err(error) => error,
            };
            if !error.is_temporary() {
                partial.clear()?;
                return Err(error);
            }
            if partial.n_bytes > before {
                pauses = self.options.pauses.iter();
            }
            is_pieced |= partial.n_bytes > 0;
            let Some(pause) = pauses.next() else { return Err(error) };
            tracing::info!(%object, %error, done = partial.n_bytes, total = blob.size, "a download broke off and goes on");
            tokio::time::sleep(*pause).await;
        }
        Err(self.timed_out(object))
    }

    /// One try, from where the last one broke off.
    async fn go_on(
        &self,
        blob: &Descriptor,
        object: &str,
        partial: &mut Partial,
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let file = partial.file().map_err(ImageError::store("open", &partial.path))?;
        let mut file = tokio::io::BufWriter::with_capacity(WRITE_BUFFER, tokio::fs::File::from_std(file));
        let result = if partial.n_bytes < blob.size || blob.size == 0 {
            self.receive(blob, object, partial, &mut file, came).await
        } else {
            Ok(())
        };
        // Also what came before a break is to be there the next time.
        file.flush().await.map_err(ImageError::store("write", &partial.path))?;
        result?;
        file.get_ref().sync_all().await.map_err(ImageError::store("sync", &partial.path))?;
        if partial.n_bytes != blob.size {
            return Err(ImageError::SizeMismatch { object: object.to_owned(), expected: blob.size, actual: partial.n_bytes });
        }
        let actual = Digest::from_hasher(partial.hasher.clone());
        if actual != blob.digest {
            let expected = blob.digest.to_string();
            return Err(ImageError::DigestMismatch { object: object.to_owned(), expected, actual: actual.to_string() });
        }
        Ok(())
    }

    async fn receive(
        &self,
        blob: &Descriptor,
        object: &str,
        partial: &mut Partial,
        file: &mut tokio::io::BufWriter<tokio::fs::File>,
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let wanted = blob.digest.to_string();
        // Asked for as a range also from zero, because that way the client leaves the digest to us.
        let asked = self.client.pull_blob_stream_partial(&self.remote, wanted.as_str(), partial.n_bytes, None);
        let mut stream: SizedStream = match self.in_time(object, asked).await? {
            BlobResponse::Partial(stream) => stream,
            BlobResponse::Full(stream) => {
                // The registry knows no ranges: from the beginning.
                (partial.n_bytes, partial.hasher) = (0, Sha256::new());
                file.get_mut().set_len(0).await.map_err(ImageError::store("empty", &partial.path))?;
                file.get_mut().seek(SeekFrom::Start(0)).await.map_err(ImageError::store("empty", &partial.path))?;
                stream
            }
        };
        let mut room = Room::at(&partial.path);
        loop {
            let next = tokio::time::timeout(self.options.idle_timeout, stream.stream.next()).await;
            let bytes = match next.map_err(|_| self.timed_out(object))? {
                None if partial.n_bytes < blob.size => {
                    return Err(self.broken_off(object, partial.n_bytes, blob.size));
                }
                None => return Ok(()),
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Err(self.unreachable(&error)),
            };
            let n_bytes = partial.n_bytes + bytes.len() as u64;
            if n_bytes > blob.size {
                return Err(ImageError::SizeMismatch { object: object.to_owned(), expected: blob.size, actual: n_bytes });
            }
            room.take(bytes.len() as u64).map_err(ImageError::store("write", &partial.path))?;
            file.write_all(&bytes).await.map_err(ImageError::store("write", &partial.path))?;
            partial.hasher.update(&bytes);
            partial.n_bytes = n_bytes;
            came(n_bytes);
        }
    }
}
