//! Lists of a large cluster, as people see them: the real `skep`, answered over a local socket by what a manager answers
//! with, from a store that is filled in this process. What a manager does besides, a read of its quorum, is not in it.

use crate::Row;
use anyhow::Context as _;
use skep_host::unix::{self, LocalIncoming, local_server};
use skep_manager_core::query::{self, Listed};
use skep_manager_core::{Store, Transaction, Write};
use skep_model::service::{Annotations, Service, ServiceMode, ServicePlan, ServiceRecord, ServiceSpec, TaskSpec, UpdateConfig};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::{Meta, NodeId, Object, Section, ServiceId, TaskId, TaskState, Time};
use skep_proto::request::{Query, Read, decode_read};
use skep_proto::status::from_refusal;
use skep_proto::v1::control_server::{Control, ControlServer};
use skep_proto::v1::{self, ReadReply};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_stream::Pending;
use tonic::{Request, Response, Status, Streaming};

const N_SERVICES: u64 = 1_000;
const N_NODES: u64 = 1_000;
/// Tasks of each service.
const REPLICAS: u64 = 100;
/// How often each command is run; what is shown is the one in the middle.
const RUNS: usize = 11;

fn id(kind: u8, number: u64) -> [u8; 16] {
    let mut id = [kind; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

fn service(number: u64) -> Object {
    let mut task_template = TaskSpec::default();
    task_template.container_spec.image = "registry.local:5000/team/app:1".into();
    task_template.container_spec.env = (0..8).map(|n| format!("SETTING_{n}=value-{n}")).collect();
    let spec = ServiceSpec {
        annotations: Annotations { name: format!("service-{number}"), ..Annotations::default() },
        task_template,
        mode: ServiceMode::Replicated { replicas: REPLICAS },
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    };
    Object::Service(Box::new(Service {
        id: ServiceId::from_random(id(1, number)),
        meta: Meta::default(),
        spec: Section::new(ServiceRecord { spec, previous: None, spec_version: 1 }),
        plan: Section::new(ServicePlan { deployment: None, removed_at: None, endpoint: Default::default() }),
    }))
}

fn task(service: u64, slot: u64, spec: &Arc<TaskSpec>) -> Object {
    let node = NodeId::from_random(id(2, (service * REPLICAS + slot) % N_NODES));
    Object::Task(Box::new(Task {
        id: TaskId::from_random(id(3, slot * N_SERVICES + service)),
        meta: Meta::default(),
        service_id: ServiceId::from_random(id(1, service)),
        service_name: format!("service-{service}"),
        service_labels: Default::default(),
        slot: slot + 1,
        spec: spec.clone(),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan { node: Some(node), ..TaskPlan::new(TaskState::Running, Time::ZERO) }),
        status: Section::new(TaskStatus::new(TaskState::Running, Time::ZERO)),
    }))
}

fn store() -> anyhow::Result<Store> {
    let mut store = Store::empty(1);
    for number in 0..N_SERVICES {
        let service = service(number);
        let Object::Service(content) = &service else { unreachable!("it is one") };
        let spec = Arc::new(content.spec.spec.task_template.clone());
        let tasks = (0..REPLICAS).map(|slot| task(number, slot, &spec));
        let writes = std::iter::once(service.clone()).chain(tasks).map(Write::Create).collect();
        let applied = store.apply(number + 2, &Transaction { writes, ..Transaction::new(Time::from_millis(number)) });
        applied.map_err(|conflict| anyhow::anyhow!("the store could not be filled: {conflict:?}"))?;
    }
    Ok(store)
}

/// Answers reads of lists as a manager does, and nothing else.
struct Api(Arc<Store>);

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("only lists are read here"))
}

impl Api {
    fn listed(&self, read: Read) -> Result<Listed, Status> {
        let Read { query, page, .. } = read;
        let listed = match query {
            Query::List(kind, filters) => query::list(&self.0, kind, filters, &page),
            Query::TasksOfService(service, filters) => query::tasks_of_service(&self.0, &service, filters, &page),
            other => return Err(Status::unimplemented(format!("{other:?}"))),
        };
        listed.map_err(|refusal| from_refusal(&refusal))
    }
}

#[tonic::async_trait]
impl Control for Api {
    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<ReadReply>, Status> {
        let read = decode_read(request.into_inner()).map_err(|error| from_refusal(&error.into()))?;
        let is_counted = read.status;
        let Listed { objects, statuses, next } = self.listed(read)?;
        Ok(Response::new(ReadReply {
            objects,
            version: self.0.version,
            next_page_token: next.map(|token| token.to_string()).unwrap_or_default(),
            service_statuses: if is_counted { statuses } else { Vec::new() },
            ..ReadReply::default()
        }))
    }

    async fn mutate(&self, _: Request<v1::MutateRequest>) -> Result<Response<v1::MutateReply>, Status> {
        not_here()
    }

    type WatchStream = Pending<Result<v1::WatchEvent, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        not_here()
    }

    type LogsStream = Pending<Result<v1::LogChunk, Status>>;

    async fn logs(&self, _: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        not_here()
    }

    type DistributeImageStream = Pending<Result<v1::ImageProgress, Status>>;

    async fn distribute_image(
        &self,
        _: Request<Streaming<v1::ImageChunk>>,
    ) -> Result<Response<Self::DistributeImageStream>, Status> {
        not_here()
    }

    async fn verify_networks(&self, _: Request<v1::VerifyNetworksRequest>) -> Result<Response<v1::VerifyNetworksReply>, Status> {
        not_here()
    }
}

/// How long a command takes, its start and end included: the one in the middle of several. Its output must have so many
/// lines.
fn timed(socket: &Path, words: &[&str], n_lines: usize, runs: usize) -> anyhow::Result<f64> {
    let skep = PathBuf::from(std::env::var_os("SKEP_BIN_DIR").context("SKEP_BIN_DIR is set")?).join("skep");
    let mut took = Vec::new();
    for _ in 0..runs {
        let mut command = Command::new(&skep);
        command.arg("--host").arg(format!("unix://{}", socket.display())).args(words).stdin(Stdio::null());
        let begin = Instant::now();
        let output = command.output().with_context(|| format!("cannot run {}", skep.display()))?;
        took.push(begin.elapsed());
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success() && lines == n_lines, "{words:?}: {lines} lines, {error}");
    }
    took.sort();
    Ok(milliseconds(took[took.len() / 2]))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Serves the store and lists it.
pub fn lists() -> anyhow::Result<Vec<Row>> {
    let store = Arc::new(store()?);
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let socket = folder.path().join("skep.sock");
    let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
    let api = Api(store.clone());
    let listener = {
        let _inside = runtime.enter();
        unix::bind(&socket, None).context("cannot listen on a socket")?
    };
    runtime.spawn(local_server().add_service(ControlServer::new(api)).serve_with_incoming(LocalIncoming(listener)));
    let n_tasks = N_SERVICES * REPLICAS;
    let case = format!("{N_SERVICES} services, {n_tasks} tasks");
    let ls = timed(&socket, &["service", "ls"], N_SERVICES as usize + 1, RUNS)?;
    let one = timed(&socket, &["service", "ls", "--filter", "name=service-77"], 12, RUNS)?;
    let tasks = timed(&socket, &["task", "ls", "--quiet"], n_tasks as usize, 1)?;
    runtime.shutdown_background();
    Ok(vec![
        Row::at_most(format!("{case}: `skep service ls`"), ls, "ms", 50.0),
        Row::plain(format!("{case}: the same of eleven services, by a filter"), one, "ms"),
        Row::plain(format!("{case}: `skep task ls --quiet`"), tasks, "ms"),
    ])
}
