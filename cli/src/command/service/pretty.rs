//! A service for people: `skep service inspect --pretty`.
//!
//! Docker's text comes first, line by line, so that whoever reads it with a script goes
//! on doing so; what only this version knows follows it.

use crate::command::network::known::Networks;
use crate::flags::duration::print;
use crate::render::pretty::Text;
use crate::render::{ago, size};
use skep_docker::{UpdateStatus, Word, deployment_state};
use skep_model::container::{ContainerSpec, HealthConfig};
use skep_model::service::{NetworkMode, Service, ServiceMode, TaskSpec, UpdateConfig};
use skep_model::task::Task;
use skep_model::{NodeId, TaskState, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// The text of a service and its tasks.
pub fn text(service: &Service, tasks: &[Task], networks: &Networks, nodes: &BTreeMap<NodeId, String>, now: Time) -> String {
    let spec = &service.spec.spec;
    let (template, container) = (&spec.task_template, &spec.task_template.container_spec);
    let mut text = Text::default();
    text.line("");
    text.line(format!("ID:\t\t{}", service.id));
    text.line(format!("Name:\t\t{}", spec.annotations.name));
    text.map("Labels:", " ", &spec.annotations.labels);
    match spec.mode {
        ServiceMode::Global {} => text.line("Service Mode:\tGlobal"),
        ServiceMode::Replicated { replicas } => {
            text.line("Service Mode:\tReplicated");
            text.line(format!(" Replicas:\t{replicas}"));
        }
    }
    update_status(&mut text, service, now);
    placement(&mut text, template);
    if template.start_offline {
        text.line("Start Offline:\ttrue");
    }
    update(&mut text, "UpdateConfig:", "Update order:      ", &spec.update_config);
    update(&mut text, "RollbackConfig:", "Rollback order:    ", &spec.rollback_config);
    docker_container(&mut text, container);
    resources(&mut text, template);
    endpoint(&mut text, service, networks);
    container.healthcheck.iter().for_each(|check| health(&mut text, check));
    deployment(&mut text, service, tasks, nodes);
    addresses(&mut text, service, networks);
    more(&mut text, container);
    text.line("");
    text.finish()
}

/// Swarm's view of the deployment: none for a service that was only created.
fn update_status(text: &mut Text, service: &Service, now: Time) {
    let Some(status) = service.plan.deployment.as_ref().and_then(UpdateStatus::of) else { return };
    text.line("UpdateStatus:");
    text.line(format!(" State:\t\t{}", status.state));
    text.line(format!(" Started:\t{}", ago::ago(status.started_at, now)));
    if let Some(completed) = status.completed_at {
        text.line(format!(" Completed:\t{}", ago::ago(completed, now)));
    }
    text.line(format!(" Message:\t{}", status.message));
}

fn placement(text: &mut Text, template: &TaskSpec) {
    let placement = &template.placement;
    text.line("Placement:");
    if !placement.constraints.is_empty() {
        text.line(format!(" Constraints:\t[{}]", placement.constraints.join(" ")));
    }
    if !placement.spread.is_empty() {
        let preferences: Vec<String> = placement.spread.iter().map(|label| format!("spread={label}")).collect();
        text.line(format!(" Preferences:   [{}]", preferences.join(" ")));
    }
    if placement.max_replicas > 0 {
        text.line(format!(" Max Replicas Per Node:   {}", placement.max_replicas));
    }
}

fn update(text: &mut Text, title: &str, order: &str, config: &UpdateConfig) {
    text.line(title);
    text.line(format!(" Parallelism:\t{}", config.parallelism));
    if config.delay > Duration::ZERO {
        text.line(format!(" Delay:\t\t{}", print(config.delay)));
    }
    text.line(format!(" On failure:\t{}", config.failure_action.word()));
    if config.monitor > Duration::ZERO {
        text.line(format!(" Monitoring Period: {}", print(config.monitor)));
    }
    text.line(format!(" Max failure ratio: {}", config.max_failure_ratio));
    text.line(format!(" {order}{}", config.order.word()));
}

/// What docker shows of a container.
fn docker_container(text: &mut Text, spec: &ContainerSpec) {
    text.line("ContainerSpec:");
    text.line(format!(" Image:\t\t{}", spec.image));
    // A space follows each word.
    text.words(" Args:\t\t", &spec.args);
    text.words(" Env:\t\t", &spec.env);
    text.some(" Dir:\t\t", &spec.dir);
    text.line(format!(" Init:\t\t{}", spec.init.unwrap_or(false)));
    text.some(" User: ", &spec.user);
    if !spec.capability_add.is_empty() || !spec.capability_drop.is_empty() {
        text.line("Capabilities:");
        text.some(" Add: ", &spec.capability_add.join(", "));
        text.some(" Drop: ", &spec.capability_drop.join(", "));
    }
    if !spec.sysctls.is_empty() {
        text.line("SysCtls:");
        spec.sysctls.iter().for_each(|(key, value)| text.line(format!(" {key}: {value}")));
    }
    if !spec.ulimits.is_empty() {
        text.line("Ulimits:");
        spec.ulimits.iter().for_each(|it| text.line(format!(" {}: {}:{}", it.name, it.soft, it.hard)));
    }
    if !spec.mounts.is_empty() {
        text.line("Mounts:");
    }
    for mount in &spec.mounts {
        text.line(format!(" Target:\t{}", mount.target));
        text.line(format!("  Source:\t{}", mount.source));
        text.line(format!("  ReadOnly:\t{}", mount.read_only));
        text.line(format!("  Type:\t\t{}", mount.kind.word()));
    }
    files(text, "Configs:", spec.configs.iter().map(|it| (&it.file.name, &it.name)));
    files(text, "Secrets:", spec.secrets.iter().map(|it| (&it.file.name, &it.name)));
}

fn files<'a>(text: &mut Text, title: &str, files: impl ExactSizeIterator<Item = (&'a String, &'a String)>) {
    if files.len() > 0 {
        text.line(title);
    }
    for (target, source) in files {
        text.line(format!(" Target:\t{target}"));
        text.line(format!("  Source:\t{source}"));
    }
}

fn resources(text: &mut Text, template: &TaskSpec) {
    let cpus = |nanos: u64| format!("{}", nanos as f64 / 1e9);
    let (limits, reserved) = (&template.resources.limits, &template.resources.reservations);
    text.line("Resources:");
    let mut part = |title: &str, nano_cpus: u64, memory_bytes: u64, pids: u64| {
        if (nano_cpus, memory_bytes, pids) == (0, 0, 0) {
            return;
        }
        text.line(title);
        let amounts = [
            ("  CPU:\t\t", nano_cpus, cpus(nano_cpus)),
            ("  Memory:\t", memory_bytes, size::binary(memory_bytes)),
            ("  PIDs:\t\t", pids, pids.to_string()),
        ];
        for (label, _, shown) in amounts.iter().filter(|(_, amount, _)| *amount > 0) {
            text.line(format!("{label}{shown}"));
        }
    };
    part(" Reservations:", reserved.nano_cpus, reserved.memory_bytes, 0);
    part(" Limits:", limits.nano_cpus, limits.memory_bytes, limits.pids);
}

/// Networks, endpoint mode and ports.
fn endpoint(text: &mut Text, service: &Service, networks: &Networks) {
    let spec = &service.spec.spec;
    // What every task has that is told of no network of its own.
    let own = (spec.task_template.network != NetworkMode::Bridge).then(|| spec.task_template.network.word());
    let asked = spec.task_template.networks.iter().map(|request| networks.name(&request.target));
    let names: Vec<String> = own.into_iter().chain(asked).map(str::to_owned).collect();
    text.words("Networks: ", &names);
    text.line(format!("Endpoint Mode:\t{}", spec.endpoint_spec.mode.word()));
    let settled = &service.plan.endpoint;
    // Before the leader has settled them, those that were asked for.
    let ports = if settled.ports.is_empty() { &spec.endpoint_spec.ports } else { &settled.ports };
    if !ports.is_empty() {
        text.line("Ports:");
    }
    for (n, port) in ports.iter().enumerate() {
        text.line(format!(" PublishedPort = {}", port.published_port));
        text.line(format!("  Protocol = {}", port.transport.word()));
        text.line(format!("  TargetPort = {}", port.target_port));
        // Docker's last line ends in a space.
        let end = if n + 1 == ports.len() { " " } else { "" };
        text.line(format!("  PublishMode = {}{end}", port.publish_mode.word()));
    }
}

fn health(text: &mut Text, check: &HealthConfig) {
    let time = |time: Option<Duration>| print(time.unwrap_or_default());
    text.line(" Healthcheck:");
    text.line(format!("  Interval = {}", time(check.interval)));
    text.line(format!("  Retries = {}", check.retries));
    text.line(format!("  StartPeriod =\t{}", time(check.start_period)));
    text.line(format!("  Timeout =\t{}", time(check.timeout)));
    if !check.test.is_empty() {
        text.line("  Tests:");
        for (n, part) in check.test.iter().enumerate() {
            let end = if n + 1 == check.test.len() { " " } else { "" };
            text.line(format!("\t Test = {part}{end}"));
        }
    }
}

/// The verdict of the managers, and the tasks as they are now.
fn deployment(text: &mut Text, service: &Service, tasks: &[Task], nodes: &BTreeMap<NodeId, String>) {
    let Some(deployment) = &service.plan.deployment else { return };
    text.line("Deployment:");
    text.line(format!(" State:\t\t{}", deployment_state(deployment)));
    text.some(" Message:\t", &deployment.cause);
    text.line(format!(" Tasks:\t\t{}", count(service, tasks)));
    let line = |label: &str, node: &NodeId| format!(" {label}:\t{}", nodes.get(node).map_or(node.as_str(), String::as_str));
    deployment.stragglers.iter().for_each(|node| text.line(line("Straggler", node)));
    deployment.lost_nodes.iter().for_each(|node| text.line(line("Lost node", node)));
}

/// How many tasks run, and how many of them are of an older version of the service.
fn count(service: &Service, tasks: &[Task]) -> String {
    let running = tasks.iter().filter(|task| task.is_wanted() && task.status.state == TaskState::Running);
    let wanted = match service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global {} => tasks.iter().filter(|task| task.is_wanted()).count() as u64,
    };
    let version = service.plan.deployment.as_ref().map_or(service.spec.spec_version, |deployment| deployment.spec_version);
    let n_old = running.clone().filter(|task| task.spec_version != version).count();
    let completed = match service.plan.deployment.as_ref().map_or(0, |deployment| deployment.completed) {
        0 => String::new(),
        n => format!(", {n} completed"),
    };
    let text = format!("{} of {wanted} running{completed}", running.count());
    if n_old == 0 { text } else { format!("{text}, {n_old} of them with an earlier version of the service") }
}

fn addresses(text: &mut Text, service: &Service, networks: &Networks) {
    let settled = &service.plan.endpoint.virtual_addresses;
    if !settled.is_empty() {
        text.line("Virtual Addresses:");
    }
    for (network, owned) in settled {
        for address in &owned.addresses {
            text.line(format!(" {} on {}", networks.with_prefix(*network, *address), networks.name(network.as_str())));
        }
    }
}

/// What docker does not show of a container.
fn more(text: &mut Text, spec: &ContainerSpec) {
    let mut rest = Text::default();
    rest.words(" Entrypoint:\t", &spec.command);
    rest.some(" Hostname:\t", &spec.hostname);
    rest.words(" Groups:\t", &spec.groups);
    if spec.read_only {
        rest.line(" Read only:\ttrue");
    }
    if spec.no_new_privileges {
        rest.line(" No new privileges:\ttrue");
    }
    rest.some(" Stop signal:\t", &spec.stop_signal);
    if let Some(grace) = spec.stop_grace_period {
        rest.line(format!(" Stop grace period:\t{}", print(grace)));
    }
    if let Some(drain) = spec.stop_drain {
        rest.line(format!(" Stop drain:\t{}", print(drain)));
    }
    for entry in &spec.hosts {
        rest.line(format!(" Host:\t\t{}:{}", entry.name, entry.address));
    }
    rest.words(" DNS servers:\t", &spec.dns.nameservers);
    rest.words(" DNS search:\t", &spec.dns.search);
    rest.words(" DNS options:\t", &spec.dns.options);
    let pinned = spec.secrets.iter().map(|it| ("secret", &it.name, it.version));
    for (what, name, version) in pinned.chain(spec.configs.iter().map(|it| ("config", &it.name, it.version))) {
        if let Some(version) = version {
            rest.line(format!(" Pinned:\t{what} {name} version {version}"));
        }
    }
    text.section("Container:", rest);
}
