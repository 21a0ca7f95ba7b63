//! The data folder: which node's log it holds, in which format, and how it comes and goes.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::disk::seal::RecordSeal;
use crate::disk::snapshot::{self, io_error};
use crate::disk::{DiskError, FORMAT};

/// Removes everything that a log left in its data folder `dir`. The caller has closed the log.
///
/// # Errors
/// [`DiskError::Io`].
pub fn destroy(dir: &Path) -> Result<(), DiskError> {
    let identity = identity_path(dir);
    // First, so that a half-removed log counts as none.
    match fs::remove_file(&identity) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error("removing", &identity)(error)),
        _ => {}
    }
    remove_folder(&log_dir(dir))?;
    remove_folder(&snapshot::folder(dir))?;
    match dir.exists() {
        true => snapshot::sync_folder(dir),
        false => Ok(()),
    }
}

/// Whether the data folder `dir` holds a log, of whichever node.
///
/// # Errors
/// [`DiskError::Io`] if that cannot be found out.
pub fn is_there(dir: &Path) -> Result<bool, DiskError> {
    let path = identity_path(dir);
    path.try_exists().map_err(io_error("looking for", &path))
}

pub(super) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

fn identity_path(dir: &Path) -> PathBuf {
    dir.join("identity")
}

/// Whether there is a log in `dir`; refuses one of another node or a newer format.
pub(super) fn check_identity(dir: &Path, seal: &RecordSeal) -> Result<bool, DiskError> {
    let path = identity_path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("reading", &path)(error)),
    };
    let mut words = text.split_whitespace();
    let (format, node) = (words.next().and_then(|w| w.parse::<u32>().ok()), words.next());
    let (Some(format), Some(node)) = (format, node) else {
        return Err(DiskError::Rot { path, offset: 0, reason: "it does not name a format and a node" });
    };
    if format > FORMAT {
        return Err(DiskError::NewerFormat { path: dir.into(), found: format });
    }
    if node != seal.node_id() {
        return Err(DiskError::ForeignNode { path: dir.into(), found: node.to_owned(), expected: seal.node_id().to_owned() });
    }
    Ok(true)
}

pub(super) fn write_identity(dir: &Path, node_id: &str) -> Result<(), DiskError> {
    use std::io::Write;
    let path = identity_path(dir);
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        writeln!(file, "{FORMAT} {node_id}")?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(io_error("writing", &path))?;
    snapshot::sync_folder(dir)
}

pub(super) fn make_folder(path: &Path) -> Result<(), DiskError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io_error("creating", path))
}

pub(super) fn remove_folder(path: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path)(error)),
        _ => Ok(()),
    }
}
