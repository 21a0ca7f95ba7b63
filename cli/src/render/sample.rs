//! One object of each kind, for tests of what is printed.

use ipnet::IpNet;
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
use skep_model::config::{Config, ConfigSpec, ConfigVersion};
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState, FailedTask};
use skep_model::endpoint::{Addresses, EndpointState, NodeIngress, Publication, PublishMode, PublishedPort, Transport};
use skep_model::network::{Attachment, Network, NetworkPlan, NetworkRequest, NetworkSpec, Pool};
use skep_model::node::{ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Role, Underlay};
use skep_model::resources::Resources;
use skep_model::sealed::Sealed;
use skep_model::secret::{Secret, SecretSpec, SecretVersion};
use skep_model::service::*;
use skep_model::task::{ContainerStatus, Task, TaskPlan, TaskStatus};
use skep_model::{ClusterId, ConfigId, Meta, NetworkId, NodeId, SecretId, Section, ServiceId, TaskId, TaskState, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;

fn bytes(n: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[15] = n;
    bytes
}

fn meta() -> Meta {
    Meta { created_at: Time(10 * SECOND), updated_at: Time(20 * SECOND), made_at: Time(10 * SECOND), version: 7 }
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
    template.network = NetworkMode::Bridge;
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
        started_wall: Time(20 * SECOND),
        progressed_at: Time(20 * SECOND),
        ended_at: None,
        failures: 0,
        next_step_at: None,
        wanted: 3,
        running: 1,
        stragglers: Vec::new(),
        completed: 0,
        slots: 3,
        lost_nodes: Vec::new(),
    };
    Service {
        id: ServiceId::from_random(bytes(1)),
        meta: meta(),
        spec: section(ServiceRecord { spec, previous: None, spec_version: 2 }),
        plan: section(ServicePlan { deployment: Some(deployment), removed_at: None, endpoint: Default::default() }),
    }
}

/// The same service on a network of the cluster, with a port on every node and one
/// on the nodes of its tasks.
pub fn published_service() -> Service {
    let mut service = service();
    let spec = &mut service.spec.value.spec;
    spec.task_template.networks =
        vec![NetworkRequest { target: network().id.to_string(), aliases: vec!["front".into(), "www".into()], any_source: false }];
    let port = |transport, published_port, target_port, publish_mode| PublishedPort {
        transport,
        target_port,
        published_port,
        publish_mode,
    };
    spec.endpoint_spec.ports =
        vec![port(Transport::Tcp, 0, 80, PublishMode::Ingress), port(Transport::Udp, 9090, 9090, PublishMode::Host)];
    let endpoint = &mut service.plan.value.endpoint;
    endpoint.ports = service.spec.value.spec.endpoint_spec.ports.clone();
    endpoint.ports[0].published_port = 8080;
    let address = |text: &str| Addresses { addresses: vec![text.parse().expect("an address")] };
    endpoint.virtual_addresses = BTreeMap::from([(network().id, address("10.0.16.2")), (ingress().id, address("10.0.0.5"))]);
    service
}

/// A task of that service, to be found.
pub fn published_task() -> Task {
    let mut task = task();
    task.spec = Arc::new(published_service().spec.value.spec.task_template);
    let attachment = |network: Network, text: &str, aliases: &[&str]| Attachment {
        network: network.id,
        addresses: vec![text.parse().expect("an address")],
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        any_source: false,
    };
    task.networks = vec![attachment(network(), "10.0.16.3", &["front", "www"]), attachment(ingress(), "10.0.0.6", &[])];
    task.plan.value.endpoint = EndpointState { publication: Publication::Published, since: Time(16 * SECOND) };
    let port = |transport, published_port, target_port| PublishedPort {
        transport,
        target_port,
        published_port,
        publish_mode: PublishMode::Host,
    };
    task.status.value.ports = vec![port(Transport::Tcp, 32768, 70), port(Transport::Udp, 9090, 9090)];
    task
}

fn overlay(n: u8, name: &str, vni: u32, subnet: &str) -> Network {
    let subnet: IpNet = subnet.parse().expect("a subnet");
    let gateway = subnet.hosts().next();
    Network {
        id: NetworkId::from_random(bytes(n)),
        meta: meta(),
        spec: section(NetworkSpec { annotations: annotations(name), driver: "overlay".into(), ..NetworkSpec::default() }),
        plan: section(NetworkPlan { vni, pools: vec![Pool { subnet, range: None, gateway }] }),
    }
}

/// A network of the cluster.
pub fn network() -> Network {
    overlay(6, "backend", 4097, "10.0.16.0/20")
}

/// The network of published ports.
pub fn ingress() -> Network {
    let mut network = overlay(7, "ingress", 4096, "10.0.0.0/20");
    network.spec.value.ingress = true;
    network
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
            underlay: Some(Underlay {
                address: [10, 0, 0, 1].into(),
                occupied: vec!["10.0.0.0/24".parse().expect("a subnet")],
                lacks_ipv6: String::new(),
            }),
        }),
        status: section(NodeStatus { state: NodeState::Ready, address: "10.0.0.1".into(), ..NodeStatus::default() }),
        plan: section(NodePlan {
            role: Role::Manager,
            manager: Some(ManagerStatus { raft_id: 1, address: "10.0.0.1:2377".into(), format_max: 1, unreachable: false }),
            ingress: Some(NodeIngress { number: 1, addresses: vec![[10, 0, 0, 2].into()] }),
            ..NodePlan::default()
        }),
    }
}

/// The cluster, whose root cannot be read.
#[allow(dead_code, reason = "only the tests against a daemon use it")]
pub fn cluster() -> Cluster {
    Cluster {
        id: ClusterId::from_random(bytes(8)),
        meta: meta(),
        spec: section(ClusterSpec { annotations: annotations("default"), ..ClusterSpec::default() }),
        plan: section(ClusterPlan::default()),
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
        service_labels: Default::default(),
        slot: 1,
        spec: Arc::new(service.spec.value.spec.task_template),
        spec_version: 2,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: section(TaskPlan { node: Some(node().id), ..TaskPlan::new(TaskState::Running, Time(SECOND)) }),
        status: section(TaskStatus {
            message: "started".into(),
            container: Some(ContainerStatus { container_id: "c".into(), pid: 42, exit_code: 0 }),
            running_since: Some(Time(15 * SECOND)),
            ..TaskStatus::new(TaskState::Running, Time(15 * SECOND))
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
