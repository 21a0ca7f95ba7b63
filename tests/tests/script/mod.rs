//! The commands of a scenario, carried out on a cluster without a network.

mod show;

use crate::cluster::{Cluster, Start};
use skep_model::container::{FileTarget, SecretReference};
use skep_model::endpoint::{EndpointMode, PublishMode, PublishedPort, Transport};
use skep_model::network::{NetworkRequest, NetworkSpec, Pool};
use skep_model::node::Availability;
use skep_model::request::Mutation;
use skep_model::resources::Resources;
use skep_model::sealed::Sealed;
use skep_model::secret::SecretVersion;
use skep_model::service::{
    Annotations, FailureAction, NetworkMode, Platform, RestartCondition, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig,
    UpdateOrder,
};
use skep_model::{Refusal, SecretId, TaskState};
use std::collections::BTreeMap;
use std::time::Duration;

/// Runs a script and returns it with the output of now.
pub fn run(script: &str) -> String {
    let mut cluster = Cluster::new(7);
    let mut out = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            out.push_str(line);
            out.push('\n');
            let printed = match execute(&mut cluster, command) {
                Ok(text) => text,
                Err(refusal) => format!("refused: {refusal}\n"),
            };
            for event in cluster.trace.drain(..) {
                out.push_str(&event);
                out.push('\n');
            }
            out.push_str(&printed);
        } else if line.starts_with('#') || line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn execute(cluster: &mut Cluster, command: &str) -> Result<String, Refusal> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let options = |from: usize| words.iter().skip(from).filter_map(|word| word.split_once('=')).collect::<Vec<_>>();
    match words.as_slice() {
        ["node", "add", name, ..] => add_node(cluster, name, &options(3)),
        ["node", "down", name] => cluster.silence(name),
        ["node", "slow", name] => cluster.agents.get_mut(*name).expect("an agent of that name").is_slow = true,
        ["node", "programs", name] => {
            cluster.agents.get_mut(*name).expect("an agent of that name").is_slow = false;
            cluster.settle();
        }
        ["node", "goodbye", name] => cluster.goodbye(name),
        ["node", "up", name] => {
            cluster.open(name);
            cluster.settle();
        }
        ["node", "rm", name] => {
            cluster.request(Mutation::RemoveNode { node: (*name).into(), force: false })?;
        }
        ["node", verb, name, ..] => update_node(cluster, verb, name, &options(3))?,
        ["service", "create", name, ..] => {
            let mut spec = new_spec(name);
            set_options(cluster, &mut spec, &options(3));
            if words.contains(&"global") {
                spec.mode = ServiceMode::Global {};
            }
            cluster.request(Mutation::CreateService { spec: Box::new(spec) })?;
        }
        ["service", "update", name, ..] => {
            let mut spec = cluster.store.resolve_service(name)?.spec.spec.clone();
            set_options(cluster, &mut spec, &options(3));
            let update = Mutation::UpdateService { service: (*name).into(), expect: None, spec: Box::new(spec) };
            cluster.request(update)?;
        }
        ["service", "scale", name, replicas] => {
            let replicas = replicas.parse().expect("a number of replicas");
            cluster.request(Mutation::ScaleService { service: (*name).into(), replicas })?;
        }
        ["service", "rollback", name] => {
            cluster.request(Mutation::RollbackService { service: (*name).into(), expect: None })?;
        }
        ["service", "rm", name] => {
            cluster.request(Mutation::RemoveService { service: (*name).into() })?;
        }
        ["service" | "image", "behave", name, ..] => behave(cluster, name, &options(3)),
        ["network", "create", name, ..] => create_network(cluster, name, &options(3))?,
        ["network", "rm", name] => {
            cluster.request(Mutation::RemoveNetwork { network: (*name).into() })?;
        }
        ["secret", verb, name, ..] => secret(cluster, verb, name, words.get(3).copied().unwrap_or_default())?,
        ["task", verb, name] => end_task(cluster, verb, name),
        ["task", "attempt", name, n] => {
            let task = cluster.task(name).expect("a task of that name");
            let attempt = n.parse().expect("a number of attempts");
            cluster.report(task.id, |status| status.attempt = attempt);
        }
        ["leader", "change"] => cluster.change_leader(),
        ["advance", duration] => cluster.advance(parse_duration(duration)),
        ["trace", "on"] => cluster.is_traced = true,
        ["trace", "off"] => cluster.is_traced = false,
        ["show", "tasks"] => return Ok(show::tasks(cluster, false)),
        ["show", "history"] => return Ok(show::tasks(cluster, true)),
        ["show", "networks"] => return Ok(show::networks(cluster)),
        ["show", "addresses"] => return Ok(show::addresses(cluster)),
        ["show", "publication"] => return Ok(show::publication(cluster)),
        ["show", "nodes"] => return Ok(show::nodes(cluster)),
        ["show", "warnings"] => return Ok(show::warnings(cluster)),
        ["show", "spread"] => return Ok(show::spread(cluster)),
        ["show", "deployment", name] => return show::deployment(cluster, name),
        ["show", "messages", name] => {
            let agent = cluster.agents.get_mut(*name).expect("an agent of that name");
            return Ok(agent.told.drain(..).map(|line| line + "\n").collect());
        }
        _ => panic!("not a command: {command}"),
    }
    Ok(String::new())
}

pub fn add_node(cluster: &mut Cluster, name: &str, options: &[(&str, &str)]) {
    let mut resources = Resources { nano_cpus: 4_000_000_000, memory_bytes: 8 << 30 };
    let mut platform = Platform { architecture: "x86_64".into(), os: "linux".into() };
    let mut labels = Vec::new();
    for (key, value) in options {
        match *key {
            "cpu" => resources.nano_cpus = value.parse::<u64>().expect("a number of cores") * 1_000_000_000,
            "mem" => resources.memory_bytes = value.parse::<u64>().expect("a number of MiB") << 20,
            "arch" => platform.architecture = (*value).into(),
            "label" => labels.push(*value),
            other => panic!("a node has no {other}"),
        }
    }
    cluster.add_node(name, resources, platform);
    for label in labels {
        update_node(cluster, "label", name, &[label.split_once(':').expect("KEY:VALUE")]).expect("a label");
    }
}

pub fn update_node(cluster: &mut Cluster, verb: &str, name: &str, options: &[(&str, &str)]) -> Result<(), Refusal> {
    let mut spec = cluster.store.resolve_node(name)?.spec.value.clone();
    match verb {
        "drain" => spec.availability = Availability::Drain,
        "pause" => spec.availability = Availability::Pause,
        "active" => spec.availability = Availability::Active,
        "label" => spec.labels.extend(options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))),
        other => panic!("a node cannot {other}"),
    }
    cluster.request(Mutation::UpdateNode { node: name.into(), expect: None, spec }).map(drop)
}

fn create_network(cluster: &mut Cluster, name: &str, options: &[(&str, &str)]) -> Result<(), Refusal> {
    let mut spec = NetworkSpec { driver: "overlay".into(), ..NetworkSpec::default() };
    spec.annotations.name = name.into();
    for (key, value) in options {
        match *key {
            "subnet" => {
                let subnet = value.parse().expect("a subnet");
                spec.pools.push(Pool { subnet, range: None, gateway: None });
            }
            "ipv6" => spec.ipv6 = true,
            "ingress" => spec.ingress = true,
            other => panic!("a network has no {other}"),
        }
    }
    cluster.request(Mutation::CreateNetwork { spec }).map(drop)
}

/// `PUBLISHED:TARGET/PROTOCOL`
fn parse_port(text: &str, publish_mode: PublishMode) -> PublishedPort {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = ports.split_once(':').expect("a published and a target port");
    let transport = if protocol == "udp" { Transport::Udp } else { Transport::Tcp };
    let number = |text: &str| text.parse().expect("the number of a port");
    PublishedPort { transport, target_port: number(target), published_port: number(published), publish_mode }
}

pub fn new_spec(name: &str) -> ServiceSpec {
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

pub fn set_options(cluster: &Cluster, spec: &mut ServiceSpec, options: &[(&str, &str)]) {
    for (key, value) in options {
        let template = &mut spec.task_template;
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{key} is a number, not {value}"));
        match *key {
            "replicas" => spec.mode = ServiceMode::Replicated { replicas: number() },
            "image" => template.container_spec.image = (*value).into(),
            "cpu" => template.resources.reservations.nano_cpus = number() * 1_000_000_000,
            "constraint" => template.placement.constraints = vec![value.replace('~', "==")],
            "spread" => template.placement.spread.push((*value).into()),
            "max-per-node" => template.placement.max_replicas = number(),
            "arch" => template.placement.platforms = vec![Platform { architecture: (*value).into(), os: "linux".into() }],
            "restart" => {
                template.restart_policy.condition = match *value {
                    "none" => RestartCondition::None,
                    "on-failure" => RestartCondition::OnFailure,
                    _ => RestartCondition::Any,
                };
            }
            "delay" => template.restart_policy.delay = parse_duration(value),
            "attempts" => template.restart_policy.max_attempts = number(),
            "window" => template.restart_policy.window = parse_duration(value),
            "grace" => template.container_spec.stop_grace_period = Some(parse_duration(value)),
            "drain" => template.container_spec.stop_drain = Some(parse_duration(value)),
            "force" => template.force_update = number(),
            "parallelism" => spec.update_config.parallelism = number(),
            "update-delay" => spec.update_config.delay = parse_duration(value),
            "monitor" => spec.update_config.monitor = parse_duration(value),
            "order" if *value == "start-first" => spec.update_config.order = UpdateOrder::StartFirst,
            "order" => spec.update_config.order = UpdateOrder::StopFirst,
            "ratio" => spec.update_config.max_failure_ratio = value.parse().expect("a ratio"),
            "on-failure" => {
                spec.update_config.failure_action = match *value {
                    "continue" => FailureAction::Continue,
                    "rollback" => FailureAction::Rollback,
                    _ => FailureAction::Pause,
                };
            }
            "deadline" => spec.deadline = Some(parse_duration(value)),
            "label" => drop(spec.annotations.labels.insert("label".into(), (*value).into())),
            // In the place of those that it had.
            "network" => {
                template.network = NetworkMode::Bridge;
                template.networks.retain(|request| request.target.len() < 25);
                template.networks.push(NetworkRequest { target: (*value).into(), aliases: Vec::new(), any_source: false });
            }
            "publish" | "publish-host" => {
                template.network = NetworkMode::Bridge;
                let mode = if *key == "publish" { PublishMode::Ingress } else { PublishMode::Host };
                spec.endpoint_spec.ports = vec![parse_port(value, mode)];
            }
            "endpoint-mode" if *value == "dnsrr" => spec.endpoint_spec.mode = EndpointMode::Dnsrr,
            "endpoint-mode" => spec.endpoint_spec.mode = EndpointMode::Vip,
            "secret" => {
                let stored = cluster.store.resolve_secret(value).expect("a secret of that name");
                let file = FileTarget { name: (*value).into(), uid: 0, gid: 0, mode: 0o444 };
                let reference = SecretReference { id: stored.id, name: (*value).into(), version: None, file };
                template.container_spec.secrets.push(reference);
            }
            other => panic!("a service has no {other}"),
        }
    }
}

fn behave(cluster: &mut Cluster, name: &str, options: &[(&str, &str)]) {
    let mut behaviour = cluster.behaviours.get(name).cloned().unwrap_or_default();
    for option in options {
        match option {
            ("start", "runs") => behaviour.start = Start::Runs,
            ("start", "fails") => behaviour.start = Start::Fails,
            ("start", "rejected") => behaviour.start = Start::Rejected,
            ("start", "hangs") => behaviour.start = Start::Hangs,
            ("start", "unready") => behaviour.start = Start::Unready,
            ("start", "healthy") => behaviour.start = Start::Healthy,
            ("stop", value) => behaviour.never_stops = *value == "never",
            other => panic!("nobody behaves like {other:?}"),
        }
    }
    cluster.behaviours.insert(name.into(), behaviour);
    cluster.settle();
}

fn secret(cluster: &mut Cluster, verb: &str, name: &str, value: &str) -> Result<(), Refusal> {
    let version = |n: u64| SecretVersion {
        n,
        sealed: Sealed { key_generation: 1, nonce: [0; 12], bytes: vec![0; 16 + value.len()] },
        // Stands for the keyed hash of the value.
        fingerprint: format!("{:016x}", value.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte))),
        created_at: cluster.now,
    };
    let mutation = match verb {
        "create" => Mutation::CreateSecret {
            id: SecretId::from_random([name.len() as u8; 16]),
            annotations: Annotations { name: name.into(), labels: BTreeMap::new() },
            version: version(1),
        },
        "update" => {
            let newest = cluster.store.resolve_secret(name)?.spec.versions.last().map_or(0, |version| version.n);
            Mutation::UpdateSecret { secret: name.into(), version: Some(version(newest + 1)), labels: None }
        }
        "rm" => Mutation::RemoveSecret { secret: name.into() },
        other => panic!("a secret cannot {other}"),
    };
    cluster.request(mutation).map(drop)
}

fn end_task(cluster: &mut Cluster, verb: &str, name: &str) {
    let task = cluster.task(name).unwrap_or_else(|| panic!("there is no task {name}"));
    let verb = verb.to_owned();
    cluster.report(task.id, move |status| match verb.as_str() {
        "fail" => {
            status.state = TaskState::Failed;
            status.error = "task: non-zero exit (1)".into();
            status.log_tail = vec!["it broke".into()];
        }
        "complete" => status.state = TaskState::Complete,
        "evict" => {
            (status.state, status.is_evicted) = (TaskState::Failed, true);
            status.error = "the node was restarted".into();
        }
        other => panic!("a task cannot {other}"),
    });
}

fn parse_duration(text: &str) -> Duration {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).expect("a duration has a unit");
    let number: u64 = text[..split].parse().expect("a duration has a number");
    match &text[split..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(60 * number),
        "h" => Duration::from_secs(3600 * number),
        other => panic!("{other} is no unit of time"),
    }
}
