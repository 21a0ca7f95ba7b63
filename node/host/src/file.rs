//! Small files that are replaced whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Puts a file in the place of the one with its name, so that a crash leaves the old or the
/// new: written beside it, synced, renamed, the folder synced. It is its owner's alone.
///
/// # Errors
/// If a step fails; the old file is then still there.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    // What a crash left behind may have another mode.
    remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed("create", &new))?;
    file.write_all(bytes).map_err(failed("write", &new))?;
    file.sync_all().map_err(failed("sync", &new))?;
    fs::rename(&new, &path).map_err(failed("replace", &path))?;
    sync(folder)
}

/// Removes a file, if it is there. Its folder is not synced.
///
/// # Errors
/// If it stays.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes what was made, renamed and removed in a folder durable.
///
/// # Errors
/// If the disk does not take it.
pub fn sync(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FileError + use<'a> {
    move |source| FileError { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        // What a crash left half written is of no account.
        fs::write(folder.path().join("f.new"), "half").unwrap();
        for text in ["one", "two"] {
            replace(folder.path(), "f", text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(folder.path().join("f")).unwrap(), text);
        }
        assert_eq!(fs::metadata(folder.path().join("f")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        remove(&folder.path().join("f")).unwrap();
        remove(&folder.path().join("f")).unwrap();
        let error = replace(&folder.path().join("missing"), "f", b"").unwrap_err();
        assert!(error.to_string().starts_with("cannot create"), "{error}");
    }
}
