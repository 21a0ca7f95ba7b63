//! Every rule of admission, as tables: what is refused, in which words.

use super::{Admitted, admit};
use crate::mint::Mint;
use crate::store::Conflict;
use crate::store::Store;
use crate::timing;
use crate::transaction::{SectionName, Transaction, Write};
use skep_model::address::ClaimedAddresses;
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec};
use skep_model::config::ConfigVersion;
use skep_model::container::{ConfigReference, FileTarget, HealthConfig, Mount, MountKind, SecretReference, Ulimit};
use skep_model::endpoint::INGRESS_NODES_MAX;
use skep_model::node::{
    Availability, ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeState, NodeStatus, Role, Underlay,
};
use skep_model::request::{Mutation, Outcome};
use skep_model::resources::PIDS_MAX;
use skep_model::said::{MEMORY_MAX, NANO_CPUS_MAX};
use skep_model::sealed::Sealed;
use skep_model::secret::SecretVersion;
use skep_model::service::{
    Annotations, FailureAction, NetworkMode, Platform, RestartPolicy, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig,
};
use skep_model::text::{PATH_MAX, TEXT_MAX};
use skep_model::versioned::VERSIONS_MAX;
use skep_model::{ClusterId, ConfigId, Kind, Meta, NodeId, ObjectRef, Refusal, RequestId, SecretId, Section, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// A store that every admitted request is applied to at once.
pub(super) struct Desk {
    pub(super) store: Store,
    mint: Mint,
    n: u64,
}

const NOW: Time = Time::from_millis(1_000_000);

impl Desk {
    pub(super) fn new() -> Self {
        Self::of_manager_at("10.0.0.1:2377")
    }

    pub(super) fn of_manager_at(address: &str) -> Self {
        let mut desk = Self { store: Store::default(), mint: Mint::new(1), n: 0 };
        let cluster = Cluster {
            id: ClusterId::from_random([1; 16]),
            meta: Meta::default(),
            spec: Section::new(ClusterSpec::default()),
            plan: Section::new(ClusterPlan::default()),
        };
        let manager = ManagerStatus { raft_id: 1, address: address.into(), format_max: 1, unreachable: false };
        let node = Node {
            id: NodeId::from_random([1; 16]),
            meta: Meta::default(),
            spec: Section::new(NodeSpec { desired_role: Role::Manager, ..NodeSpec::default() }),
            description: Section::new(NodeDescription { hostname: "m1".into(), ..NodeDescription::default() }),
            status: Section::new(NodeStatus { state: NodeState::Ready, ..NodeStatus::default() }),
            plan: Section::new(NodePlan { role: Role::Manager, manager: Some(manager), ..NodePlan::default() }),
        };
        desk.ask(Mutation::Bootstrap { cluster: Box::new(cluster), node: Box::new(node) }).expect("a cluster begins");
        desk
    }

    pub(super) fn ask(&mut self, mutation: Mutation) -> Result<Outcome, Refusal> {
        self.n += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.n.to_be_bytes());
        match admit(&self.store, NOW, &mut self.mint, RequestId(id), mutation)? {
            Admitted::Propose(transaction) => {
                assert!(transaction.writes.len() <= timing::TRANSACTION_WRITES_MAX);
                let outcome = transaction.outcome.expect("a request has an outcome");
                self.store.apply(self.store.version + 1, &transaction).map_err(|conflict| conflict.into_result().unwrap_err())?;
                Ok(outcome)
            }
            Admitted::Done(outcome) => Ok(outcome),
            other => panic!("membership was not asked for: {other:?}"),
        }
    }

    /// The transaction of a request that is not applied.
    fn admit(&mut self, mutation: Mutation) -> Transaction {
        match admit(&self.store, NOW, &mut self.mint, RequestId([0xff; 16]), mutation) {
            Ok(Admitted::Propose(transaction)) => Transaction { request: None, ..transaction },
            other => panic!("it is to be proposed: {other:?}"),
        }
    }

    fn secret_id(&self, name: &str) -> SecretId {
        self.store.resolve_secret(name).expect("a secret of that name").id
    }

    pub(super) fn create(&mut self, name: &str, change: impl FnOnce(&mut ServiceSpec)) -> Result<Outcome, Refusal> {
        let mut spec = spec(name);
        change(&mut spec);
        self.ask(Mutation::CreateService { spec: Box::new(spec) })
    }

    pub(super) fn update(&mut self, name: &str, change: impl FnOnce(&mut ServiceSpec)) -> Result<Outcome, Refusal> {
        let mut spec = self.store.resolve_service(name)?.spec.spec.clone();
        change(&mut spec);
        self.ask(Mutation::UpdateService { service: name.into(), expect: None, spec: Box::new(spec) })
    }

    fn create_secret(&mut self, name: &str) -> Result<Outcome, Refusal> {
        let annotations = Annotations { name: name.into(), labels: BTreeMap::new() };
        let id = SecretId::from_random(self.mint.id());
        self.ask(Mutation::CreateSecret { id, annotations, version: version(1, 1) })
    }

    /// A secret `sN` and a config `cN` of one version each.
    pub(super) fn create_files(&mut self, n: u8, secret: SecretId, config: ConfigId) {
        let named = |name: String| Annotations { name, labels: BTreeMap::new() };
        let (secret_name, config_name) = (named(format!("s{n}")), named(format!("c{n}")));
        let SecretVersion { n, sealed, fingerprint, created_at } = version(1, 1);
        let config_version = ConfigVersion { n, sealed, fingerprint, created_at };
        self.ask(Mutation::CreateSecret { id: secret, annotations: secret_name, version: version(1, 1) }).expect("a secret");
        self.ask(Mutation::CreateConfig { id: config, annotations: config_name, version: config_version }).expect("a config");
    }

    fn update_secret(&mut self, name: &str, version: SecretVersion) -> Result<Outcome, Refusal> {
        self.ask(Mutation::UpdateSecret { secret: name.into(), version: Some(version), labels: None })
    }

    /// The settings that only `swarm init` makes.
    pub(super) fn shrink_pools(&mut self, pools: &[&str], subnet_size: u32) {
        let mut spec = self.store.cluster().expect("a cluster").spec.value.clone();
        spec.address_pools = pools.iter().map(|pool| pool.parse().expect("a network")).collect();
        spec.subnet_size = subnet_size;
        self.write(Write::ClusterSpec(spec));
    }

    /// A node says what it uses itself.
    pub(super) fn occupy(&mut self, node: NodeId, underlay: Underlay) {
        let mut description = self.store.node(node).expect("a node").description.value.clone();
        description.underlay = Some(underlay);
        self.write(Write::NodeDescription(node, description));
    }

    fn write(&mut self, write: Write) {
        let mut transaction = Transaction::new(NOW);
        transaction.writes.push(write);
        self.store.apply(self.store.version + 1, &transaction).expect("nothing refuses it");
    }

    fn reference(&self, name: &str, version: Option<u64>) -> SecretReference {
        let id = self.store.resolve_secret(name).expect("a secret of that name").id;
        SecretReference { id, name: name.into(), version, file: target(name) }
    }
}

pub(super) fn spec(name: &str) -> ServiceSpec {
    let mut template = TaskSpec::default();
    template.container_spec.image = "app:1".into();
    ServiceSpec {
        annotations: Annotations { name: name.into(), labels: BTreeMap::new() },
        task_template: template,
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: UpdateConfig::default(),
        rollback_config: UpdateConfig::default(),
        deadline: None,
        endpoint_spec: Default::default(),
    }
}

fn version(n: u64, fingerprint: u64) -> SecretVersion {
    let sealed = Sealed { key_generation: 1, nonce: [0; 12], bytes: vec![0; 17] };
    SecretVersion { n, sealed, fingerprint: format!("{fingerprint:016x}"), created_at: NOW }
}

fn target(name: &str) -> FileTarget {
    FileTarget { name: name.into(), uid: 0, gid: 0, mode: 0o444 }
}

fn mount(kind: MountKind, source: &str, target: &str) -> Mount {
    Mount {
        kind,
        source: source.into(),
        target: target.into(),
        read_only: false,
        tmpfs_size: 0,
        tmpfs_mode: 0,
        propagation: String::new(),
        create_source: false,
    }
}

type Change = Box<dyn FnOnce(&mut ServiceSpec)>;

/// What each spec is refused for: the beginning of the refusal, or nothing if it is valid.
#[test]
fn every_field_of_a_service_is_checked() {
    fn container(change: impl FnOnce(&mut skep_model::container::ContainerSpec) + 'static) -> Change {
        Box::new(move |spec| change(&mut spec.task_template.container_spec))
    }
    fn text(value: &str) -> String {
        value.to_owned()
    }
    let table: Vec<(Change, &str)> = vec![
        (Box::new(|_| {}), ""),
        (Box::new(|spec| spec.annotations.name = "-web".into()), "invalid service name \"-web\""),
        (Box::new(|spec| spec.annotations.name = "a".repeat(64)), "invalid service name"),
        (Box::new(|spec| drop(spec.annotations.labels.insert(String::new(), "x".into()))), "invalid service label \"=x\""),
        (Box::new(|spec| spec.mode = ServiceMode::Replicated { replicas: 100_001 }), "invalid replicas \"100001\""),
        (Box::new(|spec| spec.mode = ServiceMode::Global {}), ""),
        (Box::new(|spec| spec.task_template.resources.limits.nano_cpus = 999_999), "invalid cpu limit \"0.000999999\""),
        (Box::new(|spec| spec.task_template.resources.reservations.nano_cpus = 1), "invalid cpu reservation"),
        (Box::new(|spec| spec.task_template.resources.limits.memory_bytes = 4 << 20), ""),
        (Box::new(|spec| spec.task_template.resources.limits.memory_bytes = 4095 << 10), "invalid memory limit"),
        (Box::new(|spec| spec.task_template.resources.reservations.memory_bytes = 1), "invalid memory reservation"),
        (
            Box::new(|spec| {
                spec.task_template.resources.limits.nano_cpus = 4_000_000_000;
                spec.task_template.resources.reservations.nano_cpus = 8_000_000_000;
            }),
            "invalid cpu reservation \"8\": it exceeds the cpu limit of 4",
        ),
        (
            Box::new(|spec| {
                spec.task_template.resources.limits.memory_bytes = 8 << 20;
                spec.task_template.resources.reservations.memory_bytes = (8 << 20) + 1;
            }),
            "invalid memory reservation \"8388609\": it exceeds the memory limit of 8388608 bytes",
        ),
        (Box::new(|spec| spec.task_template.placement.constraints = vec!["node.role".into()]), "invalid placement constraint"),
        (
            Box::new(|spec| spec.task_template.placement.constraints = vec!["node.rol==manager".into()]),
            "invalid placement constraint \"node.rol==manager\": key 'node.rol' is not known; the keys are node.id",
        ),
        (Box::new(|spec| spec.task_template.placement.spread = vec!["node.id".into()]), "invalid placement preference spread"),
        (Box::new(|spec| spec.task_template.placement.spread = vec!["node.labels.".into()]), "invalid placement preference"),
        (Box::new(|spec| spec.update_config.max_failure_ratio = 1.5), "invalid update max failure ratio \"1.5\""),
        (Box::new(|spec| spec.update_config.max_failure_ratio = f32::NAN), "invalid update max failure ratio"),
        (Box::new(|spec| spec.rollback_config.max_failure_ratio = -0.1), "invalid rollback max failure ratio"),
        (Box::new(|spec| spec.rollback_config.failure_action = FailureAction::Rollback), "invalid rollback failure action"),
        (Box::new(|spec| spec.deadline = Some(Duration::from_millis(1))), "invalid deadline"),
        (container(|c| c.image = text("")), "invalid image: an image reference must be given"),
        (container(|c| c.image = text("Redis")), "invalid image \"Redis\""),
        (container(|c| c.image = text("red is")), "invalid image"),
        (container(|c| c.image = text("redis:")), "invalid image"),
        (container(|c| c.image = format!("Host:5000/a/b:V1@sha256:{}", "0".repeat(64))), ""),
        (container(|c| c.image = text("redis:7-Alpine")), ""),
        (container(|c| c.args = vec![text("a\0b")]), "invalid argument"),
        (container(|c| c.hostname = text("-x")), "invalid hostname \"-x\""),
        (container(|c| c.hostname = text("{{.Node.Hostname}}-{{.Task.Slot}}")), ""),
        (container(|c| c.hostname = text("{{.Node.Name}}")), "invalid hostname"),
        (container(|c| c.hostname = text("{{.Node")), "invalid hostname"),
        (container(|c| c.env = vec![text("A=1"), text("B={{.Service.Labels.x}}")]), ""),
        (container(|c| c.env = vec![text("A")]), "invalid environment variable \"A\""),
        (container(|c| c.env = vec![text("=secret")]), "invalid environment variable: it has the form KEY=VALUE"),
        (container(|c| c.env = vec![text("A={{.Secret}}")]), "invalid environment variable"),
        (container(|c| c.dir = text("tmp")), "invalid working directory \"tmp\""),
        (container(|c| c.user = text("app:app")), ""),
        (container(|c| c.user = text("1000")), ""),
        (container(|c| c.user = text("a b")), "invalid user"),
        (container(|c| c.user = text("4294967296")), "invalid user"),
        (container(|c| c.user = text("app:")), "invalid user"),
        (container(|c| c.user = text("4294967295")), "invalid user"),
        (container(|c| c.user = text("4294967294")), ""),
        (container(|c| c.groups = vec![text("")]), "invalid group"),
        (container(|c| c.groups = vec![text("4294967295")]), "invalid group"),
        (container(|c| c.command = vec![text(""), text("x")]), "invalid entrypoint: it begins with a program"),
        (container(|c| c.init = Some(true)), "an init process in the container (--init) is not supported"),
        (container(|c| c.init = Some(false)), ""),
        (container(|c| c.dns.search = vec![text("a\u{7f}")]), "invalid dns-search"),
        (
            Box::new(|spec| {
                spec.task_template.network = NetworkMode::Host;
                drop(spec.task_template.container_spec.sysctls.insert(text("net.core.somaxconn"), text("1")));
            }),
            "invalid sysctl \"net.core.somaxconn\": net.* cannot be set",
        ),
        (container(|c| c.mounts = vec![mount(MountKind::Bind, "/data", "/data")]), ""),
        (container(|c| c.mounts = vec![mount(MountKind::Bind, "data", "/data")]), "invalid mount source \"data\""),
        (container(|c| c.mounts = vec![mount(MountKind::Bind, "/data", "data")]), "invalid mount target \"data\""),
        (container(|c| c.mounts = vec![mount(MountKind::Bind, "/a", "/x/../y")]), "invalid mount target"),
        (container(|c| c.mounts = vec![mount(MountKind::Tmpfs, "/a", "/x")]), "invalid mount source"),
        (
            container(|c| c.mounts = vec![mount(MountKind::Tmpfs, "", "/x"), mount(MountKind::Bind, "/a", "/x/")]),
            "invalid mount target \"/x/\": duplicate mount point",
        ),
        (container(|c| c.stop_signal = text("SIGUSR1")), ""),
        (container(|c| c.stop_signal = text("9")), ""),
        (container(|c| c.stop_signal = text("SIGNAL")), "invalid stop-signal"),
        (container(|c| c.stop_signal = text("65")), "invalid stop-signal"),
        (container(|c| c.capability_add = vec![text("CAP_NET_RAW"), text("sys_time"), text("ALL")]), ""),
        (container(|c| c.capability_drop = vec![text("CAP_FLY")]), "invalid capability \"CAP_FLY\""),
        (container(|c| drop(c.sysctls.insert(text("net.core.somaxconn"), text("1")))), ""),
        (container(|c| drop(c.sysctls.insert(text("vm.swappiness"), text("1")))), "invalid sysctl"),
        (container(|c| c.ulimits = vec![Ulimit { name: text("nofile"), soft: 1, hard: -1 }]), ""),
        (container(|c| c.ulimits = vec![Ulimit { name: text("nofile"), soft: 2, hard: 1 }]), "invalid ulimit \"nofile=2:1\""),
        (container(|c| c.ulimits = vec![Ulimit { name: text("files"), soft: 1, hard: 1 }]), "invalid ulimit"),
        (container(|c| c.oom_score_adj = 1001), "invalid oom-score-adj \"1001\""),
        (container(|c| c.healthcheck = Some(HealthConfig { test: vec![text("NONE")], ..HealthConfig::default() })), ""),
        (
            container(|c| c.healthcheck = Some(HealthConfig { test: vec![text("curl")], ..HealthConfig::default() })),
            "invalid health check",
        ),
        (
            container(|c| c.healthcheck = Some(HealthConfig { test: vec![text("CMD")], ..HealthConfig::default() })),
            "invalid health check",
        ),
        (
            container(|c| {
                c.healthcheck = Some(HealthConfig { interval: Some(Duration::from_micros(1)), ..HealthConfig::default() })
            }),
            "invalid health-interval",
        ),
        (container(|c| c.dns.nameservers = vec![text("ns.example")]), "invalid dns \"ns.example\""),
        (container(|c| c.env = vec!["A=".to_owned() + &"x".repeat(100_000); 3]), "the service's spec"),
    ];
    for (row, (change, refusal)) in table.into_iter().enumerate() {
        let result = Desk::new().create("web", change);
        match (refusal, result) {
            ("", result) => assert!(result.is_ok(), "row {row}: {result:?}"),
            (refusal, Err(refused)) => {
                assert!(refused.to_string().starts_with(refusal), "row {row}: {refused} is not {refusal}");
            }
            (refusal, Ok(_)) => panic!("row {row} was to be refused: {refusal}"),
        }
    }
}

/// Limits that are a node's: what is beyond them was accepted once, and no task of it could
/// start, or it started without the limit.
#[test]
fn what_no_node_could_do_is_refused_by_name() {
    fn container(change: impl FnOnce(&mut skep_model::container::ContainerSpec) + 'static) -> Change {
        Box::new(move |spec| change(&mut spec.task_template.container_spec))
    }
    fn limits(change: impl FnOnce(&mut skep_model::resources::Limits) + 'static) -> Change {
        Box::new(move |spec| change(&mut spec.task_template.resources.limits))
    }
    let tmpfs = |size| Mount { tmpfs_size: size, ..mount(MountKind::Tmpfs, "", "/x") };
    let table: Vec<(Change, &str)> = vec![
        (container(|c| c.image = "app@sha256:00".into()), "invalid image \"app@sha256:00\": an image reference has the form"),
        (container(|c| c.image = "a//b".into()), "invalid image \"a//b\""),
        (container(|c| c.image = "host:port/a".into()), "invalid image \"host:port/a\""),
        (container(|c| c.image = "a_".into()), "invalid image \"a_\""),
        (container(|c| c.image = format!("a:{}", "t".repeat(129))), "invalid image"),
        (container(|c| c.args = vec!["a".repeat(TEXT_MAX)]), ""),
        (
            container(|c| c.args = vec!["a".repeat(TEXT_MAX + 1)]),
            "argument of 131072 bytes is too large: the limit is 131071 bytes",
        ),
        (container(|c| c.env = vec![format!("A={}", "b".repeat(TEXT_MAX - 2))]), ""),
        (container(|c| c.env = vec![format!("A={}", "b".repeat(TEXT_MAX - 1))]), "invalid environment variable \"A\""),
        (container(|c| c.dir = format!("/{}", "d".repeat(255))), ""),
        (container(|c| c.dir = format!("/{}", "d".repeat(256))), "a part of 256 bytes of the working directory is too large"),
        (container(|c| c.dir = "/d".repeat(PATH_MAX)), "working directory of 6144 bytes is too large"),
        (container(|c| c.mounts = vec![mount(MountKind::Tmpfs, "", &"/d".repeat(PATH_MAX))]), "mount target of 6144 bytes"),
        (container(|c| c.user = "a".repeat(TEXT_MAX + 1)), "user of 131072 bytes is too large"),
        (container(|c| c.capability_add = vec!["CAP_ALL".into()]), "invalid capability \"CAP_ALL\""),
        (container(|c| drop(c.sysctls.insert("kernel.sem".into(), "1\0".into()))), "invalid value of sysctl kernel.sem"),
        (container(move |c| c.mounts = vec![tmpfs(MEMORY_MAX)]), ""),
        (container(move |c| c.mounts = vec![tmpfs(MEMORY_MAX + 1)]), "invalid tmpfs-size"),
        (limits(|l| l.nano_cpus = NANO_CPUS_MAX), ""),
        (limits(|l| l.nano_cpus = NANO_CPUS_MAX + 1), "invalid cpu limit"),
        (limits(|l| l.memory_bytes = MEMORY_MAX), ""),
        (limits(|l| l.memory_bytes = MEMORY_MAX + 1), "invalid memory limit"),
        (limits(|l| l.pids = PIDS_MAX), ""),
        (limits(|l| l.pids = PIDS_MAX + 1), "invalid pids limit \"4194305\": it must be at most 4194304"),
        (Box::new(|spec| spec.task_template.resources.reservations.nano_cpus = u64::MAX), "invalid cpu reservation"),
        (Box::new(|spec| spec.task_template.resources.reservations.memory_bytes = u64::MAX), "invalid memory reservation"),
        (Box::new(|spec| spec.task_template.placement.platforms = vec![Platform::default(); 100_000]), "the service's spec"),
    ];
    for (row, (change, refusal)) in table.into_iter().enumerate() {
        let told = Desk::new().create("web", change).err().map(|refused| refused.to_string()).unwrap_or_default();
        assert!(
            if refusal.is_empty() { told.is_empty() } else { told.starts_with(refusal) },
            "row {row}: {told:?}, not {refusal:?}"
        );
    }
}

fn refusal(result: Result<Outcome, Refusal>) -> String {
    result.expect_err("it was to be refused").to_string()
}

#[test]
fn references_to_secrets_must_hold() {
    let mut desk = Desk::new();
    desk.create_secret("pw").expect("a secret");
    let good = desk.reference("pw", None);
    let with =
        |references: Vec<SecretReference>| move |spec: &mut ServiceSpec| spec.task_template.container_spec.secrets = references;

    let other_name = SecretReference { name: "px".into(), ..good.clone() };
    assert_eq!(refusal(desk.create("a", with(vec![other_name]))), "secret px not found");
    let missing_version = SecretReference { version: Some(2), ..good.clone() };
    assert!(refusal(desk.create("a", with(vec![missing_version]))).contains("has no version 2"));
    // A slash at the end makes no other place.
    for path in ["/run/secrets/pw", "/run/secrets/pw/"] {
        let absolute = SecretReference { file: target(path), ..good.clone() };
        assert!(refusal(desk.create("a", with(vec![good.clone(), absolute]))).contains("conflicting target"), "{path}");
    }
    let at = |path: &str| SecretReference { file: target(path), ..good.clone() };
    // Of two things in one place, one would hide the other; below a file nothing can be.
    let places: [(&[SecretReference], Option<Mount>, &str); 13] = [
        (&[at("a"), at("/run/secrets/b"), at("/etc/b")], None, ""),
        (&[at("a"), at("a/b")], None, "invalid secret target \"/run/secrets/a/b\": secret pw and secret pw have a conflicting"),
        (&[at("a"), at("ab"), at("a-b")], None, ""),
        (&[at("/etc/pw"), at("/etc/pw/x")], None, "/etc/pw is a file, not a folder"),
        (&[at("/data/pw")], Some(mount(MountKind::Tmpfs, "", "/data")), ""),
        (&[at("/data")], Some(mount(MountKind::Tmpfs, "", "/data/x")), "/data is a file, not a folder"),
        (&[at("a")], Some(mount(MountKind::Tmpfs, "", "/run/secrets/")), "secret pw appears in /run/secrets, where nothing else"),
        (&[at("/proc/x")], None, "invalid secret target \"/proc/x\": nothing can be mounted in /proc but some of its files"),
        (&[at("/proc/cpuinfo"), at("/process")], None, ""),
        (&[], Some(mount(MountKind::Tmpfs, "", "/proc/")), "invalid mount target \"/proc/\""),
        (&[], Some(mount(MountKind::Bind, "/data", "/proc/sys")), "invalid mount target \"/proc/sys\""),
        (&[], Some(mount(MountKind::Bind, "/proc", "/proc")), ""),
        (&[at("/run/secrets/a")], Some(mount(MountKind::Tmpfs, "", "/run/secrets/x")), ""),
    ];
    for (row, (secrets, mount, expected)) in places.into_iter().enumerate() {
        let change = |spec: &mut ServiceSpec| {
            spec.task_template.container_spec.secrets = secrets.to_vec();
            spec.task_template.container_spec.mounts = mount.into_iter().collect();
        };
        let said = desk.create(&format!("row{row}"), change).err().map(|refused| refused.to_string()).unwrap_or_default();
        assert!(if expected.is_empty() { said.is_empty() } else { said.contains(expected) }, "row {row}: {said:?}");
        if expected.is_empty() {
            desk.ask(Mutation::RemoveService { service: format!("row{row}") }).expect("it is there");
        }
    }
    for (change, expected) in [(0, "invalid secret uid \"4294967295\": the highest uid is 4294967294"), (1, "invalid secret gid")]
    {
        let mut odd = good.clone();
        *[&mut odd.file.uid, &mut odd.file.gid][change] = u32::MAX;
        assert!(refusal(desk.create("a", with(vec![odd]))).starts_with(expected));
    }
    let upwards = SecretReference { file: target("../pw"), ..good.clone() };
    assert!(refusal(desk.create("a", with(vec![upwards]))).starts_with("invalid secret target"));
    let config = ConfigReference { id: ConfigId::from_random([9; 16]), name: "c".into(), version: None, file: target("c") };
    let result = desk.create("a", |spec| spec.task_template.container_spec.configs = vec![config]);
    assert_eq!(refusal(result), "config c not found");
    desk.create("a", with(vec![good])).expect("a valid reference");
    let refused = refusal(desk.ask(Mutation::RemoveSecret { secret: "pw".into() }));
    assert_eq!(refused, "secret 'pw' is in use by the following service: a");
}

#[test]
fn an_update_counts_as_a_new_version_only_if_tasks_may_change() {
    let mut desk = Desk::new();
    assert_eq!(desk.create("web", |_| {}).expect("a service").number, 1);
    assert!(matches!(desk.create("WEB", |_| {}), Err(Refusal::NameConflict { .. })));
    let before = desk.store.version;
    assert_eq!(desk.update("web", |_| {}).expect("nothing to do").number, 1);
    assert_eq!(desk.store.version, before, "an identical spec changes nothing");
    assert_eq!(desk.update("web", |spec| spec.update_config.parallelism = 3).expect("an update").number, 1);
    assert_eq!(desk.update("web", |spec| spec.task_template.force_update = 1).expect("an update").number, 2);
    assert_eq!(desk.ask(Mutation::ScaleService { service: "web".into(), replicas: 2 }).expect("a scale").number, 3);
    assert!(
        refusal(desk.update("web", |spec| spec.annotations.name = "new".into())).contains("renaming services is not supported")
    );
    assert_eq!(refusal(desk.update("web", |spec| spec.mode = ServiceMode::Global {})), "service mode change is not allowed");
    let stale = Mutation::UpdateService { service: "web".into(), expect: Some(1), spec: Box::new(spec("web")) };
    assert_eq!(desk.ask(stale), Err(Refusal::OutOfSequence));
    let rolled = desk.ask(Mutation::RollbackService { service: "web".into(), expect: None }).expect("a rollback");
    assert_eq!(rolled.number, 4);
    assert_eq!(desk.store.resolve_service("web").expect("the service").spec.spec.mode, ServiceMode::Replicated { replicas: 1 });
}

#[test]
fn a_new_secret_version_rolls_those_that_follow_in_one_transaction() {
    let mut desk = Desk::new();
    desk.create_secret("pw").expect("a secret");
    let (follows, pinned) = (desk.reference("pw", None), desk.reference("pw", Some(1)));
    desk.create("follows", |spec| spec.task_template.container_spec.secrets = vec![follows]).expect("a service");
    desk.create("pinned", |spec| spec.task_template.container_spec.secrets = vec![pinned]).expect("a service");
    assert_eq!(desk.update_secret("pw", version(3, 3)), Err(Refusal::OutOfSequence));
    let before = desk.store.version;
    desk.update_secret("pw", version(2, 2)).expect("a new version");
    assert_eq!(desk.store.version, before + 1);
    let service = desk.store.resolve_service("follows").expect("the service");
    assert_eq!(service.spec.spec_version, 2);
    let previous = service.spec.previous.as_ref().expect("what it was before");
    assert_eq!(previous.task_template.container_spec.secrets[0].version, Some(1));
    assert_eq!(desk.store.resolve_service("pinned").expect("the service").spec.spec_version, 1);
    desk.update_secret("pw", version(3, 2)).expect("the same value");
    assert_eq!(desk.store.version, before + 1, "the same value changes nothing");
}

#[test]
fn old_versions_go_unless_somebody_refers_to_them() {
    let mut desk = Desk::new();
    desk.create_secret("pw").expect("a secret");
    let pinned = desk.reference("pw", Some(1));
    desk.create("pinned", |spec| spec.task_template.container_spec.secrets = vec![pinned]).expect("a service");
    for n in 2..=VERSIONS_MAX as u64 + 2 {
        desk.update_secret("pw", version(n, n)).expect("a new version");
    }
    let kept: Vec<u64> = desk.store.resolve_secret("pw").expect("it").spec.versions.iter().map(|version| version.n).collect();
    assert_eq!(kept.len(), VERSIONS_MAX);
    assert_eq!(&kept[..2], &[1, 4], "1 is pinned, 2 and 3 are not");
}

/// A service that names an old version and the change that drops it do not know of each
/// other: whoever comes second looks again.
#[test]
fn a_version_that_is_named_meanwhile_is_not_dropped() {
    let mut desk = Desk::new();
    desk.create_secret("pw").expect("a secret");
    for n in 2..=VERSIONS_MAX as u64 {
        desk.update_secret("pw", version(n, n)).expect("a new version");
    }
    let pinned = desk.reference("pw", Some(1));
    let mut wanted = spec("pinned");
    wanted.task_template.container_spec.secrets = vec![pinned];
    let create = Mutation::CreateService { spec: Box::new(wanted) };
    let next = VERSIONS_MAX as u64 + 1;
    let update = Mutation::UpdateSecret { secret: "pw".into(), version: Some(version(next, next)), labels: None };
    let changed =
        |desk: &Desk| Conflict::Changed(ObjectRef { kind: Kind::Secret, id: desk.secret_id("pw").0 }, SectionName::Spec);
    for is_create_first in [true, false] {
        let mut store = desk.store.clone();
        let (create, update) = (desk.admit(create.clone()), desk.admit(update.clone()));
        let (first, second) = if is_create_first { (create, update) } else { (update, create) };
        store.apply(store.version + 1, &first).expect("nobody was faster");
        assert_eq!(store.apply(store.version + 1, &second).err(), Some(changed(&desk)), "create first: {is_create_first}");
    }
    // Each is decided again on what there is then.
    desk.ask(create.clone()).expect("the version is there");
    desk.ask(update).expect("another one is dropped");
    let kept: Vec<u64> = desk.store.resolve_secret("pw").expect("it").spec.versions.iter().map(|version| version.n).collect();
    assert_eq!(&kept[..2], &[1, 3], "1 is pinned");
}

#[test]
fn a_restart_limit_that_its_window_never_holds_is_accepted_as_in_swarm() {
    let mut desk = Desk::new();
    let window = Duration::from_secs(2);
    let policy = RestartPolicy { delay: Duration::from_secs(3), max_attempts: 2, window, ..RestartPolicy::default() };
    desk.create("web", |spec| spec.task_template.restart_policy = policy).expect("it is worth a warning only");
}

#[test]
fn values_of_secrets_have_limits() {
    let mut desk = Desk::new();
    let empty = SecretVersion { sealed: Sealed { bytes: vec![0; 16], ..Sealed::default() }, ..version(1, 1) };
    let large = SecretVersion { sealed: Sealed { bytes: vec![0; 16 + 500 * 1024], ..Sealed::default() }, ..version(1, 1) };
    let mut create = |version| {
        let annotations = Annotations { name: "pw".into(), labels: BTreeMap::new() };
        desk.ask(Mutation::CreateSecret { id: SecretId::from_random([2; 16]), annotations, version })
    };
    assert!(refusal(create(empty)).contains("must not be empty"));
    assert!(refusal(create(large)).contains("the limit is 511999 bytes"));
    assert_eq!(create(version(2, 1)), Err(Refusal::OutOfSequence));
}

#[test]
fn nodes_are_demoted_and_removed_by_swarms_rules() {
    let mut desk = Desk::new();
    let worker = NodeId::from_random([2; 16]);
    let register = |availability| Mutation::RegisterNode {
        node: worker,
        role: Role::Worker,
        availability,
        hostname: "w1".into(),
        certificate_expires: NOW,
        addresses: ClaimedAddresses::default(),
    };
    desk.ask(register(Availability::Pause)).expect("a node");
    assert!(refusal(desk.ask(register(Availability::Active))).contains("is registered already"));
    let demote = Mutation::UpdateNode { node: "m1".into(), expect: None, spec: NodeSpec::default() };
    assert_eq!(refusal(desk.ask(demote)), "attempting to demote the last manager of the swarm");
    let remove = |node: &str| Mutation::RemoveNode { node: node.into(), force: true };
    assert!(refusal(desk.ask(remove("m1"))).contains("It must be demoted to worker before removal"));
    desk.ask(remove("w1")).expect("it is not ready");
    assert!(refusal(desk.ask(register(Availability::Active))).contains("was removed from the cluster"));
    let issued = Mutation::CertificateIssued { node: worker, certificate_expires: NOW };
    assert!(matches!(desk.ask(issued), Err(Refusal::PermissionDenied(_))));
}

#[test]
fn a_newcomer_has_addresses_of_its_own() {
    let mut desk = Desk::new();
    let [m2, w1, w2] = [2, 3, 4].map(|n| NodeId::from_random([n; 16]));
    let register = |node, addresses| Mutation::RegisterNode {
        node,
        role: Role::Manager,
        availability: Availability::Active,
        hostname: "new".into(),
        certificate_expires: NOW,
        addresses,
    };
    let claim = |advertise: &str, data_path: &str, seen: &str| {
        let read = |text: &str| text.parse().ok();
        ClaimedAddresses { advertise: read(advertise), data_path: read(data_path), seen: read(seen) }
    };
    desk.ask(register(m2, claim("10.0.0.2", "", "10.0.0.2"))).expect("a node");
    let join = |node, address: &str| Mutation::JoinRaft {
        node,
        address: address.into(),
        unsealing_key: vec![1; 32],
        slots: Vec::new(),
        format_max: 1,
    };
    let store = &mut desk.store;
    let mut plan = store.node(m2).expect("it is registered").plan.value.clone();
    plan.manager = Some(ManagerStatus { raft_id: 2, address: "10.0.0.2:2377".into(), ..ManagerStatus::default() });
    let known = |store: &mut Store, state| {
        let status = NodeStatus { state, ..NodeStatus::default() };
        let writes = vec![Write::NodePlan(m2, plan.clone()), Write::NodeStatus(m2, status)];
        store.apply(store.version + 1, &Transaction { writes, ..Transaction::new(NOW) }).expect("it applies");
    };
    known(store, NodeState::Ready);
    let of_m2 = format!(
        "it is the address of node new ({m2}); name one of this node's own, or, if that node is gone for good, remove it first \
         (`skep node rm --force {m2}`)"
    );
    for (claimed, expected) in [
        (claim("10.0.0.2", "", "10.0.0.3"), format!("invalid --advertise-addr \"10.0.0.2\": {of_m2}")),
        (claim("10.0.0.3", "10.0.0.2", "10.0.0.3"), format!("invalid --data-path-addr \"10.0.0.2\": {of_m2}")),
        (
            claim("240.0.0.1", "", ""),
            "invalid --advertise-addr \"240.0.0.1\": it is a reserved address (240.0.0.0/4); name an \
          address of this node that other nodes reach"
                .to_owned(),
        ),
        (
            claim("10.0.0.3", "fe80::1", ""),
            "invalid --data-path-addr \"fe80::1\": it is a link-local address, which means \
          nothing without its link; name an address of this node that other nodes reach"
                .to_owned(),
        ),
    ] {
        assert_eq!(refusal(desk.ask(register(w1, claimed))), expected);
    }
    // The address that it connects from is its own: its disk was lost, and its old node is not down yet.
    desk.ask(register(w1, claim("10.0.0.2", "", "10.0.0.2"))).expect("it is there");
    // Raft tells managers apart by their addresses, also while one is away.
    let taken = refusal(desk.ask(join(w1, "10.0.0.2:2377")));
    assert_eq!(taken, format!("invalid manager address \"10.0.0.2:2377\": {of_m2}"));
    assert!(refusal(desk.ask(join(w1, "240.0.0.1:2377"))).contains("reserved address"));
    // Who is down holds none.
    known(&mut desk.store, NodeState::Down);
    desk.ask(register(w2, claim("10.0.0.2", "", "10.0.0.3"))).expect("nobody has it");
}

#[test]
fn no_node_joins_that_the_routing_mesh_has_no_ports_for() {
    let mut desk = Desk::new();
    let id = |n: u32| {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_random(bytes)
    };
    let register = |n| Mutation::RegisterNode {
        node: id(n),
        role: Role::Worker,
        availability: Availability::Active,
        hostname: format!("w{n}"),
        certificate_expires: NOW,
        addresses: ClaimedAddresses::default(),
    };
    // The founder is one.
    for n in 2..=INGRESS_NODES_MAX {
        desk.ask(register(n)).expect("there is a place");
    }
    let full = "the cluster has 1000 nodes, and the routing mesh no ports for more: remove one that is gone (`skep node rm`)";
    assert_eq!(refusal(desk.ask(register(1001))), full);
    desk.ask(Mutation::RemoveNode { node: id(2).to_string(), force: true }).expect("it is not a manager");
    desk.ask(register(1001)).expect("a place is free");
}

#[test]
fn the_settings_of_the_cluster_have_bounds() {
    let mut desk = Desk::new();
    let mut set = |change: fn(&mut ClusterSpec)| {
        let mut spec = ClusterSpec::default();
        change(&mut spec);
        desk.ask(Mutation::UpdateCluster { expect: None, spec })
    };
    assert!(
        refusal(set(|spec| spec.node_cert_expiry = Duration::from_secs(3599)))
            .contains("minimum certificate expiry time is 1h0m0s")
    );
    assert!(refusal(set(|spec| spec.heartbeat_period = Duration::ZERO)).contains("--dispatcher-heartbeat"));
    assert!(refusal(set(|spec| spec.annotations.name = "x".into())).contains("renaming"));
    let barrier = "--barrier-timeout \"1m0.000000001s\": it must be between 100ms and 1m0s";
    assert!(refusal(set(|spec| spec.barrier_timeout = Duration::new(60, 1))).contains(barrier));
    assert!(refusal(set(|spec| spec.barrier_timeout = Duration::from_millis(99))).contains("between 100ms"));
    set(|spec| spec.barrier_timeout = Duration::from_millis(100)).expect("the shortest");
    set(|spec| spec.barrier_timeout = Duration::from_secs(60)).expect("the longest");
    set(|spec| spec.task_history_limit = -1).expect("no limit");
}

#[test]
fn a_repeated_request_gets_the_first_outcome() {
    let mut desk = Desk::new();
    let request = RequestId([7; 16]);
    let create = || Mutation::CreateService { spec: Box::new(spec("web")) };
    let Ok(Admitted::Propose(transaction)) = admit(&desk.store, NOW, &mut desk.mint, request, create()) else {
        panic!("it is to be proposed");
    };
    assert!(matches!(transaction.writes[..], [Write::Create(_)]));
    desk.store.apply(desk.store.version + 1, &transaction).expect("it applies");
    let again = admit(&desk.store, NOW, &mut desk.mint, request, create());
    let first = transaction.outcome.expect("an outcome");
    assert_eq!(again, Ok(Admitted::Done(Outcome { version: desk.store.version, ..first })));
}
