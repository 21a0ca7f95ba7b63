//! The node's own API and, on managers, the cluster's, on one socket that only
//! root and the group `skep` may open.

use crate::args::GROUP;
use crate::failure::Failure;
use crate::images;
use crate::info;
use crate::init;
use crate::join;
use crate::leave;
use crate::local_control::LocalControl;
use crate::node::Node;
use crate::unlock;
use skep_host::process;
use skep_host::unix::local_server;
use skep_host::unix::{self, LocalIncoming, LocalPeer};
use skep_proto::v1::control_server::ControlServer;
use skep_proto::v1::local_server::{Local, LocalServer};
use skep_proto::v1::{self, ImageChunk};
use skep_proto::{CHUNK_MAX, MESSAGE_MAX, READ_REPLY_MAX};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Request, Response, Status, Streaming};

/// How long the end may take: leadership is handed over, sessions are closed.
const END_MAX: Duration = Duration::from_secs(15);
/// Bytes beside the data in a message that carries a chunk.
const ENVELOPE: usize = 4096;

/// Serves until a signal ends the daemon; a second signal ends it at once.
///
/// # Errors
/// If the socket cannot be made, or serving it fails.
pub async fn serve(node: Arc<Node>) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let path = node.settings.run.join("skep.sock");
    let resume = process::essential("the start of this node", node.resume());
    let listener = unix::bind(&path, Some(GROUP))?;
    tracing::info!(socket = %path.display(), data = %node.settings.data.display(), "skepd is here");
    let server = local_server()
        .add_service(
            LocalServer::new(LocalApi(node.clone()))
                .max_decoding_message_size(MESSAGE_MAX.max(CHUNK_MAX + ENVELOPE))
                .max_encoding_message_size(READ_REPLY_MAX),
        )
        .add_service(
            ControlServer::new(LocalControl(node.clone()))
                .max_decoding_message_size(MESSAGE_MAX.max(CHUNK_MAX + ENVELOPE))
                .max_encoding_message_size(READ_REPLY_MAX),
        )
        .serve_with_incoming(LocalIncoming(listener));
    // Beside the serving, because a manager may take its time to read its log.
    let resuming = tokio::spawn(resume);
    tokio::select! {
        served = server => served.context("cannot serve the local socket")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("skepd is ending; containers go on");
    // Whoever looks for the daemon now finds none.
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(%error, "cannot remove the socket");
    }
    tokio::select! {
        ended = tokio::time::timeout(END_MAX, async {
            if let Err(error) = resuming.await {
                tracing::error!(%error, "the start of this node failed");
            }
            node.shut_down().await;
        }) => if ended.is_err() {
            tracing::warn!("ending took longer than {} s; what was left to do is given up", END_MAX.as_secs());
        },
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The service.
#[derive(Clone)]
pub struct LocalApi(Arc<Node>);

/// Writes down who asked for a change of the node.
fn note<T>(what: &str, request: &Request<T>) {
    match request.extensions().get::<LocalPeer>() {
        Some(peer) => tracing::info!(uid = peer.uid, gid = peer.gid, pid = peer.pid, "asked to {what}"),
        None => tracing::info!("asked to {what}"),
    }
}

/// Runs a change of the node to its end, also when the caller goes away meanwhile.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<Response<T>, Status> {
    match tokio::spawn(change).await {
        Ok(done) => Ok(Response::new(done?)),
        Err(error) => {
            tracing::error!(%error, "a change of this node failed");
            Err(Status::internal("the daemon failed; its log says more"))
        }
    }
}

#[tonic::async_trait]
impl Local for LocalApi {
    async fn init(&self, request: Request<v1::InitRequest>) -> Result<Response<v1::InitReply>, Status> {
        note("found a cluster", &request);
        let node = self.0.clone();
        to_its_end(async move { init::init(&node, request.into_inner()).await }).await
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        note("join a cluster", &request);
        let node = self.0.clone();
        to_its_end(async move { join::join(&node, request.into_inner()).await }).await
    }

    async fn leave_cluster(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveReply>, Status> {
        note("leave the cluster", &request);
        let (node, force) = (self.0.clone(), request.get_ref().force);
        to_its_end(async move { leave::leave(&node, force).await.map(|()| v1::LeaveReply {}) }).await
    }

    async fn unlock(&self, request: Request<v1::UnlockRequest>) -> Result<Response<v1::UnlockReply>, Status> {
        note("unlock this node", &request);
        let node = self.0.clone();
        to_its_end(async move { unlock::unlock(&node, request.into_inner().key).await.map(|()| v1::UnlockReply {}) }).await
    }

    async fn unlock_key(&self, request: Request<v1::UnlockKeyRequest>) -> Result<Response<v1::UnlockKeyReply>, Status> {
        note("show the unlock key", &request);
        let (node, rotate) = (self.0.clone(), request.get_ref().rotate);
        to_its_end(async move { unlock::unlock_key(&node, rotate).await }).await
    }

    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::NodeInfo>, Status> {
        Ok(Response::new(info::info(&self.0).await))
    }

    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionReply>, Status> {
        Ok(Response::new(info::version()))
    }

    async fn image_list(&self, _: Request<v1::ImageListRequest>) -> Result<Response<v1::ImageListReply>, Status> {
        Ok(Response::new(images::list(&self.0)))
    }

    type ImageLoadStream = images::Progresses;

    async fn image_load(&self, request: Request<Streaming<ImageChunk>>) -> Result<Response<Self::ImageLoadStream>, Status> {
        note("load images", &request);
        Ok(Response::new(images::load(&self.0, request.into_inner())))
    }

    type ImagePullStream = images::Progresses;

    async fn image_pull(&self, request: Request<v1::ImagePullRequest>) -> Result<Response<Self::ImagePullStream>, Status> {
        note("pull an image", &request);
        Ok(Response::new(images::pull(&self.0, request.into_inner())?))
    }

    async fn image_resolve(&self, request: Request<v1::ImageResolveRequest>) -> Result<Response<v1::ImageResolveReply>, Status> {
        images::resolve(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn image_remove(&self, request: Request<v1::ImageRemoveRequest>) -> Result<Response<v1::ImageRemoveReply>, Status> {
        note("remove images", &request);
        let node = self.0.clone();
        to_its_end(async move { images::remove(&node, request.into_inner()).await }).await
    }
}
