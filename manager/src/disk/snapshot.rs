//! Snapshot files: sealed chunks of at most 1 MiB, written beside the log and renamed into place when whole.
//!
//! A file is `magic (8) ‖ format (4) ‖ chunks`; a chunk is `sealed length (4) ‖ sealed bytes`. Its number and
//! whether it is the last one are part of what the seal binds, so that chunks cannot be dropped, swapped or cut
//! off. The SHA-256 of the plaintext is what peers announce and what [`SnapshotReader`] compares at the end.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::DiskError;
use super::seal::{RecordKind, RecordSeal, SEAL_OVERHEAD, SealError, generation_of};

/// Plain bytes in one chunk of a snapshot file.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// No snapshot may be larger, in plain bytes.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

const MAGIC: &[u8; 8] = b"skepsnap";
const FORMAT: u32 = 1;
const HEAD_LEN: u64 = 12;
const PARTIAL: &str = "partial";

/// What a snapshot is; kept sealed in the log and announced to peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotMeta {
    /// The last entry it contains.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The membership at that entry, as the caller encodes it.
    pub membership: Vec<u8>,
    /// Length and digest of the content.
    pub content: SnapshotDigest,
}

/// Length and SHA-256 of a snapshot's plain content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotDigest {
    /// Plain bytes.
    pub length: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

impl SnapshotMeta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56 + self.membership.len());
        for number in [self.index, self.term, self.content.length] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.content.sha256);
        out.extend_from_slice(&self.membership);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            index: number(0)?,
            term: number(8)?,
            content: SnapshotDigest { length: number(16)?, sha256: bytes.get(24..56)?.try_into().ok()? },
            membership: bytes.get(56..)?.to_vec(),
        })
    }
}

/// Writes one snapshot file. Dropped before [`SnapshotWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    out: BufWriter<File>,
    seal: Arc<RecordSeal>,
    partial: PathBuf,
    path: PathBuf,
    index: u64,
    term: u64,
    n_chunks: u64,
    length: u64,
    hash: Sha256,
    pending: Zeroizing<Vec<u8>>,
    finished: bool,
}

impl SnapshotWriter {
    /// Begins the snapshot up to (`index`, `term`) below the manager's data folder `dir`.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn create(dir: &Path, seal: Arc<RecordSeal>, index: u64, term: u64) -> Result<Self, DiskError> {
        // Several may be written at once, also of the same snapshot: each has a file of its own.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = path_of(dir, index, term);
        let partial = path.with_extension(format!("{}.{PARTIAL}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let folder = folder(dir);
        fs::create_dir_all(&folder).map_err(io_error("creating", &folder))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .map_err(io_error("creating", &partial))?;
        let mut out = BufWriter::new(file);
        let head = out.write_all(MAGIC).and_then(|()| out.write_all(&FORMAT.to_be_bytes()));
        head.map_err(io_error("writing", &partial))?;
        Ok(Self {
            out,
            seal,
            partial,
            path,
            index,
            term,
            n_chunks: 0,
            length: 0,
            hash: Sha256::new(),
            pending: Zeroizing::new(Vec::with_capacity(SNAPSHOT_CHUNK_BYTES)),
            finished: false,
        })
    }

    /// Adds plain bytes of any length.
    ///
    /// # Errors
    /// [`DiskError::Io`], [`DiskError::Seal`], [`DiskError::Snapshot`] beyond [`SNAPSHOT_BYTES_MAX`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), DiskError> {
        self.length += bytes.len() as u64;
        if self.length > SNAPSHOT_BYTES_MAX {
            let reason = format!("more than {SNAPSHOT_BYTES_MAX} bytes");
            return Err(DiskError::Snapshot { path: self.path.clone(), reason });
        }
        self.hash.update(bytes);
        while !bytes.is_empty() {
            // A full chunk waits until more comes: only then is it known not to be the last.
            if self.pending.len() == SNAPSHOT_CHUNK_BYTES {
                self.put_chunk(false)?;
            }
            let n = bytes.len().min(SNAPSHOT_CHUNK_BYTES - self.pending.len());
            self.pending.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Checks the content against what was announced, makes the file durable and moves it into place.
    ///
    /// # Errors
    /// [`DiskError::Snapshot`] if the content differs from `announced`; [`DiskError::Io`], [`DiskError::Seal`].
    pub fn finish(mut self, announced: Option<&SnapshotDigest>) -> Result<SnapshotDigest, DiskError> {
        self.put_chunk(true)?;
        let content = SnapshotDigest { length: self.length, sha256: std::mem::take(&mut self.hash).finalize().into() };
        if announced.is_some_and(|a| *a != content) {
            let reason = "its length or SHA-256 differs from what was announced".to_owned();
            return Err(DiskError::Snapshot { path: self.path.clone(), reason });
        }
        self.out.flush().map_err(io_error("writing", &self.partial))?;
        self.out.get_ref().sync_all().map_err(io_error("syncing", &self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(io_error("renaming", &self.partial))?;
        self.finished = true;
        let folder = self.path.parent().expect("a snapshot lies in a folder");
        sync_folder(folder)?;
        Ok(content)
    }

    fn put_chunk(&mut self, last: bool) -> Result<(), DiskError> {
        let kind = RecordKind::SnapshotChunk { ordinal: self.n_chunks, last };
        let sealed = self.seal.seal(kind, self.index, self.term, &self.pending);
        let sealed = sealed.map_err(|source| DiskError::Seal {
            record: format!("chunk {} of snapshot {}", self.n_chunks, self.index),
            source,
        })?;
        let length = (sealed.len() as u32).to_be_bytes();
        let written = self.out.write_all(&length).and_then(|()| self.out.write_all(&sealed));
        written.map_err(io_error("writing", &self.partial))?;
        self.n_chunks += 1;
        self.pending.clear();
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_file(&self.partial)
        {
            // The next start of the log removes it.
            tracing::warn!("removing {} failed: {error}", self.partial.display());
        }
    }
}

/// Streams the chunks of a snapshot file back, each verified; the whole is compared at the end.
#[derive(Debug)]
pub struct SnapshotReader {
    input: BufReader<File>,
    seal: Arc<RecordSeal>,
    path: PathBuf,
    meta: SnapshotMeta,
    n_chunks: u64,
    length: u64,
    hash: Sha256,
    ended: bool,
}

impl SnapshotReader {
    /// Opens the snapshot that `meta` describes below the data folder `dir`.
    ///
    /// # Errors
    /// [`DiskError::Io`]; [`DiskError::Snapshot`] if it does not begin or is not as long as it must be.
    pub fn open(dir: &Path, seal: Arc<RecordSeal>, meta: &SnapshotMeta) -> Result<Self, DiskError> {
        let path = path_of(dir, meta.index, meta.term);
        let mut input = open_file(&path)?;
        let expected = file_length(meta.content.length);
        let found = input.get_ref().metadata().map_err(io_error("reading", &path))?.len();
        if found != expected {
            let reason = format!("{found} bytes long instead of {expected}");
            return Err(DiskError::Snapshot { path, reason });
        }
        check_head(&mut input, &path)?;
        Ok(Self { input, seal, path, meta: meta.clone(), n_chunks: 0, length: 0, hash: Sha256::new(), ended: false })
    }

    /// The next chunk, or `None` after the last one. Use nothing before the `None`: only then is the whole known
    /// to be what the log names.
    ///
    /// # Errors
    /// [`DiskError::Snapshot`] for anything torn or altered, [`DiskError::MissingKey`], [`DiskError::Io`].
    pub fn next_chunk(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
        if self.ended {
            return Ok(None);
        }
        let sealed = read_chunk(&mut self.input, &self.path)?;
        let left = self.meta.content.length - self.length;
        let last = left <= SNAPSHOT_CHUNK_BYTES as u64;
        let kind = RecordKind::SnapshotChunk { ordinal: self.n_chunks, last };
        let opened = self.seal.open(kind, self.meta.index, self.meta.term, &sealed);
        let chunk = opened.map_err(|source| self.refuse(source))?;
        self.n_chunks += 1;
        self.length += chunk.len() as u64;
        self.hash.update(&chunk);
        if last {
            self.ended = true;
            let found = SnapshotDigest { length: self.length, sha256: std::mem::take(&mut self.hash).finalize().into() };
            if found != self.meta.content {
                let reason = "its content differs from the digest in the log".to_owned();
                return Err(DiskError::Snapshot { path: self.path.clone(), reason });
            }
        }
        Ok(Some(chunk))
    }

    fn refuse(&self, source: SealError) -> DiskError {
        let record = format!("chunk {}", self.n_chunks);
        match source {
            SealError::NoKey { generation } => DiskError::MissingKey { path: self.path.clone(), generation, record },
            other => DiskError::Snapshot { path: self.path.clone(), reason: format!("{record}: {other}") },
        }
    }
}

/// Reads a snapshot to its end and throws it away.
pub(super) fn verify(dir: &Path, seal: &Arc<RecordSeal>, meta: &SnapshotMeta) -> Result<(), DiskError> {
    let mut reader = SnapshotReader::open(dir, seal.clone(), meta)?;
    while reader.next_chunk()?.is_some() {}
    Ok(())
}

/// The key generations that a snapshot file's chunks name.
pub(super) fn generations(dir: &Path, meta: &SnapshotMeta) -> Result<BTreeSet<u32>, DiskError> {
    let path = path_of(dir, meta.index, meta.term);
    let mut input = open_file(&path)?;
    check_head(&mut input, &path)?;
    let mut generations = BTreeSet::new();
    let mut at = HEAD_LEN;
    let end = input.get_ref().metadata().map_err(io_error("reading", &path))?.len();
    while at < end {
        let mut head = [0; 8];
        input.read_exact(&mut head).map_err(io_error("reading", &path))?;
        let length = u32::from_be_bytes(head[..4].try_into().expect("four bytes"));
        generations.insert(u32::from_be_bytes(head[4..].try_into().expect("four bytes")));
        at += 4 + u64::from(length);
        input.seek(SeekFrom::Start(at)).map_err(io_error("reading", &path))?;
    }
    Ok(generations)
}

/// Removes the snapshot files that `keep` rejects; all are tried, the first failure is returned.
pub(super) fn remove_unless(dir: &Path, keep: impl Fn(&Path) -> bool) -> Result<(), DiskError> {
    let folder = folder(dir);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("listing", &folder)(error)),
    };
    let mut outcome = Ok(());
    for entry in entries {
        let path = entry.map_err(io_error("listing", &folder))?.path();
        if !keep(&path) {
            outcome = outcome.and(fs::remove_file(&path).map_err(io_error("removing", &path)));
        }
    }
    outcome
}

/// Whether this is the finished file of a snapshot older than `index`.
pub(super) fn is_older(path: &Path, index: u64) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let number = name.strip_suffix(".snapshot").and_then(|n| n.split('-').next());
    number.and_then(|n| u64::from_str_radix(n, 16).ok()).is_some_and(|n| n < index)
}

pub(super) fn folder(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

pub(super) fn path_of(dir: &Path, index: u64, term: u64) -> PathBuf {
    folder(dir).join(format!("{index:016x}-{term:016x}.snapshot"))
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(io_error("syncing", folder))
}

pub(super) fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError + use<> {
    let path = path.to_path_buf();
    move |source| DiskError::Io { operation, path, source }
}

fn file_length(content: u64) -> u64 {
    let n_chunks = content.div_ceil(SNAPSHOT_CHUNK_BYTES as u64).max(1);
    HEAD_LEN + content + n_chunks * (4 + SEAL_OVERHEAD as u64)
}

fn open_file(path: &Path) -> Result<BufReader<File>, DiskError> {
    match File::open(path) {
        Ok(file) => Ok(BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DiskError::Snapshot { path: path.into(), reason: "the file is missing".to_owned() })
        }
        Err(error) => Err(io_error("opening", path)(error)),
    }
}

fn check_head(input: &mut impl Read, path: &Path) -> Result<(), DiskError> {
    let mut head = [0; HEAD_LEN as usize];
    input.read_exact(&mut head).map_err(|e| torn(path, e))?;
    if &head[..8] != MAGIC || head[8..] != FORMAT.to_be_bytes() {
        let reason = "it does not begin as a snapshot of this format does".to_owned();
        return Err(DiskError::Snapshot { path: path.into(), reason });
    }
    Ok(())
}

fn read_chunk(input: &mut impl Read, path: &Path) -> Result<Vec<u8>, DiskError> {
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(|e| torn(path, e))?;
    let length = u32::from_be_bytes(length) as usize;
    if is_no_chunk_length(length) {
        let reason = format!("a chunk of {length} bytes");
        return Err(DiskError::Snapshot { path: path.into(), reason });
    }
    let mut sealed = vec![0; length];
    input.read_exact(&mut sealed).map_err(|e| torn(path, e))?;
    generation_of(&sealed).map(|_| sealed).map_err(|e| DiskError::Snapshot { path: path.into(), reason: e.to_string() })
}

fn is_no_chunk_length(length: usize) -> bool {
    !(SEAL_OVERHEAD..=SNAPSHOT_CHUNK_BYTES + SEAL_OVERHEAD).contains(&length)
}

fn torn(path: &Path, error: io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DiskError::Snapshot { path: path.into(), reason: "it ends too early".to_owned() },
        _ => io_error("reading", path)(error),
    }
}
