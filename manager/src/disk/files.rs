//! What stands between the log engine and the file system.
//!
//! [`Watched`] wraps a raft-engine file system: it counts syncs, makes each batch of the *rewrite* queue durable
//! on its own (the engine syncs that queue only now and then), and speaks the last words on a failed write or
//! sync, because the engine answers those with a panic or a mere warning.
//!
//! [`inspect`] reads every file before the engine does. It relies on three facts: one writer, format version 1
//! (no per-file signature in the checksums), and one sync per batch, so that a torn write never leaves a valid
//! batch behind the torn one.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use super::{DiskError, LastWords};

const FILE_MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const FILE_HEADER_LEN: usize = FILE_MAGIC.len() + 8;
const FILE_VERSION: u64 = 1;
const BATCH_HEADER_LEN: usize = 16;
const CHECKSUM_LEN: usize = 4;
/// No file of ours comes near: target size plus one group of changes.
const FILE_BYTES_MAX: u64 = 1 << 30;
const APPEND_SUFFIX: &str = ".raftlog";
const REWRITE_SUFFIX: &str = ".rewrite";

/// How often the engine's files were written, synced and deleted since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileCounts {
    /// Calls of `fdatasync`.
    pub n_syncs: u64,
    /// Writes.
    pub n_writes: u64,
    /// Files created.
    pub n_created: u64,
    /// Files deleted.
    pub n_deleted: u64,
}

/// Shared by all handles of one log: the counts, and whether the disk has failed.
pub(super) struct Watch {
    n_syncs: AtomicU64,
    n_writes: AtomicU64,
    n_created: AtomicU64,
    n_deleted: AtomicU64,
    ended: AtomicBool,
    sentence: Mutex<String>,
    last_words: LastWords,
}

impl Watch {
    pub(super) fn new(last_words: LastWords) -> Self {
        Self {
            n_syncs: AtomicU64::new(0),
            n_writes: AtomicU64::new(0),
            n_created: AtomicU64::new(0),
            n_deleted: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            sentence: Mutex::new(String::new()),
            last_words,
        }
    }

    pub(super) fn counts(&self) -> FileCounts {
        FileCounts {
            n_syncs: self.n_syncs.load(Ordering::Relaxed),
            n_writes: self.n_writes.load(Ordering::Relaxed),
            n_created: self.n_created.load(Ordering::Relaxed),
            n_deleted: self.n_deleted.load(Ordering::Relaxed),
        }
    }

    /// Speaks the last words once. Returns only if the hook does.
    pub(super) fn end(&self, sentence: String) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.sentence.lock().unwrap_or_else(|p| p.into_inner()).clone_from(&sentence);
            (self.last_words)(&sentence);
        }
    }

    /// # Errors
    /// [`DiskError::Ended`] once the last words were spoken.
    pub(super) fn alive(&self) -> Result<(), DiskError> {
        if !self.ended.load(Ordering::SeqCst) {
            return Ok(());
        }
        let sentence = self.sentence.lock().unwrap_or_else(|p| p.into_inner()).clone();
        Err(DiskError::Ended { sentence })
    }

    fn judge<T>(&self, operation: &str, path: &Path, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.end(format!(
                "{operation} {} failed ({error}): what the disk holds is unknown, so this manager stops",
                path.display()
            ));
        }
        result
    }
}

/// A file system of the engine under a [`Watch`].
pub(super) struct Watched<F: FileSystem> {
    inner: Arc<F>,
    watch: Arc<Watch>,
}

impl<F: FileSystem> Watched<F> {
    pub(super) fn new(inner: Arc<F>, watch: Arc<Watch>) -> Self {
        Self { inner, watch }
    }

    fn handle(&self, path: &Path, inner: F::Handle) -> WatchedHandle<F> {
        WatchedHandle { inner: Arc::new(inner), watch: self.watch.clone(), path: path.to_path_buf() }
    }
}

pub(super) struct WatchedHandle<F: FileSystem> {
    inner: Arc<F::Handle>,
    watch: Arc<Watch>,
    path: PathBuf,
}

impl<F: FileSystem> Handle for WatchedHandle<F> {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.watch.judge("truncating", &self.path, self.inner.truncate(offset))
    }

    fn file_size(&self) -> io::Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        self.watch.n_syncs.fetch_add(1, Ordering::Relaxed);
        // The engine would panic, and once more while that unwinds; after the last words it may run out quietly.
        let _spoken = self.watch.judge("syncing", &self.path, self.inner.sync());
        Ok(())
    }
}

pub(super) struct WatchedWriter<F: FileSystem> {
    inner: F::Writer,
    handle: Arc<WatchedHandle<F>>,
    sync_each: bool,
}

impl<F: FileSystem> Write for WatchedWriter<F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let watch = &self.handle.watch;
        watch.n_writes.fetch_add(1, Ordering::Relaxed);
        // Whole batches only: a short write must not pass for a finished one.
        let written = self.inner.write_all(buf).map(|()| buf.len());
        let written = watch.judge("writing", &self.handle.path, written)?;
        if self.sync_each {
            self.handle.sync()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<F: FileSystem> Seek for WatchedWriter<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl<F: FileSystem> WriteExt for WatchedWriter<F> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        let watch = self.handle.watch.clone();
        watch.judge("truncating", &self.handle.path, self.inner.truncate(offset))
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        // A refused preallocation is no loss: the write that follows decides.
        self.inner.allocate(offset, size)
    }
}

impl<F: FileSystem> FileSystem for Watched<F> {
    type Handle = WatchedHandle<F>;
    type Reader = F::Reader;
    type Writer = WatchedWriter<F>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<Self::Handle> {
        let path = path.as_ref();
        self.watch.n_created.fetch_add(1, Ordering::Relaxed);
        let inner = self.watch.judge("creating", path, self.inner.create(path))?;
        Ok(self.handle(path, inner))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<Self::Handle> {
        let path = path.as_ref();
        Ok(self.handle(path, self.inner.open(path, permission)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        let path = path.as_ref();
        self.watch.n_deleted.fetch_add(1, Ordering::Relaxed);
        self.watch.judge("deleting", path, self.inner.delete(path))
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        let from = from.as_ref();
        self.watch.judge("renaming", from, self.inner.rename(from, to.as_ref()))
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Reader> {
        self.inner.new_reader(handle.inner.clone())
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> io::Result<Self::Writer> {
        Ok(WatchedWriter {
            inner: self.inner.new_writer(handle.inner.clone())?,
            sync_each: handle.path.to_string_lossy().ends_with(REWRITE_SUFFIX),
            handle,
        })
    }
}

/// Reads all files of the engine in `dir` and refuses damage that no power cut explains. Changes nothing.
///
/// # Errors
/// [`DiskError::Rot`] naming file and offset, [`DiskError::Incomplete`] for a missing file between others,
/// [`DiskError::Io`].
pub(super) fn inspect<F: FileSystem>(system: &F, dir: &Path) -> Result<(), DiskError> {
    for suffix in [APPEND_SUFFIX, REWRITE_SUFFIX] {
        let files = list(dir, suffix)?;
        let newest = files.keys().next_back().copied();
        let mut before = None;
        for (&number, path) in &files {
            if let Some(gap) = before.filter(|b| b + 1 != number) {
                let reason = format!("the file with number {} ({suffix}) is missing", gap + 1);
                return Err(DiskError::Incomplete { path: dir.into(), reason });
            }
            before = Some(number);
            judge_file(path, &read_whole(system, path)?, Some(number) == newest)?;
        }
    }
    Ok(())
}

fn list(dir: &Path, suffix: &str) -> Result<BTreeMap<u64, PathBuf>, DiskError> {
    let failed = |source| DiskError::Io { operation: "listing", path: dir.into(), source };
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(suffix).and_then(|n| n.parse().ok()) {
            files.insert(number, path);
        }
    }
    Ok(files)
}

fn read_whole<F: FileSystem>(system: &F, path: &Path) -> Result<Vec<u8>, DiskError> {
    let read = || -> io::Result<Vec<u8>> {
        let handle = Arc::new(system.open(path, Permission::ReadOnly)?);
        let mut bytes = Vec::with_capacity(handle.file_size()?);
        system.new_reader(handle)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| DiskError::Io { operation: "reading", path: path.into(), source })
}

fn judge_file(path: &Path, bytes: &[u8], is_newest: bool) -> Result<(), DiskError> {
    let Some(bad) = first_damage(bytes) else {
        return Ok(());
    };
    let reason = if !is_newest {
        "a file that was closed long ago no longer matches its checksums"
    } else if batch_follows(bytes, bad) {
        "a batch no longer matches its checksums although later ones do"
    } else {
        return Ok(());
    };
    Err(DiskError::Rot { path: path.into(), offset: bad as u64, reason })
}

/// Where the first header or batch is that does not match its checksums, if there is one.
fn first_damage(bytes: &[u8]) -> Option<usize> {
    let version = bytes.get(FILE_MAGIC.len()..FILE_HEADER_LEN);
    if !bytes.starts_with(FILE_MAGIC) || version != Some(&FILE_VERSION.to_be_bytes()[..]) {
        return Some(0);
    }
    let mut at = FILE_HEADER_LEN;
    while at < bytes.len() {
        match footer_matches(bytes, at) {
            Some((offset, len)) if entries_match(&bytes[at..at + len], offset) => at += len,
            _ => return Some(at),
        }
    }
    None
}

fn batch_follows(bytes: &[u8], bad: usize) -> bool {
    (bad + 1..bytes.len()).any(|at| footer_matches(bytes, at).is_some())
}

/// A batch is `length << 8 | compression (8 bytes) ‖ offset of the footer (8) ‖ entries ‖ crc ‖ footer ‖ crc`.
/// Returns the footer's offset and the batch's length if header and footer are whole.
fn footer_matches(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let head = bytes.get(at..at + BATCH_HEADER_LEN)?;
    let word = |b: &[u8]| u64::from_be_bytes(b.try_into().expect("eight bytes"));
    let length = word(&head[..8]);
    if length & 0xff != 0 {
        return None; // Compression is off.
    }
    let len = usize::try_from(length >> 8).ok()?;
    let offset = usize::try_from(word(&head[8..])).ok()?;
    if offset < BATCH_HEADER_LEN || offset.checked_add(CHECKSUM_LEN + 1)? > len {
        return None;
    }
    let batch = bytes.get(at..at.checked_add(len)?)?;
    checksum_matches(&batch[offset..]).then_some((offset, len))
}

fn entries_match(batch: &[u8], footer_offset: usize) -> bool {
    let entries = &batch[BATCH_HEADER_LEN..footer_offset];
    entries.is_empty() || (entries.len() > CHECKSUM_LEN && checksum_matches(entries))
}

fn checksum_matches(block: &[u8]) -> bool {
    let (body, sum) = block.split_at(block.len() - CHECKSUM_LEN);
    crc32fast::hash(body) == u32::from_le_bytes(sum.try_into().expect("four bytes"))
}
