//! Services: what clients ask for, and what they must have come to in the end.

use super::containers::IMAGES;
use super::random::Dice;
use skep_manager_core::store::Store;
use skep_manager_core::timing::DEPLOYMENT_DEADLINE;
use skep_model::constraint::Constraint;
use skep_model::container::{ContainerSpec, SecretReference};
use skep_model::deployment::DeploymentState;
use skep_model::endpoint::{EndpointMode, EndpointSpec, PublishMode, PublishedPort, Transport};
use skep_model::network::NetworkRequest;
use skep_model::node::{Availability, Node, NodeState};
use skep_model::resources::{ResourceRequirements, Resources};
use skep_model::service::{
    Annotations, FailureAction, NetworkMode, RestartCondition, RestartPolicy, Service, ServiceMode, ServiceSpec, TaskSpec,
    UpdateConfig, UpdateOrder,
};
use skep_model::task::Task;
use skep_model::{NodeId, TaskState, Time};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// What a client wants of a service.
pub(super) fn draw(
    name: &str,
    mode: ServiceMode,
    secret: Option<SecretReference>,
    network: Option<String>,
    dice: &mut Dice,
) -> ServiceSpec {
    let container_spec = ContainerSpec {
        image: format!("{}:{}", dice.pick(&IMAGES), dice.below(3)),
        secrets: secret.into_iter().collect(),
        stop_grace_period: Some(dice.between(MS * 500, MS * 3_000)),
        ..ContainerSpec::default()
    };
    let condition = *dice.pick(&[
        RestartCondition::Any,
        RestartCondition::Any,
        RestartCondition::Any,
        RestartCondition::OnFailure,
        RestartCondition::None,
    ]);
    let restart_policy = RestartPolicy {
        condition,
        delay: dice.between(Duration::ZERO, MS * 4_000),
        max_attempts: *dice.pick(&[0, 0, 0, 3]),
        // Three of the longest delays fit in.
        window: *dice.pick(&[Duration::ZERO, MS * 12_000]),
    };
    let nano_cpus = *dice.pick(&[0, 0, 300_000_000, 900_000_000]);
    let reservations = Resources { nano_cpus, memory_bytes: 0 };
    // By its name, so that no other draw changes.
    let start_offline = name.bytes().map(u64::from).sum::<u64>() % 3 == 0;
    let mut task_template = TaskSpec { container_spec, restart_policy, start_offline, ..TaskSpec::default() };
    task_template.resources = ResourceRequirements { reservations, ..ResourceRequirements::default() };
    task_template.placement.constraints =
        dice.pick(&[vec![], vec![], vec!["node.labels.zone==z1".to_string()], vec!["node.role!=manager".to_string()]]).clone();
    task_template.placement.max_replicas = *dice.pick(&[0, 0, 0, 2]);
    if matches!(mode, ServiceMode::Global {}) {
        task_template.placement.max_replicas = 0;
    }
    let mut endpoint_spec = EndpointSpec::default();
    if let Some(target) = network {
        task_template.network = NetworkMode::Bridge;
        task_template.networks.push(NetworkRequest { target, aliases: vec![format!("{name}-too")], any_source: false });
        endpoint_spec.mode = *dice.pick(&[EndpointMode::Vip, EndpointMode::Vip, EndpointMode::Dnsrr]);
        if endpoint_spec.mode == EndpointMode::Vip && dice.chance(300_000) {
            let (transport, publish_mode) = (Transport::Tcp, PublishMode::Ingress);
            endpoint_spec.ports.push(PublishedPort { transport, target_port: 80, published_port: 0, publish_mode });
        }
    }
    ServiceSpec {
        annotations: Annotations { name: name.into(), ..Annotations::default() },
        task_template,
        mode,
        update_config: update_config(dice),
        // A rollback is not rolled back.
        rollback_config: UpdateConfig { failure_action: FailureAction::Pause, ..update_config(dice) },
        deadline: *dice.pick(&[None, Some(MS * 20_000)]),
        endpoint_spec,
    }
}

/// Whether any service publishes a port through the mesh.
pub(super) fn has_mesh(store: &Store) -> bool {
    store.services().any(|service| is_in_mesh(service))
}

/// Whether a service publishes a port on every node.
pub(super) fn is_in_mesh(service: &Service) -> bool {
    service.plan.endpoint.ports.iter().any(|port| port.publish_mode == PublishMode::Ingress)
}

fn update_config(dice: &mut Dice) -> UpdateConfig {
    UpdateConfig {
        parallelism: dice.below(3) as u64,
        delay: dice.between(Duration::ZERO, MS * 1_000),
        failure_action: *dice.pick(&[FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback]),
        monitor: dice.between(MS * 500, MS * 3_000),
        max_failure_ratio: *dice.pick(&[0.0, 0.5]),
        order: *dice.pick(&[UpdateOrder::StopFirst, UpdateOrder::StopFirst, UpdateOrder::StartFirst]),
    }
}

/// What services lack until each is as it is wanted, or has come to an end that
/// says why it is not.
pub(super) fn lack(store: &Store, now: Time) -> Option<String> {
    store.services().find_map(|service| lacks(store, service, now))
}

fn lacks(store: &Store, service: &Service, now: Time) -> Option<String> {
    let name = &service.spec.spec.annotations.name;
    if service.plan.removed_at.is_some() {
        return Some(format!("service {name} was removed and is still there"));
    }
    let tasks = || store.tasks_of_service(service.id);
    if let Some(task) = tasks().find(|task| !task.is_wanted() && !task.status.state.is_final()) {
        return Some(format!("task {} of {name} is still {}", task.id, task.status.state));
    }
    let Some(deployment) = &service.plan.deployment else { return Some(format!("service {name} has no deployment")) };
    let is_pending = tasks().any(|task| {
        task.is_active()
            && task.status.state == TaskState::Pending
            && !(task.status.error.is_empty() && task.status.message.is_empty())
    });
    let policy = service.spec.spec.task_template.restart_policy;
    let gives_up = policy.condition != RestartCondition::Any || policy.max_attempts > 0;
    // Tasks that were lost with their node and are not restarted: the deadline decides.
    let deadline = service.spec.spec.deadline.unwrap_or(DEPLOYMENT_DEADLINE);
    let is_waiting = gives_up && now.since(deployment.progressed_at) < deadline;
    if deployment.state == DeploymentState::Progressing && !is_pending && !is_waiting {
        return Some(format!("the deployment of {name} has no verdict: {deployment:?}"));
    }
    let is_stuck = matches!(deployment.state, DeploymentState::Paused | DeploymentState::Failed);
    if gives_up || is_stuck || is_pending {
        return None;
    }
    let n_wanted = match service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global {} => store.nodes().filter(|node| takes_tasks(service, node)).count() as u64,
    };
    let is_up = |state| state == TaskState::Running;
    let running = || tasks().filter(|task| is_up(task.plan.desired) && is_up(task.status.state));
    let n_running = running().filter(|task| is_as_wanted(service, task) && is_newest(store, service, task)).count() as u64;
    if n_running != n_wanted || running().count() as u64 != n_wanted {
        let states: Vec<_> = tasks().map(|task| (task.slot, task.plan.desired, task.status.state, task.spec_version)).collect();
        return Some(format!(
            "service {name} is to have {n_wanted} tasks and {n_running} run as wanted: {deployment:?} {states:?}"
        ));
    }
    misplaced(store, running())
}

/// Whether a global service has a task on a node.
fn takes_tasks(service: &Service, node: &Node) -> bool {
    let constraints = &service.spec.spec.task_template.placement.constraints;
    let is_open = node.status.state == NodeState::Ready && node.spec.availability == Availability::Active;
    is_open && constraints.iter().all(|text| meets(text, node))
}

/// Whether a node meets a constraint.
pub(super) fn meets(constraint: &str, node: &Node) -> bool {
    Constraint::parse(constraint).is_ok_and(|constraint| constraint.matches(node))
}

/// Whether a task is what its service asks for, with whatever version of a secret that it
/// follows. Placement does not make a task another one.
pub(super) fn is_as_wanted(service: &Service, task: &Task) -> bool {
    let mut wanted = service.spec.spec.task_template.clone();
    for (reference, own) in wanted.container_spec.secrets.iter_mut().zip(&task.spec.container_spec.secrets) {
        reference.version = reference.version.or(own.version);
    }
    wanted.placement.clone_from(&task.spec.placement);
    *task.spec == wanted
}

/// Whether a task has the newest version of every secret that its service follows.
fn is_newest(store: &Store, service: &Service, task: &Task) -> bool {
    let mut references = service.spec.spec.task_template.container_spec.secrets.iter().filter(|it| it.version.is_none());
    references.all(|reference| {
        let current = store.secret(reference.id).map(|secret| secret.spec.current);
        task.spec.container_spec.secrets.iter().any(|own| own.id == reference.id && own.version == current)
    })
}

/// A task that runs where it may not: on a drained node, against its constraints, or as
/// one of too many.
fn misplaced<'a>(store: &Store, running: impl Iterator<Item = &'a Arc<Task>>) -> Option<String> {
    let mut on_node: BTreeMap<NodeId, u64> = BTreeMap::new();
    for task in running {
        let Some(node) = task.plan.node.and_then(|node| store.node(node)) else {
            return Some(format!("task {} runs on a node that is gone", task.name()));
        };
        let n = on_node.entry(node.id).or_default();
        *n += 1;
        let (max, constraints) = (task.spec.placement.max_replicas, &task.spec.placement.constraints);
        let why = match node.spec.availability {
            Availability::Drain => "is drained",
            Availability::Active if !constraints.iter().all(|text| meets(text, node)) => "does not meet its constraints",
            _ if max > 0 && *n > max => "has more than its service allows",
            _ => continue,
        };
        return Some(format!("task {} runs on node {}, which {why}", task.name(), node.id));
    }
    None
}
