//! Services, tasks, values and changes of `tests/data`, in the model.

use super::machines::*;
use skep_docker::Action;
use skep_model::config::{Config, ConfigSpec, ConfigVersion};
use skep_model::container::*;
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState};
use skep_model::endpoint::*;
use skep_model::network::{Attachment, Network, NetworkRequest};
use skep_model::object::Object;
use skep_model::resources::{Limits, ResourceRequirements, Resources};
use skep_model::sealed::Sealed;
use skep_model::secret::{Secret, SecretSpec, SecretVersion};
use skep_model::service::*;
use skep_model::task::{ContainerStatus as TaskContainer, Task, TaskPlan, TaskStatus};
use skep_model::{Meta, NodeId, Section, TaskState, Time};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

const IMAGE: &str = "registry.example/busybox:latest@sha256:bf36773f1d72c65defac6fa30a8aaffcd1f4f066f4bb541d08a4faae1fabbcc4";

pub fn read<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("well formed")
}

/// A time of 2026-11-29, `HH:MM:SS.nanoseconds`.
fn at(text: &str) -> Time {
    const MIDNIGHT: u64 = 1_795_910_400;
    let (clock, nanos) = text.split_once('.').expect("nanoseconds");
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + read::<u64>(part));
    Time((MIDNIGHT + seconds) * 1_000_000_000 + read::<u64>(&format!("{nanos:0<9}")))
}

pub fn meta(version: u64, created: &str, updated: &str) -> Meta {
    Meta { created_at: at(created), updated_at: at(updated), made_at: at(created), version }
}

pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

pub fn annotations(name: &str, labels: &[(&str, &str)]) -> Annotations {
    Annotations { name: name.into(), labels: map(labels) }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn container(args: &[&str]) -> ContainerSpec {
    ContainerSpec { image: IMAGE.into(), args: texts(args), ..ContainerSpec::default() }
}

fn template(container_spec: ContainerSpec) -> TaskSpec {
    let platforms = vec![Platform { architecture: "amd64".into(), os: "linux".into() }];
    let placement = Placement { platforms, ..Placement::default() };
    TaskSpec { container_spec, placement, network: NetworkMode::Bridge, ..TaskSpec::default() }
}

fn service(id: &str, meta: Meta, name: &str, mode: ServiceMode, template: TaskSpec) -> Service {
    let spec = ServiceSpec {
        annotations: annotations(name, &[]),
        task_template: template,
        mode,
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        endpoint_spec: EndpointSpec::default(),
        deadline: None,
    };
    let record = ServiceRecord { spec, previous: None, spec_version: 1 };
    Service { id: read(id), meta, spec: Section::new(record), plan: Section::new(ServicePlan::default()) }
}

/// A service without a flag.
pub fn plain() -> Service {
    let meta = meta(36, "14:21:29.63252545", "14:21:29.63252545");
    let container = ContainerSpec { stop_signal: "SIGKILL".into(), ..container(&["sleep", "1000"]) };
    service("jy2v0x8zwhzd5lqxldad90bvd", meta, "plain", ServiceMode::Replicated { replicas: 1 }, template(container))
}

/// A global service.
pub fn global() -> Service {
    let meta = meta(24, "14:21:29.518850801", "14:21:29.518850801");
    let container = ContainerSpec { stop_signal: "SIGKILL".into(), ..container(&["sleep", "1000"]) };
    let mut template = template(container);
    template.restart_policy.condition = RestartCondition::None;
    service("6zttca0mswd224cj6uxmwu594", meta, "glob", ServiceMode::Global {}, template)
}

/// A service whose program is not there.
pub fn failing() -> Service {
    let meta = meta(33, "14:21:29.603434311", "14:21:29.603434311");
    let mut template = template(container(&["/nonexistent"]));
    template.restart_policy.condition = RestartCondition::None;
    service("us6cfd7jqbx4slqtectgo7n08", meta, "bad", ServiceMode::Replicated { replicas: 1 }, template)
}

fn full_container() -> ContainerSpec {
    let file = |name: &str, owner: u32, mode: u32| FileTarget { name: name.into(), uid: owner, gid: owner, mode };
    let secret =
        |file: FileTarget| SecretReference { id: read("hrl19axr4kaugctbl5151m5pa"), name: "db_pw".into(), version: None, file };
    let config =
        |id: &str, name: &str, file: FileTarget| ConfigReference { id: read(id), name: name.into(), version: None, file };
    let mount = |kind: MountKind, source: &str, target: &str| Mount {
        kind,
        source: source.into(),
        target: target.into(),
        read_only: false,
        tmpfs_size: 0,
        tmpfs_mode: 0,
        propagation: String::new(),
        create_source: false,
    };
    let host = |address: &str, name: &str| HostEntry { address: address.into(), name: name.into() };
    ContainerSpec {
        labels: map(&[("cl", "1")]),
        hostname: "{{.Node.Hostname}}-{{.Task.Slot}}".into(),
        env: texts(&["A=1", "B=x=y z", "EMPTY="]),
        dir: "/tmp".into(),
        user: "1000:1000".into(),
        groups: texts(&["10"]),
        init: Some(true),
        stop_signal: "SIGKILL".into(),
        read_only: true,
        mounts: vec![
            Mount { tmpfs_size: 1 << 20, tmpfs_mode: 0o1770, ..mount(MountKind::Tmpfs, "", "/t") },
            Mount { read_only: true, propagation: "rslave".into(), ..mount(MountKind::Bind, "/etc/hosts", "/h") },
        ],
        stop_grace_period: Some(seconds(3)),
        healthcheck: Some(HealthConfig {
            test: texts(&["CMD-SHELL", "true || exit 1"]),
            interval: Some(seconds(5)),
            timeout: Some(seconds(2)),
            start_period: Some(seconds(1)),
            start_interval: None,
            retries: 4,
        }),
        hosts: vec![host("10.0.0.9", "db"), host("2001:db8::1", "db6")],
        dns: DnsConfig { nameservers: texts(&["1.1.1.1"]), search: texts(&["ex.org"]), options: texts(&["ndots:2"]) },
        secrets: vec![secret(file("pw", 1000, 0o400)), secret(file("db_pw", 0, 0o444))],
        configs: vec![
            config("ojmppfyuy8bgzw5pyw8zusblg", "app_conf", file("/etc/app.conf", 0, 0o440)),
            config("lv89y4tockem1y1gfakym4l24", "tpl", file("tpl", 0, 0o444)),
        ],
        sysctls: map(&[("net.core.somaxconn", "200")]),
        capability_add: texts(&["CAP_NET_ADMIN"]),
        capability_drop: texts(&["CAP_CHOWN"]),
        ulimits: vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }],
        ..container(&["sleep", "1000"])
    }
}

fn full_template() -> TaskSpec {
    let request =
        |target: &str, aliases: &[&str]| NetworkRequest { target: target.into(), aliases: texts(aliases), any_source: false };
    let plain = template(full_container());
    TaskSpec {
        resources: ResourceRequirements {
            limits: Limits { nano_cpus: 500_000_000, memory_bytes: 64 << 20, pids: 50 },
            reservations: Resources { nano_cpus: 100_000_000, memory_bytes: 16 << 20 },
        },
        restart_policy: RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay: seconds(7),
            max_attempts: 4,
            window: seconds(90),
        },
        placement: Placement {
            constraints: texts(&["node.labels.zone==a", "node.role!=worker"]),
            spread: texts(&["node.labels.zone"]),
            max_replicas: 3,
            ..plain.placement
        },
        networks: vec![request("67rsvxhb98gxbiqz5nlllzgs3", &["front", "web"]), request("xxwyjurxub2nqtpzpli8hdaqm", &[])],
        ..plain
    }
}

/// A service with nearly every flag, on its way back.
pub fn full() -> Service {
    let meta = meta(166, "14:21:52.635988878", "14:22:30.391245159");
    let mode = ServiceMode::Replicated { replicas: 2 };
    let mut service = service("a17rpohybsnckum9fnc7ytwrx", meta, "full", mode, full_template());
    let spec = &mut service.spec.value.spec;
    spec.annotations.labels = map(&[("l1", "v1"), ("l2", "with space")]);
    spec.update_config = UpdateConfig {
        parallelism: 2,
        delay: seconds(3),
        failure_action: FailureAction::Rollback,
        monitor: seconds(8),
        max_failure_ratio: 0.25,
        order: UpdateOrder::StartFirst,
    };
    spec.rollback_config = UpdateConfig {
        parallelism: 3,
        delay: seconds(1),
        failure_action: FailureAction::Continue,
        monitor: seconds(4),
        max_failure_ratio: 0.1,
        order: UpdateOrder::StopFirst,
    };
    let port = |transport, target_port, published_port, publish_mode| PublishedPort {
        transport,
        target_port,
        published_port,
        publish_mode,
    };
    spec.endpoint_spec.ports =
        vec![port(Transport::Tcp, 80, 8080, PublishMode::Ingress), port(Transport::Udp, 443, 8443, PublishMode::Host)];
    let address = |text: &str| Addresses { addresses: vec![read(text)] };
    let virtual_addresses = BTreeMap::from([
        (ingress().id, address("10.0.0.4")),
        (back().id, address("10.50.0.2")),
        (inner().id, address("10.51.0.2")),
    ]);
    service.plan.value.endpoint = ServiceEndpoint { virtual_addresses, ports: spec.endpoint_spec.ports.clone() };
    let mut deployment = deployment(DeploymentKind::AutomaticRollback, "14:22:07.679782477");
    deployment.cause = "update rolled back due to failure or early termination of task gylynmkuseq9qqk6tscosqpsr".into();
    service.plan.value.deployment = Some(deployment);
    service
}

fn deployment(kind: DeploymentKind, started: &str) -> Deployment {
    Deployment {
        spec_version: 1,
        kind,
        state: DeploymentState::Progressing,
        cause: String::new(),
        failed_task: None,
        started_at: at(started),
        started_wall: at(started),
        progressed_at: at(started),
        ended_at: None,
        failures: 0,
        next_step_at: None,
        wanted: 2,
        running: 0,
        stragglers: Vec::new(),
        completed: 0,
        slots: 2,
        lost_nodes: Vec::new(),
    }
}

fn task(id: &str, meta: Meta, service: &Service, status: TaskStatus, desired: TaskState, node: NodeId) -> Task {
    Task {
        id: read(id),
        meta,
        service_id: service.id,
        service_name: service.spec.spec.annotations.name.clone(),
        service_labels: BTreeMap::new(),
        slot: 1,
        spec: Arc::new(service.spec.spec.task_template.clone()),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan { node: Some(node), ..TaskPlan::new(desired, Time::ZERO) }),
        status: Section::new(status),
    }
}

fn status(state: TaskState, time: &str, message: &str, container_id: &str, pid: i32, exit_code: i32) -> TaskStatus {
    let container = Some(TaskContainer { container_id: container_id.into(), pid, exit_code });
    TaskStatus { message: message.into(), container, ..TaskStatus::new(state, at(time)) }
}

/// A task that runs.
pub fn running_task() -> Task {
    let container = "10675c0b8a2da3eba75fe9cfc19cb1d4db0eec312f7a4cba230f92bcfe03c8c9";
    let status = status(TaskState::Running, "14:21:30.747166459", "started", container, 403, 0);
    let meta = meta(48, "14:21:29.633059436", "14:21:30.76940006");
    task("l3r49fq9y4zv2ddw9vhun521k", meta, &plain(), status, TaskState::Running, worker().id)
}

/// A task whose program is not there.
pub fn failing_task() -> Task {
    let container = "df97511bea479a40ce09c37c6a41de40db9c2c584dbf3c5beeaa8ad489c088ac";
    let mut status = status(TaskState::Failed, "14:21:30.733454017", "starting", container, 0, 127);
    status.error = "starting container failed: failed to create shim task: OCI runtime create failed: runc create failed: \
                    unable to start container process: exec: \"/nonexistent\": stat /nonexistent: no such file or \
                    directory: unknown"
        .into();
    let meta = meta(54, "14:21:29.606113252", "14:21:30.972738803");
    task("jow5vwo8suf7ugxzd9k1x5ovi", meta, &failing(), status, TaskState::Shutdown, manager().id)
}

/// A task with everything, on three networks.
pub fn full_task() -> Task {
    let meta = meta(186, "14:22:27.392273948", "14:22:35.040114093");
    let status = status(TaskState::Shutdown, "14:22:34.986562121", "shutdown", "", 0, 0);
    let mut task = task("wo60lxch5ql0bgjfyilyrqre7", meta, &full(), status, TaskState::Shutdown, manager().id);
    Arc::make_mut(&mut task.spec).container_spec.env.push("C=3".into());
    let attachment = |network: Network, address: &str| Attachment { addresses: vec![read(address)], ..attachment(&network) };
    task.networks = vec![attachment(ingress(), "10.0.0.17"), attachment(back(), "10.50.0.24"), attachment(inner(), "10.51.0.23")];
    task
}

/// A secret.
pub fn secret() -> Secret {
    let version = SecretVersion { n: 1, sealed: Sealed::default(), fingerprint: "f".into(), created_at: Time(1) };
    let spec = SecretSpec { annotations: annotations("db_pw", &[("a", "b")]), versions: vec![version], current: 1 };
    let meta = meta(16, "14:21:29.404880535", "14:21:29.404880535");
    Secret { id: read("hrl19axr4kaugctbl5151m5pa"), meta, spec: Section::new(spec) }
}

/// A config.
pub fn config() -> Config {
    let version = ConfigVersion { n: 1, sealed: Sealed::default(), fingerprint: "f".into(), created_at: Time(1) };
    let spec = ConfigSpec { annotations: annotations("app_conf", &[("c", "d")]), versions: vec![version], current: 1 };
    let meta = meta(17, "14:21:29.42175926", "14:21:29.42175926");
    Config { id: read("ojmppfyuy8bgzw5pyw8zusblg"), meta, spec: Section::new(spec) }
}

type Change = (Action, Object, Option<Object>, Time);

/// The changes of which `events.json` tells.
pub fn changes() -> Vec<Change> {
    let boxed = |service: Service| Object::Service(Box::new(service));
    let with = |kind: Option<DeploymentKind>, version: u64| {
        let mut service = full();
        service.spec.version = version;
        service.plan.value.deployment = kind.map(|kind| deployment(kind, "14:22:07.0"));
        boxed(service)
    };
    let (create, update, rollback) = (DeploymentKind::Create, DeploymentKind::Update, DeploymentKind::AutomaticRollback);
    let secret = || Object::Secret(Box::new(secret()));
    let settled = |version: u64| {
        let mut network = back();
        network.spec.version = version;
        Object::Network(Box::new(network))
    };
    let labelled = |version: u64| {
        let mut node = manager();
        node.spec.version = version;
        Object::Node(Box::new(node))
    };
    vec![
        (Action::Create, secret(), None, at("14:21:29.404880535")),
        (Action::Create, Object::Config(Box::new(config())), None, at("14:21:29.42175926")),
        (Action::Create, settled(1), None, at("14:21:29.450298831")),
        (Action::Update, settled(2), Some(settled(1)), at("14:21:29.450879147")),
        (Action::Update, labelled(2), Some(labelled(1)), at("14:21:29.475559097")),
        (Action::Create, boxed(global()), None, at("14:21:29.518850801")),
        (Action::Update, with(Some(create), 2), Some(with(Some(create), 1)), at("14:21:52.63970447")),
        (Action::Update, with(Some(update), 2), Some(with(Some(create), 1)), at("14:22:07.679795046")),
        (Action::Update, with(Some(rollback), 2), Some(with(Some(update), 2)), at("14:22:30.391245159")),
        (Action::Remove, with(None, 2), None, at("14:22:36.258924601")),
        (Action::Remove, secret(), None, at("14:22:36.288852112")),
    ]
}
