//! A network daemon for nodes whose tasks never run: it takes whatever it is told,
//! and has it programmed at once.

use skep_proto::v1::netd_server::{Netd, NetdServer};
use skep_proto::v1::*;
use std::path::Path;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

struct Taker;

/// Serves the socket in `run` as long as the test's runtime lives.
pub fn serve(run: &Path) {
    std::fs::create_dir_all(run).unwrap();
    let listener = skep_host::unix::bind(&run.join("netd.sock"), None).unwrap();
    let server = skep_identity::tls::server().add_service(NetdServer::new(Taker));
    tokio::spawn(server.serve_with_incoming(skep_host::unix::LocalIncoming(listener)));
}

fn no_task<T>() -> Result<Response<T>, Status> {
    Err(Status::failed_precondition("no task runs here"))
}

#[tonic::async_trait]
impl Netd for Taker {
    type ApplyStream = Pin<Box<dyn Stream<Item = Result<NetdProgress, Status>> + Send>>;

    async fn apply(&self, request: Request<Streaming<NetdChange>>) -> Result<Response<Self::ApplyStream>, Status> {
        let progress = request.into_inner().filter_map(|change| match change {
            Ok(NetdChange { change: Some(netd_change::Change::Commit(version)) }) => {
                Some(Ok(NetdProgress { programmed_through: version, faults: None }))
            }
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        });
        Ok(Response::new(Box::pin(progress)))
    }

    async fn status(&self, _: Request<NetdStatusRequest>) -> Result<Response<NetdStatus>, Status> {
        Ok(Response::new(NetdStatus::default()))
    }

    async fn make_namespace(&self, _: Request<NetdNamespace>) -> Result<Response<NetdNamespacePath>, Status> {
        no_task()
    }

    async fn remove_namespace(&self, _: Request<NetdTask>) -> Result<Response<NetdRemoved>, Status> {
        no_task()
    }

    async fn drain(&self, _: Request<NetdDrain>) -> Result<Response<NetdDrained>, Status> {
        no_task()
    }

    async fn probe(&self, _: Request<NetdProbe>) -> Result<Response<NetdProbed>, Status> {
        no_task()
    }
}
