//! Before any call: who calls, and may they?
//!
//! The role that counts is the lower of the certificate's and the cluster's, so a
//! demotion takes effect at once; nodes that were removed are refused by id. Who cannot
//! be judged is refused: a manager that has no state yet hears other managers' rafts,
//! which bring it, and nobody else.

use crate::api::Shared;
use crate::api::roles::{TABLE, Who, call_max, may_call};
use skep_identity::NodeIdentity;
use skep_identity::tls::PeerInfo;
use skep_manager_core::Store;
use skep_manager_core::event::Consistency;
use skep_model::NodeId;
use skep_model::node::Role;
use skep_proto::status::from_refusal;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

/// The service of the rafts.
const RAFT: &str = "skep.v1.Raft/";

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
            // A connection without a call under way may be closed.
            let _call = peer.as_ref().map(PeerInfo::call);
            if let Err(status) = check(&shared, &rpc, peer.as_ref()).await {
                return Ok(status.into_http());
            }
            match call_max(&rpc) {
                None => inner.call(request).await,
                Some(limit) => tokio::time::timeout(limit, inner.call(request)).await.unwrap_or_else(|_| {
                    let text = format!("{rpc} took longer than {} s", limit.as_secs());
                    Ok(Status::deadline_exceeded(text).into_http())
                }),
            }
        })
    }
}

async fn check(shared: &Shared, rpc: &str, peer: Option<&PeerInfo>) -> Result<(), Status> {
    let who = who(shared, rpc, peer).await?;
    if may_call(rpc, who) {
        return Ok(());
    }
    let allowed = TABLE.iter().find(|(name, ..)| *name == rpc).map(|(_, allowed, _)| allowed.to_string());
    let allowed = allowed.unwrap_or_else(|| "nobody".into());
    Err(match who {
        Who::Nobody => Status::unauthenticated(format!("{rpc} is for {allowed}; no certificate was shown")),
        _ => Status::permission_denied(format!("{rpc} is for {allowed}")),
    })
}

async fn who(shared: &Shared, rpc: &str, peer: Option<&PeerInfo>) -> Result<Who, Status> {
    let Some(identity) = peer.and_then(|peer| peer.node.as_ref()) else { return Ok(Who::Nobody) };
    let store = shared.read(Consistency::Stale).await;
    judge(store.as_deref().map_err(from_refusal), rpc, identity)
}

/// What the bearer of a certificate is, by what the store says of it.
fn judge(store: Result<&Store, Status>, rpc: &str, identity: &NodeIdentity) -> Result<Who, Status> {
    let node: NodeId = identity.node_id.parse().map_err(|_| Status::unauthenticated("the certificate names no node"))?;
    let store = store?;
    let Some(cluster) = store.cluster() else {
        if rpc.starts_with(RAFT) {
            return Ok(Who::Node(identity.role));
        }
        return Err(Status::unavailable("this manager does not have the cluster's state yet"));
    };
    if cluster.id.as_str() != identity.cluster_id {
        return Err(Status::permission_denied("the certificate is of another cluster"));
    }
    if cluster.plan.removed_nodes.contains_key(&node) {
        return Err(Status::permission_denied(format!("node {node} was removed from the cluster")));
    }
    let known = store.node(node).map_or(identity.role, |known| known.plan.role);
    Ok(Who::Node(if identity.role == Role::Manager && known == Role::Manager { Role::Manager } else { Role::Worker }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::Time;

    #[test]
    fn who_cannot_be_judged_is_refused() {
        let id = NodeId::from_random([1; 16]);
        let identity = NodeIdentity {
            node_id: id.to_string(),
            role: Role::Manager,
            cluster_id: "c".into(),
            not_before: Time::ZERO,
            not_after: Time::ZERO,
            serial: String::new(),
        };
        let code = |judged: Result<Who, Status>| judged.map_err(|status| status.code());
        let late = || Err(Status::unavailable("the read was not answered"));
        for rpc in ["skep.v1.Raft/Step", "skep.v1.Control/Read", "skep.v1.Dispatcher/Session"] {
            assert_eq!(code(judge(late(), rpc, &identity)), Err(tonic::Code::Unavailable), "{rpc}");
        }
        // Before it has a state, a manager hears other managers' rafts alone.
        let empty = Store::default();
        assert_eq!(code(judge(Ok(&empty), "skep.v1.Raft/Step", &identity)), Ok(Who::Node(Role::Manager)));
        for rpc in ["skep.v1.Control/Read", "skep.v1.Dispatcher/Session", "skep.v1.Ca/Issue"] {
            assert_eq!(code(judge(Ok(&empty), rpc, &identity)), Err(tonic::Code::Unavailable), "{rpc}");
        }
        let nobody = NodeIdentity { node_id: "?".into(), ..identity };
        assert_eq!(code(judge(Ok(&empty), "skep.v1.Raft/Step", &nobody)), Err(tonic::Code::Unauthenticated));
    }
}
