//! Free space of the node's disk: what may be filled, and what is kept.
//!
//! The logs of raft and of tasks, keys and the index of images are on the disk that
//! images are written to. Whoever writes what can be had again (images, archives) leaves
//! a reserve for what cannot.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};

/// The reserve is a twentieth of the disk, and at most this many bytes.
const RESERVE_MAX: u64 = 2 << 30;
/// Bytes that are written between two looks at the disk.
const LOOK: u64 = 16 << 20;

/// The reserve would be touched. Inside an [`io::Error`] of kind `StorageFull`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the disk has {free} bytes free and {reserve} of them are kept for what this node must not lose; free some space")]
pub struct Full {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that stay so.
    pub reserve: u64,
}

/// The room that one writer has, looked at as it writes.
#[derive(Debug)]
pub struct Room {
    path: PathBuf,
    /// Bytes until the next look.
    left: u64,
}

impl Room {
    /// The room on the disk of `path`, which must exist when it is first asked for.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), left: 0 }
    }

    /// Whether `n` bytes more may be written.
    ///
    /// # Errors
    /// [`Full`], or that the disk cannot be asked.
    pub fn take(&mut self, n: u64) -> io::Result<()> {
        if n > self.left {
            judge(&statvfs(&self.path)?, LOOK.max(n))?;
            self.left = LOOK.max(n);
        }
        self.left -= n;
        Ok(())
    }
}

/// Whether `n` bytes may be written to the disk of an open file or folder.
///
/// # Errors
/// As for [`Room::take`].
pub fn check(place: impl AsFd, n: u64) -> io::Result<()> {
    judge(&fstatvfs(place)?, n)
}

fn judge(disk: &Statvfs, n: u64) -> io::Result<()> {
    let unit = disk.fragment_size();
    room(disk.blocks() * unit, disk.blocks_available() * unit, n).map_err(|full| io::Error::new(io::ErrorKind::StorageFull, full))
}

fn room(total: u64, free: u64, n: u64) -> Result<(), Full> {
    let reserve = (total / 20).min(RESERVE_MAX);
    if free >= reserve.saturating_add(n) { Ok(()) } else { Err(Full { free, reserve }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_of_every_disk() {
        const GIB: u64 = 1 << 30;
        for (total, free, n, expected) in [
            (100 * GIB, 3 * GIB, GIB, Ok(())),
            (100 * GIB, 3 * GIB, GIB + 1, Err(Full { free: 3 * GIB, reserve: 2 * GIB })),
            (10 * GIB, GIB, GIB / 2, Ok(())),
            (10 * GIB, GIB / 2, 1, Err(Full { free: GIB / 2, reserve: GIB / 2 })),
            (10 * GIB, 0, 0, Err(Full { free: 0, reserve: GIB / 2 })),
            (10 * GIB, 9 * GIB, u64::MAX, Err(Full { free: 9 * GIB, reserve: GIB / 2 })),
        ] {
            assert_eq!(room(total, free, n), expected, "{total} {free} {n}");
        }
    }

    #[test]
    fn a_writer_is_told_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut room = Room::at(folder.path());
        room.take(1).unwrap();
        let full = room.take(u64::MAX / 2).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(full.to_string().contains("are kept"), "{full}");
        check(std::fs::File::open(folder.path()).unwrap(), 1).unwrap();
        assert!(Room::at(&folder.path().join("gone")).take(1).is_err());
    }
}
