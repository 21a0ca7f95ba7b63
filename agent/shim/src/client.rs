//! Starting a shim and finding it again, for an agent of any kind: what comes back is a plain Unix stream.
//!
//! The first connection is one end of a socket pair that the shim inherits; every later one goes to `shim.sock`.
//! Both speak [`crate::protocol`] in the frames of [`crate::wire`].

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::process::ProcessId;
use crate::protocol::TaskSpec;
use crate::state::{self, SOCKET, ShimState, StateError};

/// Why a shim could not be started or reached.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its program could not be run.
    #[error("cannot run {program}")]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another shim lives in the state folder, or is leaving it.
    #[error("another shim has {state}")]
    Held {
        /// The state folder.
        state: PathBuf,
    },
    /// Its lock or its identity could not be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The socket pair could not be made.
    #[error("cannot make a socket pair for a shim")]
    SocketPair(#[source] io::Error),
    /// Nobody listens there: the shim is dead or was released.
    #[error("cannot reach the shim of {state}")]
    Connect {
        /// The state folder.
        state: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A shim that was just started and waits for its `Start`.
pub struct Spawned {
    /// The process, to be reaped by whoever started it; it is in a session of its own.
    pub child: Child,
    /// The inherited connection. It is in blocking mode.
    pub stream: UnixStream,
}

/// Starts `program` as the shim of a state folder, which must exist, for a task. The shim has the folder's lock before
/// it is executed, and its identity is in the folder before this returns, so before anything can be asked of it. No
/// secret is in its arguments or environment: the environment is empty.
pub fn spawn(program: &Path, state: &Path, spec: &TaskSpec) -> Result<Spawned, ClientError> {
    let lock = state::lock(state)?.ok_or_else(|| ClientError::Held { state: state.to_owned() })?;
    let (ours, theirs) = UnixStream::pair().map_err(ClientError::SocketPair)?;
    let fail = |source| ClientError::Spawn { program: program.to_owned(), source };
    // The shim's standard input is its end of the pair and its standard output the lock: no descriptor number to agree
    // on, nothing to leak.
    let mut child = Command::new(program)
        .arg(state)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(lock)
        .stderr(Stdio::null())
        .spawn()
        .map_err(fail)?;
    let identity = ProcessId::of(child.id() as i32).map_err(fail).and_then(|shim| {
        let identity = ShimState {
            task_id: spec.task_id.clone(),
            attempt: 0,
            shim,
            container: None,
            started_at_ns: None,
            cgroups_path: spec.cgroups_path.clone(),
            log_dir: spec.log.dir.clone(),
        };
        Ok(identity.write(state)?)
    });
    if let Err(error) = identity {
        let _ = child.kill();
        let _ = child.wait();
        return Err(error);
    }
    Ok(Spawned { child, stream: ours })
}

/// Connects to the shim of a state folder. The stream is in blocking mode.
pub fn connect(state: &Path) -> Result<UnixStream, ClientError> {
    let fail = |source| ClientError::Connect { state: state.to_owned(), source };
    // A socket's path has room for 107 bytes only; through the open folder it is always short.
    let folder = File::open(state).map_err(fail)?;
    UnixStream::connect(short_path(&folder)).map_err(fail)
}

/// The socket's path by way of its open folder.
pub fn short_path(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET)
}
