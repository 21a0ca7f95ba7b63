//! What managers say to one another: raft messages, snapshots, and joining.

use crate::api::{Shared, caller};
use crate::snapshots;
use crate::status::from_refusal;
use protobuf::Message as _;
use skep_manager_core::Event;
use skep_manager_core::event::Consistency;
use skep_model::Refusal;
use skep_model::request::Mutation;
use skep_proto::RAFT_MESSAGE_MAX;
use skep_proto::v1::raft_client::RaftClient;
use skep_proto::v1::raft_server::Raft;
use skep_proto::v1::{JoinRaftReply, JoinRaftRequest, RaftMember, RaftMessage, SnapshotChunk, SnapshotDone, StepDone};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The service.
#[derive(Clone)]
pub struct RaftApi(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Raft for RaftApi {
    async fn step(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<StepDone>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            if message.message.len() > RAFT_MESSAGE_MAX {
                return Err(Status::invalid_argument("the raft message is too large"));
            }
            let mut parsed = raft::eraftpb::Message::default();
            parsed.merge_from_bytes(&message.message).map_err(|_| Status::invalid_argument("the raft message does not parse"))?;
            self.0.inbox.put(Event::Peer(Box::new(parsed)));
        }
        Ok(Response::new(StepDone {}))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<SnapshotDone>, Status> {
        let (message, content) = snapshots::receive(&self.0, request.into_inner()).await?;
        self.0.inbox.put(Event::SnapshotReceived { message: Box::new(message), content: Box::new(content) });
        Ok(Response::new(SnapshotDone {}))
    }

    async fn join_raft(&self, request: Request<JoinRaftRequest>) -> Result<Response<JoinRaftReply>, Status> {
        let (node, _) = caller(&request)?;
        self.join(node, request.into_inner()).await.map(Response::new)
    }
}

impl RaftApi {
    async fn join(&self, node: skep_model::NodeId, message: JoinRaftRequest) -> Result<JoinRaftReply, Status> {
        if !self.0.leadership.borrow().is_self {
            let leader = self.0.leader().map(|(node, _)| node);
            return Err(from_refusal(&Refusal::NotLeader { leader }));
        }
        let refuse = |refusal: Refusal| from_refusal(&refusal);
        let request = super::control::request_id(&message.request_id).map_err(refuse)?;
        let store = self.0.read(Consistency::Linearizable).await.map_err(refuse)?;
        let slots = self.0.sealing.slots_for(&store, node, &message.unsealing_key).map_err(refuse)?;
        let mutation = Mutation::JoinRaft {
            node,
            address: message.address,
            unsealing_key: message.unsealing_key,
            slots,
            format_max: message.format_max,
        };
        let outcome = self.0.propose(request, mutation).await.map_err(refuse)?;
        let store = self.0.read(Consistency::Linearizable).await.map_err(refuse)?;
        let members = store.nodes().filter_map(|node| {
            let manager = node.plan.manager.as_ref()?;
            Some(RaftMember { raft_id: manager.raft_id, node_id: node.id.to_string(), address: manager.address.clone() })
        });
        Ok(JoinRaftReply {
            raft_id: outcome.number,
            members: members.collect(),
            cluster_id: store.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        })
    }
}

/// A client for the raft service of another manager.
pub(crate) fn client(shared: &Shared, address: &str) -> RaftClient<tonic::transport::Channel> {
    RaftClient::new(shared.channels.to(address)).max_encoding_message_size(RAFT_MESSAGE_MAX)
}
