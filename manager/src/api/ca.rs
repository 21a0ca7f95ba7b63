//! The certificate authority: the root for anyone, certificates for those who
//! show a join token or their present certificate.
//!
//! The role of a first certificate is the token's; of a renewed one, what the
//! cluster says now: so promotion and demotion travel with the renewal.

use crate::api::{Shared, caller};
use crate::status::from_refusal;
use skep_identity::clock;
use skep_manager_core::event::Consistency;
use skep_model::node::{Availability, Role};
use skep_model::request::Mutation;
use skep_model::{Kind, NodeId, Refusal, RequestId};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::ca_server::Ca;
use skep_proto::v1::{GetRootReply, GetRootRequest, IssueReply, IssueRequest};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The longest certificate request, in bytes.
const CSR_MAX: usize = 16 * 1024;

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
        let caller = caller(&request).ok();
        let message = request.get_ref();
        if message.csr.len() > CSR_MAX {
            return Err(from_refusal(&Refusal::TooLarge {
                what: "the certificate request".into(),
                limit: format!("{CSR_MAX} bytes"),
            }));
        }
        if let Some(address) = self.0.elsewhere() {
            // A token speaks for itself on any manager; a certificate only to whom it is shown.
            return match (&message.token, self.0.leader()) {
                (Some(_), _) => forward_issue(&self.0, &address, request.into_inner()).await.map(Response::new),
                (None, leader) => Err(from_refusal(&Refusal::NotLeader { leader: leader.map(|(node, _)| node) })),
            };
        }
        let reply = match (&message.token, caller) {
            (Some(token), _) => self.first(message, &token.value).await,
            (None, Some((node, _))) => self.renew(message, node).await,
            (None, None) => Err(Refusal::PermissionDenied("A valid join token is necessary to join this cluster".into())),
        };
        reply.map(Response::new).map_err(|refusal| from_refusal(&refusal))
    }
}

impl CaApi {
    /// A node that shows a join token becomes a member.
    async fn first(&self, message: &IssueRequest, token: &[u8]) -> Result<IssueReply, Refusal> {
        let store = self.0.read(Consistency::Linearizable).await?;
        let role = self.0.sealing.role_of_token(&store, token)?;
        let node = NodeId(self.0.random_id());
        let reply = self.sign(message, node, role).await?;
        let availability = match message.availability {
            None => Availability::Active,
            Some(_) => Availability::try_from(message.availability())
                .map_err(|error| Refusal::invalid("availability", "", error.to_string()))?,
        };
        let register = Mutation::RegisterNode {
            node,
            role,
            availability,
            hostname: message.hostname.chars().take(253).collect(),
            certificate_expires: reply.1,
        };
        self.0.propose(RequestId(self.0.random()), register).await?;
        Ok(reply.0)
    }

    /// A member gets a new certificate, with the role that it has now.
    async fn renew(&self, message: &IssueRequest, node: NodeId) -> Result<IssueReply, Refusal> {
        let store = self.0.read(Consistency::Linearizable).await?;
        let known = store.node(node).ok_or_else(|| Refusal::NotFound { kind: Kind::Node, reference: node.to_string() })?;
        let reply = self.sign(message, node, known.plan.role).await?;
        let issued = Mutation::CertificateIssued { node, certificate_expires: reply.1 };
        self.0.propose(RequestId(self.0.random()), issued).await?;
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

/// Shows a newcomer's token to the leader, which alone admits nodes.
async fn forward_issue(shared: &Shared, address: &str, request: IssueRequest) -> Result<IssueReply, Status> {
    Ok(CaClient::new(shared.channels.to(address)).issue(request).await?.into_inner())
}
