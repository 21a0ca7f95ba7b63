//! Who is a manager: admission of those who become one or cease to be ([`joining`]), and the
//! steps that make roles in the store and membership in raft equal ([`members`]).
//!
//! This room writes transactions; raft ([`crate::consensus`]) does not know what they hold.

pub(crate) mod joining;
pub(crate) mod members;
