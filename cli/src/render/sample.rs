//! One object of each kind, for tests of what is printed.

use skep_model::config::{Config, ConfigSpec, ConfigVersion};
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState, FailedTask};
use skep_model::node::{ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Role};
use skep_model::resources::Resources;
use skep_model::sealed::Sealed;
use skep_model::secret::{Secret, SecretSpec, SecretVersion};
use skep_model::service::*;
use skep_model::task::{ContainerStatus, Task, TaskPlan, TaskStatus};
use skep_model::{ConfigId, Meta, NodeId, SecretId, Section, ServiceId, TaskId, TaskState, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

fn bytes(n: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[15] = n;
    bytes
}

fn meta() -> Meta {
    Meta { created_at: Time(10 * SECOND), updated_at: Time(20 * SECOND), version: 7 }
}

fn section<T>(value: T) -> Section<T> {
    Section { version: 7, value }
}

fn annotations(name: &str) -> Annotations {
    Annotations { name: name.into(), labels: BTreeMap::from([("tier".into(), "front".into())]) }
}

/// Three replicas of redis at spec version 2.
pub fn service() -> Service {
    let mut template = TaskSpec::default();
    template.container_spec.image = "redis:7".into();
    template.container_spec.env = vec!["A=1".into()];
    let spec = ServiceSpec {
        annotations: annotations("web"),
        task_template: template,
        mode: ServiceMode::Replicated { replicas: 3 },
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    };
    let deployment = Deployment {
        spec_version: 2,
        kind: DeploymentKind::Update,
        state: DeploymentState::Progressing,
        cause: String::new(),
        failed_task: None,
        started_at: Time(20 * SECOND),
        progressed_at: Time(20 * SECOND),
        ended_at: None,
        failures: 0,
        next_step_at: None,
        wanted: 3,
        running: 1,
        stragglers: Vec::new(),
    };
    Service {
        id: ServiceId::from_random(bytes(1)),
        meta: meta(),
        spec: section(ServiceRecord { spec, previous: None, spec_version: 2 }),
        plan: section(ServicePlan { deployment: Some(deployment), removed_at: None, endpoint: Default::default() }),
    }
}

/// A manager.
pub fn node() -> Node {
    Node {
        id: NodeId::from_random(bytes(2)),
        meta: meta(),
        spec: section(NodeSpec { desired_role: Role::Manager, ..NodeSpec::default() }),
        description: section(NodeDescription {
            hostname: "m1".into(),
            platform: Platform { architecture: "amd64".into(), os: "linux".into() },
            resources: Resources { nano_cpus: 2 * SECOND, memory_bytes: 1 << 30 },
            engine_version: "0.1.0".into(),
            engine_labels: BTreeMap::new(),
            underlay: None,
        }),
        status: section(NodeStatus { state: NodeState::Ready, address: "10.0.0.1".into(), ..NodeStatus::default() }),
        plan: section(NodePlan {
            role: Role::Manager,
            manager: Some(ManagerStatus { raft_id: 1, address: "10.0.0.1:2377".into(), format_max: 1 }),
            ..NodePlan::default()
        }),
    }
}

/// A secret with two versions.
pub fn secret() -> Secret {
    let version =
        |n| SecretVersion { n, sealed: Sealed::default(), fingerprint: format!("{n:016x}"), created_at: Time(n * SECOND) };
    let spec = SecretSpec { annotations: annotations("password"), versions: vec![version(1), version(2)], current: 2 };
    Secret { id: SecretId::from_random(bytes(3)), meta: meta(), spec: section(spec) }
}

/// A config with one version.
pub fn config() -> Config {
    let version = ConfigVersion { n: 1, sealed: Sealed::default(), fingerprint: "f".into(), created_at: Time(SECOND) };
    let spec = ConfigSpec { annotations: annotations("settings"), versions: vec![version], current: 1 };
    Config { id: ConfigId::from_random(bytes(4)), meta: meta(), spec: section(spec) }
}

/// The first slot's task, running.
pub fn task() -> Task {
    let service = service();
    Task {
        id: TaskId::from_random(bytes(5)),
        meta: meta(),
        service_id: service.id,
        service_name: "web".into(),
        slot: 1,
        spec: Arc::new(service.spec.value.spec.task_template),
        spec_version: 2,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: section(TaskPlan {
            desired: TaskState::Running,
            node: Some(node().id),
            start_at: None,
            replaces: None,
            is_restart: false,
            desired_since: Time(SECOND),
            endpoint: Default::default(),
        }),
        status: section(TaskStatus {
            state: TaskState::Running,
            timestamp: Time(15 * SECOND),
            applied_at: Time(15 * SECOND),
            message: "started".into(),
            error: String::new(),
            attempt: 0,
            container: Some(ContainerStatus { container_id: "c".into(), pid: 42, exit_code: 0 }),
            log_tail: Vec::new(),
            running_since: Some(Time(15 * SECOND)),
        }),
    }
}

/// How that task would fail.
pub fn failed_task() -> FailedTask {
    FailedTask {
        task: task().id,
        node: Some(node().id),
        error: "task: non-zero exit (1)".into(),
        log_tail: vec!["cannot open \x1b[31mconfig".into()],
    }
}
