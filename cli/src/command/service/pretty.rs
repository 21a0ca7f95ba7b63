//! A service for people: `skep service inspect --pretty`.
//!
//! Docker's text comes first, line by line, so that whoever reads it with a script goes
//! on doing so; what only this version knows follows it.

use crate::command::network::known::Networks;
use crate::flags::duration::print;
use crate::render::pretty::Text;
use crate::render::{ago, json, size};
use serde::Serialize;
use skep_model::container::{ContainerSpec, HealthConfig};
use skep_model::service::{Service, ServiceMode, TaskSpec, UpdateConfig};
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
    let Some(status) = service.plan.deployment.as_ref().and_then(json::UpdateStatus::of) else { return };
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
    text.line(format!(" On failure:\t{}", word(&config.failure_action)));
    if config.monitor > Duration::ZERO {
        text.line(format!(" Monitoring Period: {}", print(config.monitor)));
    }
    text.line(format!(" Max failure ratio: {}", config.max_failure_ratio));
    text.line(format!(" {order}{}", word(&config.order)));
}

/// What docker shows of a container.
fn docker_container(text: &mut Text, spec: &ContainerSpec) {
    text.line("ContainerSpec:");
    text.line(format!(" Image:\t\t{}", spec.image));
    // A space follows each word.
    text.words(" Args:\t\t", &spec.args);
    text.words(" Env:\t\t", &spec.env);
    text.some(" Dir:\t\t", &spec.dir);
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
        text.line(format!("  Type:\t\t{}", word(&mount.kind)));
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
    let mut names = vec![word(&spec.task_template.network)];
    names.extend(spec.task_template.networks.iter().map(|request| networks.name(&request.target).to_owned()));
    // What every task has that is told of no network of its own.
    if names.len() > 1 {
        names.remove(0);
    }
    text.words("Networks: ", &names);
    text.line(format!("Endpoint Mode:\t{}", word(&spec.endpoint_spec.mode)));
    let settled = &service.plan.endpoint;
    // Before the leader has settled them, those that were asked for.
    let ports = if settled.ports.is_empty() { &spec.endpoint_spec.ports } else { &settled.ports };
    if !ports.is_empty() {
        text.line("Ports:");
    }
    for port in ports {
        text.line(format!(" PublishedPort = {}", port.published_port));
        text.line(format!("  Protocol = {}", port.transport.name()));
        text.line(format!("  TargetPort = {}", port.target_port));
        text.line(format!("  PublishMode = {}", word(&port.publish_mode)));
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
        check.test.iter().for_each(|part| text.line(format!("\t Test = {part}")));
    }
}

/// The verdict of the managers, and the tasks as they are now.
fn deployment(text: &mut Text, service: &Service, tasks: &[Task], nodes: &BTreeMap<NodeId, String>) {
    let Some(deployment) = &service.plan.deployment else { return };
    text.line("Deployment:");
    text.line(format!(" State:\t\t{}", json::deployment_state(deployment)));
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

/// The word that JSON has for a value of a few.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::service::spec_of_create;
    use crate::render::sample;
    use expect_test::expect;
    use skep_model::deployment::DeploymentState;

    fn networks() -> Networks {
        Networks::from(vec![sample::network(), sample::ingress()])
    }

    #[test]
    fn a_service_for_people_begins_as_dockers() {
        expect![[r#"

            ID:		0000000000000000000000001
            Name:		web
            Labels:
             tier=front
            Service Mode:	Replicated
             Replicas:	3
            UpdateStatus:
             State:		updating
             Started:	40 seconds ago
             Message:	update in progress
            Placement:
            UpdateConfig:
             Parallelism:	1
             On failure:	pause
             Monitoring Period: 5s
             Max failure ratio: 0
             Update order:      stop-first
            RollbackConfig:
             Parallelism:	1
             On failure:	pause
             Monitoring Period: 5s
             Max failure ratio: 0
             Rollback order:    stop-first
            ContainerSpec:
             Image:		redis:7
             Env:		A=1 
            Resources:
            Networks: backend 
            Endpoint Mode:	vip
            Ports:
             PublishedPort = 8080
              Protocol = tcp
              TargetPort = 80
              PublishMode = ingress
             PublishedPort = 9090
              Protocol = udp
              TargetPort = 9090
              PublishMode = host
            Deployment:
             State:		progressing
             Tasks:		1 of 3 running
            Virtual Addresses:
             10.0.16.2/20 on backend
             10.0.0.5/20 on ingress

        "#]]
        .assert_eq(&text(&sample::published_service(), &[sample::task()], &networks(), &BTreeMap::new(), Time(60_000_000_000)));
    }

    #[test]
    fn every_field_has_its_place() {
        let mut service = sample::service();
        service.plan.value.deployment = None;
        service.spec.value.spec = spec_of_create(&[
            "--name=full",
            "--mode=global",
            "--constraint=node.role!=worker",
            "--placement-pref=spread=node.labels.zone",
            "--update-delay=3s",
            "--cap-add=NET_ADMIN",
            "--cap-drop=CHOWN",
            "--sysctl=net.core.somaxconn=200",
            "--ulimit=nofile=100:200",
            "--mount=type=bind,src=/etc/hosts,dst=/h,ro",
            "--limit-cpu=0.5",
            "--limit-memory=64m",
            "--limit-pids=50",
            "--reserve-cpu=0.1",
            "--user=1000:1000",
            "--workdir=/tmp",
            "--health-cmd=true || exit 1",
            "--health-interval=5s",
            "--health-retries=4",
            "--hostname=box",
            "--read-only",
            "--stop-grace-period=3s",
            "--env=A=line\nbreak\x1b[31m",
            "--label=a=b\n c",
            "busybox",
            "sleep",
            "1000",
        ]);
        expect![[r#"

            ID:		0000000000000000000000001
            Name:		full
            Labels:
             a=b\n c
            Service Mode:	Global
            Placement:
             Constraints:	[node.role!=worker]
             Preferences:   [spread=node.labels.zone]
            UpdateConfig:
             Parallelism:	1
             Delay:		3s
             On failure:	pause
             Monitoring Period: 5s
             Max failure ratio: 0
             Update order:      stop-first
            RollbackConfig:
             Parallelism:	1
             On failure:	pause
             Monitoring Period: 5s
             Max failure ratio: 0
             Rollback order:    stop-first
            ContainerSpec:
             Image:		busybox:latest
             Args:		sleep 1000 
             Env:		A=line\nbreak\u{1b}[31m 
             Dir:		/tmp
             User: 1000:1000
            Capabilities:
             Add: CAP_NET_ADMIN
             Drop: CAP_CHOWN
            SysCtls:
             net.core.somaxconn: 200
            Ulimits:
             nofile: 100:200
            Mounts:
             Target:	/h
              Source:	/etc/hosts
              ReadOnly:	true
              Type:		bind
            Resources:
             Reservations:
              CPU:		0.1
             Limits:
              CPU:		0.5
              Memory:	64MiB
              PIDs:		50
            Networks: bridge 
            Endpoint Mode:	vip
             Healthcheck:
              Interval = 5s
              Retries = 4
              StartPeriod =	0s
              Timeout =	0s
              Tests:
            	 Test = CMD-SHELL
            	 Test = true || exit 1
            Container:
             Hostname:	box
             Read only:	true
             Stop grace period:	3s

        "#]]
        .assert_eq(&text(&service, &[], &networks(), &BTreeMap::new(), Time(0)));
    }

    #[test]
    fn after_a_paused_update_the_tasks_that_serve_are_counted() {
        let mut service = sample::service();
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        (deployment.state, deployment.running) = (DeploymentState::Paused, 0);
        deployment.ended_at = Some(Time(30_000_000_000));
        deployment.cause = "update paused due to failure".into();
        let old = Task { spec_version: 1, ..sample::task() };
        let mut failed = sample::task();
        failed.status.value.state = TaskState::Failed;
        let text = text(&service, &[old.clone(), old, failed], &networks(), &BTreeMap::new(), Time(90_000_000_000));
        assert!(text.contains("\n Tasks:\t\t2 of 3 running, 2 of them with an earlier version of the service\n"), "{text}");
        let status = "UpdateStatus:\n State:\t\tpaused\n Started:\tAbout a minute ago\n Message:\tupdate paused due to failure\n";
        assert!(text.contains(status), "{text}");
    }

    #[test]
    fn a_node_that_is_behind_and_one_that_was_lost_are_named_once() {
        let mut service = sample::service();
        let [behind, lost, removed] = [1, 2, 3].map(|number| NodeId::from_random([number; 16]));
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        (deployment.stragglers, deployment.lost_nodes) = (vec![behind], vec![lost, removed]);
        let nodes = BTreeMap::from([(behind, "w1".to_owned()), (lost, "w2".to_owned())]);
        let text = text(&service, &[], &networks(), &nodes, Time(0));
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("Straggler") || line.contains("Lost")).collect();
        assert_eq!(lines, [" Straggler:\tw1", " Lost node:\tw2", &format!(" Lost node:\t{removed}")]);
    }

    #[test]
    fn a_completed_update_says_when() {
        let mut service = sample::service();
        let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
        (deployment.state, deployment.ended_at) = (DeploymentState::Converged, Some(Time(50_000_000_000)));
        let text = text(&service, &[], &networks(), &BTreeMap::new(), Time(60_000_000_000));
        let status =
            " State:\t\tcompleted\n Started:\t40 seconds ago\n Completed:\t10 seconds ago\n Message:\tupdate completed\n";
        assert!(text.contains(status), "{text}");
    }
}
