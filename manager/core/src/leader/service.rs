//! One turn over one service: its stages, in their order.

use super::mode;
use super::stage::{
    attach, begin, count_slots, dissolve, endpoint, enforce, failure_action, publish, reap, replace, retire, schedule, start,
    update, verdict,
};
use super::turn::draft::Draft;
use super::turn::writes::Drafted;
use crate::mint::Mint;
use crate::rules::wanted::Wanted;
use skep_model::TaskId;
use std::collections::BTreeSet;

/// Runs the stages; whether a task of the service has to wait for a node or an address.
/// `overcommitted` are tasks whose reservations do not fit on their nodes any more.
pub(super) fn draft_service(mut draft: Draft<'_>, mint: &mut Mint, overcommitted: &BTreeSet<TaskId>) -> (Drafted, bool) {
    let wanted = draft.service.as_ref().map(|service| Wanted::of(service, draft.store));
    enforce::enforce(&mut draft, wanted.as_ref(), overcommitted);
    let mut is_waiting = false;
    match &wanted {
        Some(wanted) => {
            begin::begin(&mut draft, wanted);
            endpoint::settle(&mut draft, wanted);
            attach::attach(&mut draft);
            mode::orchestrate(&mut draft, mint, wanted);
            count_slots::count_slots(&mut draft, wanted);
            retire::retire(&mut draft, wanted);
            failure_action::act(&mut draft, wanted);
            // A service that rolls back is looked at again with the spec it returns to.
            if !draft.is_spec_replaced() {
                replace::replace(&mut draft, mint, wanted);
                update::update(&mut draft, mint, wanted);
                start::start(&mut draft);
                is_waiting = schedule::schedule(&mut draft, mint);
            }
        }
        None => dissolve::dissolve(&mut draft),
    }
    publish::publish(&mut draft);
    if let Some(wanted) = wanted.as_ref().filter(|_| !draft.is_spec_replaced()) {
        publish::name_stragglers(&mut draft);
        let goal = mode::goal(&draft, wanted);
        verdict::judge(&mut draft, wanted, &goal);
    }
    reap::reap(&mut draft);
    (draft.finish(), is_waiting)
}
