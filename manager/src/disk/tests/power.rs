//! A file system in memory that keeps images of what a power cut would leave.
//!
//! Each file has live and durable bytes; only a sync copies one to the other. At chosen operations an image of
//! all files is kept and the engine runs on, because it answers an error with a panic. Creation, deletion and
//! renaming count as durable at once: a lost directory entry is not simulated. The engine lists the real folder,
//! so that every file has an empty twin there.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

#[derive(Default, Clone)]
pub struct Bytes {
    pub live: Vec<u8>,
    pub durable: Vec<u8>,
}

type Inode = Arc<Mutex<Bytes>>;

/// What a power cut before operation `at` leaves.
pub struct Image {
    pub at: u64,
    pub marker: usize,
    pub files: BTreeMap<String, Bytes>,
}

impl Image {
    /// The files after the cut: durable bytes, and `torn` bytes of what was not yet durable.
    pub fn after_cut(&self, torn: usize) -> BTreeMap<String, Vec<u8>> {
        let tear = |bytes: &Bytes| {
            let mut left = bytes.durable.clone();
            let same = left.iter().zip(&bytes.live).take_while(|(a, b)| a == b).count();
            let end = bytes.live.len().min(same + torn);
            if left.len() < end {
                left.resize(end, 0);
            }
            left[same..end].copy_from_slice(&bytes.live[same..end]);
            left
        };
        self.files.iter().map(|(n, b)| (n.clone(), tear(b))).collect()
    }
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Inode>,
    n_operations: u64,
    n_deleted: u64,
    marker: usize,
    every: u64,
    phase: u64,
    images: Vec<Image>,
    sync_fails: bool,
    reads_fail: bool,
    n_failed_reads: u64,
}

#[derive(Clone, Default)]
pub struct PowerFs(Arc<Mutex<State>>);

impl PowerFs {
    /// Files that exist already, with empty twins below `dir`.
    pub fn with_files(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> Self {
        let fs = Self::default();
        for (name, bytes) in files {
            let path = dir.join(name);
            std::fs::write(&path, b"").unwrap();
            let inode = Bytes { live: bytes.clone(), durable: bytes.clone() };
            fs.0.lock().unwrap().files.insert(path, Arc::new(Mutex::new(inode)));
        }
        fs
    }

    /// Keeps an image before every `every`-th operation from now on, the first after `phase`.
    pub fn keep_images(&self, every: u64, phase: u64) {
        let mut state = self.0.lock().unwrap();
        (state.every, state.phase) = (every, phase);
    }

    /// Tells images how far the workload has been acknowledged.
    pub fn mark(&self, marker: usize) {
        self.0.lock().unwrap().marker = marker;
    }

    pub fn fail_syncs(&self) {
        self.0.lock().unwrap().sync_fails = true;
    }

    pub fn fail_reads(&self, fail: bool) {
        self.0.lock().unwrap().reads_fail = fail;
    }

    pub fn n_failed_reads(&self) -> u64 {
        self.0.lock().unwrap().n_failed_reads
    }

    pub fn take_images(&self) -> Vec<Image> {
        std::mem::take(&mut self.0.lock().unwrap().images)
    }

    pub fn n_deleted(&self) -> u64 {
        self.0.lock().unwrap().n_deleted
    }

    /// All live bytes by name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.lock().unwrap();
        let named = |(p, i): (&PathBuf, &Inode)| (name_of(p), i.lock().unwrap().live.clone());
        state.files.iter().map(named).collect()
    }

    fn spend(&self) {
        let mut state = self.0.lock().unwrap();
        state.n_operations += 1;
        if state.every == 0 || state.n_operations % state.every != state.phase % state.every {
            return;
        }
        let files = state.files.iter().map(|(p, i)| (name_of(p), i.lock().unwrap().clone())).collect();
        let image = Image { at: state.n_operations, marker: state.marker, files };
        state.images.push(image);
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

pub struct File {
    fs: PowerFs,
    inode: Inode,
}

impl Handle for File {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.fs.spend();
        self.inode.lock().unwrap().live.resize(offset, 0);
        Ok(())
    }

    fn file_size(&self) -> io::Result<usize> {
        Ok(self.inode.lock().unwrap().live.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.fs.spend();
        if self.fs.0.lock().unwrap().sync_fails {
            return Err(io::Error::other("the disk is gone"));
        }
        let mut bytes = self.inode.lock().unwrap();
        bytes.durable = bytes.live.clone();
        Ok(())
    }
}

pub struct Cursor {
    file: Arc<File>,
    at: usize,
}

impl Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.file.fs.0.lock().unwrap();
        if state.reads_fail {
            state.n_failed_reads += 1;
            return Err(io::Error::other("a sector does not read"));
        }
        drop(state);
        let bytes = self.file.inode.lock().unwrap();
        let rest = bytes.live.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

impl Write for Cursor {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.fs.spend();
        let mut bytes = self.file.inode.lock().unwrap();
        let end = self.at + buf.len();
        if bytes.live.len() < end {
            bytes.live.resize(end, 0);
        }
        bytes.live[self.at..end].copy_from_slice(buf);
        self.at = end;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at as usize,
            SeekFrom::Current(by) => self.at.strict_add_signed(by as isize),
            SeekFrom::End(by) => self.file.file_size()?.strict_add_signed(by as isize),
        };
        Ok(self.at as u64)
    }
}

impl WriteExt for Cursor {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.file.truncate(offset)?;
        self.at = offset;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        let mut bytes = self.file.inode.lock().unwrap();
        let len = bytes.live.len().max(offset + size);
        bytes.live.resize(len, 0);
        Ok(())
    }
}

impl FileSystem for PowerFs {
    type Handle = File;
    type Reader = Cursor;
    type Writer = Cursor;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<File> {
        self.spend();
        std::fs::write(&path, b"")?;
        let inode = Inode::default();
        self.0.lock().unwrap().files.insert(path.as_ref().into(), inode.clone());
        Ok(File { fs: self.clone(), inode })
    }

    fn open<P: AsRef<Path>>(&self, path: P, _: Permission) -> io::Result<File> {
        let inode = self.0.lock().unwrap().files.get(path.as_ref()).cloned();
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(File { fs: self.clone(), inode })
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.spend();
        let mut state = self.0.lock().unwrap();
        state.n_deleted += 1;
        state.files.remove(path.as_ref());
        std::fs::remove_file(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.spend();
        let mut state = self.0.lock().unwrap();
        let inode = state.files.remove(from.as_ref()).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.as_ref().into(), inode);
        std::fs::rename(from, to)
    }

    fn new_reader(&self, handle: Arc<File>) -> io::Result<Cursor> {
        Ok(Cursor { file: handle, at: 0 })
    }

    fn new_writer(&self, handle: Arc<File>) -> io::Result<Cursor> {
        Ok(Cursor { file: handle, at: 0 })
    }
}
