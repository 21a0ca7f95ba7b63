//! Removing what no name reaches and no running work counts on.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::digest::Digest;
use super::error::{ImageError, Result};
use super::layout::Layout;
use super::store::{Shared, remove_tree};

impl Shared {
    /// Moves unreachable blobs and layers aside while nobody can take a lease, then deletes them
    /// without holding anything up.
    pub(super) fn sweep(&self) -> Result<()> {
        let doomed = self.set_aside()?;
        for path in doomed {
            if path.is_dir() {
                remove_tree(&path)?;
            } else {
                fs::remove_file(&path).map_err(ImageError::store("remove", &path))?;
            }
        }
        Ok(())
    }

    fn set_aside(&self) -> Result<Vec<PathBuf>> {
        let mut state = self.state();
        let now = Instant::now();
        state.kept.retain(|_, until| *until > now);
        let state = &*state;
        let mut kept: HashSet<&Digest> = state.leases.keys().chain(state.kept.keys()).collect();
        for name in state.names.values() {
            kept.extend(&name.blobs);
            kept.extend(&name.chain);
        }
        let mut doomed = Vec::new();
        for folder in [self.layout.blobs(), self.layout.layers()] {
            for path in entries(&folder)? {
                let digest = path.file_name().and_then(|name| Digest::from_hex(&name.to_string_lossy()));
                if digest.is_some_and(|digest| kept.contains(&digest)) {
                    continue;
                }
                let aside = self.layout.temporary("swept");
                fs::rename(&path, &aside).map_err(ImageError::store("remove", &path))?;
                doomed.push(aside);
            }
        }
        for path in entries(&self.layout.tmp())? {
            if Layout::digest_of_partial(&path).is_some_and(|digest| !kept.contains(&digest)) {
                doomed.push(path);
            }
        }
        // A link is made just before its layer gets its name, so one without a layer counts as
        // in the making while any work is under way.
        if state.leases.is_empty() {
            for link in entries(&self.layout.links())? {
                if link.is_symlink() && !link.exists() {
                    fs::remove_file(&link).map_err(ImageError::store("remove", &link))?;
                }
            }
        }
        Ok(doomed)
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(ImageError::store("read", folder))
}
