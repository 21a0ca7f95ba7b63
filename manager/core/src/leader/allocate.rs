//! Gives tasks what must be settled before they can be placed: the numbers of
//! the secret and config versions that they pin, their addresses, and the task
//! itself.
//!
//! A service's reference without a version follows the current one; a task's
//! reference always has a number. A task for which there is no address waits
//! without one and says so; it is given its addresses as soon as there are some,
//! and is placed only then.

use super::draft::Draft;
use super::slot::SlotKey;
use crate::mint::Mint;
use crate::store::Store;
use skep_model::constraint::Constraint;
use skep_model::endpoint::{PublishMode, PublishedPort};
use skep_model::network::{Attachment, Network};
use skep_model::service::{Service, TaskSpec};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::{Meta, NetworkId, Section, TaskId, TaskState, Time};
use std::sync::Arc;

/// What tasks of a service shall be, with everything resolved.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) service: Arc<Service>,
    /// The template with the version numbers of now.
    pub(crate) template: Arc<TaskSpec>,
    pub(crate) constraints: Vec<Constraint>,
    /// Its networks, in the order of interfaces; without addresses, which each task has
    /// of its own.
    pub(crate) networks: Vec<Attachment>,
}

impl Wanted {
    pub(crate) fn of(service: &Arc<Service>, store: &Store) -> Self {
        let mut template = service.spec.spec.task_template.clone();
        for secret in &mut template.container_spec.secrets {
            let current = store.secret(secret.id).map_or(0, |stored| stored.spec.current);
            secret.version.get_or_insert(current);
        }
        for config in &mut template.container_spec.configs {
            let current = store.config(config.id).map_or(0, |stored| stored.spec.current);
            config.version.get_or_insert(current);
        }
        let constraints = parse(&template.placement.constraints);
        let networks = networks(store, &template, &service.plan.endpoint.ports);
        Self { service: service.clone(), template: Arc::new(template), constraints, networks }
    }

    /// The ports that its tasks publish.
    pub(crate) fn ports(&self) -> &[PublishedPort] {
        &self.service.plan.endpoint.ports
    }

    /// The number of the spec version.
    pub(crate) fn spec_version(&self) -> u64 {
        self.service.spec.spec_version
    }
}

/// The networks of a task: those of its spec in their order, and last the one
/// over which published ports are reached, if it publishes any through it.
fn networks(store: &Store, spec: &TaskSpec, ports: &[PublishedPort]) -> Vec<Attachment> {
    let on = |network, aliases, any_source| Attachment { network, addresses: Vec::new(), aliases, any_source };
    let asked = spec
        .networks
        .iter()
        .filter_map(|request| Some(on(NetworkId(request.target.parse().ok()?), request.aliases.clone(), request.any_source)));
    let ingress = store.ingress_network().filter(|_| is_in_mesh(ports)).map(|network| on(network.id, Vec::new(), false));
    asked.chain(ingress).collect()
}

fn is_in_mesh(ports: &[PublishedPort]) -> bool {
    ports.iter().any(|port| port.publish_mode == PublishMode::Ingress)
}

/// Whether a task is to be on networks and has no addresses yet.
pub(crate) fn lacks_addresses(task: &Task) -> bool {
    task.networks.is_empty() && (!task.spec.networks.is_empty() || is_in_mesh(&task.ports))
}

/// Why there are no addresses, naming the network.
pub(crate) fn no_address(network: &Network) -> String {
    let subnets = network.plan.pools.iter().map(|pool| pool.subnet.to_string()).collect::<Vec<_>>().join(" and ");
    format!("no available address on network {} ({subnets})", network.spec.annotations.name)
}

/// Addresses on every network, or why there are none.
fn attachments(draft: &mut Draft<'_>, networks: &[Attachment]) -> Result<Vec<Attachment>, String> {
    if let (Some(why), false) = (&draft.exhausted, networks.is_empty()) {
        return Err(why.clone());
    }
    let mut attachments = Vec::new();
    for wanted in networks {
        let network = draft.store.network(wanted.network).ok_or_else(|| format!("network {} was removed", wanted.network))?;
        let Some(addresses) = draft.addresses.give(network) else {
            // One look is enough for all tasks of this turn.
            draft.exhausted = Some(no_address(network));
            return Err(no_address(network));
        };
        attachments.push(Attachment { addresses, ..wanted.clone() });
    }
    Ok(attachments)
}

/// Gives addresses to tasks that wait for them.
pub(crate) fn attach(draft: &mut Draft<'_>) {
    let is_waiting = |task: &&Arc<Task>| task.is_active() && task.status.state < TaskState::Assigned && lacks_addresses(task);
    let mut waiting: Vec<Arc<Task>> = draft.tasks().filter(is_waiting).cloned().collect();
    waiting.sort_by_key(|task| (task.meta.made(), task.slot, task.id));
    for task in waiting {
        let networks = networks(draft.store, &task.spec, &task.ports);
        match attachments(draft, &networks) {
            Ok(attachments) => draft.change(task.id, |task| {
                task.networks = attachments;
                task.status.value.error.clear();
            }),
            Err(why) if task.status.error != why => draft.change(task.id, |task| task.status.value.error = why),
            Err(_) => {}
        }
    }
}

/// Constraints that were valid when they were admitted; a stored one that is not
/// (by a rule of a later release) matches nothing, which `None` stands for.
pub(crate) fn parse(constraints: &[String]) -> Vec<Constraint> {
    let never = || Constraint::parse("node.id==none").expect("a valid constraint");
    constraints.iter().map(|text| Constraint::parse(text).unwrap_or_else(|_| never())).collect()
}

/// Why and how a task is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cause {
    /// Ready if something has to be waited for before it starts, else Running.
    pub(crate) desired: TaskState,
    pub(crate) start_at: Option<Time>,
    pub(crate) replaces: Option<TaskId>,
    pub(crate) is_restart: bool,
    /// See [`TaskPlan::is_retry`].
    pub(crate) is_retry: bool,
    /// See [`TaskPlan::takes_over`].
    pub(crate) takes_over: bool,
}

impl Cause {
    /// A task in a new slot.
    pub(crate) const NEW: Self = Self {
        desired: TaskState::Running,
        start_at: None,
        replaces: None,
        is_restart: false,
        is_retry: false,
        takes_over: false,
    };
}

/// Makes a task for a slot of the service.
pub(crate) fn make(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, slot: SlotKey, cause: Cause) -> TaskId {
    let now = draft.now;
    let id = TaskId::from_random(mint.id());
    let plan = TaskPlan {
        node: slot.node,
        start_at: cause.start_at,
        replaces: cause.replaces,
        is_restart: cause.is_restart,
        is_retry: cause.is_retry,
        takes_over: cause.takes_over,
        ..TaskPlan::new(cause.desired, now)
    };
    let (networks, error) = match attachments(draft, &wanted.networks) {
        Ok(networks) => (networks, String::new()),
        Err(why) => (Vec::new(), why),
    };
    let status = TaskStatus {
        // Wall time is stamped when it is proposed.
        timestamp: Time::ZERO,
        message: "pending task scheduling".into(),
        error,
        ..TaskStatus::new(TaskState::Pending, now)
    };
    draft.create(Task {
        id,
        meta: Meta { made_at: draft.made_at, version: u64::MAX, ..Meta::default() },
        service_id: wanted.service.id,
        service_name: wanted.service.spec.spec.annotations.name.clone(),
        service_labels: wanted.service.spec.spec.annotations.labels.clone(),
        slot: slot.number,
        spec: wanted.template.clone(),
        spec_version: wanted.spec_version(),
        networks,
        ports: wanted.ports().to_vec(),
        plan: Section::new(plan),
        status: Section::new(status),
    });
    id
}
