//! The connection to a daemon: one channel for the node's and the cluster's API.
//!
//! Every call has a deadline, and HTTP/2 keep-alive ends a connection whose other
//! side is gone. A mutation carries a random id and is repeated with the same id
//! while the answer says that it may be, so that it is carried out once or not at
//! all.

use crate::address::Address;
use crate::failure::{Exit, Failure};
use hyper_util::rt::TokioIo;
use skep_host::chance;
use skep_model::request::{Mutation, Outcome};
use skep_model::{Kind, Object, Refusal, RequestId};
use skep_proto::READ_REPLY_MAX;
use skep_proto::request::{self, Query, Read, Watch};
use skep_proto::status::to_refusal;
use skep_proto::v1::control_client::ControlClient;
use skep_proto::v1::local_client::LocalClient;
use skep_proto::v1::mutate_request::Mutation as Wire;
use skep_proto::v1::{MutateReply, MutateRequest, ReadReply, ServiceStatus, WatchEvent};
use std::future::Future;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// Until a connection must stand.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Until a read or a call of the node must be answered.
pub const CALL_MAX: Duration = Duration::from_secs(30);
/// How long a change is tried again that others were faster with.
const CHANGE_MAX: Duration = Duration::from_secs(30);
/// For how long a change is repeated while the cluster has no leader.
const REPEAT_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);
/// The longest silence of a watch: then there is nobody behind it any more.
pub const WATCH_SILENCE_MAX: Duration = Duration::from_secs(3 * request::WATCH_PROGRESS.as_secs());
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(5);

/// A daemon.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    channel: Channel,
}

/// A whole list.
#[derive(Debug, Default)]
pub struct Listed {
    /// Its objects, by id.
    pub objects: Vec<Object>,
    /// Of services: the counts of their tasks, in the order of the objects.
    pub statuses: Vec<ServiceStatus>,
    /// The node that leads, where the managers say so.
    pub leader: Option<String>,
}

impl Client {
    /// Connects. The channel connects again by itself when a later call finds
    /// the connection gone.
    pub async fn connect(address: Address) -> Result<Self, Failure> {
        let path = address.0.clone();
        // One try outside the channel, for an error that says what is wrong.
        if let Err(error) = timeout(CONNECT_MAX, UnixStream::connect(&path)).await.unwrap_or_else(|_| Err(late())) {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "; are you root or in the group skep?",
                _ => "; is skepd running?",
            };
            return Err(Failure::connection(format!("cannot connect to the skep daemon at {address}: {error}{hint}")));
        }
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://skep.local")
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_MAX)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        Ok(Self { address, channel })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The node's own API.
    pub fn local(&self) -> LocalClient<Channel> {
        LocalClient::new(self.channel.clone()).max_decoding_message_size(READ_REPLY_MAX)
    }

    /// The cluster's API.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone()).max_decoding_message_size(READ_REPLY_MAX)
    }

    /// Reads, repeating while there is no leader. Of a list it is the first page.
    pub async fn read(&self, query: &Query) -> Result<ReadReply, Failure> {
        self.ask(&Read::new(query.clone())).await
    }

    async fn ask(&self, read: &Read) -> Result<ReadReply, Failure> {
        let send = || {
            let mut control = self.control();
            let request = request::encode_read(read);
            async move { control.read(request).await }
        };
        repeat(send).await
    }

    /// One object by id, name or unique id prefix, with the store version read.
    pub async fn get(&self, kind: Kind, reference: &str) -> Result<(Object, u64), Failure> {
        let reply = self.read(&Query::Get(kind, reference.to_owned())).await?;
        let version = reply.version;
        let object = objects(reply)?.pop();
        object
            .map(|object| (object, version))
            .ok_or_else(|| Failure::from(Refusal::NotFound { kind, reference: reference.to_owned() }))
    }

    /// The objects that a query names, all pages of them.
    pub async fn list(&self, query: &Query) -> Result<Vec<Object>, Failure> {
        Ok(self.pages(query).await?.objects)
    }

    /// All pages of a list, and what the managers say of it.
    pub async fn pages(&self, query: &Query) -> Result<Listed, Failure> {
        let is_of_services = matches!(query, Query::List(Kind::Service, _));
        let (mut listed, mut read) = (Listed::default(), Read { status: is_of_services, ..Read::new(query.clone()) });
        loop {
            let reply = self.ask(&read).await?;
            read.page.token = request::next_page(&reply)?;
            listed.leader = reply.leader_id;
            let mut statuses = reply.service_statuses.into_iter();
            for object in reply.objects {
                let status = statuses.next();
                // One of a later release hides no others.
                match Object::try_from(object) {
                    Ok(object) => listed.objects.push(object),
                    Err(error) => {
                        eprintln!("skep: warning: an object is left out, which this release cannot read: {error}");
                        continue;
                    }
                }
                listed.statuses.extend(status);
            }
            if read.page.token.is_none() {
                return Ok(listed);
            }
        }
    }

    /// Asks for a change that carries no value.
    pub async fn mutate(&self, mutation: &Mutation) -> Result<Outcome, Failure> {
        let id = RequestId(chance::bytes());
        let message = request::encode_mutation(id, mutation)
            .ok_or_else(|| Failure::refused("this change cannot be asked for by a client"))?;
        self.decide(message).await
    }

    /// Asks for a change that is given as a message.
    pub async fn mutate_wire(&self, mutation: Wire) -> Result<Outcome, Failure> {
        self.decide(MutateRequest { request_id: chance::bytes::<16>().to_vec(), mutation: Some(mutation) }).await
    }

    async fn decide(&self, message: MutateRequest) -> Result<Outcome, Failure> {
        let send = || {
            let mut control = self.control();
            let message = message.clone();
            async move { control.mutate(message).await }
        };
        let MutateReply { outcome, warnings } = repeat(send).await?;
        for warning in warnings {
            eprintln!("skep: warning: {warning}");
        }
        let outcome = outcome.ok_or_else(|| Failure::refused("the daemon's answer has no outcome"))?;
        Ok(Outcome::try_from(outcome)?)
    }

    /// Opens a watch; only its beginning has a deadline.
    pub async fn watch(&self, watch: &Watch) -> Result<Streaming<WatchEvent>, Status> {
        let mut control = self.control();
        let opening = control.watch(request::encode_watch(watch));
        timeout(CALL_MAX, opening).await.unwrap_or_else(|_| Err(unanswered())).map(Response::into_inner)
    }
}

/// The objects of an answer.
pub fn objects(reply: ReadReply) -> Result<Vec<Object>, Failure> {
    reply.objects.into_iter().map(|object| Ok(Object::try_from(object)?)).collect()
}

/// A call of the node's own API, with a deadline.
pub async fn call<T>(deadline: Duration, calling: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    match timeout(deadline, calling).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(Failure::connection(format!("the daemon did not answer within {} s", deadline.as_secs()))),
    }
}

/// The next message of a stream that may be silent for as long as it likes.
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Failure> {
    stream.message().await.map_err(Failure::from)
}

/// Reads and changes again while others are faster, for [`CHANGE_MAX`] at most.
#[derive(Debug)]
pub struct Attempts(Instant);

impl Attempts {
    /// The first one begins now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Whether a change that failed is to be made again of what is there now.
    pub fn again(&self, failure: &Failure) -> bool {
        failure.exit == Exit::OutOfSequence && self.0.elapsed() < CHANGE_MAX
    }
}

/// Calls again while the answer allows it, for [`REPEAT_MAX`] at most.
async fn repeat<T, F>(send: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let begun = Instant::now();
    loop {
        let status = match timeout(CALL_MAX, send()).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => return Err(Failure::connection(format!("the daemon did not answer within {} s", CALL_MAX.as_secs()))),
        };
        if !is_repeatable(&status) || begun.elapsed() + REPEAT_PAUSE > REPEAT_MAX {
            return Err(status.into());
        }
        sleep(REPEAT_PAUSE).await;
    }
}

/// Whether the same call may be made again.
pub fn is_repeatable(status: &Status) -> bool {
    match to_refusal(status) {
        Some(refusal) => refusal.passes_soon(),
        None => is_connection_lost(status),
    }
}

/// Whether the status was made on this side, because the connection failed.
pub fn is_connection_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || (status.details().is_empty() && status.code() == tonic::Code::Unavailable)
}

/// The innermost reason of a failed connection.
pub fn reason(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    if std::ptr::eq(error as *const _ as *const u8, status as *const _ as *const u8) { status.message().to_owned() } else { text }
}

fn unanswered() -> Status {
    Status::unavailable("the daemon did not answer")
}

fn late() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not accept connections")
}

/// The next message of a stream that must show a sign of life in time.
pub async fn next_within<T>(stream: &mut Streaming<T>, silence: Duration) -> Result<Option<T>, Failure> {
    match timeout(silence, next(stream)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::connection(format!("the daemon has been silent for {} s", silence.as_secs()))),
    }
}
