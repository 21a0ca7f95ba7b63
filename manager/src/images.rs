//! Image archives on their way from a client to every ready node.
//!
//! The archive is spooled to a file of this manager, offered to each node that
//! has a session, and fetched by them; the file goes when all have answered or
//! the caller is gone.

use crate::sessions::Sessions;
use skep_model::{Id, NodeId, said};
use skep_proto::v1::{ImageOffer, ImageProgress, ImageResult, manager_message};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The largest archive that is distributed, in bytes.
pub const ARCHIVE_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Archives that are spooled at the same time.
const TRANSFERS_MAX: usize = 2;

/// Names of images that a node may say it loaded from one archive, and their length in bytes.
const REFERENCES_MAX: usize = 256;
const REFERENCE_LENGTH_MAX: usize = 512;

#[derive(Debug)]
struct Transfer {
    file: PathBuf,
    offer: ImageOffer,
    sender: mpsc::UnboundedSender<ImageProgress>,
    open: BTreeSet<NodeId>,
}

/// All transfers.
#[derive(Debug)]
pub struct Images {
    sessions: Arc<Sessions>,
    folder: PathBuf,
    transfers: Mutex<BTreeMap<Id, Transfer>>,
    places: Arc<Semaphore>,
}

impl Images {
    /// Archives are spooled in `folder`, which is emptied: nothing in it outlives a process.
    pub fn open(folder: PathBuf, sessions: Arc<Sessions>) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&folder)?,
        }
        Ok(Self { sessions, folder, transfers: Mutex::default(), places: Arc::new(Semaphore::new(TRANSFERS_MAX)) })
    }

    /// A place for a transfer, spooling included, while it is held; `None` if all are taken.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Where the archive of a transfer is spooled.
    pub fn spool(&self, id: Id) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Offers a spooled archive to every node with a session.
    pub fn offer(&self, id: Id, name: &str, size: u64) -> mpsc::UnboundedReceiver<ImageProgress> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let nodes = self.sessions.nodes();
        let offer = ImageOffer { transfer_id: id.to_string(), name: name.into(), size };
        let open = nodes.iter().copied().collect();
        self.lock().insert(id, Transfer { file: self.spool(id), offer: offer.clone(), sender, open });
        for node in nodes {
            // One whose session has just ended is asked when it comes back, or given up.
            self.sessions.send_to_node(node, manager_message::Message::ImageOffer(offer.clone()));
        }
        self.end_if_done(id);
        receiver
    }

    /// A node has opened a session: what it was offered and has not answered is offered
    /// again. It may never have heard, and answers again if it has.
    pub fn ask_again(&self, node: NodeId) {
        let offers: Vec<ImageOffer> = self
            .lock()
            .values()
            .filter(|transfer| transfer.open.contains(&node))
            .map(|transfer| transfer.offer.clone())
            .collect();
        for offer in offers {
            self.sessions.send_to_node(node, manager_message::Message::ImageOffer(offer));
        }
    }

    /// The archive that a node was offered.
    pub fn file(&self, id: Id, node: NodeId) -> Option<PathBuf> {
        let transfers = self.lock();
        let transfer = transfers.get(&id)?;
        transfer.open.contains(&node).then(|| transfer.file.clone())
    }

    /// A node has got on, or is done.
    pub fn result(&self, node: NodeId, result: ImageResult) {
        let Ok(id) = result.transfer_id.parse::<Id>() else { return };
        let is_over = result.done || !result.error.is_empty();
        if let Some(transfer) = self.lock().get_mut(&id) {
            if !transfer.open.contains(&node) {
                return;
            }
            let state = if result.error.is_empty() { if result.done { "loaded" } else { "loading" } } else { "failed" };
            let _ = transfer.sender.send(ImageProgress {
                node_id: node.to_string(),
                state: state.into(),
                bytes: result.bytes,
                error: result.error,
                done: is_over,
                references: told(result.references),
                ..ImageProgress::default()
            });
            if is_over {
                transfer.open.remove(&node);
            }
        }
        self.end_if_done(id);
    }

    /// A node's session ended and it opened no other: it will not answer.
    pub fn node_lost(&self, node: NodeId) {
        let ids: Vec<Id> = self.lock().iter().filter(|(_, t)| t.open.contains(&node)).map(|(id, _)| *id).collect();
        for id in ids {
            let error = "its session ended before it had loaded the image".into();
            self.result(node, ImageResult { transfer_id: id.to_string(), error, done: true, ..ImageResult::default() });
        }
    }

    /// The caller has gone, or all nodes have answered: the file goes.
    pub fn end(&self, id: Id) {
        let file = self.lock().remove(&id).map_or_else(|| self.spool(id), |transfer| transfer.file);
        remove(&file);
    }

    fn end_if_done(&self, id: Id) {
        let is_done = self.lock().get(&id).is_some_and(|transfer| transfer.open.is_empty());
        if is_done {
            self.end(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Transfer>> {
        self.transfers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Names of images as a node says them: bounded, and fit for a terminal.
fn told(references: Vec<String>) -> Vec<String> {
    references.iter().take(REFERENCES_MAX).map(|reference| said::line(reference, REFERENCE_LENGTH_MAX)).collect()
}

fn remove(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(file = %file.display(), %error, "could not remove a spooled image archive");
        }
        _ => {}
    }
}
