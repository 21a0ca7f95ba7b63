//! What the names' files say, kept in sled so that a start does not read and parse each of them.
//!
//! Only a cache: a file is believed over it. An entry counts while the file has the inode, size and time of change that it
//! had when the entry was made, and an index that cannot be opened, read or written costs a start some time and nothing else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::store::{Name, remove_tree};

/// Bytes sled may cache.
const CACHE: u64 = 4 << 20;

/// Which state of a file an entry was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    inode: u64,
    n_bytes: u64,
    changed_ns: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self { inode: file.ino(), n_bytes: file.len(), changed_ns: (file.ctime(), file.ctime_nsec()) })
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    name: Name,
}

/// The index of one image store; `None` where sled cannot be used.
#[derive(Debug)]
pub(super) struct Index(Option<sled::Db>);

impl Index {
    /// Opens the index in a folder of its own. One that is damaged is made anew.
    pub fn open(folder: &Path) -> Self {
        let open = || sled::Config::new().path(folder).cache_capacity(CACHE).open();
        let db = open().or_else(|error| {
            tracing::warn!(%error, "the image index is damaged and is made anew");
            remove_tree(folder).map_err(|error| sled::Error::Unsupported(error.to_string()))?;
            open()
        });
        if let Err(error) = &db {
            tracing::warn!(%error, "there is no image index: every name is read at each start");
        }
        Self(db.ok())
    }

    /// What a name's file says, if it is as it was when that was noted.
    pub fn find(&self, path: &Path) -> Option<Name> {
        let bytes = self.0.as_ref()?.get(key(path)?).ok()??;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        (Some(entry.stamp) == Stamp::of(path)).then_some(entry.name)
    }

    /// Notes what a name's file says now.
    pub fn note(&self, path: &Path, name: &Name) {
        let (Some(db), Some(key), Some(stamp)) = (&self.0, key(path), Stamp::of(path)) else { return };
        let entry = serde_json::to_vec(&Entry { stamp, name: name.clone() });
        let noted = entry.map_err(|error| error.to_string()).and_then(|entry| db.insert(key, entry).map_err(|e| e.to_string()));
        if let Err(error) = noted {
            tracing::debug!(%error, "the image index was not written");
        }
    }

    /// The file is gone.
    pub fn forget(&self, path: &Path) {
        if let (Some(db), Some(key)) = (&self.0, key(path))
            && let Err(error) = db.remove(key)
        {
            tracing::debug!(%error, "the image index was not written");
        }
    }
}

fn key(path: &Path) -> Option<&[u8]> {
    Some(path.file_name()?.as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let digest = super::super::Digest::of(text.as_bytes());
        Name {
            name: text.into(),
            target: digest.clone(),
            manifest: digest.clone(),
            id: digest,
            n_bytes: 1,
            since_s: 2,
            created: None,
            chain: Vec::new(),
            blobs: Vec::new(),
        }
    }

    #[test]
    fn an_entry_counts_while_its_file_is_as_it_was_and_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (at, file) = (folder.path().join("index"), folder.path().join("name"));
        fs::write(&file, "a").unwrap();
        let index = Index::open(&at);
        assert!(index.find(&file).is_none(), "nothing was noted");
        index.note(&file, &name("busybox"));
        drop(index);
        let index = Index::open(&at);
        assert_eq!(index.find(&file).expect("it was noted").name, "busybox");
        fs::write(&file, "another").unwrap();
        assert!(index.find(&file).is_none(), "the file is believed over the index");
        index.note(&file, &name("alpine"));
        index.forget(&file);
        assert!(index.find(&file).is_none());
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (at, file) = (folder.path().join("index"), folder.path().join("name"));
        fs::write(&file, "a").unwrap();
        fs::create_dir(&at).unwrap();
        fs::write(at.join("conf"), "not sled's").unwrap();
        let index = Index::open(&at);
        index.note(&file, &name("busybox"));
        assert!(index.find(&file).is_some());
    }
}
