//! `DATA/node.json`: what a node must remember of its place in a cluster that is
//! no secret.
//!
//! It is written before the keystore when a node begins to belong to a cluster,
//! and removed after it when the node leaves. Its stage tells a start after a
//! crash what to do: a founding is undone, a join is gone on with if its keystore
//! exists, a leave is finished.

use serde::{Deserialize, Serialize};
use skep_host::file::{self, FileError};
use skep_model::{ClusterId, NodeId};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "node.json";
const FORMAT: u32 = 1;
const FILE_LENGTH_MAX: u64 = 1 << 20;

/// How far a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// A cluster is being made; nobody knows of it yet.
    Founding,
    /// A certificate was issued and is being put away.
    Joining,
    /// It belongs to the cluster.
    Member,
    /// It is leaving.
    Leaving,
}

/// A node's place in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    format: u32,
    /// How far it has come.
    pub stage: Stage,
    /// The node's id.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Where others reach it.
    pub advertise: SocketAddr,
    /// Its address for overlay traffic, where that is not the one above.
    #[serde(default)]
    pub data_path: Option<IpAddr>,
    /// Where its manager listens.
    pub listen: SocketAddr,
    /// Its place in raft, while it has one; the log is in `DATA/manager`.
    pub raft_id: Option<u64>,
    /// Something was promised in the name of the raft id: the log must be there.
    #[serde(default)]
    pub has_log: bool,
    /// Its address changed, and the other managers have yet to hear of that.
    #[serde(default)]
    pub is_moved: bool,
    /// The other managers by raft id, until the manager has started once.
    #[serde(default)]
    pub peers: BTreeMap<u64, String>,
    /// Managers that were known at the join.
    #[serde(default)]
    pub managers: Vec<String>,
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It does not read.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A later version wrote it.
    #[error("{} has format {found}; this version of skep reads {FORMAT}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
}

impl NodeFile {
    /// A node that begins to belong to a cluster.
    pub fn new(stage: Stage, node: NodeId, cluster: ClusterId, advertise: SocketAddr, listen: SocketAddr) -> Self {
        Self {
            format: FORMAT,
            stage,
            node,
            cluster,
            advertise,
            data_path: None,
            listen,
            raft_id: None,
            has_log: false,
            is_moved: false,
            peers: BTreeMap::new(),
            managers: Vec::new(),
        }
    }

    /// The address at which other nodes reach it with overlay traffic.
    pub fn underlay(&self) -> IpAddr {
        self.data_path.unwrap_or(self.advertise.ip())
    }

    /// Whether its raft id has been used. In a file from before that was put down, a
    /// member's peers were forgotten when its manager had started.
    pub fn is_id_used(&self) -> bool {
        self.has_log || (self.raft_id.is_some() && self.stage == Stage::Member && self.peers.is_empty())
    }

    /// Reads the file of a data folder, if there is one.
    ///
    /// # Errors
    /// If it does not read.
    pub fn load(data: &Path) -> Result<Option<Self>, StateError> {
        let path = data.join(FILE_NAME);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io_error("open", &path))?,
        };
        let mut text = Vec::new();
        file.take(FILE_LENGTH_MAX).read_to_end(&mut text).map_err(io_error("read", &path))?;
        let state: Self = serde_json::from_slice(&text).map_err(|source| StateError::Damaged { path: path.clone(), source })?;
        if state.format != FORMAT {
            return Err(StateError::Format { path, found: state.format });
        }
        Ok(Some(state))
    }

    /// Writes it so that a crash leaves the old or the new.
    ///
    /// # Errors
    /// If a step fails; the old file is then still there.
    pub fn save(&self, data: &Path) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(self).expect("plain data encodes");
        Ok(file::replace(data, FILE_NAME, &text)?)
    }

    /// Forgets the node's place.
    ///
    /// # Errors
    /// If the file is there and cannot be removed.
    pub fn remove(data: &Path) -> Result<(), StateError> {
        file::remove(&data.join(FILE_NAME))?;
        Ok(file::sync(data)?)
    }
}

impl From<FileError> for StateError {
    fn from(FileError { operation, path, source }: FileError) -> Self {
        Self::Io { operation, path, source }
    }
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StateError + use<'a> {
    move |source| StateError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn state() -> NodeFile {
        let (node, cluster) = (NodeId::from_random([1; 16]), ClusterId::from_random([2; 16]));
        let address = "10.0.0.1:2377".parse().unwrap();
        NodeFile::new(Stage::Joining, node, cluster, address, address)
    }

    #[test]
    fn a_place_is_kept_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(NodeFile::load(folder.path()).unwrap(), None);
        let mut state = state();
        state.save(folder.path()).unwrap();
        state.stage = Stage::Member;
        state.raft_id = Some(3);
        state.peers.insert(1, "10.0.0.2:2377".into());
        // What a crash left half written is of no account.
        fs::write(folder.path().join("node.json.new"), "{").unwrap();
        assert_ne!(NodeFile::load(folder.path()).unwrap().as_ref(), Some(&state));
        state.save(folder.path()).unwrap();
        assert_eq!(NodeFile::load(folder.path()).unwrap(), Some(state));
        NodeFile::remove(folder.path()).unwrap();
        NodeFile::remove(folder.path()).unwrap();
        assert_eq!(NodeFile::load(folder.path()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), "{}").unwrap();
        assert!(matches!(NodeFile::load(folder.path()), Err(StateError::Damaged { .. })));
        let later = NodeFile { format: FORMAT + 1, ..state() };
        later.save(folder.path()).unwrap();
        assert!(matches!(NodeFile::load(folder.path()), Err(StateError::Format { found: 2, .. })));
    }
}
