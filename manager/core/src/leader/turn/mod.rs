//! What a turn works on: a service as it will be, and what the turn has to give.
//!
//! A [`draft`] holds one service's tasks in their [`slots`] and its [`deployment`]; tasks
//! are made for a slot in [`make`], with addresses from [`addresses`], and placed by what
//! nodes carry ([`ledger`]). At the end it becomes transactions ([`writes`]). Nothing here
//! decides what is to be done: that is the stages' part.

pub(crate) mod addresses;
pub(crate) mod deployment;
pub(crate) mod draft;
pub(crate) mod ledger;
pub(crate) mod make;
pub(crate) mod slots;
pub(crate) mod writes;
