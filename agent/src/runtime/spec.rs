//! From a task and its image to what its shim is told.
//!
//! The task's own words win over the image's; empty means "as the image says".
//! Placeholders in host name, environment and mount paths are filled in here,
//! on the node, where all of their values are known.

use crate::image::{Healthcheck, Image, ImageConfig};
use crate::runtime::folders::TaskFolder;
use crate::runtime::{Local, Settings};
use crate::values::Values;
use serde_json::{Value, json};
use skep_model::container::check::check_files_length;
use skep_model::container::{ContainerSpec, HealthConfig, Mount, MountKind};
use skep_model::service::NetworkMode;
use skep_model::task::Task;
use skep_shim::protocol::{self, FileSpec, Health, HostEntry, LogSpec, Network, Resources, TaskSpec};
use skep_shim::sensitive::Sensitive;
use skep_template::Template;
use std::time::Duration;

/// Where the network daemon answers names in a task's namespace.
const RESOLVER: &str = "127.0.0.11";
/// Characters of a task's id that are its host name, where the user gave none.
const HOSTNAME_DEFAULT: usize = 12;

/// What the shim is told; an error is a sentence for the user.
pub(super) fn of(
    settings: &Settings,
    folder: &TaskFolder,
    task: &Task,
    local: &Local,
    image: &Image,
    values: &Values,
) -> Result<TaskSpec, String> {
    let container = &filled(settings, task)?;
    let config = &image.config;
    let (secrets, configs) = (secrets(task, values)?, configs(task, values)?);
    let n_bytes = secrets.iter().chain(&configs).map(|file| file.bytes.len() as u64).sum();
    check_files_length(n_bytes).map_err(|refusal| refusal.to_string())?;
    Ok(TaskSpec {
        task_id: task.id.to_string(),
        attempt: super::attend::to_shim(local.attempt),
        hostname: hostname_of(task, &container.hostname),
        args: args(&container.command, &container.args, config)?,
        env: environment(config, &container.env),
        cwd: first(&container.dir, &config.workdir),
        user: first(&container.user, &config.user),
        groups: container.groups.clone(),
        lower_dirs: image.lower_dirs.clone(),
        upper_dir: folder.upper(),
        work_dir: folder.work(),
        log: LogSpec { dir: folder.log(), ..LogSpec::default() },
        exit_dir: folder.exits(),
        cgroups_path: format!("{}/{}", settings.cgroup_parent.trim_end_matches('/'), task.id),
        resources: Resources {
            nano_cpus: signed(task.spec.resources.limits.nano_cpus),
            memory_bytes: signed(task.spec.resources.limits.memory_bytes),
            pids: task.spec.resources.limits.pids,
        },
        cap_add: container.capability_add.clone(),
        cap_drop: container.capability_drop.clone(),
        no_new_privileges: container.no_new_privileges,
        read_only: container.read_only,
        init: container.init.unwrap_or(false),
        tty: false,
        ulimits: container
            .ulimits
            .iter()
            .map(|limit| protocol::Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
            .collect(),
        sysctls: container.sysctls.clone(),
        stop_signal: first(&container.stop_signal, config.stop_signal.as_deref().unwrap_or_default()),
        stop_grace_ms: millis(container.stop_grace()),
        mounts: container.mounts.iter().map(mount_of).collect(),
        extra_hosts: container
            .hosts
            .iter()
            .map(|host| HostEntry { host: host.name.clone(), address: host.address.clone() })
            .collect(),
        dns: dns(&task.spec, std::path::Path::new("/etc/resolv.conf")),
        network: match task.spec.network {
            NetworkMode::None => Network::None,
            NetworkMode::Host => Network::Host,
            NetworkMode::Bridge => Network::Path(local.namespace.clone().ok_or("the task's network was not prepared")?),
        },
        addresses: task.networks.iter().flat_map(|place| place.addresses.iter().copied()).collect(),
        labels: labels(settings, task),
        health: health(container.healthcheck.as_ref(), config.healthcheck.as_ref()),
        secrets,
        configs,
        oom_score_adj: (container.oom_score_adj != 0).then_some(container.oom_score_adj),
    })
}

/// The container with every placeholder filled in. What has become of it must keep to the
/// rules that admission could not hold it to.
pub(super) fn filled(settings: &Settings, task: &Task) -> Result<ContainerSpec, String> {
    let context = context(settings, task);
    let fill = |text: &str| fill(text, &context);
    let mut container = task.spec.container_spec.clone();
    container.hostname = fill(&container.hostname)?;
    for variable in &mut container.env {
        if let Some((name, value)) = variable.split_once('=') {
            *variable = format!("{name}={}", fill(value)?);
        }
    }
    for mount in &mut container.mounts {
        (mount.source, mount.target) = (fill(&mount.source)?, fill(&mount.target)?);
    }
    container.check().map_err(|refusal| refusal.to_string())?;
    Ok(container)
}

/// The host name of the task, and of its own address in its `hosts`.
pub(super) fn hostname(settings: &Settings, task: &Task) -> Result<String, String> {
    Ok(hostname_of(task, &fill(&task.spec.container_spec.hostname, &context(settings, task))?))
}

fn hostname_of(task: &Task, name: &str) -> String {
    // As the shim names a task without a name.
    if name.is_empty() { task.id.as_str().chars().take(HOSTNAME_DEFAULT).collect() } else { name.to_owned() }
}

/// What the task's `resolv.conf` says. In a namespace of its own the one server is
/// the network daemon's, which forwards to those that the service or the node
/// names; search domains and options are the service's, else the node's.
fn dns(spec: &skep_model::service::TaskSpec, of_node: &std::path::Path) -> protocol::Dns {
    let own = &spec.container_spec.dns;
    let mut dns = protocol::Dns { servers: own.nameservers.clone(), search: own.search.clone(), options: own.options.clone() };
    if spec.network == NetworkMode::Bridge {
        dns.servers = vec![RESOLVER.into()];
        let text = std::fs::read_to_string(of_node).unwrap_or_default();
        let words = |key: &str| {
            // The last line counts, as for the C library.
            let last = text.lines().rev().find_map(|line| line.strip_prefix(key).filter(|rest| rest.starts_with([' ', '\t'])));
            last.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        if dns.search.is_empty() {
            dns.search = words("search");
        }
        if dns.options.is_empty() {
            dns.options = words("options").into_iter().filter(|option| option.starts_with("ndots:")).collect();
        }
        // The names of services are short: as in Docker they are asked for as they are, before any search domain.
        if !dns.options.iter().any(|option| option.starts_with("ndots:")) {
            dns.options.push("ndots:0".into());
        }
    }
    dns
}

/// Entrypoint and arguments, as Docker combines them: a new entrypoint drops the
/// image's arguments as well.
fn args(command: &[String], args: &[String], config: &ImageConfig) -> Result<Vec<String>, String> {
    let (entrypoint, default) = if command.is_empty() { (&config.entrypoint[..], &config.cmd[..]) } else { (command, &[][..]) };
    let rest = if args.is_empty() { default } else { args };
    let all: Vec<String> = entrypoint.iter().chain(rest).cloned().collect();
    if all.is_empty() { Err("No command specified: neither the image nor the service names one".into()) } else { Ok(all) }
}

/// The image's environment, overridden by the task's.
fn environment(config: &ImageConfig, own: &[String]) -> Vec<Sensitive> {
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut entries: Vec<String> = config.env.clone();
    for entry in own {
        entries.retain(|other| key(other) != key(entry));
        entries.push(entry.clone());
    }
    entries.into_iter().filter(|entry| entry.contains('=')).map(Sensitive::from).collect()
}

fn mount_of(mount: &Mount) -> protocol::Mount {
    let target = mount.target.clone();
    match mount.kind {
        MountKind::Tmpfs => protocol::Mount::Tmpfs { target, size_bytes: mount.tmpfs_size, mode: mount.tmpfs_mode },
        // That it is there was seen when the task was prepared.
        MountKind::Bind => protocol::Mount::Bind {
            source: mount.source.clone().into(),
            target,
            read_only: mount.read_only,
            propagation: mount.propagation.clone(),
        },
    }
}

fn secrets(task: &Task, values: &Values) -> Result<Vec<FileSpec>, String> {
    let file = |reference: &skep_model::container::SecretReference| {
        let version = reference.version.unwrap_or_default();
        let value = values.secret(reference.id, version);
        let value = value.ok_or_else(|| format!("version {version} of secret {} is not on this node", reference.name))?;
        Ok(file_of(&reference.name, version, &reference.file, &value))
    };
    task.spec.container_spec.secrets.iter().map(file).collect()
}

fn configs(task: &Task, values: &Values) -> Result<Vec<FileSpec>, String> {
    let file = |reference: &skep_model::container::ConfigReference| {
        let version = reference.version.unwrap_or_default();
        let value = values.config(reference.id, version);
        let value = value.ok_or_else(|| format!("version {version} of config {} is not on this node", reference.name))?;
        Ok(file_of(&reference.name, version, &reference.file, &value))
    };
    task.spec.container_spec.configs.iter().map(file).collect()
}

fn file_of(name: &str, version: u64, file: &skep_model::container::FileTarget, value: &[u8]) -> FileSpec {
    FileSpec {
        name: name.into(),
        version,
        target: file.name.clone(),
        uid: file.uid,
        gid: file.gid,
        mode: file.mode,
        bytes: Sensitive::from(value.to_vec()),
    }
}

/// The service's check where it says anything of it, the image's for the rest.
fn health(own: Option<&HealthConfig>, image: Option<&Healthcheck>) -> Option<Health> {
    let nanos = |value: Option<Duration>, image: u64| value.map_or(image / 1_000_000, millis);
    let from_image = |pick: fn(&Healthcheck) -> u64| image.map_or(0, pick);
    let own = own.cloned().unwrap_or_default();
    let test = if own.test.is_empty() { image.map(|check| check.test.clone()).unwrap_or_default() } else { own.test };
    if test.is_empty() || test[0] == "NONE" {
        return None;
    }
    Some(Health {
        test,
        interval_ms: nanos(own.interval, from_image(|check| check.interval)),
        timeout_ms: nanos(own.timeout, from_image(|check| check.timeout)),
        start_period_ms: nanos(own.start_period, from_image(|check| check.start_period)),
        start_interval_ms: nanos(own.start_interval, from_image(|check| check.start_interval)),
        retries: if own.retries == 0 { image.map_or(0, |check| check.retries) } else { own.retries },
    })
}

/// The labels that say which cluster object a container belongs to, under the
/// names that Swarm's tools look for, beside the user's own.
fn labels(settings: &Settings, task: &Task) -> std::collections::BTreeMap<String, String> {
    let mut labels = task.spec.container_spec.labels.clone();
    let own = [
        ("com.docker.swarm.node.id", settings.node.to_string()),
        ("com.docker.swarm.service.id", task.service_id.to_string()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.id.to_string()),
        ("com.docker.swarm.task.name", task.name()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    labels
}

/// What placeholders may name (Swarm's template context).
fn context(settings: &Settings, task: &Task) -> Value {
    let slot = if task.slot == 0 { settings.node.to_string() } else { task.slot.to_string() };
    json!({
        "Service": { "ID": task.service_id, "Name": task.service_name, "Labels": task.service_labels },
        "Node": {
            "ID": settings.node,
            "Hostname": settings.hostname,
            "Platform": { "Architecture": std::env::consts::ARCH, "OS": "linux" },
        },
        "Task": { "ID": task.id, "Name": task.name(), "Slot": slot },
    })
}

fn fill(text: &str, context: &Value) -> Result<String, String> {
    if !text.contains("{{") {
        return Ok(text.into());
    }
    let template = Template::parse(text).map_err(|error| format!("the placeholder in {text:?} does not parse: {error}"))?;
    template.render(context).map_err(|error| format!("the placeholder in {text:?} cannot be filled in: {error}"))
}

fn first(own: &str, image: &str) -> String {
    if own.is_empty() { image.into() } else { own.into() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn commands_combine_as_dockers_do() {
        let image = ImageConfig { entrypoint: strings(&["run"]), cmd: strings(&["-d"]), ..ImageConfig::default() };
        let bare = ImageConfig::default();
        type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a ImageConfig, Option<&'a [&'a str]>);
        let table: [Row<'_>; 5] = [
            (&[], &[], &image, Some(&["run", "-d"])),
            (&[], &["-v"], &image, Some(&["run", "-v"])),
            (&["sh"], &[], &image, Some(&["sh"])),
            (&["sh"], &["-c"], &image, Some(&["sh", "-c"])),
            (&[], &[], &bare, None),
        ];
        for (command, own, config, expected) in table {
            assert_eq!(args(&strings(command), &strings(own), config).ok(), expected.map(strings), "{command:?} {own:?}");
        }
    }

    #[test]
    fn placeholders_are_swarms() {
        use skep_model::task::{TaskPlan, TaskStatus};
        use skep_model::{Meta, NodeId, Section, ServiceId, TaskId, TaskState, Time};
        let settings = Settings {
            node: NodeId::from_random([1; 16]),
            hostname: "box".into(),
            shim: Default::default(),
            cgroup_parent: "/skep".into(),
            registries: Default::default(),
        };
        let mut spec = skep_model::service::TaskSpec::default();
        spec.container_spec.labels = [("tier".to_owned(), "of the container".to_owned())].into();
        let mut task = Task {
            id: TaskId::from_random([2; 16]),
            meta: Meta::default(),
            service_id: ServiceId::from_random([3; 16]),
            service_name: "web".into(),
            service_labels: [("tier", "front"), ("com.example.a", "dotted")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            slot: 4,
            spec: std::sync::Arc::new(spec),
            spec_version: 1,
            networks: Vec::new(),
            ports: Vec::new(),
            plan: Section::new(TaskPlan::new(TaskState::Running, Time::ZERO)),
            status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
        };
        let filled = |task: &Task, text: &str| fill(text, &context(&settings, task)).expect("a placeholder");
        for (text, expected) in [
            ("{{.Service.Labels.tier}}", "front".to_owned()),
            ("{{index .Service.Labels \"com.example.a\"}}", "dotted".to_owned()),
            ("{{.Service.Labels.other}}", "<no value>".to_owned()),
            ("{{.Service.ID}}/{{.Service.Name}}", format!("{}/web", task.service_id)),
            ("{{.Node.ID}}/{{.Node.Hostname}}", format!("{}/box", settings.node)),
            ("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", format!("linux/{}", std::env::consts::ARCH)),
            ("{{.Task.ID}}/{{.Task.Name}}/{{.Task.Slot}}", format!("{}/{}/4", task.id, task.name())),
        ] {
            assert_eq!(filled(&task, text), expected, "{text}");
        }
        task.slot = 0;
        assert_eq!(filled(&task, "{{.Task.Slot}}"), settings.node.to_string());
    }

    #[test]
    fn short_names_are_asked_for_as_they_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let of = |node: &str, search: &[&str], options: &[&str], network| {
            std::fs::write(file.path(), node).unwrap();
            let mut spec = skep_model::service::TaskSpec { network, ..Default::default() };
            (spec.container_spec.dns.search, spec.container_spec.dns.options) = (strings(search), strings(options));
            let dns = dns(&spec, file.path());
            [dns.servers, dns.search, dns.options].map(|words| words.join(" "))
        };
        let node = "nameserver 192.0.2.1\nsearch old.example\nsearch example org.example\noptions rotate ndots:2\n";
        let bridge = NetworkMode::Bridge;
        assert_eq!(of("nameserver 192.0.2.1\nsearch example\n", &[], &[], bridge), [RESOLVER, "example", "ndots:0"]);
        assert_eq!(of("", &[], &[], bridge), [RESOLVER, "", "ndots:0"]);
        assert_eq!(of(node, &[], &[], bridge), [RESOLVER, "example org.example", "ndots:2"]);
        assert_eq!(of(node, &["own"], &["timeout:1"], bridge), [RESOLVER, "own", "timeout:1 ndots:0"]);
        assert_eq!(of(node, &[], &["ndots:5"], bridge), [RESOLVER, "example org.example", "ndots:5"]);
        assert_eq!(of(node, &[], &[], NetworkMode::Host), ["", "", ""], "the node's own file is taken as it is");
    }

    #[test]
    fn the_tasks_environment_wins() {
        let image = ImageConfig { env: strings(&["PATH=/bin", "A=1"]), ..ImageConfig::default() };
        let entries = environment(&image, &strings(&["A=2", "B=y", "UNSET"]));
        let entries: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(entry.expose()).into_owned()).collect();
        assert_eq!(entries, ["PATH=/bin", "A=2", "B=y"]);
    }

    #[test]
    fn a_service_may_switch_the_images_check_off_or_adjust_it() {
        let image = Healthcheck { test: strings(&["CMD", "probe"]), interval: 2_000_000_000, ..Healthcheck::default() };
        assert!(health(Some(&HealthConfig { test: strings(&["NONE"]), ..HealthConfig::default() }), Some(&image)).is_none());
        let adjusted = health(Some(&HealthConfig { retries: 7, ..HealthConfig::default() }), Some(&image)).unwrap();
        assert_eq!((adjusted.interval_ms, adjusted.retries, adjusted.test), (2000, 7, strings(&["CMD", "probe"])));
        assert!(health(None, None).is_none());
    }
}
