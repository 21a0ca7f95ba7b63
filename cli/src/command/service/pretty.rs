//! A service for people: `skep service inspect --pretty`.

use crate::command::network::known::Networks;
use crate::flags::duration::print;
use crate::render::{json, size};
use serde::Serialize;
use skep_model::container::{ContainerSpec, HealthConfig};
use skep_model::service::{Service, ServiceMode, TaskSpec, UpdateConfig};
use std::fmt::Write as _;
use std::time::Duration;

/// The text, ending in a newline.
pub fn text(service: &Service, networks: &Networks) -> String {
    let spec = &service.spec.spec;
    let mut text = Text::default();
    text.line("ID", &service.id);
    text.line("Name", &spec.annotations.name);
    text.map("Labels", &spec.annotations.labels);
    match spec.mode {
        ServiceMode::Global {} => text.line("Service Mode", &"Global"),
        ServiceMode::Replicated { replicas } => {
            text.line("Service Mode", &"Replicated");
            text.inner("Replicas", &replicas);
        }
    }
    deployment(&mut text, service);
    placement(&mut text, &spec.task_template);
    update(&mut text, "UpdateConfig", "Update order", &spec.update_config);
    update(&mut text, "RollbackConfig", "Rollback order", &spec.rollback_config);
    text.0.push_str("ContainerSpec:\n");
    container(&mut text, &spec.task_template.container_spec);
    resources(&mut text, &spec.task_template);
    endpoint(&mut text, service, networks);
    text.0
}

/// Networks, endpoint mode and ports, in Swarm's form.
fn endpoint(text: &mut Text, service: &Service, networks: &Networks) {
    let spec = &service.spec.spec;
    let mut names = vec![word(&spec.task_template.network)];
    names.extend(spec.task_template.networks.iter().map(|request| networks.name(&request.target).to_owned()));
    // What every task has that is told of no network of its own.
    if names.len() > 1 {
        names.remove(0);
    }
    text.line("Networks", &names.join(" "));
    text.line("Endpoint Mode", &word(&spec.endpoint_spec.mode));
    let settled = &service.plan.endpoint;
    for (network, owned) in &settled.virtual_addresses {
        for address in &owned.addresses {
            text.inner(
                "Virtual address",
                &format!("{} on {}", networks.with_prefix(*network, *address), networks.name(network.as_str())),
            );
        }
    }
    // Before the leader has settled them, those that were asked for.
    let ports = if settled.ports.is_empty() { &spec.endpoint_spec.ports } else { &settled.ports };
    if !ports.is_empty() {
        text.0.push_str("Ports:\n");
    }
    for port in ports {
        text.inner(
            "PublishedPort",
            &if port.published_port == 0 { "chosen later".to_owned() } else { port.published_port.to_string() },
        );
        text.inner("  Protocol", &port.transport.name());
        text.inner("  TargetPort", &port.target_port);
        text.inner("  PublishMode", &word(&port.publish_mode));
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, label: &str, value: &dyn std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{label}:\t{value}");
    }

    fn inner(&mut self, label: &str, value: &dyn std::fmt::Display) {
        let _ = writeln!(self.0, " {label}:\t{value}");
    }

    fn some(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.inner(label, &value);
        }
    }

    fn map(&mut self, label: &str, map: &std::collections::BTreeMap<String, String>) {
        if !map.is_empty() {
            let _ = writeln!(self.0, "{label}:");
            for (key, value) in map {
                let _ = writeln!(self.0, " {key}={value}");
            }
        }
    }
}

/// The word that JSON has for a value of a few.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn deployment(text: &mut Text, service: &Service) {
    let Some(deployment) = &service.plan.deployment else { return };
    text.0.push_str("Deployment:\n");
    text.inner("State", &json::deployment_state(deployment.state));
    text.some("Message", &deployment.cause);
    text.inner("Tasks", &format!("{} of {} running", deployment.running, deployment.wanted));
    for straggler in &deployment.stragglers {
        text.inner("Straggler", straggler);
    }
}

fn placement(text: &mut Text, template: &TaskSpec) {
    let placement = &template.placement;
    if placement.constraints.is_empty() && placement.spread.is_empty() && placement.max_replicas == 0 {
        return;
    }
    text.0.push_str("Placement:\n");
    text.some("Constraints", &placement.constraints.join(", "));
    let preferences: Vec<String> = placement.spread.iter().map(|label| format!("spread={label}")).collect();
    text.some("Preferences", &preferences.join(", "));
    if placement.max_replicas > 0 {
        text.inner("Max Replicas Per Node", &placement.max_replicas);
    }
}

fn update(text: &mut Text, title: &str, order: &str, config: &UpdateConfig) {
    let _ = writeln!(text.0, "{title}:");
    text.inner("Parallelism", &config.parallelism);
    if config.delay > Duration::ZERO {
        text.inner("Delay", &print(config.delay));
    }
    text.inner("On failure", &word(&config.failure_action));
    text.inner("Monitoring Period", &print(config.monitor));
    text.inner("Max failure ratio", &config.max_failure_ratio);
    text.inner(order, &word(&config.order));
}

fn container(text: &mut Text, spec: &ContainerSpec) {
    text.inner("Image", &spec.image);
    text.some("Entrypoint", &spec.command.join(" "));
    text.some("Args", &spec.args.join(" "));
    text.some("Env", &spec.env.join(" "));
    text.some("Dir", &spec.dir);
    text.some("User", &spec.user);
    text.some("Hostname", &spec.hostname);
    text.some("Groups", &spec.groups.join(" "));
    text.some("Capabilities added", &spec.capability_add.join(", "));
    text.some("Capabilities dropped", &spec.capability_drop.join(", "));
    if spec.read_only {
        text.inner("Read only", &true);
    }
    for mount in &spec.mounts {
        let mode = if mount.read_only { "ro" } else { "rw" };
        text.inner("Mount", &format!("{} -> {} ({}, {mode})", mount.source, mount.target, word(&mount.kind)));
    }
    for secret in &spec.secrets {
        text.inner("Secret", &reference(&secret.name, secret.version, &secret.file.name));
    }
    for config in &spec.configs {
        text.inner("Config", &reference(&config.name, config.version, &config.file.name));
    }
    for entry in &spec.hosts {
        text.inner("Host", &format!("{}:{}", entry.name, entry.address));
    }
    text.some("DNS servers", &spec.dns.nameservers.join(" "));
    text.some("DNS search", &spec.dns.search.join(" "));
    text.some("DNS options", &spec.dns.options.join(" "));
    if let Some(drain) = spec.stop_drain {
        text.inner("Stop drain", &print(drain));
    }
    if let Some(check) = &spec.healthcheck {
        health(text, check);
    }
}

fn reference(name: &str, version: Option<u64>, target: &str) -> String {
    match version {
        Some(version) => format!("{name} version {version} -> {target}"),
        None => format!("{name} (current version) -> {target}"),
    }
}

fn health(text: &mut Text, check: &HealthConfig) {
    text.some("Health check", &check.test.join(" "));
    let times = [("Interval", check.interval), ("Timeout", check.timeout), ("Start period", check.start_period)];
    for (label, time) in times {
        if let Some(time) = time {
            text.inner(&format!("Health {}", label.to_lowercase()), &print(time));
        }
    }
    if check.retries > 0 {
        text.inner("Health retries", &check.retries);
    }
}

fn resources(text: &mut Text, template: &TaskSpec) {
    let cpus = |nanos: u64| format!("{}", nanos as f64 / 1e9);
    let (limits, reserved) = (&template.resources.limits, &template.resources.reservations);
    if *limits == Default::default() && *reserved == Default::default() {
        return;
    }
    text.0.push_str("Resources:\n");
    let amounts = [
        ("Reserved CPU", reserved.nano_cpus, cpus(reserved.nano_cpus)),
        ("Reserved memory", reserved.memory_bytes, size::binary(reserved.memory_bytes)),
        ("CPU limit", limits.nano_cpus, cpus(limits.nano_cpus)),
        ("Memory limit", limits.memory_bytes, size::binary(limits.memory_bytes)),
        ("Process limit", limits.pids, limits.pids.to_string()),
    ];
    for (label, amount, shown) in amounts {
        if amount > 0 {
            text.inner(label, &shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_service_for_people_says_where_it_is_reached() {
        let networks = Networks::from(vec![sample::network(), sample::ingress()]);
        expect![[r#"
            ID:	0000000000000000000000001
            Name:	web
            Labels:
             tier=front
            Service Mode:	Replicated
             Replicas:	3
            Deployment:
             State:	progressing
             Tasks:	1 of 3 running
            UpdateConfig:
             Parallelism:	1
             On failure:	pause
             Monitoring Period:	5s
             Max failure ratio:	0
             Update order:	stop-first
            RollbackConfig:
             Parallelism:	1
             On failure:	pause
             Monitoring Period:	5s
             Max failure ratio:	0
             Rollback order:	stop-first
            ContainerSpec:
             Image:	redis:7
             Env:	A=1
            Networks:	backend
            Endpoint Mode:	vip
             Virtual address:	10.0.16.2/20 on backend
             Virtual address:	10.0.0.5/20 on ingress
            Ports:
             PublishedPort:	8080
               Protocol:	tcp
               TargetPort:	80
               PublishMode:	ingress
             PublishedPort:	9090
               Protocol:	udp
               TargetPort:	9090
               PublishMode:	host
        "#]]
        .assert_eq(&text(&sample::published_service(), &networks));
    }
}
