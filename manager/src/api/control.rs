//! The control API: what users ask for, parsed, sealed and handed to the core.
//!
//! Any manager answers. Reads are served here, from a store that is at least as
//! new as the call; changes, logs and image transfers go on to the leader, with
//! the same request id, until they are decided or the deadline is over.

use crate::api::log_stream::LogStream;
use crate::api::verify::verify;
use crate::api::watching::Watching;
use crate::api::{Leadership, Shared, deadline};
use crate::sealing::Kind as SealedKind;
use futures_util::Stream;
use skep_host::clock;
use skep_host::room::Room;
use skep_manager_core::Store;
use skep_manager_core::event::Consistency;
use skep_manager_core::query::{self, Listed};
use skep_manager_core::timing;
use skep_model::config::{CONFIG_MAX, ConfigVersion};
use skep_model::request::{Mutation, Outcome};
use skep_model::secret::{SECRET_MAX, SecretVersion};
use skep_model::task::Task;
use skep_model::{ConfigId, Id, Kind, Object, Refusal, SecretId, ServiceId};
use skep_proto::Malformed;
use skep_proto::request::{Asked, LogsOf, Page, Query, Read, decode_logs, decode_mutation, decode_read, decode_watch};
use skep_proto::status::{from_refusal, to_refusal};
use skep_proto::v1::control_client::ControlClient;
use skep_proto::v1::control_server::Control;
use skep_proto::v1::mutate_request::Mutation as AnyMutation;
use skep_proto::v1::{self, MutateReply, MutateRequest, ReadReply, ReadRequest, image_chunk};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tonic::{Request, Response, Status, Streaming};

/// How long a call waits for a leader and its decision.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How long the next piece of an archive may take.
const CHUNK_MAX: Duration = Duration::from_secs(60);
/// How long a decided-but-lost call waits before it is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service, on the network and on the local socket alike.
#[derive(Clone)]
pub struct ControlApi(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Control for ControlApi {
    async fn mutate(&self, request: Request<MutateRequest>) -> Result<Response<MutateReply>, Status> {
        let message = request.into_inner();
        panic_if_planted(&message);
        let warnings = warnings(&message);
        let outcome =
            tokio::time::timeout(CALL_MAX, self.decide(message)).await.map_err(|_| deadline("the change", CALL_MAX))??;
        Ok(Response::new(MutateReply { outcome: Some(outcome), warnings }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadReply>, Status> {
        let read = decode_read(request.into_inner()).map_err(malformed)?;
        let consistency = if read.stale { Consistency::Stale } else { Consistency::Linearizable };
        let store = self.0.read(consistency).await.map_err(|refusal| from_refusal(&refusal))?;
        let is_stale = read.stale;
        let mut reply = self.answer(&store, read).map_err(|refusal| from_refusal(&refusal))?;
        reply.version = store.version;
        reply.age_ms = if is_stale { millis(clock::now().since(store.newest())) } else { 0 };
        reply.leader_id = self.0.leader().map(|(node, _)| node.to_string());
        Ok(Response::new(reply))
    }

    type WatchStream = Replies<v1::WatchEvent>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = decode_watch(request.into_inner()).map_err(malformed)?;
        let watching = Watching::open(self.0.clone(), watch).map_err(|refusal| from_refusal(&refusal))?;
        Ok(Response::new(Box::pin(watching.stream())))
    }

    type LogsStream = Replies<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let (of, options) = decode_logs(request.clone()).map_err(malformed)?;
        if let Some(address) = self.elsewhere().await? {
            let stream = ControlClient::new(self.0.channels.to(&address)).logs(request).await?.into_inner();
            return Ok(Response::new(Box::pin(stream)));
        }
        let store = self.0.read(Consistency::Linearizable).await.map_err(|refusal| from_refusal(&refusal))?;
        let (tasks, service) = tasks_of_logs(&store, &of).map_err(|refusal| from_refusal(&refusal))?;
        let follow = service.filter(|_| options.follow).map(|service| (service, store.version));
        let stream = LogStream::open(self.0.clone(), &tasks, options, follow);
        let stream =
            futures_util::stream::unfold(
                stream,
                |mut stream| async move { stream.next().await.map(|chunk| (Ok(chunk), stream)) },
            );
        Ok(Response::new(Box::pin(stream)))
    }

    type DistributeImageStream = Replies<v1::ImageProgress>;

    async fn distribute_image(
        &self,
        request: Request<Streaming<v1::ImageChunk>>,
    ) -> Result<Response<Self::DistributeImageStream>, Status> {
        let chunks = request.into_inner();
        if let Some(address) = self.elsewhere().await? {
            let chunks = tokio_stream::StreamExt::map_while(chunks, Result::ok);
            let stream = ControlClient::new(self.0.channels.to(&address)).distribute_image(chunks).await?.into_inner();
            return Ok(Response::new(Box::pin(stream)));
        }
        let place = self.0.images.place().ok_or_else(|| {
            from_refusal(&Refusal::Exhausted("other image archives are being distributed; try again when one is done".into()))
        })?;
        let id = self.0.random_id();
        let guard = EndTransfer { shared: self.0.clone(), id };
        let (name, size) = self.spool(id, chunks).await?;
        let receiver = self.0.images.offer(id, &name, size);
        let stream = futures_util::stream::unfold((receiver, guard, place), |(mut receiver, guard, place)| async move {
            receiver.recv().await.map(|progress| (Ok(progress), (receiver, guard, place)))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn verify_networks(
        &self,
        request: Request<v1::VerifyNetworksRequest>,
    ) -> Result<Response<v1::VerifyNetworksReply>, Status> {
        let request = request.into_inner();
        match self.elsewhere().await? {
            Some(address) => ControlClient::new(self.0.channels.to(&address)).verify_networks(request).await,
            None => verify(&self.0, request).await.map(Response::new),
        }
    }
}

impl ControlApi {
    /// Has a change decided: here if this manager leads, else by the leader.
    async fn decide(&self, message: MutateRequest) -> Result<v1::Outcome, Status> {
        loop {
            let result = match self.elsewhere().await? {
                Some(address) => self.forward(&address, message.clone()).await,
                None => self
                    .propose(&message)
                    .await
                    .map(|outcome| v1::Outcome::from(&outcome))
                    .map_err(|refusal| from_refusal(&refusal)),
            };
            match result {
                Err(status) if is_retryable(&status) => tokio::time::sleep(RETRY_PAUSE).await,
                decided => return decided,
            }
        }
    }

    /// Sends a change on to the leader. A leader that was deposed meanwhile may be
    /// out of reach and never answer, so its successor is asked, with the same id.
    async fn forward(&self, address: &str, message: MutateRequest) -> Result<v1::Outcome, Status> {
        let mut client = ControlClient::new(self.0.channels.to(address));
        let mut leadership = self.0.leadership.clone();
        let is_other = |now: &Leadership| now.is_self || now.leader.as_ref().is_some_and(|(_, other)| other != address);
        tokio::select! {
            reply = client.mutate(message) => Ok(reply?.into_inner().outcome.unwrap_or_default()),
            _ = leadership.wait_for(is_other) => Err(Status::unavailable("leadership changed while the leader was asked")),
        }
    }

    /// Where the leader is, if it is not here; waits until there is one.
    async fn elsewhere(&self) -> Result<Option<String>, Status> {
        let mut leadership = self.0.leadership.clone();
        let known = leadership.wait_for(|now| now.is_self || now.leader.is_some() || now.lost.is_some());
        match tokio::time::timeout(CALL_MAX, known).await {
            Ok(Ok(now)) if now.is_self => Ok(None),
            Ok(Ok(now)) => match &now.lost {
                Some(refusal) => Err(from_refusal(refusal)),
                None => Ok(now.leader.as_ref().map(|(_, address)| address.clone())),
            },
            Ok(Err(_)) => Err(Status::unavailable("the manager is stopping")),
            Err(_) => Err(from_refusal(&no_leader())),
        }
    }

    async fn propose(&self, message: &MutateRequest) -> Result<Outcome, Refusal> {
        loop {
            let (request, asked) = decode_mutation(message.clone()).map_err(Refusal::from)?;
            let is_next_version = matches!(asked, Asked::UpdateSecret { .. } | Asked::UpdateConfig { .. });
            let mutation = self.seal(asked).await?;
            match self.0.propose(request, mutation).await {
                // A value is sealed with its number, and another took that meanwhile. Whoever did got
                // on, so this ends; the call has a deadline.
                Err(Refusal::OutOfSequence) if is_next_version => {}
                decided => return decided,
            }
        }
    }

    /// Values are sealed here and nowhere later.
    async fn seal(&self, asked: Asked) -> Result<Mutation, Refusal> {
        Ok(match asked {
            Asked::Ready(mutation) => mutation,
            Asked::CreateSecret { annotations, value } => {
                let id = SecretId(self.0.random_id());
                let version = self.secret_version(id, 1, &value.value).await?;
                Mutation::CreateSecret { id, annotations, version }
            }
            Asked::UpdateSecret { secret: reference, value, labels } => {
                let version = match value {
                    Some(value) => {
                        let store = self.0.read(Consistency::Linearizable).await?;
                        let secret = store.resolve_secret(&reference)?;
                        let newest = secret.spec.versions.last().map_or(0, |version| version.n);
                        Some(self.secret_version(secret.id, newest + 1, &value.value).await?)
                    }
                    None => None,
                };
                Mutation::UpdateSecret { secret: reference, version, labels }
            }
            Asked::CreateConfig { annotations, value } => {
                let id = ConfigId(self.0.random_id());
                let version = self.config_version(id, 1, &value).await?;
                Mutation::CreateConfig { id, annotations, version }
            }
            Asked::UpdateConfig { config: reference, value, labels } => {
                let version = match value {
                    Some(value) => {
                        let store = self.0.read(Consistency::Linearizable).await?;
                        let config = store.resolve_config(&reference)?;
                        let newest = config.spec.versions.last().map_or(0, |version| version.n);
                        Some(self.config_version(config.id, newest + 1, &value).await?)
                    }
                    None => None,
                };
                Mutation::UpdateConfig { config: reference, version, labels }
            }
            Asked::RotateJoinToken { role } => {
                let store = self.0.read(Consistency::Linearizable).await?;
                Mutation::RotateJoinToken { role, sealed: self.0.sealing.new_token(&store, role)? }
            }
            Asked::JoinRaft { .. } => return Err(Refusal::PermissionDenied("a manager joins through the raft service".into())),
        })
    }

    async fn secret_version(&self, id: SecretId, n: u64, value: &[u8]) -> Result<SecretVersion, Refusal> {
        check_size("secret", value.len(), SECRET_MAX)?;
        let store = self.0.read(Consistency::Linearizable).await?;
        let sealed = self.0.sealing.seal(&store, SealedKind::Secret, id.0, n, value)?;
        let fingerprint = self.0.sealing.fingerprint(&store, value)?;
        Ok(SecretVersion { n, sealed, fingerprint, created_at: clock::now() })
    }

    async fn config_version(&self, id: ConfigId, n: u64, value: &[u8]) -> Result<ConfigVersion, Refusal> {
        check_size("config", value.len(), CONFIG_MAX)?;
        let store = self.0.read(Consistency::Linearizable).await?;
        let sealed = self.0.sealing.seal(&store, SealedKind::Config, id.0, n, value)?;
        Ok(ConfigVersion { n, sealed, fingerprint: skep_identity::seal::config_fingerprint(value), created_at: clock::now() })
    }

    fn answer(&self, store: &Store, read: Read) -> Result<ReadReply, Refusal> {
        let Read { query, page, status, stale } = read;
        check_token(store, &page, stale)?;
        let mut reply = ReadReply::default();
        match query {
            Query::List(kind, pairs) => add_list(&mut reply, query::list(store, kind, pairs, &page)?, status),
            Query::Get(kind, reference) => {
                let object = query::get(store, kind, &reference)?;
                if let Object::Config(config) = &object {
                    reply.config_values = self.config_values(store, config.id)?;
                }
                reply.objects = vec![v1::Object::from(&object)];
            }
            Query::TasksOfService(reference, pairs) => {
                add_list(&mut reply, query::tasks_of_service(store, &reference, pairs, &page)?, false);
            }
            Query::TasksOfNode(reference, pairs) => {
                add_list(&mut reply, query::tasks_of_node(store, &reference, pairs, &page)?, false);
            }
            Query::JoinTokens => reply.join_tokens = Some(self.0.sealing.join_tokens(store)?),
            Query::ClusterInfo => reply.cluster_info = Some(cluster_info(store, self.0.leadership.borrow().term)),
        }
        Ok(reply)
    }

    fn config_values(&self, store: &Store, id: ConfigId) -> Result<BTreeMap<u64, Vec<u8>>, Refusal> {
        let reference = || Refusal::NotFound { kind: Kind::Config, reference: id.to_string() };
        let config = store.config(id).ok_or_else(reference)?;
        let open = |version: &ConfigVersion| {
            let value = self.0.sealing.open(store, SealedKind::Config, id.0, version.n, &version.sealed)?;
            Ok((version.n, value.to_vec()))
        };
        config.spec.versions.iter().map(open).collect()
    }

    /// Writes an archive to the spool file. Returns its name and size.
    async fn spool(&self, id: Id, mut chunks: Streaming<v1::ImageChunk>) -> Result<(String, u64), Status> {
        let path = self.0.images.spool(id);
        let failed = |error: std::io::Error| Status::internal(format!("could not spool the image archive: {error}"));
        let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
        let (mut name, mut size, mut room) = (String::new(), 0_u64, Room::at(&path));
        while let Some(chunk) = next_chunk(&mut chunks).await? {
            match chunk.chunk {
                Some(image_chunk::Chunk::Header(header)) => name = header.name,
                Some(image_chunk::Chunk::Data(data)) => {
                    size += data.len() as u64;
                    if size > crate::images::ARCHIVE_MAX {
                        return Err(from_refusal(&Refusal::TooLarge {
                            what: "the image archive".into(),
                            limit: "16 GiB".into(),
                        }));
                    }
                    room.take(data.len() as u64).map_err(failed)?;
                    file.write_all(&data).await.map_err(failed)?;
                }
                None => {}
            }
        }
        file.flush().await.map_err(failed)?;
        Ok((name, size))
    }
}

/// The next piece of an archive, which may not be long in coming.
async fn next_chunk(chunks: &mut Streaming<v1::ImageChunk>) -> Result<Option<v1::ImageChunk>, Status> {
    let next = tokio::time::timeout(CHUNK_MAX, chunks.message()).await;
    next.unwrap_or_else(|_| Err(deadline("the next piece of the archive", CHUNK_MAX)))
}

/// Removes a spooled archive.
struct EndTransfer {
    shared: Arc<Shared>,
    id: Id,
}

impl Drop for EndTransfer {
    fn drop(&mut self) {
        self.shared.images.end(self.id);
    }
}

/// Pages never go back in time: the one before was read from a version that this store has.
fn check_token(store: &Store, page: &Page, is_stale: bool) -> Result<(), Refusal> {
    let Some(token) = page.token.filter(|token| token.version > store.version) else { return Ok(()) };
    let now = store.version;
    if is_stale {
        let text = format!("this manager is at version {now} and the page before was read from version {}", token.version);
        return Err(Refusal::Unavailable(format!("{text}; ask again, or for an answer that is not stale")));
    }
    let reason = format!("this cluster is at version {now}: the token is of another one; begin with the first page");
    Err(Refusal::invalid("page_token", token.to_string(), reason))
}

fn add_list(reply: &mut ReadReply, listed: Listed, status: bool) {
    reply.objects = listed.objects;
    reply.next_page_token = listed.next.map(|token| token.to_string()).unwrap_or_default();
    if status {
        reply.service_statuses = listed.statuses;
    }
}

/// The tasks that are asked for and, if it is all of a service, the service.
fn tasks_of_logs(store: &Store, of: &LogsOf) -> Result<(Vec<Arc<Task>>, Option<ServiceId>), Refusal> {
    Ok(match of {
        LogsOf::Service(reference) => {
            let service = store.resolve_service(reference)?;
            (store.tasks_of_service(service.id).cloned().collect(), Some(service.id))
        }
        LogsOf::Task(reference) => (vec![store.resolve_task(reference)?.clone()], None),
    })
}

fn cluster_info(store: &Store, raft_term: u64) -> v1::ClusterInfo {
    let addresses = store.nodes().filter_map(|node| {
        let manager = node.plan.manager.as_ref()?;
        Some(v1::ManagerAddress { node_id: node.id.to_string(), address: manager.address.clone() })
    });
    let manager_addresses: Vec<_> = addresses.collect();
    v1::ClusterInfo {
        cluster_id: store.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        managers: manager_addresses.len() as u64,
        nodes: store.nodes().count() as u64,
        manager_addresses,
        raft_term,
        raft_index: store.version,
        tick: timing::TICK.as_nanos() as u64,
        heartbeat_ticks: timing::HEARTBEAT_TICKS as u32,
        election_ticks: timing::ELECTION_TICKS as u32,
        entries_for_slow_followers: timing::KEEP_ENTRIES,
    }
}

fn malformed(error: Malformed) -> Status {
    from_refusal(&error.into())
}

/// What is worth a word about a request that is accepted.
fn warnings(message: &MutateRequest) -> Vec<String> {
    // Of services alone: others may carry a value, of which there shall be no further copy.
    if !matches!(message.mutation, Some(AnyMutation::CreateService(_) | AnyMutation::UpdateService(_))) {
        return Vec::new();
    }
    let Ok((_, Asked::Ready(mutation))) = decode_mutation(message.clone()) else { return Vec::new() };
    match mutation {
        Mutation::CreateService { spec } | Mutation::UpdateService { spec, .. } => {
            spec.task_template.restart_policy.warning().into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn check_size(what: &str, size: usize, max: usize) -> Result<(), Refusal> {
    if size == 0 {
        return Err(Refusal::invalid(format!("{what} value"), "", "it is empty; a value must be given"));
    }
    if size >= max {
        return Err(Refusal::TooLarge { what: format!("the {what}, {size} bytes,"), limit: format!("{} bytes", max - 1) });
    }
    Ok(())
}

fn is_retryable(status: &Status) -> bool {
    match to_refusal(status) {
        Some(refusal) => refusal.passes_soon(),
        None => status.code() == tonic::Code::Unavailable,
    }
}

fn no_leader() -> Refusal {
    let text = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.";
    Refusal::Unavailable(text.into())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
fn panic_if_planted(message: &MutateRequest) {
    if let Some(skep_proto::v1::mutate_request::Mutation::CreateService(create)) = &message.mutation {
        let annotations = create.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        skep_host::process::panic_if_planted("call", annotations.map_or("", |annotations| &annotations.name));
    }
}
