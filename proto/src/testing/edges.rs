//! Service specs, and what nodes say of themselves, at and beyond the bounds of every field.
//!
//! A spec is a plain one with a few fields changed, each to a value that is just within
//! its bounds, just beyond them, or what somebody might type. So most of a spec makes
//! sense, and what one side of a border says of it says something of one field.

use super::{Draw, Source};
use crate::request::{Asked, decode_mutation, encode_mutation};
use crate::v1;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use prost::Message;
use skep_model::assignment::Hello;
use skep_model::container::{
    ConfigReference, ContainerSpec, FileTarget, HealthConfig, HostEntry, Mount, MountKind, SecretReference, ULIMITS, Ulimit,
};
use skep_model::endpoint::{EndpointMode, PublishMode, PublishedPort, Transport};
use skep_model::network::NetworkRequest;
use skep_model::node::{NodeDescription, Underlay};
use skep_model::request::Mutation;
use skep_model::resources::{MEMORY_MIN, NANO_CPUS_MIN, PIDS_MAX, Resources};
use skep_model::said::{HOSTNAME_MAX, LABEL_LENGTH_MAX, LABELS_LENGTH_MAX, LABELS_MAX, MEMORY_MAX, NANO_CPUS_MAX, OCCUPIED_MAX};
use skep_model::service::{
    Annotations, FailureAction, NetworkMode, Platform, REPLICAS_MAX, RestartCondition, ServiceMode, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateOrder,
};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::text::{PATH_MAX, PATH_PART_MAX, TEXT_MAX};
use skep_model::{ConfigId, Meta, NodeId, Refusal, RequestId, SecretId, Section, ServiceId, TaskId, TaskState, Time};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The secrets and the configs that a drawn spec may refer to, by number; see [`secret_id`].
pub const N_FILES: u8 = 4;
/// The networks that it may be on: `net0` and on.
pub const N_NETWORKS: u8 = 2;

/// How many specs are drawn: few and always the same, or many new ones with `SKEP_FULL=1`.
pub fn config() -> ProptestConfig {
    match std::env::var_os("SKEP_FULL") {
        Some(_) => ProptestConfig::with_cases(20_000),
        None => ProptestConfig { cases: 256, rng_seed: RngSeed::Fixed(0x736b_6570), ..ProptestConfig::default() },
    }
}

/// The id of a secret that a drawn spec may refer to.
pub fn secret_id(n: u8) -> SecretId {
    SecretId::from_random([0x10 + n; 16])
}

/// The id of a config that a drawn spec may refer to.
pub fn config_id(n: u8) -> ConfigId {
    ConfigId::from_random([0x20 + n; 16])
}

/// A spec as the API hands it on, over the wire and back.
///
/// # Errors
/// What the API says of a spec that it cannot read.
///
/// # Panics
/// When the message itself does not decode: every encoded one does.
pub fn received(spec: &ServiceSpec) -> Result<ServiceSpec, Refusal> {
    let mutation = Mutation::CreateService { spec: Box::new(spec.clone()) };
    let wire = encode_mutation(RequestId([1; 16]), &mutation).expect("it goes over the wire").encode_to_vec();
    let wire = v1::MutateRequest::decode(&wire[..]).expect("what was encoded decodes");
    match decode_mutation(wire)?.1 {
        Asked::Ready(Mutation::CreateService { spec }) => Ok(*spec),
        other => panic!("a service was asked for: {other:?}"),
    }
}

/// A spec of which a few fields are at an edge.
pub fn edge_spec() -> impl Strategy<Value = ServiceSpec> {
    proptest::collection::vec(any::<u64>(), 0..64).prop_map(|numbers| spec(&mut Source { numbers: numbers.into_iter() }))
}

/// A plain spec with one field at an edge, for each of the numbers.
pub fn with_edge(field: Field, number: u64) -> ServiceSpec {
    let numbers = (0..32).map(|n| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n).wrapping_add(u64::from(n)));
    let mut spec = plain();
    field(&mut spec, &mut Source { numbers: numbers.collect::<Vec<_>>().into_iter() });
    spec
}

fn spec(source: &mut Source) -> ServiceSpec {
    let mut spec = plain();
    for _ in 0..source.below(6) {
        FIELDS[source.below(FIELDS.len() as u64) as usize].1(&mut spec, source);
    }
    spec
}

/// A spec that nobody refuses.
pub fn plain() -> ServiceSpec {
    let mut template = TaskSpec::default();
    template.container_spec.image = "app:1".into();
    ServiceSpec {
        annotations: Annotations { name: "web".into(), labels: BTreeMap::new() },
        task_template: template,
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    }
}

/// A task of a spec, as its node is told of it.
pub fn task_of(spec: &ServiceSpec) -> Task {
    let mut template = spec.task_template.clone();
    let container = &mut template.container_spec;
    container.secrets.iter_mut().for_each(|reference| reference.version = Some(1));
    container.configs.iter_mut().for_each(|reference| reference.version = Some(1));
    Task {
        id: TaskId::from_random([1; 16]),
        meta: Meta::default(),
        service_id: ServiceId::from_random([2; 16]),
        service_name: spec.annotations.name.clone(),
        service_labels: spec.annotations.labels.clone(),
        slot: 1,
        spec: Arc::new(template),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan::new(TaskState::Running, Time::ZERO)),
        status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
    }
}

/// A change of one field.
pub type Field = fn(&mut ServiceSpec, &mut Source);

fn pick<T: Clone>(values: &[T], source: &mut Source) -> T {
    values[source.below(values.len() as u64) as usize].clone()
}

fn bounds(source: &mut Source, min: u64, max: u64) -> u64 {
    pick(&[0, 1, min.saturating_sub(1), min, min + 1, max - 1, max, max.saturating_add(1), u64::MAX], source)
}

fn duration(source: &mut Source) -> Duration {
    Duration::from_nanos(pick(&[0, 1, 999_999, 1_000_000, 1_000_000_000, 3_600_000_000_000, i64::MAX as u64, u64::MAX], source))
}

/// What somebody might type for any text, and texts at its limits.
fn text(source: &mut Source) -> String {
    const WORDS: [&str; 18] = [
        "",
        "a",
        "été",
        "a b",
        " a",
        "a\nb",
        "a\tb",
        "\0",
        "a\0b",
        "\u{7f}",
        "=",
        "a=b",
        "\"'\\",
        "{{",
        "{{.Node.ID}}",
        "{{.Nope}}",
        "{{.Task.Name}}",
        "\u{202e}x",
    ];
    match source.below(8) {
        0 => "x".repeat(pick(&[63, 64, 255, 256, TEXT_MAX - 1, TEXT_MAX, TEXT_MAX + 1, TEXT_MAX + 2], source)),
        _ => pick(&WORDS, source).to_owned(),
    }
}

fn texts(source: &mut Source) -> Vec<String> {
    (0..source.below(4)).map(|_| text(source)).collect()
}

fn path(source: &mut Source) -> String {
    const PATHS: [&str; 24] = [
        "",
        "/",
        "//",
        "/data",
        "/data/",
        "/data/a",
        "/data/../x",
        "/./a",
        "data",
        "/a//b",
        "/run",
        "/run/secrets",
        "/run/secrets/",
        "/run/secrets/s0",
        "/run/secrets/x",
        "/etc/hosts",
        "/proc",
        "/sys/fs/cgroup",
        "/dev/shm",
        "/a b",
        "/été",
        "/a\0",
        "/a\n",
        "/{{.Service.Name}}",
    ];
    match source.below(8) {
        0 => format!("/{}", "p".repeat(pick(&[PATH_PART_MAX, PATH_PART_MAX + 1], source))),
        1 => format!("/{}{}", "d/".repeat(PATH_MAX / 2 - 1), "e".repeat(source.below(4) as usize)),
        2 => "/{{index .Service.Labels \"edge\"}}".into(),
        _ => pick(&PATHS, source).to_owned(),
    }
}

fn file(source: &mut Source, own: &str) -> FileTarget {
    let name = match source.below(6) {
        0 => path(source),
        1 => pick(&["a/b", "a/b/c", "a", "../a", "a/", "a//b", ".", ""], source).to_owned(),
        2 => "d/".repeat(200) + "f",
        _ => own.to_owned(),
    };
    let number = |source: &mut Source| pick(&[0, 0, 1000, u32::MAX - 1, u32::MAX], source);
    FileTarget {
        name,
        uid: number(source),
        gid: number(source),
        mode: pick(&[0, 0o400, 0o444, 0o7777, 0o10000, u32::MAX], source),
    }
}

fn labels(source: &mut Source) -> BTreeMap<String, String> {
    let key = |source: &mut Source| if source.below(2) == 0 { "edge".to_owned() } else { text(source) };
    let value = |source: &mut Source| if source.below(3) == 0 { path(source) } else { text(source) };
    (0..1 + source.below(3)).map(|_| (key(source), value(source))).collect()
}

fn mount(source: &mut Source) -> Mount {
    let kind = pick(&[MountKind::Bind, MountKind::Tmpfs], source);
    let is_bind = kind == MountKind::Bind;
    // Now and then an option that is the other kind's.
    let odd = source.below(8) == 0;
    let of = |belongs: bool| belongs != odd;
    Mount {
        kind,
        source: if of(is_bind) {
            pick(&[path(source), "/tmp".into(), "/".into(), "/proc".into()], source)
        } else {
            String::new()
        },
        target: path(source),
        read_only: source.below(2) == 0,
        tmpfs_size: if of(!is_bind) { bounds(source, 4096, MEMORY_MAX) } else { 0 },
        tmpfs_mode: if of(!is_bind) { pick(&[0, 0o700, 0o1777, 0o7777, 0o10000, u32::MAX], source) } else { 0 },
        propagation: match of(is_bind) {
            true => pick(&["", "rprivate", "private", "rslave", "slave", "shared", "rshared", "x"], source).to_owned(),
            false => String::new(),
        },
        create_source: of(is_bind) && source.below(2) == 0,
    }
}

fn account(source: &mut Source) -> String {
    match source.below(3) {
        0 => text(source),
        _ => pick(&["app", "0", "007", "1000", "4294967294", "4294967295", "4294967296", "-1", "a:b", "a/b", ":", "a:"], source)
            .to_owned(),
    }
}

fn container(spec: &mut ServiceSpec) -> &mut ContainerSpec {
    &mut spec.task_template.container_spec
}

/// Every field of a spec that a user can set, by name.
pub const FIELDS: &[(&str, Field)] = &[
    ("name", |spec, source| {
        spec.annotations.name =
            pick(&[text(source), "a".into(), "a".repeat(63), "a".repeat(64), "-a".into(), "a_b-c".into()], source);
    }),
    ("labels", |spec, source| spec.annotations.labels = labels(source)),
    ("mode", |spec, source| {
        let replicas = bounds(source, 1, REPLICAS_MAX);
        spec.mode = pick(&[ServiceMode::Global {}, ServiceMode::Replicated { replicas }], source);
    }),
    ("deadline", |spec, source| spec.deadline = Some(duration(source))),
    ("update", |spec, source| spec.update_config = update(source)),
    ("rollback", |spec, source| spec.rollback_config = update(source)),
    ("image", |spec, source| {
        let hex = "0123456789abcdef".repeat(4);
        let digest = format!("app@sha256:{hex}");
        let images = [
            "app",
            "app:1",
            "app:",
            "app:-1",
            "App",
            "a/b/c:V1",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a__b",
            "a___b",
            "host:5000/a",
            "host:x/a",
            "host:99999/a",
            "Host/a",
            "h_st.example/a",
            "[::1]:5000/a",
            "[zz]/a",
            "app@sha256:00",
            "app@md5:00",
            "a b",
            "é",
            "a+b",
            "a@",
            digest.as_str(),
            hex.as_str(),
        ];
        let long =
            pick(&[format!("a:{}", "t".repeat(128)), format!("a:{}", "t".repeat(129)), "a".repeat(237), "a".repeat(238)], source);
        container(spec).image = if source.below(6) == 0 { long } else { pick(&images, source).to_owned() };
    }),
    ("container labels", |spec, source| container(spec).labels = labels(source)),
    ("entrypoint", |spec, source| container(spec).command = texts(source)),
    ("arguments", |spec, source| container(spec).args = texts(source)),
    ("hostname", |spec, source| {
        let long = format!("{}.{}", "a".repeat(31), "b".repeat(31 + source.below(2) as usize));
        let hosts = [
            "box",
            "a.b",
            "-a",
            "a-",
            "a..b",
            "a_b",
            "é",
            "{{.Node.Hostname}}",
            "{{.Service.Name}}-{{.Task.Slot}}",
            "{{",
            "{{index .Service.Labels \"edge\"}}",
            "{{.Service.Labels.edge}}",
            long.as_str(),
        ];
        container(spec).hostname = if source.below(6) == 0 { text(source) } else { pick(&hosts, source).to_owned() };
    }),
    ("env", |spec, source| {
        let value = text(source);
        let long = "v".repeat(TEXT_MAX - 2 + source.below(3) as usize);
        let label = "A={{index .Service.Labels \"edge\"}}".to_owned();
        let choices = [format!("A={value}"), format!("{value}=b"), value, format!("A={long}"), label, "PATH=".into()];
        container(spec).env = (0..1 + source.below(3)).map(|_| pick(&choices, source)).collect();
    }),
    ("working directory", |spec, source| container(spec).dir = path(source)),
    ("user", |spec, source| {
        container(spec).user = pick(&[account(source), format!("{}:{}", account(source), account(source))], source)
    }),
    ("groups", |spec, source| container(spec).groups = (0..1 + source.below(3)).map(|_| account(source)).collect()),
    ("init", |spec, source| container(spec).init = pick(&[Some(true), Some(false)], source)),
    ("read only", |spec, _| container(spec).read_only = true),
    ("no new privileges", |spec, _| container(spec).no_new_privileges = true),
    ("mounts", |spec, source| container(spec).mounts = (0..1 + source.below(3)).map(|_| mount(source)).collect()),
    ("stop signal", |spec, source| {
        const SIGNALS: [&str; 24] = [
            "",
            "TERM",
            "SIGTERM",
            "sigint",
            "SIGSIGTERM",
            "SIG",
            "0",
            "1",
            "+9",
            "09",
            "64",
            "65",
            "-1",
            "RTMIN",
            "RTMIN+30",
            "RTMIN+31",
            "SIGRTMAX-30",
            "RTMAX-31",
            "RTMAX+1",
            "RTMIN++1",
            "STKFLT",
            "PWR",
            "POLL",
            "EMT",
        ];
        container(spec).stop_signal = if source.below(8) == 0 { text(source) } else { pick(&SIGNALS, source).to_owned() };
    }),
    ("grace period", |spec, source| container(spec).stop_grace_period = Some(duration(source))),
    ("drain", |spec, source| container(spec).stop_drain = Some(duration(source))),
    ("health check", |spec, source| {
        let tests: [&[&str]; 8] =
            [&[], &["NONE"], &["NONE", "x"], &["CMD"], &["CMD", "a", ""], &["CMD-SHELL", "a"], &["CMD-SHELL"], &["a"]];
        let mut test: Vec<String> = pick(&tests, source).iter().map(ToString::to_string).collect();
        if source.below(4) == 0 {
            test = vec!["CMD".into(), text(source)];
        }
        let optional = |source: &mut Source| (source.below(2) == 0).then(|| duration(source));
        container(spec).healthcheck = Some(HealthConfig {
            test,
            interval: optional(source),
            timeout: optional(source),
            start_period: optional(source),
            start_interval: optional(source),
            retries: pick(&[0, 1, u32::MAX], source),
        });
    }),
    ("hosts", |spec, source| {
        let address = |source: &mut Source| pick(&["10.0.0.1", "::1", "fe80::1%eth0", "010.0.0.1", "", "db"], source).to_owned();
        container(spec).hosts =
            (0..1 + source.below(2)).map(|_| HostEntry { address: address(source), name: text(source) }).collect();
    }),
    ("name servers", |spec, source| {
        let servers = ["10.0.0.1", "::1", "fe80::1%eth0", "ns.example", ""];
        container(spec).dns.nameservers = vec![pick(&servers, source).to_owned()];
    }),
    ("search domains", |spec, source| container(spec).dns.search = texts(source)),
    ("resolver options", |spec, source| container(spec).dns.options = pick(&[texts(source), vec!["ndots:1".into()]], source)),
    ("secrets", |spec, source| {
        let reference = |source: &mut Source| {
            let n = source.below(u64::from(N_FILES) + 1) as u8;
            let name = format!("s{n}");
            let version = pick(&[None, Some(1), Some(2)], source);
            SecretReference { id: secret_id(n), version, file: file(source, &name), name }
        };
        container(spec).secrets = (0..1 + source.below(3)).map(|_| reference(source)).collect();
    }),
    ("configs", |spec, source| {
        let reference = |source: &mut Source| {
            let n = source.below(u64::from(N_FILES) + 1) as u8;
            let name = format!("c{n}");
            let version = pick(&[None, Some(1), Some(2)], source);
            ConfigReference { id: config_id(n), version, file: file(source, &name), name }
        };
        container(spec).configs = (0..1 + source.below(3)).map(|_| reference(source)).collect();
    }),
    ("capabilities", |spec, source| {
        const NAMES: [&str; 10] =
            ["ALL", "all", "CAP_ALL", "NET_RAW", "cap_sys_admin", "CAP_CAP_CHOWN", "CAP_", "CHECKPOINT_RESTORE", "FLY", ""];
        let names = |source: &mut Source| (0..source.below(3)).map(|_| pick(&NAMES, source).to_owned()).collect();
        (container(spec).capability_add, container(spec).capability_drop) = (names(source), names(source));
    }),
    ("sysctls", |spec, source| {
        const KEYS: [&str; 12] = [
            "net.core.somaxconn",
            "net.ipv4.conf.eth0/1.forwarding",
            "net.",
            "net./etc/x",
            "net..x",
            "kernel.sem",
            "kernel.shmmax",
            "kernel.domainname",
            "vm.swappiness",
            "fs.mqueue.msg_max",
            "kernel.msg",
            "",
        ];
        let value = text(source);
        container(spec).sysctls.insert(pick(&KEYS, source).to_owned(), pick(&["1".into(), value], source));
    }),
    ("ulimits", |spec, source| {
        let limit = |source: &mut Source| pick(&[-2, -1, 0, 1, 1024, i64::MAX - 1, i64::MAX, i64::MIN], source);
        let names: Vec<&str> = ULIMITS.iter().copied().chain(["", "files"]).collect();
        let one =
            |source: &mut Source| Ulimit { name: pick(&names, source).to_owned(), soft: limit(source), hard: limit(source) };
        container(spec).ulimits = (0..1 + source.below(3)).map(|_| one(source)).collect();
    }),
    ("oom score", |spec, source| {
        container(spec).oom_score_adj = pick(&[-1001, -1000, -1, 0, 1, 1000, 1001, i32::MIN, i32::MAX], source);
    }),
    ("cpus", |spec, source| {
        let resources = &mut spec.task_template.resources;
        resources.limits.nano_cpus = bounds(source, NANO_CPUS_MIN, NANO_CPUS_MAX);
        resources.reservations.nano_cpus =
            pick(&[0, resources.limits.nano_cpus, bounds(source, NANO_CPUS_MIN, NANO_CPUS_MAX)], source);
    }),
    ("memory", |spec, source| {
        let resources = &mut spec.task_template.resources;
        resources.limits.memory_bytes = bounds(source, MEMORY_MIN, MEMORY_MAX);
        resources.reservations.memory_bytes =
            pick(&[0, resources.limits.memory_bytes, bounds(source, MEMORY_MIN, MEMORY_MAX)], source);
    }),
    ("pids", |spec, source| spec.task_template.resources.limits.pids = bounds(source, 1, PIDS_MAX)),
    ("restart policy", |spec, source| {
        let policy = &mut spec.task_template.restart_policy;
        policy.condition = pick(&[RestartCondition::None, RestartCondition::OnFailure, RestartCondition::Any], source);
        (policy.delay, policy.window) = (duration(source), duration(source));
        policy.max_attempts = pick(&[0, 1, u64::MAX], source);
    }),
    ("constraints", |spec, source| {
        let known =
            ["node.role==manager", "node.role!=x", "node.labels.a == b", "node.ip==10.0.0.0/8", "node.rol==a", "node.id", "==a"];
        let long = format!("node.labels.a=={}", "x".repeat(TEXT_MAX - 15 + source.below(3) as usize));
        spec.task_template.placement.constraints = vec![pick(&[pick(&known, source).to_owned(), long, text(source)], source)];
    }),
    ("preferences", |spec, source| {
        let known = ["node.labels.a", "engine.labels.a", "node.labels.", "node.id"];
        spec.task_template.placement.spread = vec![pick(&[pick(&known, source).to_owned(), text(source)], source)];
    }),
    ("replicas per node", |spec, source| spec.task_template.placement.max_replicas = bounds(source, 1, u64::MAX)),
    ("platforms", |spec, source| {
        let platform = |architecture| Platform { architecture, os: "linux".into() };
        let few = vec![platform(text(source)); 2];
        spec.task_template.placement.platforms = pick(&[few, vec![platform(String::new()); 100_001]], source);
    }),
    ("network", |spec, source| {
        spec.task_template.network = pick(&[NetworkMode::None, NetworkMode::Host, NetworkMode::Bridge], source);
    }),
    ("networks", |spec, source| {
        spec.task_template.network = pick(&[NetworkMode::Bridge, NetworkMode::Bridge, NetworkMode::Host], source);
        let target = |source: &mut Source| pick(&["net0", "net1", "ingress", "host", "none", ""], source).to_owned();
        let request = |source: &mut Source| {
            let aliases = pick(&[Vec::new(), vec!["db".into()], texts(source)], source);
            NetworkRequest { target: target(source), aliases, any_source: source.below(2) == 0 }
        };
        spec.task_template.networks = (0..1 + source.below(2)).map(|_| request(source)).collect();
    }),
    ("ports", |spec, source| {
        spec.task_template.network =
            pick(&[NetworkMode::Bridge, NetworkMode::Bridge, NetworkMode::Bridge, NetworkMode::None], source);
        let number = |source: &mut Source| pick(&[0, 1, 80, 2377, 30_000, 65_535], source);
        let port = |source: &mut Source| PublishedPort {
            transport: pick(&[Transport::Tcp, Transport::Udp], source),
            target_port: number(source),
            published_port: number(source),
            publish_mode: pick(&[PublishMode::Ingress, PublishMode::Host], source),
        };
        spec.endpoint_spec.ports = (0..1 + source.below(3)).map(|_| port(source)).collect();
    }),
    ("endpoint mode", |spec, source| spec.endpoint_spec.mode = pick(&[EndpointMode::Vip, EndpointMode::Dnsrr], source)),
    ("force update", |spec, source| spec.task_template.force_update = pick(&[0, 1, u64::MAX], source)),
    ("start offline", |spec, _| spec.task_template.start_offline = true),
];

fn update(source: &mut Source) -> UpdateConfig {
    UpdateConfig {
        parallelism: pick(&[0, 1, u64::MAX], source),
        delay: duration(source),
        failure_action: pick(&[FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback], source),
        monitor: duration(source),
        max_failure_ratio: pick(&[0.0, -0.0, 0.5, 1.0, 1.001, -0.1, f32::NAN, f32::INFINITY], source),
        order: pick(&[UpdateOrder::StopFirst, UpdateOrder::StartFirst], source),
    }
}

/// What a node may say of itself, at and beyond the bounds of every field.
pub fn edge_hello() -> impl Strategy<Value = Hello> {
    proptest::collection::vec(any::<u64>(), 0..200).prop_map(|numbers| hello(&mut Source { numbers: numbers.into_iter() }))
}

fn hello(source: &mut Source) -> Hello {
    const HOSTNAMES: [&str; 8] = ["n1", "w_1.example", "", "w 1", "été", "\u{1b}[2J", "a\nb", "\u{202e}x"];
    let long = "h".repeat(pick(&[HOSTNAME_MAX, HOSTNAME_MAX + 1, TEXT_MAX + 1], source));
    let hostname = pick(&[pick(&HOSTNAMES, source).to_owned(), "n1".into(), long], source);
    let n_labels = pick(&[0, 1, 2, LABELS_MAX - 1, LABELS_MAX, LABELS_MAX + 1, 3 * LABELS_MAX], source);
    let length =
        pick(&[0, 1, LABELS_LENGTH_MAX / LABELS_MAX - 4, LABELS_LENGTH_MAX / LABELS_MAX - 3, LABEL_LENGTH_MAX - 4], source);
    let mut labels: BTreeMap<String, String> = (0..n_labels).map(|n| (format!("k{n:03}"), "v".repeat(length))).collect();
    for _ in 0..source.below(3) {
        let odd = [
            (text(source), text(source)),
            (String::new(), "x".into()),
            ("odd".into(), "v".repeat(LABEL_LENGTH_MAX - 3)),
            ("odd".into(), "v".repeat(LABEL_LENGTH_MAX - 2)),
            ("k".repeat(TEXT_MAX + 1), String::new()),
        ];
        labels.extend([pick(&odd, source)]);
    }
    let description = NodeDescription {
        hostname,
        platform: Platform { architecture: text(source), os: text(source) },
        resources: Resources { nano_cpus: bounds(source, 1, NANO_CPUS_MAX), memory_bytes: bounds(source, 1, MEMORY_MAX) },
        engine_version: text(source),
        engine_labels: labels,
        underlay: (source.below(4) > 0).then(|| underlay(source)),
    };
    Hello {
        node: NodeId::from_random([1; 16]),
        description,
        statuses: Draw::draw(source),
        address: "10.0.0.1".into(),
        certificate_expires: Time::ZERO,
        not_ready: pick(&[String::new(), String::new(), text(source)], source),
    }
}

fn underlay(source: &mut Source) -> Underlay {
    let address = |text: &str| text.parse().expect("an address");
    let addresses = ["10.0.0.1", "fd00::1", "0.0.0.0", "::", "127.0.0.1", "224.0.0.1", "fe80::1", "255.255.255.255"].map(address);
    let n_networks = pick(&[0, 1, OCCUPIED_MAX - 1, OCCUPIED_MAX, OCCUPIED_MAX + 1, 3 * OCCUPIED_MAX], source);
    let network = |n: usize| IpNet::new((0xfd00_u128 << 112 | (n as u128) << 8 | 0xff).to_be_bytes().into(), 120 + (n % 9) as u8);
    Underlay {
        address: pick(&addresses, source),
        occupied: (0..n_networks).map(|n| network(n).expect("a network")).collect(),
        lacks_ipv6: pick(&[String::new(), text(source)], source),
    }
}
