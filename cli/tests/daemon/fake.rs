//! A daemon that does what a test tells it, on a unix socket of its own.

#[path = "../../src/render/sample.rs"]
#[allow(dead_code, reason = "the unit tests use the others")]
pub mod sample;

use skep_model::node::Node;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{Object, Refusal};
use skep_proto::v1::control_server::{Control, ControlServer};
use skep_proto::v1::local_server::{Local, LocalServer};
use skep_proto::v1::{self, read_request::Query};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// When the service became something else, by the managers' clock.
pub const BECAME: u64 = 1_000_000_000;

/// What one opened watch does.
#[derive(Clone, Debug)]
pub enum Step {
    /// The service is now this, and the watch says so.
    Becomes(Box<Service>),
    /// Some of the time that was asked for has been forgotten.
    Incomplete,
    /// The watcher must read again.
    Resync,
    /// The stream ends.
    End,
    /// The stream stays open and silent.
    Silence,
}

/// What the daemon knows, is told to do, and was asked for.
#[derive(Debug, Default)]
pub struct State {
    pub service: Option<Service>,
    pub tasks: Vec<Task>,
    /// Those that can be asked for; the sample where there are none.
    pub nodes: Vec<Node>,
    pub version: u64,
    /// Answers to changes, before they succeed. Out of sequence means that somebody else
    /// was faster: the service is a version further.
    pub refusals: VecDeque<Refusal>,
    /// A script for each watch that is opened.
    pub watches: VecDeque<Vec<Step>>,
    pub logs: Vec<v1::LogChunk>,
    pub info: v1::NodeInfo,
    /// What nodes reach of one another.
    pub verified: Vec<v1::VerifyRow>,
    pub mutations: Vec<v1::MutateRequest>,
    /// What every change that is made is warned of.
    pub warnings: Vec<String>,
    /// After which version or since when.
    pub watched: Vec<(Option<u64>, Option<u64>)>,
    /// Everything that was asked, in order, but for the ids of requests.
    pub asked: Vec<String>,
}

/// The running daemon; it stops when this is dropped.
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
    folder: tempfile::TempDir,
    opened: std::sync::mpsc::Receiver<()>,
    asked: std::sync::mpsc::Receiver<()>,
}

impl Fake {
    pub fn start(state: State) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = Runtime::new().expect("a runtime");
        let state = Arc::new(Mutex::new(state));
        let (opening, opened) = std::sync::mpsc::channel();
        let (asking, asked) = std::sync::mpsc::channel();
        let api = Api { state: state.clone(), opening, asking };
        let path = folder.path().join("skep.sock");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(&path).expect("a socket")
        };
        runtime.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(ControlServer::new(api.clone()))
                .add_service(LocalServer::new(api))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
        });
        Self { state, runtime: Some(runtime), folder, opened, asked }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("skep.sock")
    }

    /// The command line, ready to be run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skep"));
        command.arg("--host").arg(format!("unix://{}", self.socket().display())).args(words).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::from(self.command(words).output().expect("skep runs"))
    }

    /// Waits until a watch has been opened and its script is done.
    pub fn await_watch(&self) {
        self.opened.recv_timeout(std::time::Duration::from_secs(20)).expect("a watch is opened");
    }

    /// Waits until a change has been asked for.
    pub fn await_change(&self) {
        self.asked.recv_timeout(std::time::Duration::from_secs(20)).expect("a change is asked for");
    }

    /// The daemon dies: its socket goes and every connection breaks.
    pub fn die(&mut self) {
        std::fs::remove_file(self.socket()).expect("the socket was there");
        self.runtime.take().expect("it lives").shutdown_background();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

#[derive(Clone)]
struct Api {
    state: Arc<Mutex<State>>,
    opening: std::sync::mpsc::Sender<()>,
    asking: std::sync::mpsc::Sender<()>,
}

impl Api {
    fn heard(&self, request: &impl std::fmt::Debug) {
        self.state.lock().expect("unpoisoned").asked.push(format!("{request:?}"));
    }
}

fn status(refusal: &Refusal) -> Status {
    skep_proto::status::from_refusal(refusal)
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_nanos() as u64
}

fn networks() -> impl Iterator<Item = Object> {
    [sample::network(), sample::ingress()].into_iter().map(|network| Object::Network(Box::new(network)))
}

fn wire(object: Object) -> v1::Object {
    v1::Object::from(&object)
}

fn status_of(service: &Service, tasks: &[Task]) -> v1::ServiceStatus {
    let running = tasks.iter().filter(|task| task.is_wanted() && task.status.state == skep_model::TaskState::Running);
    let desired_tasks = match service.spec.spec.mode {
        skep_model::service::ServiceMode::Replicated { replicas } => replicas,
        skep_model::service::ServiceMode::Global {} => tasks.len() as u64,
    };
    v1::ServiceStatus { running_tasks: running.count() as u64, desired_tasks }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the test does not ask for this"))
}

#[tonic::async_trait]
impl Control for Api {
    async fn mutate(&self, request: Request<v1::MutateRequest>) -> Result<Response<v1::MutateReply>, Status> {
        self.heard(&request.get_ref().mutation);
        let mut state = self.state.lock().expect("unpoisoned");
        state.mutations.push(request.into_inner());
        // Few tests listen.
        let _ = self.asking.send(());
        if let Some(refusal) = state.refusals.pop_front() {
            if let Some(service) = state.service.as_mut().filter(|_| refusal == Refusal::OutOfSequence) {
                service.spec.version += 1;
            }
            return Err(status(&refusal));
        }
        let id = state.service.as_ref().map_or_else(|| sample::secret().id.to_string(), |service| service.id.to_string());
        let outcome = v1::Outcome { id, version: state.version, number: 2 };
        Ok(Response::new(v1::MutateReply { outcome: Some(outcome), warnings: state.warnings.clone() }))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        use v1::Kind;
        self.heard(request.get_ref());
        let state = self.state.lock().expect("unpoisoned");
        let service = || state.service.clone().map(|service| Object::Service(Box::new(service)));
        let objects: Vec<Object> = match request.into_inner().query {
            Some(Query::Get(get)) if get.kind() == Kind::Service => {
                let refusal = Refusal::NotFound { kind: skep_model::Kind::Service, reference: get.reference };
                vec![service().ok_or_else(|| status(&refusal))?]
            }
            Some(Query::Get(get)) if get.kind() == Kind::Secret => vec![Object::Secret(Box::new(sample::secret()))],
            Some(Query::List(list)) if list.kind() == Kind::Service => service().into_iter().collect(),
            Some(Query::List(list)) if list.kind() == Kind::Node => vec![Object::Node(Box::new(sample::node()))],
            Some(Query::List(list)) if list.kind() == Kind::Secret => vec![Object::Secret(Box::new(sample::secret()))],
            Some(Query::List(list)) if list.kind() == Kind::Network => networks().collect(),
            Some(Query::Get(get)) if get.kind() == Kind::Network => {
                let wanted = |object: &Object| get.reference == object.name() || get.reference == object.reference().id.as_str();
                let refusal = Refusal::NotFound { kind: skep_model::Kind::Network, reference: get.reference.clone() };
                vec![networks().find(wanted).ok_or_else(|| status(&refusal))?]
            }
            Some(Query::Get(get)) if get.kind() == Kind::Task => {
                let refusal = Refusal::NotFound { kind: skep_model::Kind::Task, reference: get.reference.clone() };
                let task = state.tasks.iter().find(|task| task.id.as_str() == get.reference);
                vec![Object::Task(Box::new(task.ok_or_else(|| status(&refusal))?.clone()))]
            }
            Some(Query::Get(get)) if get.kind() == Kind::Node && state.nodes.is_empty() => {
                vec![Object::Node(Box::new(sample::node()))]
            }
            Some(Query::Get(get)) if get.kind() == Kind::Node => {
                let is_meant = |node: &&Node| get.reference == node.description.hostname || get.reference == node.id.as_str();
                let refusal = Refusal::NotFound { kind: skep_model::Kind::Node, reference: get.reference.clone() };
                let node = state.nodes.iter().find(is_meant).ok_or_else(|| status(&refusal))?;
                vec![Object::Node(Box::new(node.clone()))]
            }
            Some(Query::Get(get)) if get.kind() == Kind::Cluster => vec![Object::Cluster(Box::new(sample::cluster()))],
            Some(Query::Get(get)) if get.kind() == Kind::Config => vec![Object::Config(Box::new(sample::config()))],
            Some(Query::List(list)) if list.kind() == Kind::Config => vec![Object::Config(Box::new(sample::config()))],
            Some(Query::ClusterInfo(_) | Query::JoinTokens(_)) => Vec::new(),
            Some(Query::List(list)) if list.kind() != Kind::Task => Vec::new(),
            Some(Query::List(_) | Query::TasksOf(_)) => {
                state.tasks.iter().map(|task| Object::Task(Box::new(task.clone()))).collect()
            }
            other => return Err(Status::unimplemented(format!("{other:?}"))),
        };
        let leader_id = Some(sample::node().id.to_string());
        let of_services = objects.iter().filter_map(|object| if let Object::Service(it) = object { Some(it) } else { None });
        let service_statuses = of_services.map(|service| status_of(service, &state.tasks)).collect();
        let objects = objects.into_iter().map(wire).collect();
        let token = || Some(v1::Confidential::new("SWMTKN-1-a-b"));
        let join_tokens = Some(v1::JoinTokens { worker: token(), manager: token() });
        let version = state.version;
        let reply = v1::ReadReply { objects, version, leader_id, join_tokens, service_statuses, ..Default::default() };
        Ok(Response::new(reply))
    }

    type WatchStream = Replies<v1::WatchEvent>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let until = request.get_ref().until;
        let steps = {
            let mut state = self.state.lock().expect("unpoisoned");
            let request = request.into_inner();
            state.asked.push(format!("{request:?}"));
            state.watched.push((request.after_version, request.since));
            state.watches.pop_front().unwrap_or_default()
        };
        let (sender, receiver) = mpsc::channel(16);
        let api = self.clone();
        tokio::spawn(async move {
            for step in steps {
                match step {
                    Step::Becomes(service) => {
                        let event = api.becomes(*service);
                        sender.send(Ok(event)).await.ok();
                    }
                    Step::Incomplete => {
                        sender.send(Ok(v1::WatchEvent { incomplete: true, ..Default::default() })).await.ok();
                    }
                    Step::Resync => drop(sender.send(Ok(v1::WatchEvent { resync: true, ..Default::default() })).await),
                    Step::End => break,
                    Step::Silence if until.is_some_and(|until| until < now()) => break,
                    Step::Silence => {
                        api.opening.send(()).ok();
                        sender.closed().await;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type LogsStream = Replies<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.heard(request.get_ref());
        let chunks = self.state.lock().expect("unpoisoned").logs.clone();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks).map(Ok))))
    }

    type DistributeImageStream = Replies<v1::ImageProgress>;

    async fn distribute_image(
        &self,
        _: Request<Streaming<v1::ImageChunk>>,
    ) -> Result<Response<Self::DistributeImageStream>, Status> {
        not_here()
    }

    async fn verify_networks(&self, _: Request<v1::VerifyNetworksRequest>) -> Result<Response<v1::VerifyNetworksReply>, Status> {
        let rows = self.state.lock().expect("unpoisoned").verified.clone();
        Ok(Response::new(v1::VerifyNetworksReply { rows }))
    }
}

impl Api {
    fn becomes(&self, service: Service) -> v1::WatchEvent {
        let mut state = self.state.lock().expect("unpoisoned");
        state.version += 1;
        let old = state.service.replace(service.clone()).map(|old| wire(Object::Service(Box::new(old))));
        let object = Some(wire(Object::Service(Box::new(service))));
        let change = v1::Change { action: v1::ChangeAction::Update.into(), object, old };
        v1::WatchEvent { version: state.version, time: BECAME, changes: vec![change], ..Default::default() }
    }
}

#[tonic::async_trait]
impl Local for Api {
    async fn init(&self, request: Request<v1::InitRequest>) -> Result<Response<v1::InitReply>, Status> {
        self.heard(request.get_ref());
        not_here()
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        self.heard(request.get_ref());
        not_here()
    }

    async fn leave_cluster(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveReply>, Status> {
        self.heard(request.get_ref());
        not_here()
    }

    async fn unlock(&self, _: Request<v1::UnlockRequest>) -> Result<Response<v1::UnlockReply>, Status> {
        not_here()
    }

    async fn unlock_key(&self, request: Request<v1::UnlockKeyRequest>) -> Result<Response<v1::UnlockKeyReply>, Status> {
        self.heard(request.get_ref());
        Ok(Response::new(v1::UnlockKeyReply { key: Some(v1::Confidential::new("SWMKEY-1-x")) }))
    }

    async fn info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::NodeInfo>, Status> {
        Ok(Response::new(self.state.lock().expect("unpoisoned").info.clone()))
    }

    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionReply>, Status> {
        let reply =
            v1::VersionReply { version: "9.9.9".into(), os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
        Ok(Response::new(reply))
    }

    async fn image_list(&self, _: Request<v1::ImageListRequest>) -> Result<Response<v1::ImageListReply>, Status> {
        not_here()
    }

    type ImageLoadStream = Replies<v1::ImageProgress>;

    async fn image_load(&self, request: Request<Streaming<v1::ImageChunk>>) -> Result<Response<Self::ImageLoadStream>, Status> {
        let mut chunks = request.into_inner();
        let (mut bytes, mut name) = (0, String::new());
        while let Some(chunk) = chunks.message().await? {
            match chunk.chunk {
                Some(v1::image_chunk::Chunk::Header(header)) => name = header.name,
                Some(v1::image_chunk::Chunk::Data(data)) => bytes += data.len(),
                None => return Err(Status::invalid_argument("an empty chunk")),
            }
        }
        let references = vec![format!("{name}:{bytes}")];
        let progress = v1::ImageProgress { done: true, references, ..Default::default() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(progress)]))))
    }

    type ImagePullStream = Replies<v1::ImageProgress>;

    async fn image_pull(&self, _: Request<v1::ImagePullRequest>) -> Result<Response<Self::ImagePullStream>, Status> {
        not_here()
    }

    async fn image_resolve(&self, request: Request<v1::ImageResolveRequest>) -> Result<Response<v1::ImageResolveReply>, Status> {
        // One registry knows one image.
        match request.get_ref().reference.as_str() {
            "known:1" => Ok(Response::new(v1::ImageResolveReply { reference: format!("known:1@sha256:{}", "0".repeat(64)) })),
            _ => Err(Status::unavailable("no registry answers")),
        }
    }

    async fn image_remove(&self, _: Request<v1::ImageRemoveRequest>) -> Result<Response<v1::ImageRemoveReply>, Status> {
        not_here()
    }
}
