//! What admission and the leader's turn must answer alike, over the model and the store.
//!
//! Every function here is a pure question: nothing is proposed, drafted or remembered.
//! [`crate::control`] and [`crate::leader`] import this room and never each other.

pub(crate) mod constraints;
pub(crate) mod deployment;
pub(crate) mod dirtiness;
pub(crate) mod eligibility;
pub(crate) mod ending;
pub(crate) mod estimate;
pub(crate) mod joining;
pub(crate) mod ports;
pub(crate) mod references;
pub(crate) mod reservation;
pub(crate) mod restart;
pub(crate) mod steps;
pub(crate) mod stopping;
pub(crate) mod subnets;
pub(crate) mod wanted;
