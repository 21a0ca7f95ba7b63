//! What managers say to one another: raft messages, snapshots, and joining.

use crate::api::{Shared, caller};
use crate::snapshots;
use protobuf::Message as _;
use skep_manager_core::event::Consistency;
use skep_manager_core::{Event, Store};
use skep_model::request::Mutation;
use skep_model::{NodeId, Refusal};
use skep_proto::RAFT_MESSAGE_MAX;
use skep_proto::request::{Asked, decode_join_raft};
use skep_proto::status::from_refusal;
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
        let (caller, _) = caller(&request)?;
        let mut messages = request.into_inner();
        let mut sender = None;
        while let Some(message) = messages.message().await? {
            if message.message.len() > RAFT_MESSAGE_MAX {
                return Err(Status::invalid_argument("the raft message is too large"));
            }
            let mut parsed = raft::eraftpb::Message::default();
            parsed.merge_from_bytes(&message.message).map_err(|_| Status::invalid_argument("the raft message does not parse"))?;
            // A stream is one manager's, and speaks for that one alone.
            if sender != Some(parsed.from) {
                self.check_sender(caller, parsed.from).await?;
                sender = Some(parsed.from);
            }
            self.0.inbox.put_peer(parsed).await;
        }
        Ok(Response::new(StepDone {}))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<SnapshotDone>, Status> {
        let (caller, _) = caller(&request)?;
        let (message, content) =
            snapshots::receive(&self.0, request.into_inner(), |from| self.check_sender(caller, from)).await?;
        self.0.inbox.put(Event::SnapshotReceived { message: Box::new(message), content: Box::new(content) });
        Ok(Response::new(SnapshotDone {}))
    }

    async fn join_raft(&self, request: Request<JoinRaftRequest>) -> Result<Response<JoinRaftReply>, Status> {
        let (node, _) = caller(&request)?;
        self.join(node, request.into_inner()).await.map(Response::new)
    }
}

impl RaftApi {
    /// Whether a node may speak as this member of raft, as far as this manager knows.
    async fn check_sender(&self, caller: NodeId, from: u64) -> Result<(), Status> {
        let store = self.0.read(Consistency::Stale).await.map_err(|refusal| from_refusal(&refusal))?;
        may_speak_as(&store, caller, from).map_err(Status::permission_denied)
    }

    async fn join(&self, node: NodeId, message: JoinRaftRequest) -> Result<JoinRaftReply, Status> {
        if !self.0.leadership.borrow().is_self {
            return Err(from_refusal(&self.0.not_leader()));
        }
        let refuse = |refusal: Refusal| from_refusal(&refusal);
        let (request, asked) = decode_join_raft(message, node).map_err(|error| refuse(error.into()))?;
        let Asked::JoinRaft { address, unsealing_key, format_max, .. } = asked else {
            return Err(Status::internal("a join decodes as one"));
        };
        let store = self.0.read(Consistency::Linearizable).await.map_err(refuse)?;
        let slots = self.0.sealing.slots_for(&store, node, &unsealing_key).map_err(refuse)?;
        let mutation = Mutation::JoinRaft { node, address, unsealing_key, slots, format_max };
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

/// A raft id is one node's for good. A store that is behind may not know a member that
/// joined meanwhile, or know a node under the id that it had before: an id that it knows
/// of nobody is believed.
fn may_speak_as(store: &Store, caller: NodeId, from: u64) -> Result<(), String> {
    let owner = store.nodes().find(|node| node.plan.manager.as_ref().is_some_and(|manager| manager.raft_id == from));
    if let Some(owner) = owner.filter(|owner| owner.id != caller) {
        return Err(format!("node {caller} spoke as raft member {from}, which is node {}", owner.id));
    }
    if store.cluster().is_some_and(|cluster| cluster.plan.removed_raft_ids.contains(&from)) && owner.is_none() {
        return Err(format!("node {caller} spoke as raft member {from}, which was removed"));
    }
    Ok(())
}

/// A client for the raft service of another manager.
pub(crate) fn client(shared: &Shared, address: &str) -> RaftClient<tonic::transport::Channel> {
    RaftClient::new(shared.channels.to(address)).max_encoding_message_size(RAFT_MESSAGE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_manager_core::{Transaction, Write};
    use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
    use skep_model::node::{ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeStatus};
    use skep_model::{ClusterId, Meta, Object, Section, Time};

    #[test]
    fn a_manager_speaks_for_itself_alone() {
        let id = |n: u8| NodeId::from_random([n; 16]);
        let node = |n: u8, raft_id: Option<u64>| Node {
            id: id(n),
            meta: Meta::default(),
            spec: Section::new(NodeSpec::default()),
            description: Section::new(NodeDescription::default()),
            status: Section::new(NodeStatus::default()),
            plan: Section::new(NodePlan {
                manager: raft_id.map(|raft_id| ManagerStatus {
                    raft_id,
                    address: "m:1".into(),
                    format_max: 1,
                    unreachable: false,
                }),
                ..NodePlan::default()
            }),
        };
        let plan = ClusterPlan { removed_raft_ids: vec![9, 12], ..ClusterPlan::default() };
        let cluster = Cluster {
            id: ClusterId::from_random([7; 16]),
            meta: Meta::default(),
            spec: Section::new(ClusterSpec::default()),
            plan: Section::new(plan),
        };
        let mut store = Store::default();
        assert_eq!(may_speak_as(&store, id(1), 5), Ok(()), "who knows nobody believes");
        let objects = [Object::Cluster(Box::new(cluster)), Object::Node(Box::new(node(1, Some(11))))];
        let more = [Object::Node(Box::new(node(2, Some(12)))), Object::Node(Box::new(node(3, None)))];
        let writes = objects.into_iter().chain(more).map(Write::Create).collect();
        store.apply(1, &Transaction { writes, ..Transaction::new(Time::ZERO) }).expect("all are new");
        for (caller, from, is_allowed) in [
            (1, 11, true),
            (2, 11, false),
            (3, 11, false),
            // Known under another id before: this store is behind.
            (1, 13, true),
            (3, 13, true),
            // On its way out, and out.
            (2, 12, true),
            (2, 9, false),
        ] {
            assert_eq!(may_speak_as(&store, id(caller), from).is_ok(), is_allowed, "node {caller} as {from}");
        }
    }
}
