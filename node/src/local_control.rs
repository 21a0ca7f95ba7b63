//! The cluster's API on the local socket: the manager's while there is one, else
//! Swarm's sentence that says what to do.

use crate::node::{LOCKED, Node, View};
use skep_manager::ControlApi;
use skep_model::Refusal;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::{self, LocalState};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

const NOT_IN_A_CLUSTER: &str = "This node is not a swarm manager. Use \"skep swarm init\" or \"skep swarm join\" to connect this node to swarm and try again.";
const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";

/// The service.
#[derive(Clone)]
pub struct LocalControl(pub Arc<Node>);

impl LocalControl {
    fn manager(&self) -> Result<ControlApi, Status> {
        let view = self.0.view();
        match view.control {
            Some(control) => Ok(control),
            None => Err(skep_manager::from_refusal(&refusal(&view))),
        }
    }
}

/// Why there is no cluster's API here.
fn refusal(view: &View) -> Refusal {
    match (view.state, view.place) {
        (LocalState::Locked, _) => Refusal::FailedPrecondition(LOCKED.into()),
        (LocalState::Pending, _) => Refusal::Unavailable("this node is starting, or its place in a cluster is changing".into()),
        (LocalState::Error, _) => Refusal::FailedPrecondition(format!("This node is not a swarm manager: {}", view.error)),
        (_, Some(_)) => Refusal::FailedPrecondition(WORKER.into()),
        (_, None) => Refusal::FailedPrecondition(NOT_IN_A_CLUSTER.into()),
    }
}

#[tonic::async_trait]
impl Control for LocalControl {
    async fn mutate(&self, request: Request<v1::MutateRequest>) -> Result<Response<v1::MutateReply>, Status> {
        self.manager()?.mutate(request).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        self.manager()?.read(request).await
    }

    type WatchStream = <ControlApi as Control>::WatchStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.manager()?.watch(request).await
    }

    type LogsStream = <ControlApi as Control>::LogsStream;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.manager()?.logs(request).await
    }

    type DistributeImageStream = <ControlApi as Control>::DistributeImageStream;

    async fn distribute_image(
        &self,
        request: Request<Streaming<v1::ImageChunk>>,
    ) -> Result<Response<Self::DistributeImageStream>, Status> {
        self.manager()?.distribute_image(request).await
    }

    async fn verify_networks(
        &self,
        request: Request<v1::VerifyNetworksRequest>,
    ) -> Result<Response<v1::VerifyNetworksReply>, Status> {
        self.manager()?.verify_networks(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::{ClusterId, NodeId};

    #[test]
    fn a_node_without_a_manager_says_what_to_do() {
        let place = Some((NodeId::from_random([1; 16]), ClusterId::from_random([2; 16]), "10.0.0.1:2377".parse().unwrap()));
        let table = [
            (LocalState::Inactive, None, "Use \"skep swarm init\" or \"skep swarm join\""),
            (LocalState::Active, place, "Worker nodes can't be used"),
            (LocalState::Locked, place, "skep swarm unlock"),
            (LocalState::Error, place, "This node is not a swarm manager: broken"),
            (LocalState::Pending, None, "is starting"),
        ];
        for (state, place, expected) in table {
            let view = View { state, place, error: "broken".into(), ..View::default() };
            assert!(refusal(&view).to_string().contains(expected), "{state:?}");
        }
    }
}
