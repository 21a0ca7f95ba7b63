//! The stages of a turn over one service, in the order in which they run.
//!
//! [`enforce`] takes tasks from nodes that may not have them, [`begin`] begins the
//! deployment of a new spec, [`endpoint`] gives the service its virtual addresses and
//! [`attach`] tasks that wait theirs; then the mode ([`super::mode`]) makes and removes
//! slots. [`count_slots`] says how many of them the deployment changes, [`retire`] gives up
//! tasks that ended and counts failures, and [`failure_action`] acts when those are too
//! many. [`replace`] makes replacements, [`update`] rolls the spec, [`start`] starts what has
//! waited long enough, [`schedule`] places. (A service that was removed has only
//! [`dissolve`].) [`publish`] says which tasks are to be found, [`verdict`] judges the
//! deployment, [`reap`] removes what is over.
//!
//! [`mesh`] comes before all services of a turn: it gives nodes their part in the routing
//! mesh.
//!
//! A stage imports what a turn works on and the rules, never another stage: what one leaves
//! for the next is in the draft.

pub(crate) mod attach;
pub(crate) mod begin;
pub(crate) mod count_slots;
pub(crate) mod dissolve;
pub(crate) mod endpoint;
pub(crate) mod enforce;
pub(crate) mod failure_action;
pub(crate) mod mesh;
pub(crate) mod publish;
pub(crate) mod reap;
pub(crate) mod replace;
pub(crate) mod retire;
pub(crate) mod schedule;
pub(crate) mod start;
pub(crate) mod update;
pub(crate) mod verdict;
