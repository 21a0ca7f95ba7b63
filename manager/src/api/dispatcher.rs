//! Sessions of agents, the logs they publish and the images they fetch.
//!
//! A session is served by the leader only. Its first message says who the node
//! is, which must be what its certificate says.

use crate::api::{Shared, caller, description};
use crate::inbox::Places;
use crate::logs;
use crate::sessions::QUEUE_MAX;
use futures_util::Stream;
use skep_manager_core::Event;
use skep_model::assignment::{Hello, StatusUpdate};
use skep_model::version::{PROTOCOL_MAX, PROTOCOL_MIN};
use skep_model::{Id, NodeId, SessionId};
use skep_proto::status::from_refusal;
use skep_proto::v1::dispatcher_server::Dispatcher;
use skep_proto::v1::{self, AgentMessage, LogPublish, ManagerMessage, PublishDone, agent_message, image_chunk};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long the first message of a session may take.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// How long a node may take to open its next session before what it was asked for is
/// given up: the longest pause of its attempts, and some more.
const RETURN_MAX: Duration = Duration::from_secs(4);
/// The longest that an agent is not listened to because it said too much.
const WAIT_MAX: Duration = Duration::from_secs(30);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub struct DispatcherApi(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Dispatcher for DispatcherApi {
    type SessionStream = Replies<ManagerMessage>;

    async fn session(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        let (node, address) = caller(&request)?;
        if !self.0.leadership.borrow().is_self {
            return Err(from_refusal(&self.0.not_leader()));
        }
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(HELLO_MAX, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the session's first message did not come within 5 s"))??;
        let mut hello = hello(first, node)?;
        hello.address = address;
        let session = SessionId(self.0.random_id());
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let places = Places::default();
        self.0.sessions.insert(session, node, sender);
        let opened = Event::SessionOpened { session, hello: Box::new(hello) };
        self.0.inbox.put_agent(node, &places, opened).await;
        // What was asked of the node and is not answered is asked again: it may never have heard.
        self.0.images.ask_again(node);
        self.0.probes.ask_again(node);
        tokio::spawn(listen(self.0.clone(), Peer { node, session, places }, messages));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn publish_logs(&self, request: Request<Streaming<LogPublish>>) -> Result<Response<PublishDone>, Status> {
        let (node, _) = caller(&request)?;
        let mut subscription = None;
        let published = self.take_logs(node, &mut subscription, request.into_inner()).await;
        match (subscription, &published) {
            (Some(id), Ok(())) => self.0.logs.finished(id, node),
            (Some(id), Err(status)) => self.0.logs.broken(id, node, &format!("broke off: {}", status.message())),
            (None, _) => {}
        }
        published.map(|()| Response::new(PublishDone {}))
    }

    type FetchImageStream = Replies<v1::ImageChunk>;

    async fn fetch_image(&self, request: Request<v1::FetchImageRequest>) -> Result<Response<Self::FetchImageStream>, Status> {
        let (node, _) = caller(&request)?;
        let id = parse_id(&request.into_inner().transfer_id)?;
        let path =
            self.0.images.file(id, node).ok_or_else(|| Status::not_found("no such image transfer is open for this node"))?;
        let failed = |error: std::io::Error| Status::internal(format!("could not read the spooled image archive: {error}"));
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let stream = futures_util::stream::unfold(Some(file), move |file| async move {
            let mut file = file?;
            let mut data = vec![0; skep_proto::CHUNK_MAX];
            match file.read(&mut data).await {
                Ok(0) => None,
                Ok(n) => {
                    data.truncate(n);
                    Some((Ok(v1::ImageChunk { chunk: Some(image_chunk::Chunk::Data(data)) }), Some(file)))
                }
                Err(error) => Some((Err(failed(error)), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl DispatcherApi {
    /// Hands what a node publishes to whoever asked, until its stream ends.
    async fn take_logs(
        &self,
        node: NodeId,
        subscription: &mut Option<Id>,
        mut messages: Streaming<LogPublish>,
    ) -> Result<(), Status> {
        let gone = || Status::cancelled("nobody reads these logs any more");
        while let Some(message) = messages.message().await? {
            let id = match *subscription {
                Some(id) => id,
                None => *subscription.insert(parse_id(&message.subscription_id)?),
            };
            for mut chunk in message.chunks {
                if !self.0.logs.was_asked(id, node, &chunk.task_id) {
                    return Err(Status::permission_denied("the node was not asked for the log of that task"));
                }
                chunk.node_id = node.to_string();
                let sender = self.0.logs.sender(id, node).ok_or_else(gone)?;
                sender.send(logs::Item::Chunk(chunk)).await.map_err(|_| gone())?;
            }
            if message.caught_up {
                let sender = self.0.logs.sender(id, node).ok_or_else(gone)?;
                sender.send(logs::Item::CaughtUp).await.map_err(|_| gone())?;
            }
        }
        Ok(())
    }
}

/// Whose messages they are.
struct Peer {
    node: NodeId,
    session: SessionId,
    places: Places,
}

/// Hands what an agent says to the core until its stream ends. Who says more than its
/// share is heard later.
async fn listen(shared: Arc<Shared>, peer: Peer, mut messages: Streaming<AgentMessage>) {
    let Peer { node, session, places } = peer;
    let mut is_goodbye = false;
    loop {
        let message = match messages.message().await {
            Ok(Some(AgentMessage { message })) => message,
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(%node, reason = status.message(), "a session broke");
                break;
            }
        };
        let mut wait = shared.limits.messages.spend(&node, 1.0, Instant::now());
        let event = match message {
            None => None,
            Some(agent_message::Message::Heartbeat(_)) => Some(Event::Heartbeat { session }),
            Some(agent_message::Message::Programmed(programmed)) => {
                Some(Event::Programmed { session, version: programmed.version })
            }
            Some(agent_message::Message::Faults(faults)) => Some(Event::PlacesFailed { session, faults: faults.into() }),
            Some(agent_message::Message::Statuses(statuses)) => {
                wait = wait.max(shared.limits.statuses.spend(&node, statuses.updates.len() as f64, Instant::now()));
                let updates = updates(node, statuses);
                (!updates.is_empty()).then_some(Event::Status { session, updates })
            }
            Some(agent_message::Message::ImageResult(result)) => {
                shared.images.result(node, result);
                None
            }
            Some(agent_message::Message::ProbeResult(result)) => {
                shared.probes.answer(node, result);
                None
            }
            Some(agent_message::Message::Goodbye(_)) => {
                is_goodbye = true;
                None
            }
            Some(agent_message::Message::Hello(_)) => {
                shared.sessions.close(session, "a session has one hello, as its first message".into());
                break;
            }
        };
        if let Some(event) = event {
            shared.inbox.put_agent(node, &places, event).await;
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(WAIT_MAX)).await;
        }
    }
    shared.sessions.remove(session);
    shared.inbox.put_end_of_session(node, Event::SessionClosed { session, is_goodbye });
    lost_unless_back(&shared, node).await;
}

/// A session has ended. The node may have opened the next one already, or do so soon:
/// only if it does not is what it was asked for given up.
async fn lost_unless_back(shared: &Shared, node: NodeId) {
    tokio::time::sleep(RETURN_MAX).await;
    if !shared.sessions.has(node) {
        shared.logs.node_lost(node);
        shared.images.node_lost(node);
        shared.probes.node_lost(node);
    }
}

pub(super) fn hello(first: Option<AgentMessage>, node: NodeId) -> Result<Hello, Status> {
    let Some(AgentMessage { message: Some(agent_message::Message::Hello(mut hello)) }) = first else {
        return Err(Status::invalid_argument("the first message of a session is a hello"));
    };
    if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
        let text = format!(
            "the node speaks protocols {} to {}, this manager {PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the older of the two",
            hello.protocol_min, hello.protocol_max
        );
        return Err(Status::failed_precondition(text));
    }
    let statuses = v1::Statuses { updates: std::mem::take(&mut hello.statuses) };
    hello.description.iter_mut().for_each(description::make_readable);
    hello.not_ready = description::line(&hello.not_ready);
    let mut hello = Hello::try_from(hello).map_err(|error| Status::invalid_argument(error.to_string()))?;
    hello.statuses = updates(node, statuses);
    if hello.node != node {
        return Err(Status::permission_denied("the hello names another node than the certificate"));
    }
    Ok(hello)
}

/// The statuses that can be read. One that cannot is left out, and all others count.
fn updates(node: NodeId, statuses: v1::Statuses) -> Vec<StatusUpdate> {
    let read = |update: v1::StatusUpdate| {
        let task = description::line(&update.task_id);
        StatusUpdate::try_from(update)
            .inspect_err(|error| tracing::warn!(%node, %task, "left out a status that cannot be read: {error}"))
            .ok()
    };
    statuses.updates.into_iter().filter_map(read).collect()
}

fn parse_id(text: &str) -> Result<Id, Status> {
    text.parse().map_err(|error: skep_model::id::InvalidId| Status::invalid_argument(error.to_string()))
}
