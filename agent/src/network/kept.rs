//! What a manager last told of the overlay networks, on disk: so that a machine that
//! was restarted has its networks and names before a manager is reached.
//!
//! It is a fallback and may be some seconds old; a manager's complete set replaces it.
//! Nothing in it is secret. A file that is damaged, of another node or too long is
//! dropped, with a word.

use crate::framed::{self, Kind};
use prost::Message;
use skep_model::NodeId;
use skep_model::overlay::OverlayChange;
use skep_proto::v1;
use std::path::PathBuf;
use std::time::Duration;

/// The file, in the first format.
const KIND: Kind = *b"skepovl1";
/// Bytes of the file at most.
const KEPT_MAX: u64 = 64 << 20;
/// From a change to the file that has it, where little changes.
pub(super) const WRITE_AFTER: Duration = Duration::from_secs(1);
/// A file that took long to write is not written again before so many times as long.
pub(super) const WRITE_SHARE: u32 = 10;

/// The body of the file.
#[derive(Clone, PartialEq, Message)]
struct Body {
    /// The kernel's id of the boot on which it was written.
    #[prost(string, tag = "1")]
    boot: String,
    /// The node that was told.
    #[prost(string, tag = "2")]
    node: String,
    /// UDP port of overlay traffic.
    #[prost(uint32, tag = "3")]
    port: u32,
    /// Every object that there is, as it is put.
    #[prost(message, repeated, tag = "4")]
    changes: Vec<v1::OverlayChange>,
    /// No task opens a connection to an address of the node.
    #[prost(bool, tag = "5")]
    isolate_nodes: bool,
}

/// Everything that was told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Overlay {
    /// UDP port of overlay traffic.
    pub port: u16,
    /// No task opens a connection to an address of the node.
    pub isolate_nodes: bool,
    /// Every object that there is, as it is put.
    pub objects: Vec<OverlayChange>,
}

/// The file of one node.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub node: NodeId,
    /// The kernel's id of this boot.
    pub boot: String,
}

impl Kept {
    /// What was kept, and whether that was on this boot. Blocks.
    pub fn load(&self) -> Option<(Overlay, bool)> {
        let why = match framed::read(&self.path, KIND, KEPT_MAX) {
            Ok(None) => return None,
            Ok(Some(body)) => match self.parse(&body) {
                Ok(kept) => return Some(kept),
                Err(why) => why,
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %self.path.display(), %why, "what was kept of the overlay networks is dropped");
        self.remove();
        None
    }

    fn parse(&self, body: &[u8]) -> Result<(Overlay, bool), String> {
        let body = Body::decode(body).map_err(|error| error.to_string())?;
        if body.node != self.node.as_str() {
            return Err(format!("it is node {}'s", body.node));
        }
        let port = u16::try_from(body.port).map_err(|_| format!("port {}", body.port))?;
        let parsed = body.changes.into_iter().map(OverlayChange::try_from);
        let objects = parsed.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok((Overlay { port, isolate_nodes: body.isolate_nodes, objects }, body.boot == self.boot))
    }

    /// Keeps what was told. Blocks.
    pub fn save(&self, overlay: &Overlay) {
        let changes = overlay.objects.iter().map(v1::OverlayChange::from).collect();
        let body = Body {
            boot: self.boot.clone(),
            node: self.node.to_string(),
            port: overlay.port.into(),
            changes,
            isolate_nodes: overlay.isolate_nodes,
        };
        let length = body.encoded_len() as u64;
        if length > KEPT_MAX {
            tracing::warn!(length, "the overlay networks are too many to be kept for a restart of the machine");
            return self.remove();
        }
        if let Err(error) = framed::write(&self.path, KIND, &body.encode_to_vec()) {
            tracing::warn!(path = %self.path.display(), %error, "what is told of the overlay networks could not be kept");
        }
    }

    /// Removes the file: nothing was told, or it is of no use.
    pub fn remove(&self) {
        if let Err(error) = skep_shim::file::remove_if_there(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what was kept of the overlay networks could not be removed");
        }
    }
}
