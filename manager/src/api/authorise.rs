//! Before any call: who calls, and may they?
//!
//! The role that counts is the lower of the certificate's and the cluster's, so a
//! demotion takes effect at once; nodes that were removed are refused by id.

use crate::api::Shared;
use crate::api::roles::{TABLE, Who, may_call};
use skep_identity::tls::PeerInfo;
use skep_manager_core::event::Consistency;
use skep_model::NodeId;
use skep_model::node::Role;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

/// The layer that asks.
#[derive(Clone)]
pub struct Authorise(pub(crate) Arc<Shared>);

impl<S> tower::Layer<S> for Authorise {
    type Service = Authorised<S>;

    fn layer(&self, inner: S) -> Authorised<S> {
        Authorised { shared: self.0.clone(), inner }
    }
}

/// A service whose every call is authorised first.
#[derive(Clone)]
pub struct Authorised<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> tower::Service<http::Request<Body>> for Authorised<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The instance that is ready is the one that must be called.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let shared = self.shared.clone();
        let rpc = request.uri().path().trim_start_matches('/').to_owned();
        let peer = request.extensions().get::<PeerInfo>().cloned();
        Box::pin(async move {
            match check(&shared, &rpc, peer.as_ref()).await {
                Ok(()) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

async fn check(shared: &Shared, rpc: &str, peer: Option<&PeerInfo>) -> Result<(), Status> {
    let who = who(shared, peer).await?;
    if may_call(rpc, who) {
        return Ok(());
    }
    let allowed = TABLE.iter().find(|(name, _)| *name == rpc).map(|(_, allowed)| allowed.to_string());
    let allowed = allowed.unwrap_or_else(|| "nobody".into());
    Err(match who {
        Who::Nobody => Status::unauthenticated(format!("{rpc} is for {allowed}; no certificate was shown")),
        _ => Status::permission_denied(format!("{rpc} is for {allowed}")),
    })
}

async fn who(shared: &Shared, peer: Option<&PeerInfo>) -> Result<Who, Status> {
    let Some(identity) = peer.and_then(|peer| peer.node.as_ref()) else { return Ok(Who::Nobody) };
    let node: NodeId = identity.node_id.parse().map_err(|_| Status::unauthenticated("the certificate names no node"))?;
    // A manager that has just joined has no state yet; the certificate is all there is.
    let Ok(store) = shared.read(Consistency::Stale).await else { return Ok(Who::Node(identity.role)) };
    let Some(cluster) = store.cluster() else { return Ok(Who::Node(identity.role)) };
    if cluster.id.as_str() != identity.cluster_id {
        return Err(Status::permission_denied("the certificate is of another cluster"));
    }
    if cluster.plan.removed_nodes.contains_key(&node) {
        return Err(Status::permission_denied(format!("node {node} was removed from the cluster")));
    }
    let known = store.node(node).map_or(identity.role, |known| known.plan.role);
    Ok(Who::Node(if identity.role == Role::Manager && known == Role::Manager { Role::Manager } else { Role::Worker }))
}
