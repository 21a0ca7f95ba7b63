//! The values that a link of assignments names, opened one by one.
//!
//! Every interpreter of [`crate::Action::SendAssignments`] goes through
//! [`open_all`], so that they agree on what becomes of a value that is not there or
//! does not open: it is left out of the link, and all others go their way. Whoever
//! carried the action out says what was left out by [`crate::Event::ValuesLeftOut`]:
//! it is tried again later, and the agent says on each task what it waits for.
//! Plain values never get here: only the caller's closure sees them.

use crate::store::Store;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::sealed::Sealed;
use skep_model::{ConfigId, SecretId};
use std::fmt;

/// One version of a secret or config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueRef {
    /// Of a secret.
    Secret(SecretId, u64),
    /// Of a config.
    Config(ConfigId, u64),
}

impl fmt::Display for ValueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(id, n) => write!(f, "secret {id} version {n}"),
            Self::Config(id, n) => write!(f, "config {id} version {n}"),
        }
    }
}

/// The values of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<V> {
    /// What is sent with the link.
    pub values: Vec<(ValueRef, V)>,
    /// What was taken out of the link, and why.
    pub left_out: Vec<(ValueRef, String)>,
}

/// Opens each value that `assignments` put on a node, and takes out of them what is
/// not in `view` or does not open.
pub fn open_all<V, E: fmt::Display>(
    assignments: &mut Assignments,
    view: &Store,
    mut open: impl FnMut(ValueRef, &Sealed) -> Result<V, E>,
) -> Opened<V> {
    let mut opened = Opened { values: Vec::new(), left_out: Vec::new() };
    assignments.changes.retain(|change| {
        let value = match *change {
            AssignmentChange::PutSecret(id, n) => ValueRef::Secret(id, n),
            AssignmentChange::PutConfig(id, n) => ValueRef::Config(id, n),
            _ => return true,
        };
        let result = match sealed(view, value) {
            Some(sealed) => open(value, sealed).map_err(|error| error.to_string()),
            None => Err("it is not stored any more".to_owned()),
        };
        match result {
            Ok(plain) => {
                opened.values.push((value, plain));
                true
            }
            Err(why) => {
                opened.left_out.push((value, why));
                false
            }
        }
    });
    opened
}

/// The sealed form of a value, if it is stored.
fn sealed(view: &Store, value: ValueRef) -> Option<&Sealed> {
    match value {
        ValueRef::Secret(id, n) => {
            view.secret(id)?.spec.versions.iter().find(|version| version.n == n).map(|version| &version.sealed)
        }
        ValueRef::Config(id, n) => {
            view.config(id)?.spec.versions.iter().find(|version| version.n == n).map(|version| &version.sealed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::TaskId;

    /// One value that cannot be had takes nothing with it but itself.
    #[test]
    fn a_value_that_is_not_stored_is_left_out_and_the_rest_goes_on() {
        let (secret, config) = (SecretId::from_random([1; 16]), ConfigId::from_random([2; 16]));
        let kept = AssignmentChange::RemoveTask(TaskId::from_random([3; 16]));
        let changes = vec![AssignmentChange::PutSecret(secret, 1), AssignmentChange::PutConfig(config, 4), kept.clone()];
        let mut link = Assignments { is_complete: true, applies_to: 0, results_in: 1, changes };
        let opened = open_all(&mut link, &Store::default(), |_, _| Ok::<(), String>(()));
        assert_eq!(link.changes, [kept]);
        assert!(opened.values.is_empty());
        let named: Vec<ValueRef> = opened.left_out.iter().map(|(value, _)| *value).collect();
        assert_eq!(named, [ValueRef::Secret(secret, 1), ValueRef::Config(config, 4)]);
    }
}
