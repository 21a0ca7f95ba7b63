//! A worker without containers: a real certificate and real sessions with managers, and
//! whatever task it is told to run runs at once.
//!
//! It looks for a manager as the agent of a node does, with the agent's own list of them.

use super::text;
use skep_agent::connect::Managers;
use skep_identity::SecretBytes;
use skep_identity::ca::NodeKey;
use skep_identity::tls::{Material, PinnedRoot, RootFetch, TlsIdentity};
use skep_identity::token::JoinToken;
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::*;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

/// How long a manager may take to begin a session, as the agent has it.
const BEGIN_MAX: Duration = Duration::from_secs(5);

/// One worker; it is gone when this is dropped.
pub struct Worker {
    /// Its node's id.
    pub id: String,
    _sessions: AbortOnDropHandle<()>,
    _folder: tempfile::TempDir,
}

impl Worker {
    /// Joins through a manager.
    pub async fn join(manager: &str, token: &str, hostname: &str) -> Self {
        let key = NodeKey::generate().unwrap();
        let issued = issue(manager, &request(&key, token, hostname)).await.unwrap();
        let key: SecretBytes = key.pkcs8().duplicate();
        let material = Material { chain_pem: &issued.certificate_chain, key_pkcs8: &key, roots_pem: &issued.root_ca };
        let folder = tempfile::tempdir().unwrap();
        let tls = TlsIdentity::new(&material).unwrap();
        let managers = Managers::open(tls, folder.path().join("managers"), &issued.manager_addresses);
        let (id, hostname) = (issued.node_id.clone(), hostname.to_owned());
        let mut states = BTreeMap::new();
        let sessions = tokio::spawn(async move {
            // As an agent, it does not knock more often than this.
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            loop {
                pause.tick().await;
                session(&managers, &issued.node_id, &hostname, &mut states).await;
            }
        });
        Self { id, _sessions: AbortOnDropHandle::new(sessions), _folder: folder }
    }
}

/// What somebody with a token asks for.
pub fn request(key: &NodeKey, token: &str, hostname: &str) -> IssueRequest {
    IssueRequest {
        csr: base64(&key.signing_request().unwrap()),
        token: Some(Confidential::new(token.as_bytes())),
        hostname: hostname.to_owned(),
        request_id: skep_host::chance::bytes::<16>().to_vec(),
        ..IssueRequest::default()
    }
}

/// Asks a manager for a first certificate, as `swarm join` does.
pub async fn issue(manager: &str, request: &IssueRequest) -> Result<IssueReply, tonic::Status> {
    let fetched = RootFetch::connect(manager).await.unwrap().channel();
    let root = CaClient::new(fetched).get_root(GetRootRequest {}).await.unwrap().into_inner();
    let token = JoinToken::parse(request.token.as_ref().unwrap().text().unwrap()).unwrap();
    let pinned = PinnedRoot::check(root.root_ca.as_bytes(), &token).unwrap();
    let channel = pinned.connector().connect(manager).await.unwrap();
    CaClient::new(channel).issue(request.clone()).await.map(tonic::Response::into_inner)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// What runs here: task → state.
type States = BTreeMap<String, TaskState>;

fn update(task: &str, state: TaskState) -> StatusUpdate {
    let now = skep_host::clock::now().0;
    let status = TaskStatus { state: state.into(), timestamp: now, message: "as told".into(), ..TaskStatus::default() };
    StatusUpdate { task_id: task.to_owned(), status: Some(status) }
}

fn said(message: agent_message::Message) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

/// One session, until it ends.
async fn session(managers: &Managers, node: &str, hostname: &str, states: &mut States) {
    let address = managers.next().expect("a manager was named");
    let mut client = DispatcherClient::new(managers.channel(&address));
    let (sender, stream) = mpsc::channel(64);
    let hello = Hello {
        node_id: node.to_owned(),
        description: Some(NodeDescription {
            hostname: hostname.to_owned(),
            platform: Some(Platform { architecture: "x86_64".into(), os: "linux".into() }),
            resources: Some(Resources { nano_cpus: 8_000_000_000, memory_bytes: 8 << 30 }),
            ..NodeDescription::default()
        }),
        statuses: states.iter().map(|(task, state)| update(task, *state)).collect(),
        protocol_min: 1,
        protocol_max: 1,
        ..Hello::default()
    };
    sender.try_send(said(agent_message::Message::Hello(hello))).unwrap();
    let mut messages = match tokio::time::timeout(BEGIN_MAX, client.session(ReceiverStream::new(stream))).await {
        Err(_) => return managers.failed(&address),
        Ok(Err(status)) => return managers.refused(&address, &status),
        Ok(Ok(response)) => response.into_inner(),
    };
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = beat.tick() => {
                if sender.try_send(said(agent_message::Message::Heartbeat(Heartbeat {}))).is_err() {
                    return managers.failed(&address);
                }
            }
            message = messages.message() => match message {
                Ok(Some(ManagerMessage { message: Some(message) })) => match message {
                    manager_message::Message::Info(info) => {
                        let info = skep_model::assignment::SessionInfo::try_from(info).unwrap();
                        managers.learn(&info.managers);
                    }
                    manager_message::Message::Assignments(part) => {
                        for message in take(part, states) {
                            if sender.send(message).await.is_err() {
                                return managers.failed(&address);
                            }
                        }
                    }
                    manager_message::Message::Close(_) => return managers.failed(&address),
                    _ => {}
                },
                Ok(Some(ManagerMessage { message: None })) => {}
                _ => return managers.failed(&address),
            }
        }
    }
}

/// Does as it is told, and says so.
fn take(part: Assignments, states: &mut States) -> Vec<AgentMessage> {
    let mut updates = Vec::new();
    for change in part.changes.into_iter().filter_map(|change| change.change) {
        match change {
            assignment_change::Change::PutTask(task) => {
                let desired = task.plan.and_then(|plan| plan.value).map(|plan| plan.desired());
                let state = if desired.is_some_and(|desired| desired <= TaskState::Running) {
                    TaskState::Running
                } else {
                    TaskState::Shutdown
                };
                if states.insert(task.id.clone(), state) != Some(state) {
                    updates.push(update(&task.id, state));
                }
            }
            assignment_change::Change::RemoveTask(task) => drop(states.remove(&task)),
            _ => {}
        }
    }
    let programmed = Programmed { version: part.results_in };
    let mut messages = vec![said(agent_message::Message::Programmed(programmed))];
    if !updates.is_empty() {
        messages.push(said(agent_message::Message::Statuses(Statuses { updates })));
    }
    messages
}

/// The token that workers join with.
pub fn worker_token(founded: InitReply) -> String {
    text(founded.worker_token)
}
