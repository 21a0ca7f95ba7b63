//! Makes tasks for slots: what they are, and their addresses.
//!
//! A task for which there is no address is made without one and says so; it is given its
//! addresses as soon as there are some, and is placed only then.

use super::addresses::no_address;
use super::draft::Draft;
use super::slots::SlotKey;
use crate::mint::Mint;
use crate::rules::wanted::Wanted;
use skep_model::network::Attachment;
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::{Meta, Section, TaskId, TaskState, Time};

/// Addresses on every network, or why there are none.
pub(crate) fn attachments(draft: &mut Draft<'_>, networks: &[Attachment]) -> Result<Vec<Attachment>, String> {
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
