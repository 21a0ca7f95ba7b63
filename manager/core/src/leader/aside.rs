//! Services that a turn could not be drafted for, because drafting them panicked.
//!
//! A panic is a bug of ours that one service brought to light. Nothing else pays for
//! it: the service is set aside and its deployment says so, what the leader keeps
//! in memory is made anew from the store, and the turn begins again without it. It is
//! drafted again when its spec changes or it is removed, by the next leader, and once
//! in a while, since what brought the bug to light may have passed.

use crate::rules::deployment;
use crate::store::Store;
use crate::timing;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use skep_model::deployment::{Deployment, DeploymentKind, DeploymentState, SET_ASIDE};
use skep_model::service::{Service, ServicePlan};
use skep_model::task::cut;
use skep_model::{Kind, ObjectRef, ServiceId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How every sentence about a bug of ours begins, for whoever looks for them.
pub const BUG: &str = "a bug of skep: ";

/// Services that are set aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    services: BTreeMap<ServiceId, Reason>,
    /// Sentences for the log of this manager that have yet to be told.
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Reason {
    /// What of the service it was about.
    of: Option<(u64, bool)>,
    cause: String,
    retry_at: Time,
}

impl Aside {
    /// Drafting a service panicked.
    pub(super) fn add(&mut self, store: &Store, id: ServiceId, text: &str, now: Time) {
        let service = store.service(id);
        let name = service.map_or_else(|| id.to_string(), |service| service.spec.spec.annotations.name.clone());
        self.warnings.push(format!("{BUG}service {name} was set aside, because deciding about it panicked: {text}"));
        let cause = cut(&format!("{SET_ASIDE}: a bug of skep: deciding about this service panicked: {text}"));
        self.services.insert(id, Reason { of: service.map(standing), cause, retry_at: now + timing::ASIDE_RETRY });
    }

    /// Takes out of `services` those that are set aside, and answers with what is to
    /// be written about them.
    pub(super) fn take_out(&mut self, store: &Store, services: &mut BTreeSet<ServiceId>, now: Time) -> Vec<Transaction> {
        self.services.retain(|id, reason| reason.of == store.service(*id).map(standing) && now < reason.retry_at);
        let mut transactions = Vec::new();
        for (id, reason) in &self.services {
            services.remove(id);
            transactions.extend(store.service(*id).and_then(|service| note(service, &reason.cause, now)));
        }
        transactions
    }

    /// When each service is drafted again.
    pub(super) fn retries(&self) -> impl Iterator<Item = (ServiceId, Time)> {
        self.services.iter().map(|(id, reason)| (*id, reason.retry_at))
    }

    /// Sentences for the log.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

/// What of a service changes when its user does something about it.
fn standing(service: &Arc<Service>) -> (u64, bool) {
    (service.spec.version, service.plan.removed_at.is_some())
}

/// Writes into the service's deployment why nothing happens; `None` if it says so.
fn note(service: &Service, cause: &str, now: Time) -> Option<Transaction> {
    let known = service.plan.deployment.as_ref();
    if service.plan.removed_at.is_some() || known.is_some_and(|known| known.cause.starts_with(SET_ASIDE)) {
        return None;
    }
    let kind = known.map_or(DeploymentKind::Update, |known| known.kind);
    let begun = known.cloned().unwrap_or_else(|| deployment::begin(service.spec.spec_version, kind, now));
    let deployment =
        Deployment { state: DeploymentState::Failed, cause: cause.into(), ended_at: Some(now), next_step_at: None, ..begun };
    let plan = ServicePlan { deployment: Some(deployment), ..service.plan.value.clone() };
    let object = ObjectRef { kind: Kind::Service, id: service.id.0 };
    let mut transaction = Transaction::new(now);
    transaction.preconditions.push(Precondition::Unchanged(object, SectionName::Spec, service.spec.version));
    transaction.preconditions.push(Precondition::Unchanged(object, SectionName::Plan, service.plan.version));
    transaction.writes.push(Write::ServicePlan(service.id, plan));
    Some(transaction)
}
