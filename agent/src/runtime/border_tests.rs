//! What a manager admits, a node can run, or says of its task which field stands against
//! it. The property begins where admission's ends
//! (`manager/core/src/control/border_tests.rs`): at what `ServiceSpec::check` takes.

use super::{Folders, Local, Settings, TaskFolder, spec};
use crate::image::{Digest, Image, ImageConfig, Reference};
use crate::values::Values;
use oci_spec::runtime::Spec;
use proptest::prelude::*;
use skep_model::NodeId;
use skep_model::container::MountKind;
use skep_model::service::{NetworkMode, ServiceSpec};
use skep_model::task::Task;
use skep_proto::testing::edges::{self, FIELDS, task_of, with_edge};
use skep_shim::protocol::{Network, Request, TaskSpec, ToShim};
use skep_shim::{capabilities, spec as bundle, wire};
use std::path::PathBuf;
use std::sync::LazyLock;
use zeroize::Zeroizing;

fn settings() -> Settings {
    Settings {
        node: NodeId::from_random([1; 16]),
        hostname: "box".into(),
        shim: PathBuf::new(),
        cgroup_parent: "/skep".into(),
        registries: Default::default(),
    }
}

fn image() -> Image {
    let config = ImageConfig { entrypoint: vec!["run".into()], env: vec!["PATH=/bin".into()], ..ImageConfig::default() };
    let digest = Digest::of(b"image");
    Image { id: digest.clone(), reference: None, digest, config, lower_dirs: vec!["/layer".into()] }
}

/// Nothing is ever made there.
fn folder(task: &Task) -> TaskFolder {
    static TASKS: LazyLock<(tempfile::TempDir, Folders)> = LazyLock::new(|| {
        let data = tempfile::tempdir().expect("a folder");
        let folders = Folders::open(data.path(), data.path()).expect("folders");
        (data, folders)
    });
    TASKS.1.of(task.id)
}

/// What the shim of a task is told; every secret and config is here.
fn told(task: &Task) -> Result<TaskSpec, String> {
    let values = Values::default();
    for reference in &task.spec.container_spec.secrets {
        values.put_secret(reference.id, 1, Zeroizing::new(b"secret".to_vec()));
    }
    for reference in &task.spec.container_spec.configs {
        values.put_config(reference.id, 1, Zeroizing::new(b"config".to_vec()));
    }
    // A namespace that is there: this process's own.
    let local = Local { namespace: Some("/proc/self/ns/net".into()), ..Local::default() };
    spec::of(&settings(), &folder(task), task, &local, &image(), &values)
}

/// Whether a spec has a text that is known on the node only.
fn has_placeholder(spec: &ServiceSpec) -> bool {
    let container = &spec.task_template.container_spec;
    let mounts = container.mounts.iter().flat_map(|mount| [&mount.source, &mount.target]);
    container.env.iter().chain([&container.hostname]).chain(mounts).any(|text| text.contains("{{"))
}

/// Through the agent, its shim's socket and the shim to the bundle; whether it is run.
fn crosses(spec: &ServiceSpec) -> Result<bool, TestCaseError> {
    if spec.check().is_err() {
        return Ok(false);
    }
    let task = task_of(spec);
    let container = &task.spec.container_spec;
    if let Err(error) = Reference::parse(&container.image) {
        return Err(TestCaseError::fail(format!("no node can read the image: {error}")));
    }
    let told = match told(&task) {
        Ok(told) => told,
        Err(error) => {
            let fields = ["placeholder", "hostname", "environment variable", "mount source", "mount target"];
            prop_assert!(has_placeholder(spec), "without a placeholder nothing is new on the node: {error}");
            prop_assert!(fields.iter().any(|field| error.contains(field)), "no field is named: {error}");
            return Ok(false);
        }
    };
    let request = Request::Start(Box::new(told));
    let frame = wire::encode(&ToShim { id: 1, request }).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let ToShim { request: Request::Start(told), .. } = wire::decode(&frame[4..]).expect("what was encoded decodes") else {
        return Err(TestCaseError::fail("another request"));
    };
    if let Err(error) = bundle::check(&told) {
        // The one thing that only the node knows.
        let is_missing =
            container.mounts.iter().any(|mount| mount.kind == MountKind::Bind && error.ends_with(mount.source.as_str()));
        prop_assert!(error.contains("bind source path does not exist") && is_missing || has_placeholder(spec), "{error}");
        return Ok(false);
    }
    let all = u64::MAX;
    let set =
        capabilities::resolve(&told.cap_add, &told.cap_drop, all).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let network = match &told.network {
        Network::Host => None,
        Network::None => Some(PathBuf::from("/netns")),
        Network::Path(path) => Some(path.clone()),
    };
    prop_assert_eq!(network.is_none(), task.spec.network == NetworkMode::Host);
    let oci = bundle::oci(&told, set, all, network.as_deref(), &[]).to_string();
    let read: Spec = serde_json::from_str(&oci).map_err(|error| TestCaseError::fail(format!("no bundle: {error}")))?;
    means_the_same(&task, &told, &read)?;
    Ok(true)
}

/// The bundle says what the spec says, without a value that was cut to fit.
fn means_the_same(task: &Task, told: &TaskSpec, read: &Spec) -> Result<(), TestCaseError> {
    let (container, limits) = (&task.spec.container_spec, &task.spec.resources.limits);
    let linux = read.linux().as_ref().expect("a part for Linux");
    let resources = linux.resources().as_ref().expect("resources");
    let memory = resources.memory().as_ref().and_then(|memory| memory.limit());
    let whole = |value: u64| i64::try_from(value).unwrap_or(-2);
    prop_assert_eq!(memory, (limits.memory_bytes != 0).then(|| whole(limits.memory_bytes)));
    let pids = resources.pids().as_ref().map(|pids| pids.limit());
    prop_assert_eq!(pids, Some(if limits.pids == 0 { -1 } else { whole(limits.pids) }));
    let cpu = resources.cpu().as_ref().and_then(|cpu| Some((cpu.quota()?, cpu.period()?)));
    // What the kernel takes (`max_cfs_runtime`), in microseconds.
    prop_assert!(cpu.is_none_or(|(quota, period)| (1_000..1 << 44).contains(&quota) && period == 100_000), "{cpu:?}");
    prop_assert_eq!(cpu.is_some(), limits.nano_cpus != 0);
    let mounts = read.mounts().as_ref().expect("mounts");
    for mount in &told.mounts {
        let n_there = mounts.iter().filter(|there| there.destination().as_os_str() == mount.target()).count();
        prop_assert!(n_there >= 1, "{} is not mounted", mount.target());
    }
    prop_assert_eq!(&told.sysctls, &container.sysctls);
    for entry in &container.env {
        let name = entry.split('=').next().unwrap_or_default();
        prop_assert!(told.env.iter().any(|there| there.expose().starts_with(format!("{name}=").as_bytes())), "{name}");
    }
    prop_assert_eq!(told.stop_grace_ms, u64::try_from(container.stop_grace().as_millis()).expect("it fits"));
    prop_assert_eq!((told.secrets.len(), told.configs.len()), (container.secrets.len(), container.configs.len()));
    Ok(())
}

proptest! {
    #![proptest_config(edges::config())]

    #[test]
    fn what_is_admitted_is_run_or_its_field_is_named(spec in edges::edge_spec()) {
        crosses(&spec)?;
    }
}

#[test]
fn every_field_is_drawn_within_its_bounds() {
    for (name, field) in FIELDS {
        let told = |number| crosses(&with_edge(*field, number)).unwrap_or_else(|error| panic!("{name}, {number}: {error}"));
        let n_run = (0..100).filter(|number| told(*number)).count();
        assert!(n_run > 0, "no value of {name} is run");
    }
}

/// What only the node knows of a text is judged there, by the same rules.
#[test]
fn what_a_placeholder_becomes_keeps_to_the_rules() {
    type Change = fn(&mut ServiceSpec, String);
    let hostname: Change = |spec, text| spec.task_template.container_spec.hostname = text;
    let env: Change = |spec, text| spec.task_template.container_spec.env = vec![format!("A={text}")];
    let target: Change = |spec, text| {
        let container = &mut spec.task_template.container_spec;
        container.mounts = ["/data".to_owned(), format!("/{text}")].map(tmpfs).into();
    };
    let table: [(Change, String, &str); 9] = [
        (hostname, "box".into(), ""),
        (hostname, "a b".into(), "invalid hostname \"a b\""),
        (hostname, "a".repeat(64), "invalid hostname"),
        (env, "a b".into(), ""),
        (env, "a".repeat(skep_model::text::TEXT_MAX), "invalid environment variable \"A\": its value must not"),
        (target, "x".into(), ""),
        (target, "../x".into(), "invalid mount target \"/../x\""),
        (target, "data".into(), "invalid mount target \"/data\": duplicate mount point"),
        (target, "a".repeat(256), "a part of 256 bytes of the mount target is too large"),
    ];
    for (change, label, expected) in table {
        let mut spec = edges::plain();
        spec.annotations.labels.insert("edge".into(), label);
        change(&mut spec, "{{.Service.Labels.edge}}".into());
        assert_eq!(spec.check(), Ok(()));
        let said = told(&task_of(&spec)).err().unwrap_or_default();
        assert!(if expected.is_empty() { said.is_empty() } else { said.starts_with(expected) }, "{said:?}, not {expected:?}");
    }
}

/// Secrets and configs have limits of their own, and one together: a frame's.
#[test]
fn files_that_no_frame_holds_are_named() {
    let mut spec = edges::plain();
    for n in 0..26_u8 {
        let file = skep_model::container::FileTarget { name: format!("c{n}"), uid: 0, gid: 0, mode: 0o444 };
        let reference = skep_model::container::ConfigReference {
            id: skep_model::ConfigId::from_random([n; 16]),
            name: format!("c{n}"),
            version: None,
            file,
        };
        spec.task_template.container_spec.configs.push(reference);
    }
    let of = |task: &Task| {
        let values = Values::default();
        for reference in &task.spec.container_spec.configs {
            values.put_config(reference.id, 1, Zeroizing::new(vec![b'x'; skep_model::config::CONFIG_MAX - 1]));
        }
        spec::of(&settings(), &folder(task), task, &Local::default(), &image(), &values)
    };
    assert_eq!(spec.check(), Ok(()));
    let error = of(&task_of(&spec)).expect_err("too much for a frame");
    assert!(error.starts_with("all secrets and configs of a task together (26623974 bytes) is too large"), "{error}");
    spec.task_template.container_spec.configs.truncate(24);
    let told = of(&task_of(&spec)).expect("it fits");
    assert!(bundle::check(&told).is_ok());
    wire::encode(&ToShim { id: 1, request: Request::Start(Box::new(told)) }).expect("a frame");
}

fn tmpfs(target: String) -> skep_model::container::Mount {
    skep_model::container::Mount {
        kind: MountKind::Tmpfs,
        source: String::new(),
        target,
        read_only: false,
        tmpfs_size: 0,
        tmpfs_mode: 0,
        propagation: String::new(),
        create_source: false,
    }
}
