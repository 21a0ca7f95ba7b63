//! The modes of a service: which slots there are, who may have them, and when it is done.
//!
//! A mode is a file here and an arm in each function below. Who may have a slot follows from
//! its key: one with a node of its own gets tasks while that node takes new ones
//! ([`crate::rules::eligibility`]), every other one where the scheduler finds a place.

mod global;
mod replicated;

use super::turn::draft::Draft;
use super::turn::slots::Goal;
use crate::mint::Mint;
use crate::rules::wanted::Wanted;
use skep_model::service::ServiceMode;

/// Which slots there are: adds and removes them.
pub(crate) fn orchestrate(draft: &mut Draft<'_>, mint: &mut Mint, wanted: &Wanted) {
    match wanted.service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicated::orchestrate(draft, mint, wanted, replicas),
        ServiceMode::Global {} => global::orchestrate(draft, mint, wanted),
    }
}

/// When it is done: the slots that are to have a task, and how many of them.
pub(crate) fn goal(draft: &Draft<'_>, wanted: &Wanted) -> Goal {
    match wanted.service.spec.spec.mode {
        ServiceMode::Replicated { replicas } => replicated::goal(draft, replicas),
        ServiceMode::Global {} => global::goal(draft, wanted),
    }
}
