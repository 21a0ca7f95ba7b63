//! Snapshots: saved to disk, streamed to a manager that lags, received from one.
//!
//! The plain content is four bytes of format and then the store's records, the
//! same on disk and on the wire. It is sealed on disk and never held in memory as
//! a whole by the sender.

use crate::api::{Shared, raft as raft_api};
use crate::disk::{SNAPSHOT_BYTES_MAX, SnapshotDigest, SnapshotMeta, SnapshotWriter};
use crate::persist::{PersistError, encode_membership, read_snapshot};
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};
use sha2::{Digest, Sha256};
use skep_manager_core::Store;
use skep_manager_core::store::SnapshotContent;
use skep_model::version::FORMAT_MAX;
use skep_proto::CHUNK_MAX;
use skep_proto::v1::{self, SnapshotChunk, snapshot_chunk};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Status, Streaming};

/// How long the next piece of a snapshot may take.
const CHUNK_DEADLINE: Duration = Duration::from_secs(60);

/// Encodes the store to a sealed file and notes it in the log. Blocks.
pub fn save(shared: &Shared, metadata: &SnapshotMetadata, view: &Store) -> Result<(), PersistError> {
    let disk = &shared.disk;
    let mut writer = SnapshotWriter::create(&disk.folder, disk.seal.clone(), metadata.index, metadata.term)?;
    for piece in content(view) {
        writer.write(&piece)?;
    }
    let digest = writer.finish(None)?;
    let membership = encode_membership(metadata.index, metadata.get_conf_state());
    disk.note_snapshot(SnapshotMeta { index: metadata.index, term: metadata.term, membership, content: digest })
}

/// The plain content, piece by piece.
fn content(view: &Store) -> impl Iterator<Item = Vec<u8>> + '_ {
    let format = view.cluster().map_or(FORMAT_MAX, |cluster| cluster.plan.format.max(1));
    std::iter::once(format.to_be_bytes().to_vec()).chain(view.encoded_records())
}

/// Streams the store to another manager.
pub async fn send(shared: &Shared, address: &str, message: &Message, view: &Arc<Store>) -> Result<(), Status> {
    let view = view.clone();
    let measured = tokio::task::spawn_blocking({
        let view = view.clone();
        move || measure(&view)
    });
    let digest = measured.await.map_err(|error| Status::internal(error.to_string()))?;
    let header = header(message, digest);
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let _ = sender.try_send(SnapshotChunk { chunk: Some(snapshot_chunk::Chunk::Header(header)) });
    let pieces = tokio::task::spawn_blocking(move || {
        let mut chunk = Vec::with_capacity(CHUNK_MAX);
        for piece in content(&view) {
            for part in piece.chunks(CHUNK_MAX) {
                if chunk.len() + part.len() > CHUNK_MAX && sender.blocking_send(data(std::mem::take(&mut chunk))).is_err() {
                    return;
                }
                chunk.extend_from_slice(part);
            }
        }
        // The receiver has gone if this fails, and the call says so.
        let _ = sender.blocking_send(data(chunk));
    });
    let sent = raft_api::client(shared, address).snapshot(tokio_stream::wrappers::ReceiverStream::new(receiver)).await;
    pieces.await.map_err(|error| Status::internal(error.to_string()))?;
    sent.map(drop)
}

fn data(bytes: Vec<u8>) -> SnapshotChunk {
    SnapshotChunk { chunk: Some(snapshot_chunk::Chunk::Data(bytes)) }
}

fn measure(view: &Store) -> SnapshotDigest {
    let (mut length, mut hash) = (0, Sha256::new());
    for piece in content(view) {
        length += piece.len() as u64;
        hash.update(&piece);
    }
    SnapshotDigest { length, sha256: hash.finalize().into() }
}

fn header(message: &Message, digest: SnapshotDigest) -> v1::SnapshotHeader {
    use protobuf::Message as _;
    let metadata = message.get_snapshot().get_metadata();
    let members = metadata.get_conf_state();
    v1::SnapshotHeader {
        format: FORMAT_MAX,
        index: metadata.index,
        term: metadata.term,
        membership: Some(v1::Membership {
            voters: members.voters.clone(),
            learners: members.learners.clone(),
            voters_outgoing: members.voters_outgoing.clone(),
            learners_next: members.learners_next.clone(),
            auto_leave: members.auto_leave,
        }),
        length: digest.length,
        sha256: digest.sha256.to_vec(),
        message: message.write_to_bytes().unwrap_or_default(),
    }
}

/// Receives a snapshot to a sealed file. It takes effect when raft takes the message.
/// `check` says whether the caller may send what comes from this member of raft.
pub async fn receive<F: Future<Output = Result<(), Status>>>(
    shared: &Arc<Shared>,
    mut chunks: Streaming<SnapshotChunk>,
    check: impl FnOnce(u64) -> F,
) -> Result<(Message, SnapshotContent), Status> {
    let Some(SnapshotChunk { chunk: Some(snapshot_chunk::Chunk::Header(header)) }) = next(&mut chunks).await? else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    let (message, meta) = parse(&header)?;
    check(message.from).await?;
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(4);
    let writing = tokio::task::spawn_blocking({
        let (shared, meta) = (shared.clone(), meta.clone());
        move || write(&shared, &meta, receiver)
    });
    let mut fed = Ok(());
    loop {
        let bytes = match next(&mut chunks).await {
            Ok(Some(SnapshotChunk { chunk: Some(snapshot_chunk::Chunk::Data(bytes)) })) => bytes,
            Ok(Some(_)) => continue,
            Ok(None) => break,
            Err(status) => {
                fed = Err(status);
                break;
            }
        };
        let sender = sender.clone();
        let sent = tokio::task::spawn_blocking(move || sender.send(bytes).is_ok()).await;
        if !sent.unwrap_or(false) {
            break;
        }
    }
    drop(sender);
    // It ends by itself, and leaves nothing of what did not come whole.
    let content = writing.await.map_err(|error| Status::internal(error.to_string()))?;
    fed?;
    let content = content.map_err(|error| Status::data_loss(error.to_string()))?;
    shared.disk.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(meta.index, meta);
    Ok((message, content))
}

/// The next piece, which may not be long in coming.
async fn next(chunks: &mut Streaming<SnapshotChunk>) -> Result<Option<SnapshotChunk>, Status> {
    let chunk = tokio::time::timeout(CHUNK_DEADLINE, chunks.message()).await;
    chunk.unwrap_or_else(|_| Err(Status::deadline_exceeded("the next piece of the snapshot did not come in time")))
}

fn write(
    shared: &Shared,
    meta: &SnapshotMeta,
    chunks: std::sync::mpsc::Receiver<Vec<u8>>,
) -> Result<SnapshotContent, PersistError> {
    let disk = &shared.disk;
    let mut writer = SnapshotWriter::create(&disk.folder, disk.seal.clone(), meta.index, meta.term)?;
    for chunk in chunks {
        writer.write(&chunk)?;
    }
    writer.finish(Some(&meta.content))?;
    // What the next start will find, and not what was to be written.
    Ok(read_snapshot(&disk.folder, &disk.seal, meta)?.1)
}

fn parse(header: &v1::SnapshotHeader) -> Result<(Message, SnapshotMeta), Status> {
    use protobuf::Message as _;
    let malformed = |what: &str| Status::invalid_argument(format!("the snapshot's header has no valid {what}"));
    let mut message = Message::default();
    message.merge_from_bytes(&header.message).map_err(|_| malformed("message"))?;
    let metadata = message.get_snapshot().get_metadata();
    if message.get_msg_type() != MessageType::MsgSnapshot || metadata.index != header.index || metadata.term != header.term {
        return Err(malformed("message"));
    }
    if header.length > SNAPSHOT_BYTES_MAX {
        return Err(malformed("length"));
    }
    let sha256 = header.sha256.as_slice().try_into().map_err(|_| malformed("digest"))?;
    let meta = SnapshotMeta {
        index: header.index,
        term: header.term,
        membership: encode_membership(header.index, metadata.get_conf_state()),
        content: SnapshotDigest { length: header.length, sha256 },
    };
    Ok((message, meta))
}
