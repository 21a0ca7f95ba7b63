//! The certificate authority: the root for anyone, certificates for those who
//! show a join token or their present certificate.
//!
//! The role of a first certificate is the token's; of a renewed one, what the
//! cluster says now: so promotion and demotion travel with the renewal.

use crate::api::{Shared, caller, description};
use crate::sealing::{self, Sealing};
use sha2::{Digest, Sha256};
use skep_host::clock;
use skep_identity::tls::PeerInfo;
use skep_identity::token::JoinToken;
use skep_manager_core::Store;
use skep_manager_core::event::Consistency;
use skep_model::address::ClaimedAddresses;
use skep_model::node::{Availability, Role};
use skep_model::request::Mutation;
use skep_model::said::line;
use skep_model::{Kind, NodeId, Refusal, RequestId};
use skep_proto::limits::{CSR_MAX, TOKEN_MAX};
use skep_proto::status::from_refusal;
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::ca_server::Ca;
use skep_proto::v1::{GetRootReply, GetRootRequest, IssueReply, IssueRequest};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::SemaphorePermit;
use tonic::{Request, Response, Status};

/// Bytes of a request's id.
const REQUEST_ID: usize = 16;
/// The longest text of an address that a refusal repeats, in bytes.
const ADDRESS_MAX: usize = 64;
/// What a caller is told that shows neither token nor certificate.
const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";

/// The service.
#[derive(Clone)]
pub struct CaApi(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Ca for CaApi {
    async fn get_root(&self, _: Request<GetRootRequest>) -> Result<Response<GetRootReply>, Status> {
        let store = self.0.read(Consistency::Stale).await.map_err(|refusal| from_refusal(&refusal))?;
        let cluster = store.cluster().ok_or_else(|| Status::unavailable("this manager does not have the cluster's state yet"))?;
        Ok(Response::new(GetRootReply { root_ca: cluster.plan.root_ca.clone() }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueReply>, Status> {
        let caller = caller(&request).ok().map(|(node, _)| node);
        let peer = request.extensions().get::<PeerInfo>();
        let remote = peer.map(|peer| peer.remote.ip());
        let is_manager = peer.and_then(|peer| peer.node.as_ref()).is_some_and(|node| node.role == Role::Manager);
        let mut message = request.into_inner();
        // Only another manager may say where somebody else connects from.
        if !is_manager || message.seen_address.is_empty() {
            message.seen_address = remote.map(|remote| remote.to_string()).unwrap_or_default();
        }
        let asked = check(message, caller).map_err(|refusal| from_refusal(&refusal))?;
        // What is counted comes before what costs: nothing of the store was read yet.
        let _place = self.admit(&asked, remote).map_err(|refusal| from_refusal(&refusal))?;
        if let Some(address) = self.0.elsewhere() {
            // A token speaks for itself on any manager; a certificate only to whom it is shown.
            return match asked.who {
                Who::Joiner(token) => {
                    let known = judge(&self.0.sealing, &token, |consistency| self.0.read(consistency)).await;
                    known.map_err(|refusal| from_refusal(&refusal))?;
                    forward_issue(&self.0, &address, asked.message).await.map(Response::new)
                }
                Who::Member(_) => Err(from_refusal(&self.0.not_leader())),
            };
        }
        let reply = match &asked.who {
            Who::Joiner(token) => self.first(&asked.message, token).await,
            Who::Member(node) => self.renew(&asked.message, *node).await,
        };
        reply.map(Response::new).map_err(|refusal| from_refusal(&refusal))
    }
}

/// A request whose form is right.
struct Asked {
    who: Who,
    message: IssueRequest,
}

/// By what a certificate is asked for.
enum Who {
    Joiner(JoinToken),
    Member(NodeId),
}

/// Checks a request's form, without a look at anything else.
fn check(message: IssueRequest, caller: Option<NodeId>) -> Result<Asked, Refusal> {
    if message.csr.len() > CSR_MAX {
        let limit = format!("{CSR_MAX} bytes");
        return Err(Refusal::TooLarge { what: "the certificate request".into(), limit });
    }
    if !matches!(message.request_id.len(), 0 | REQUEST_ID) {
        return Err(Refusal::invalid("request id", "", "it has 16 bytes"));
    }
    claimed(&message)?;
    let who = match (&message.token, caller) {
        (Some(token), _) => {
            let invalid = || Refusal::PermissionDenied(NO_TOKEN.into());
            let text = token.text().ok().filter(|text| text.len() <= TOKEN_MAX).ok_or_else(invalid)?;
            Who::Joiner(JoinToken::parse(text).map_err(|error| Refusal::PermissionDenied(error.to_string()))?)
        }
        (None, Some(node)) => Who::Member(node),
        (None, None) => return Err(Refusal::PermissionDenied(NO_TOKEN.into())),
    };
    sealing::check_request(&message.csr)?;
    Ok(Asked { who, message })
}

/// Where a newcomer says that it is reached.
fn claimed(message: &IssueRequest) -> Result<ClaimedAddresses, Refusal> {
    let read = |flag: &'static str, text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| Refusal::invalid(flag, line(text, ADDRESS_MAX), "it is no IP address")),
    };
    Ok(ClaimedAddresses {
        advertise: read("--advertise-addr", &message.advertise_address)?,
        data_path: read("--data-path-addr", &message.data_path_address)?,
        seen: read("seen address", &message.seen_address)?,
    })
}

impl CaApi {
    /// Whether the caller may ask now; a joiner holds one of few places while it does.
    fn admit(&self, asked: &Asked, remote: Option<IpAddr>) -> Result<Option<SemaphorePermit<'_>>, Refusal> {
        let limits = &self.0.limits;
        let late = |wait: Duration| {
            let text = format!("certificates are asked for too often; the next may be asked for in {:.1} s", wait.as_secs_f64());
            Refusal::Unavailable(text)
        };
        match &asked.who {
            Who::Member(node) => {
                limits.renewals.take(node, Instant::now()).map_err(late)?;
                Ok(None)
            }
            Who::Joiner(_) => {
                let remote = remote.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                // Another manager hands on what it has counted itself.
                limits.joins.take(&remote, Instant::now()).map_err(late)?;
                let place = limits.joining.try_acquire();
                place.map(Some).map_err(|_| Refusal::Unavailable("too many nodes are joining at once; try again".into()))
            }
        }
    }

    /// A node that shows a join token becomes a member. The same request again gives
    /// the same node: a joiner that did not get the answer asks anew.
    async fn first(&self, message: &IssueRequest, token: &JoinToken) -> Result<IssueReply, Refusal> {
        // This manager's own state tells a wrong token without asking the others.
        let store = self.0.read(Consistency::Stale).await?;
        self.0.sealing.role_of_token(&store, token)?;
        let store = self.0.read(Consistency::Linearizable).await?;
        let role = self.0.sealing.role_of_token(&store, token)?;
        let node = NodeId(self.0.random_id());
        let (mut reply, expires) = self.sign(message, node, role).await?;
        let availability = match message.availability {
            None => Availability::Active,
            Some(_) => Availability::try_from(message.availability())
                .map_err(|error| Refusal::invalid("availability", "", error.to_string()))?,
        };
        let register = Mutation::RegisterNode {
            node,
            role,
            availability,
            hostname: description::hostname(&message.hostname),
            certificate_expires: expires,
            addresses: claimed(message)?,
        };
        let outcome = self.0.propose(request_id(message).unwrap_or_else(|| RequestId(self.0.random())), register).await?;
        let registered = NodeId(outcome.id);
        if registered != node {
            let store = self.0.read(Consistency::Linearizable).await?;
            let missing = || Refusal::FailedPrecondition("the node that this request registered was removed".into());
            let known = store.node(registered).ok_or_else(missing)?;
            reply = self.sign(message, registered, known.plan.role).await?.0;
        }
        Ok(reply)
    }

    /// A member gets a new certificate, with the role that it has now.
    async fn renew(&self, message: &IssueRequest, node: NodeId) -> Result<IssueReply, Refusal> {
        let store = self.0.read(Consistency::Linearizable).await?;
        let known = store.node(node).ok_or_else(|| Refusal::NotFound { kind: Kind::Node, reference: node.to_string() })?;
        let reply = self.sign(message, node, known.plan.role).await?;
        let issued = Mutation::CertificateIssued { node, certificate_expires: reply.1 };
        self.0.propose(request_id(message).unwrap_or_else(|| RequestId(self.0.random())), issued).await?;
        Ok(reply.0)
    }

    async fn sign(&self, message: &IssueRequest, node: NodeId, role: Role) -> Result<(IssueReply, skep_model::Time), Refusal> {
        let store = self.0.read(Consistency::Linearizable).await?;
        let cluster = store.cluster().ok_or_else(|| Refusal::Unavailable("the cluster has no state yet".into()))?;
        let validity = cluster.spec.node_cert_expiry;
        let chain = self.0.sealing.sign(&store, &message.csr, node, role, validity)?;
        let reply = IssueReply {
            certificate_chain: chain,
            node_id: node.to_string(),
            role: skep_proto::v1::Role::from(role).into(),
            cluster_id: cluster.id.to_string(),
            root_ca: cluster.plan.root_ca.clone(),
            manager_addresses: store.nodes().filter_map(|node| Some(node.plan.manager.as_ref()?.address.clone())).collect(),
        };
        Ok((reply, clock::now() + validity))
    }
}

/// The id under which the outcome is remembered: of this very request, key included, so
/// that nobody gets a certificate for a node that another's request registered.
fn request_id(message: &IssueRequest) -> Option<RequestId> {
    let digest = || {
        let mut hash = Sha256::new();
        hash.update(b"skep certificate request");
        hash.update(&message.request_id);
        hash.update(message.csr.as_bytes());
        hash.finalize()
    };
    (message.request_id.len() == REQUEST_ID).then(|| RequestId(std::array::from_fn(|n| digest()[n])))
}

/// Refuses a token that admits nobody, without showing it to the leader. What this
/// manager's own state does not know may have been made a moment ago: that is refused
/// only once the state is as new as the call, for which everybody who waits shares one
/// question to the leader. What this manager cannot judge is the leader's.
async fn judge<F>(sealing: &Sealing, token: &JoinToken, read: impl Fn(Consistency) -> F) -> Result<(), Refusal>
where
    F: Future<Output = Result<Arc<Store>, Refusal>>,
{
    let store = read(Consistency::Stale).await?;
    match sealing.role_of_token(&store, token) {
        Ok(_) => return Ok(()),
        Err(refusal) if sealing.is_foreign(&store, token) => return Err(refusal),
        Err(_) => {}
    }
    let store = read(Consistency::Linearizable).await?;
    match sealing.role_of_token(&store, token) {
        Err(refusal @ Refusal::PermissionDenied(_)) => Err(refusal),
        _ => Ok(()),
    }
}

/// Shows a newcomer's token to the leader, which alone admits nodes.
async fn forward_issue(shared: &Shared, address: &str, request: IssueRequest) -> Result<IssueReply, Status> {
    Ok(CaClient::new(shared.channels.to(address)).issue(request).await?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_identity::ca::NodeKey;
    use skep_identity::seal::UnsealingKey;
    use skep_identity::token::RootDigest;
    use skep_manager_core::{Transaction, Write};
    use skep_model::cluster::{Cluster, ClusterSpec};
    use skep_model::{ClusterId, Object, Time};
    use skep_proto::v1::Confidential;
    use std::sync::Mutex;

    fn request() -> IssueRequest {
        use base64::Engine;
        let der = NodeKey::generate().expect("a key").signing_request().expect("a request");
        let token = JoinToken::generate(RootDigest::of(b"root"));
        IssueRequest {
            csr: base64::engine::general_purpose::STANDARD.encode(der),
            token: Some(Confidential::new(token.reveal().as_bytes())),
            request_id: vec![7; REQUEST_ID],
            ..IssueRequest::default()
        }
    }

    /// Without a look at the store: there is none here.
    #[test]
    fn what_has_not_the_form_of_a_request_is_refused_before_anything_is_read() {
        let node = NodeId::from_random([1; 16]);
        let bad_token = |text: &[u8]| IssueRequest { token: Some(Confidential::new(text)), ..request() };
        let no_token = || IssueRequest { token: None, ..request() };
        let table = [
            (request(), None, None),
            (no_token(), Some(node), None),
            (no_token(), None, Some("join token is necessary")),
            (bad_token(b""), None, Some("token")),
            (bad_token(&[0xff; 40]), None, Some("token")),
            (bad_token("SWMTKN-1-".repeat(100).as_bytes()), Some(node), Some("token")),
            (bad_token(b"SWMTKN-1-garbage-garbage"), None, Some("token")),
            (IssueRequest { csr: "A".repeat(CSR_MAX + 1), ..request() }, None, Some("certificate request")),
            (IssueRequest { csr: "garbage".into(), ..request() }, None, Some("certificate request")),
            (IssueRequest { csr: "AAAA".into(), ..request() }, None, Some("certificate request")),
            (IssueRequest { request_id: vec![1; 15], ..request() }, None, Some("request id")),
            (IssueRequest { advertise_address: "10.0.0.2".into(), ..request() }, None, None),
            (IssueRequest { advertise_address: "m1".into(), ..request() }, None, Some("invalid --advertise-addr \"m1\"")),
            (IssueRequest { data_path_address: "10.0.0.2:1".into(), ..request() }, None, Some("invalid --data-path-addr")),
        ];
        for (message, caller, expected) in table {
            let shown = format!("{expected:?}");
            match (check(message, caller), expected) {
                (Ok(_), None) => {}
                (Err(refusal), Some(expected)) => assert!(refusal.to_string().contains(expected), "{refusal}"),
                (found, _) => panic!("{shown}: {:?}", found.err()),
            }
        }
    }

    fn store(cluster: &Cluster) -> Arc<Store> {
        let mut store = Store::default();
        let create = Write::Create(Object::Cluster(Box::new(cluster.clone())));
        let transaction = Transaction { writes: vec![create], ..Transaction::new(Time::ZERO) };
        store.apply(1, &transaction).expect("it is new");
        Arc::new(store)
    }

    /// A follower asks nobody about what can never be a token of its cluster, and refuses
    /// no token that was made a moment ago.
    #[tokio::test]
    async fn a_follower_refuses_garbage_itself_and_no_fresh_token() {
        let sealing = Sealing::new(NodeId::from_random([1; 16]), UnsealingKey::generate());
        let request = NodeKey::generate().expect("a key").signing_request().expect("a request");
        let made = sealing.new_cluster(ClusterId::from_random([2; 16]), ClusterSpec::default(), &request).expect("a cluster");
        let old = store(&made.cluster);
        let mut cluster = made.cluster;
        cluster.plan.value.sealed_worker_token = sealing.new_token(&old, Role::Worker).expect("a token");
        let new = store(&cluster);
        let token = |store: &Store| JoinToken::parse(&sealing.tokens(store).expect("tokens").0).expect("a token");
        let digest = RootDigest::of(cluster.plan.root_ca.as_bytes());
        let table = [
            ("known here", token(&old), true, 1),
            ("of another root", JoinToken::generate(RootDigest::of(b"root")), false, 1),
            ("made a moment ago", token(&new), true, 2),
            ("invented", JoinToken::generate(digest), false, 2),
        ];
        for (what, token, is_handed_on, n_reads) in table {
            let reads = Mutex::new(Vec::new());
            let judged = judge(&sealing, &token, |consistency| {
                reads.lock().expect("no panic").push(consistency);
                let store = if consistency == Consistency::Stale { &old } else { &new };
                std::future::ready(Ok(store.clone()))
            });
            let judged = judged.await;
            assert_eq!(judged.is_ok(), is_handed_on, "{what}: {judged:?}");
            assert_eq!(reads.into_inner().expect("no panic").len(), n_reads, "{what}");
        }
        // One that has no state yet judges nothing.
        let empty = judge(&sealing, &token(&new), |_| std::future::ready(Ok(Arc::default()))).await;
        assert!(empty.is_ok(), "{empty:?}");
    }

    #[test]
    fn a_repeat_has_the_same_id_and_another_key_another() {
        let first = request();
        assert_eq!(request_id(&first), request_id(&first.clone()));
        assert_ne!(request_id(&first), request_id(&IssueRequest { csr: request().csr, ..first.clone() }));
        assert_ne!(request_id(&first), request_id(&IssueRequest { request_id: vec![8; REQUEST_ID], ..first.clone() }));
        assert_eq!(request_id(&IssueRequest { request_id: Vec::new(), ..first }), None, "one that gives none has none");
    }
}
