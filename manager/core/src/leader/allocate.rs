//! Gives tasks what must be settled before they can be placed: the numbers of
//! the secret and config versions that they pin, and the task itself.
//!
//! A service's reference without a version follows the current one; a task's
//! reference always has a number.

use super::draft::Draft;
use super::slot::SlotKey;
use crate::mint::Mint;
use crate::store::Store;
use skep_model::constraint::Constraint;
use skep_model::endpoint::EndpointState;
use skep_model::service::{Service, TaskSpec};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::{Meta, Section, TaskId, TaskState, Time};
use std::sync::Arc;

/// What tasks of a service shall be, with everything resolved.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) service: Arc<Service>,
    /// The template with the version numbers of now.
    pub(crate) template: Arc<TaskSpec>,
    pub(crate) constraints: Vec<Constraint>,
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
        Self { service: service.clone(), template: Arc::new(template), constraints }
    }

    /// The number of the spec version.
    pub(crate) fn spec_version(&self) -> u64 {
        self.service.spec.spec_version
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
}

impl Cause {
    /// A task in a new slot.
    pub(crate) const NEW: Self = Self { desired: TaskState::Running, start_at: None, replaces: None, is_restart: false };
}

/// Makes a task for a slot of the service.
pub(crate) fn make(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted, slot: SlotKey, cause: Cause) -> TaskId {
    let now = draft.now;
    let id = TaskId::from_random(mint.id());
    let plan = TaskPlan {
        desired: cause.desired,
        node: slot.node,
        start_at: cause.start_at,
        replaces: cause.replaces,
        is_restart: cause.is_restart,
        desired_since: now,
        endpoint: EndpointState::default(),
    };
    let status = TaskStatus {
        state: TaskState::Pending,
        timestamp: now,
        applied_at: now,
        message: "pending task scheduling".into(),
        error: String::new(),
        attempt: 0,
        container: None,
        log_tail: Vec::new(),
        running_since: None,
    };
    draft.create(Task {
        id,
        meta: Meta { created_at: now, updated_at: now, version: u64::MAX },
        service_id: wanted.service.id,
        service_name: wanted.service.spec.spec.annotations.name.clone(),
        slot: slot.number,
        spec: wanted.template.clone(),
        spec_version: wanted.spec_version(),
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(plan),
        status: Section::new(status),
    });
    id
}
