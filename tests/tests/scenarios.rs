//! Golden scenarios: `tests/scenarios/*.txt`, where each file's name is the
//! specification. A line that begins with `> ` is a command, what follows is
//! what it printed; `#` begins a comment. `UPDATE_EXPECT=1` writes them anew.

mod cluster;

use cluster::{Behaviour, Cluster, Start};
use proptest::prelude::*;
use skep_manager_core::dispatch::Passage;
use skep_manager_core::{Transaction, Write};
use skep_model::container::{FileTarget, SecretReference};
use skep_model::deployment::DeploymentState;
use skep_model::endpoint::{EndpointMode, PublishMode, PublishedPort, Transport};
use skep_model::network::{Network, NetworkRequest, NetworkSpec, Pool};
use skep_model::node::Availability;
use skep_model::request::Mutation;
use skep_model::resources::Resources;
use skep_model::sealed::Sealed;
use skep_model::secret::SecretVersion;
use skep_model::service::{
    Annotations, FailureAction, NetworkMode, Platform, RestartCondition, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig,
    UpdateOrder,
};
use skep_model::task::Task;
use skep_model::{NetworkId, NodeId, Object, Refusal, SecretId, TaskId, TaskState};
use skep_tests::slots::Slots;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn scenarios_give_their_golden_output() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 12, "only {} scenarios were found", paths.len());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a readable scenario");
        expect_test::expect_file![path].assert_eq(&run(&script));
    }
}

/// Runs a script and returns it with the output of now.
fn run(script: &str) -> String {
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
        ["show", "tasks"] => return Ok(show_tasks(cluster, false)),
        ["show", "history"] => return Ok(show_tasks(cluster, true)),
        ["show", "networks"] => return Ok(show_networks(cluster)),
        ["show", "addresses"] => return Ok(show_addresses(cluster)),
        ["show", "publication"] => return Ok(show_publication(cluster)),
        ["show", "nodes"] => return Ok(show_nodes(cluster)),
        ["show", "warnings"] => return Ok(show_warnings(cluster)),
        ["show", "spread"] => return Ok(show_spread(cluster)),
        ["show", "deployment", name] => return show_deployment(cluster, name),
        ["show", "messages", name] => {
            let agent = cluster.agents.get_mut(*name).expect("an agent of that name");
            return Ok(agent.told.drain(..).map(|line| line + "\n").collect());
        }
        _ => panic!("not a command: {command}"),
    }
    Ok(String::new())
}

fn add_node(cluster: &mut Cluster, name: &str, options: &[(&str, &str)]) {
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

fn update_node(cluster: &mut Cluster, verb: &str, name: &str, options: &[(&str, &str)]) -> Result<(), Refusal> {
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

fn new_spec(name: &str) -> ServiceSpec {
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

fn set_options(cluster: &Cluster, spec: &mut ServiceSpec, options: &[(&str, &str)]) {
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
                template.networks.push(NetworkRequest { target: (*value).into(), aliases: Vec::new() });
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

fn show_tasks(cluster: &Cluster, is_all: bool) -> String {
    let mut tasks: Vec<&Arc<Task>> = cluster.store.tasks().filter(|task| is_all || !task.status.state.is_final()).collect();
    tasks.sort_by_key(|task| (task.service_name.clone(), cluster.place(task), task.meta.created_at, task.meta.version));
    let line = |task: &&Arc<Task>| {
        let name = format!("{}.{}", task.service_name, cluster.place(task));
        let node = task.plan.node.map_or("-".into(), |node| cluster.node_name(node));
        let error = if task.status.error.is_empty() { String::new() } else { format!("  {:?}", task.status.error) };
        let line = format!(
            "{name:<8} {node:<4} desired {:<9} {:<9} v{} {}{error}",
            task.plan.desired, task.status.state, task.spec_version, task.spec.container_spec.image
        );
        line.trim_end().to_owned() + "\n"
    };
    if tasks.is_empty() { "no tasks\n".into() } else { tasks.iter().map(line).collect() }
}

fn show_networks(cluster: &Cluster) -> String {
    let mut networks: Vec<_> = cluster.store.networks().collect();
    networks.sort_by_key(|network| network.plan.vni);
    let pool = |pool: &Pool| pool.subnet.to_string();
    let line = |network: &&Arc<Network>| {
        let pools = network.plan.pools.iter().map(pool).collect::<Vec<_>>().join(" ");
        format!("{:<8} vni {} {pools}\n", network.spec.annotations.name, network.plan.vni)
    };
    networks.iter().map(line).collect()
}

/// Virtual addresses and ports of services, addresses of tasks, nodes' parts in the mesh.
fn show_addresses(cluster: &Cluster) -> String {
    let network = |id: &NetworkId| cluster.store.network(*id).map_or("-".into(), |network| network.spec.annotations.name.clone());
    let text = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut lines = Vec::new();
    for node in cluster.store.nodes() {
        let part = node.plan.ingress.as_ref().map(|ingress| format!("number {} {}", ingress.number, text(&ingress.addresses)));
        lines.push(format!("node {}: {}", node.description.hostname, part.unwrap_or("-".into())));
    }
    for service in cluster.store.services() {
        let endpoint = &service.plan.endpoint;
        let mut words: Vec<String> =
            endpoint.virtual_addresses.iter().map(|(id, own)| format!("{} {}", network(id), text(&own.addresses))).collect();
        words.sort();
        words.extend(endpoint.ports.iter().map(|port| format!("{}:{}", port.published_port, port.target_port)));
        lines.push(format!("service {}: {}", service.spec.spec.annotations.name, words.join(", ")));
    }
    for task in cluster.store.tasks().filter(|task| !task.status.state.is_final()) {
        let words: Vec<String> =
            task.networks.iter().map(|own| format!("{} {}", network(&own.network), text(&own.addresses))).collect();
        lines.push(format!("task {}.{}: {}", task.service_name, cluster.place(task), words.join(", ")));
    }
    lines.sort();
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// What the log says since it was last looked at.
fn show_warnings(cluster: &mut Cluster) -> String {
    let mut text: String = cluster.warnings.drain(..).map(|line| line + "\n").collect();
    for node in cluster.store.nodes() {
        text = text.replace(node.id.as_str(), &format!("<{}>", node.description.hostname));
    }
    text
}

fn show_nodes(cluster: &Cluster) -> String {
    let mut nodes: Vec<_> = cluster.store.nodes().collect();
    nodes.sort_by_key(|node| node.description.hostname.clone());
    let name = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    nodes
        .iter()
        .map(|node| {
            let (state, availability) = (name(&node.status.state), name(&node.spec.availability));
            let line = format!("{:<4} {state:<12} {availability:<7} {}", node.description.hostname, node.status.message);
            line.trim_end().to_owned() + "\n"
        })
        .collect()
}

fn show_publication(cluster: &Cluster) -> String {
    let mut tasks: Vec<&Arc<Task>> = cluster.store.tasks().filter(|task| !task.status.state.is_final()).collect();
    tasks.sort_by_key(|task| (task.service_name.clone(), cluster.place(task), task.meta.created_at, task.meta.version));
    let line = |task: &&Arc<Task>| {
        let publication = format!("{:?}", task.plan.endpoint.publication).to_lowercase();
        let passage = match cluster.dispatcher.barrier().passage(task) {
            Passage::Waiting => "waiting".into(),
            Passage::Open => "passed".into(),
            Passage::OpenedWithout(nodes) => format!("passed without {}", names(cluster, &nodes)),
        };
        let (name, state) = (format!("{}.{}", task.service_name, cluster.place(task)), task.status.state);
        let node = task.plan.node.map_or("-".into(), |node| cluster.node_name(node));
        format!("{name:<8} {node:<4} desired {:<9} {state:<9} {publication:<11} {passage}\n", task.plan.desired)
    };
    if tasks.is_empty() { "no tasks\n".into() } else { tasks.iter().map(line).collect() }
}

fn names(cluster: &Cluster, nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| cluster.node_name(*node)).collect::<Vec<_>>().join(", ")
}

fn show_spread(cluster: &Cluster) -> String {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for task in cluster.store.tasks().filter(|task| task.is_active()) {
        let node = task.plan.node.map_or("-".into(), |node| cluster.node_name(node));
        *counts.entry((task.service_name.clone(), node)).or_default() += 1;
    }
    counts.iter().map(|((service, node), count)| format!("{service} on {node}: {count}\n")).collect()
}

fn show_deployment(cluster: &Cluster, name: &str) -> Result<String, Refusal> {
    let service = cluster.store.resolve_service(name)?;
    let Some(deployment) = &service.plan.deployment else { return Ok("no deployment\n".into()) };
    // Ids are as random as the seed: names are what a reader can follow.
    let mut cause = deployment.cause.clone();
    for task in cluster.store.tasks() {
        cause = cause.replace(task.id.as_str(), &format!("<{}.{}>", task.service_name, cluster.place(task)));
    }
    if let Some(failed) = &deployment.failed_task {
        cause = cause.replace(failed.task.as_str(), "<one that is forgotten>");
    }
    let cause = if cause.is_empty() { String::new() } else { format!("\n  {cause}") };
    let failed = deployment.failed_task.as_ref().map(|failed| format!("\n  last: {} {:?}", failed.error, failed.log_tail));
    let stragglers = match names(cluster, &deployment.stragglers) {
        names if names.is_empty() => names,
        names => format!("\n  without {names}"),
    };
    Ok(format!(
        "{:?} v{} {:?}: {} of {} running, {} failures{cause}{stragglers}{}\n",
        deployment.kind,
        deployment.spec_version,
        deployment.state,
        deployment.running,
        deployment.wanted,
        deployment.failures,
        failed.unwrap_or_default()
    ))
}

/// The check that every test of this kind relies on can fail.
#[test]
fn a_slot_that_holds_too_much_is_noticed() {
    for order in ["stop-first", "start-first"] {
        let mut cluster = Cluster::new(7);
        add_node(&mut cluster, "n1", &[]);
        let mut spec = new_spec("web");
        set_options(&cluster, &mut spec, &[("order", order)]);
        cluster.request(Mutation::CreateService { spec: Box::new(spec) }).expect("a valid service");
        let (mut store, mut slots) = (cluster.store.clone(), Slots::default());
        let mut plant = |n: u8, slots: &mut Slots| {
            let task = Task { id: TaskId::from_random([n; 16]), ..Task::clone(&cluster.task("web.1").expect("a task")) };
            let plan = store.resolve_service("web").expect("the service").plan.value.clone();
            let mut transaction = Transaction::new(cluster.now + Duration::from_secs(n.into()));
            transaction.writes.push(Write::ServicePlan(task.service_id, plan));
            transaction.writes.push(Write::Create(Object::Task(Box::new(task))));
            let changes = store.apply(store.version + 1, &transaction).expect("nothing refuses it");
            (slots.changed(&store, &changes), slots.at_rest(&store, cluster.dispatcher.barrier()))
        };
        let (changed, at_rest) = plant(1, &mut slots);
        assert_eq!(changed.is_ok(), order == "start-first", "two in a slot, {order}: {changed:?}");
        assert!(at_rest.is_err(), "two that run are one too many");
        assert!(plant(2, &mut slots).0.is_err(), "three in a slot, {order}");
    }
}

/// One random thing that happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    Scale(u64),
    Image(u64),
    Parallelism(u64),
    Fail(usize),
    Down(usize),
    Up(usize),
    Drain(usize),
    Active(usize),
    NewLeader,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..8).prop_map(Step::Scale),
        (0_u64..3).prop_map(Step::Image),
        (0_u64..3).prop_map(Step::Parallelism),
        (0_usize..8).prop_map(Step::Fail),
        (0_usize..3).prop_map(Step::Down),
        (0_usize..3).prop_map(Step::Up),
        (0_usize..3).prop_map(Step::Drain),
        (0_usize..3).prop_map(Step::Active),
        Just(Step::NewLeader),
        (1_u64..20).prop_map(Step::Advance),
    ]
}

fn take_step(cluster: &mut Cluster, step: &Step) {
    let node = |n: &usize| format!("n{}", n + 1);
    let update = |cluster: &mut Cluster, change: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = cluster.store.resolve_service("web").expect("the service").spec.spec.clone();
        change(&mut spec);
        let mutation = Mutation::UpdateService { service: "web".into(), expect: None, spec: Box::new(spec) };
        cluster.request(mutation).expect("a valid update");
    };
    match step {
        Step::Scale(replicas) => update(cluster, &|spec| spec.mode = ServiceMode::Replicated { replicas: *replicas }),
        Step::Image(n) => update(cluster, &|spec| spec.task_template.container_spec.image = format!("app:{n}")),
        Step::Parallelism(n) => update(cluster, &|spec| spec.update_config.parallelism = *n),
        Step::Fail(n) => {
            let running: Vec<_> =
                cluster.store.tasks().filter(|task| task.status.state == TaskState::Running).map(|task| task.id).collect();
            if let Some(id) = running.get(*n) {
                cluster.report(*id, |status| status.state = TaskState::Failed);
            }
        }
        Step::Down(n) => cluster.silence(&node(n)),
        Step::Up(n) => {
            cluster.open(&node(n));
            cluster.settle();
        }
        Step::Drain(n) => update_node(cluster, "drain", &node(n), &[]).expect("a node of that name"),
        Step::Active(n) => update_node(cluster, "active", &node(n), &[]).expect("a node of that name"),
        Step::NewLeader => cluster.change_leader(),
        Step::Advance(seconds) => cluster.advance(Duration::from_secs(*seconds)),
    }
}

/// Slots whose update is under way: their task of the newest version was made to
/// replace another, and has not run yet.
fn n_updating(cluster: &Cluster) -> usize {
    let service = cluster.store.resolve_service("web").expect("the service");
    let is_step = |task: &&Arc<Task>| {
        task.spec_version == service.spec.spec_version
            && task.is_active()
            && task.plan.replaces.is_some()
            && !task.plan.is_restart
            && task.status.state < TaskState::Running
    };
    cluster.store.tasks_of_service(service.id).filter(is_step).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, the checks of the cluster hold after every transaction
    /// (legal steps, one wanted task for each slot, no over-reservation), and once
    /// all nodes are back the service is what it should be.
    #[test]
    fn a_service_survives_anything(steps in prop::collection::vec(step(), 1..40), seed in 0_u64..1000) {
        let mut cluster = Cluster::new(seed);
        for name in ["n1", "n2", "n3"] {
            add_node(&mut cluster, name, &[("cpu", "4")]);
        }
        let mut spec = new_spec("web");
        set_options(&cluster, &mut spec, &[("replicas", "3"), ("cpu", "1"), ("delay", "1s"), ("on-failure", "continue")]);
        cluster.request(Mutation::CreateService { spec: Box::new(spec) }).expect("a valid service");
        for step in &steps {
            take_step(&mut cluster, step);
        }
        for name in ["n1", "n2", "n3"] {
            cluster.open(name);
            cluster.settle();
            update_node(&mut cluster, "active", name, &[]).expect("a node of that name");
        }
        cluster.advance(Duration::from_secs(200));
        let service = cluster.store.resolve_service("web").expect("the service").clone();
        let ServiceMode::Replicated { replicas } = service.spec.spec.mode else { panic!("it is replicated") };
        let running: Vec<_> = cluster.store.tasks_of_service(service.id).filter(|task| task.is_active()).collect();
        prop_assert_eq!(running.len() as u64, replicas);
        for task in running {
            prop_assert_eq!(task.status.state, TaskState::Running);
            prop_assert_eq!(&task.spec.container_spec.image, &service.spec.spec.task_template.container_spec.image);
        }
        prop_assert_eq!(service.plan.deployment.as_ref().map(|deployment| deployment.state), Some(DeploymentState::Converged));
    }

    /// An update never has more slots under way than its parallelism allows.
    #[test]
    fn parallelism_is_never_exceeded(replicas in 1_u64..9, parallelism in 1_u64..5, delay in 0_u64..4, failing in 0_usize..9) {
        let mut cluster = Cluster::new(replicas);
        add_node(&mut cluster, "n1", &[("cpu", "16")]);
        let mut spec = new_spec("web");
        let (replicas, parallelism, delay) = (replicas.to_string(), parallelism.to_string(), format!("{delay}s"));
        let options = [("replicas", replicas.as_str()), ("parallelism", &parallelism), ("update-delay", &delay), ("delay", "1s"), ("ratio", "1")];
        set_options(&cluster, &mut spec, &options);
        cluster.request(Mutation::CreateService { spec: Box::new(spec.clone()) }).expect("a valid service");
        cluster.behaviours.insert("app:2".into(), Behaviour { start: Start::Hangs, never_stops: false });
        spec.task_template.container_spec.image = "app:2".into();
        cluster.request(Mutation::UpdateService { service: "web".into(), expect: None, spec: Box::new(spec) }).expect("an update");
        let expected = replicas.parse::<usize>().expect("a number").min(parallelism.parse().expect("a number"));
        prop_assert_eq!(n_updating(&cluster), expected);
        // One of the old tasks fails meanwhile: its restart is no step of the update.
        let old: Vec<_> = cluster.store.tasks().filter(|task| task.status.state == TaskState::Running).map(|task| task.id).collect();
        if let Some(id) = old.get(failing) {
            cluster.report(*id, |status| status.state = TaskState::Failed);
        }
        cluster.advance(Duration::from_secs(10));
        prop_assert!(n_updating(&cluster) <= expected);
        cluster.behaviours.clear();
        cluster.advance(Duration::from_secs(120));
        prop_assert_eq!(n_updating(&cluster), 0);
    }
}
