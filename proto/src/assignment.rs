//! Assignments on the wire: with the values that the model only names, and split
//! so that every message fits a session.

use crate::limits::{BYTES_MAX, LIST_MAX};
use crate::v1::{self, Confidential, assignment_change::Change};
use crate::wire::{Wire, at_most, field};
use crate::{Malformed, SESSION_MESSAGE_MAX};
use prost::Message;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::{ConfigId, SecretId, TaskId, TaskState};
use std::collections::BTreeMap;

/// The most bytes that one link of the chain may have, all parts together.
pub const LINK_MAX: usize = 512 * 1024 * 1024;

/// Leaves room for the frame around the changes.
const PART_MAX: usize = SESSION_MESSAGE_MAX - 64 * 1024;

/// The values of the secret and config versions that assignments put on a node.
#[derive(Debug, Default)]
pub struct Values {
    /// By secret and version.
    pub secrets: BTreeMap<(SecretId, u64), Confidential>,
    /// By config and version.
    pub configs: BTreeMap<(ConfigId, u64), Vec<u8>>,
}

/// A value that assignments name was not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingValue {
    /// No value of this secret's version was given.
    #[error("the value of secret {0} version {1} is missing")]
    Secret(SecretId, u64),
    /// No value of this config's version was given.
    #[error("the value of config {0} version {1} is missing")]
    Config(ConfigId, u64),
}

/// Encodes one link of the chain as one or more messages, to be sent in order.
/// Takes each value out of `values`.
pub fn encode(assignments: &Assignments, values: &mut Values) -> Result<Vec<v1::Assignments>, MissingValue> {
    let empty = || v1::Assignments {
        is_complete: assignments.is_complete,
        applies_to: assignments.applies_to,
        results_in: assignments.results_in,
        changes: Vec::new(),
        continues: false,
    };
    let mut parts = vec![empty()];
    let mut size = 0;
    for change in &assignments.changes {
        let change = v1::AssignmentChange { change: Some(encode_change(change, values)?) };
        let length = change.encoded_len() + 16;
        if size > 0 && size + length > PART_MAX {
            parts.push(empty());
            size = 0;
        }
        size += length;
        parts.last_mut().expect("there is always a last part").changes.push(change);
    }
    let last = parts.len() - 1;
    for part in &mut parts[..last] {
        part.continues = true;
    }
    Ok(parts)
}

fn encode_change(change: &AssignmentChange, values: &mut Values) -> Result<Change, MissingValue> {
    Ok(match change {
        &AssignmentChange::PutSecret(id, version) => {
            let value = values.secrets.remove(&(id, version)).ok_or(MissingValue::Secret(id, version))?;
            Change::PutSecret(v1::PutSecret { id: id.encode(), version, value: Some(value) })
        }
        &AssignmentChange::PutConfig(id, version) => {
            let value = values.configs.remove(&(id, version)).ok_or(MissingValue::Config(id, version))?;
            Change::PutConfig(v1::PutConfig { id: id.encode(), version, value })
        }
        AssignmentChange::PutTask(task) => Change::PutTask(task.encode()),
        AssignmentChange::RemoveTask(task) => Change::RemoveTask(task.encode()),
        &AssignmentChange::RemoveSecret(id, version) => Change::RemoveSecret(v1::RemoveValue { id: id.encode(), version }),
        &AssignmentChange::RemoveConfig(id, version) => Change::RemoveConfig(v1::RemoveValue { id: id.encode(), version }),
        AssignmentChange::Overlay(change) => Change::Overlay(change.encode()),
        AssignmentChange::MayStop(task) => Change::MayStop(task.encode()),
    })
}

/// One link of the chain, whole.
#[derive(Debug)]
pub struct Link {
    /// What to have, as far as it decoded.
    pub assignments: Assignments,
    /// The values that it names.
    pub values: Values,
    /// The changes that did not decode: each costs itself alone.
    pub left_out: Vec<LeftOut>,
}

/// A change of a link that did not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which change, and what is wrong with it.
    pub error: Malformed,
    /// The task that it was to put on the node, where at least that can be read, and
    /// the state in which the manager has it.
    pub task: Option<(TaskId, TaskState)>,
}

/// Puts the parts of links together again, on the agent's side.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Link>,
    size: usize,
}

impl Assembler {
    /// Takes the next message. `None`: the link goes on in the next one. After an
    /// error, which is of the size or of the head, the session is of no use any more:
    /// a change that does not decode is only left out, since the next session's
    /// complete set would name it again.
    pub fn push(&mut self, wire: v1::Assignments) -> Result<Option<Link>, Malformed> {
        self.size = self.size.saturating_add(wire.encoded_len());
        at_most("changes", self.size, LINK_MAX, "bytes")?;
        let mut link = self.open.take().unwrap_or_else(|| Link::begin(&wire));
        let Assignments { is_complete, applies_to, results_in, .. } = link.assignments;
        if (is_complete, applies_to, results_in) != (wire.is_complete, wire.applies_to, wire.results_in) {
            return Err(Malformed::new("results_in", "is not the link that the message before began"));
        }
        for change in wire.changes {
            link.add(change);
        }
        at_most("changes", link.len(), LIST_MAX, "items")?;
        if wire.continues {
            self.open = Some(link);
            return Ok(None);
        }
        self.size = 0;
        Ok(Some(link))
    }
}

impl Link {
    fn begin(wire: &v1::Assignments) -> Self {
        Self { assignments: head(wire), values: Values::default(), left_out: Vec::new() }
    }

    /// Of all parts so far.
    fn len(&self) -> usize {
        self.assignments.changes.len() + self.left_out.len()
    }

    fn add(&mut self, wire: v1::AssignmentChange) {
        let (place, task) = (self.len(), task_of(&wire));
        match decode_change(wire, &mut self.values) {
            Ok(change) => self.assignments.changes.push(change),
            Err(error) => self.left_out.push(LeftOut { error: error.within(format_args!("changes[{place}]")), task }),
        }
    }
}

/// The task that a change puts on the node, where that can be read.
fn task_of(wire: &v1::AssignmentChange) -> Option<(TaskId, TaskState)> {
    let Some(Change::PutTask(task)) = &wire.change else { return None };
    let status = task.status.as_ref().and_then(|section| section.value.as_ref());
    let observed = status.and_then(|status| TaskState::from_number(u16::try_from(status.state).ok()?));
    Some((task.id.parse().ok()?, observed.unwrap_or_default()))
}

fn head(wire: &v1::Assignments) -> Assignments {
    let v1::Assignments { is_complete, applies_to, results_in, .. } = *wire;
    Assignments { is_complete, applies_to, results_in, changes: Vec::new() }
}

fn decode_change(wire: v1::AssignmentChange, values: &mut Values) -> Result<AssignmentChange, Malformed> {
    Ok(match wire.change.ok_or_else(Malformed::missing)? {
        Change::PutSecret(put) => {
            let id = field("put_secret.id", put.id)?;
            let value = put.value.ok_or_else(|| Malformed::missing().within("put_secret.value"))?;
            at_most("put_secret.value", value.value.len(), BYTES_MAX, "bytes")?;
            values.secrets.insert((id, put.version), value);
            AssignmentChange::PutSecret(id, put.version)
        }
        Change::PutConfig(put) => {
            let id = field("put_config.id", put.id)?;
            values.configs.insert((id, put.version), field("put_config.value", put.value)?);
            AssignmentChange::PutConfig(id, put.version)
        }
        Change::PutTask(task) => AssignmentChange::PutTask(field("put_task", task)?),
        Change::RemoveTask(task) => AssignmentChange::RemoveTask(field("remove_task", task)?),
        Change::RemoveSecret(gone) => AssignmentChange::RemoveSecret(field("remove_secret.id", gone.id)?, gone.version),
        Change::RemoveConfig(gone) => AssignmentChange::RemoveConfig(field("remove_config.id", gone.id)?, gone.version),
        Change::Overlay(change) => AssignmentChange::Overlay(field("overlay", change)?),
        Change::MayStop(task) => AssignmentChange::MayStop(field("may_stop", task)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(count: u64) -> (Assignments, Values) {
        let secret = SecretId::from_random([1; 16]);
        let config = ConfigId::from_random([2; 16]);
        let mut changes = vec![AssignmentChange::PutSecret(secret, 7)];
        let mut values = Values::default();
        values.secrets.insert((secret, 7), Confidential::new(b"hidden".to_vec()));
        for version in 1..=count {
            changes.push(AssignmentChange::PutConfig(config, version));
            values.configs.insert((config, version), vec![version as u8; 1_000_000]);
        }
        changes.push(AssignmentChange::RemoveSecret(secret, 6));
        (Assignments { is_complete: true, applies_to: 0, results_in: 1, changes }, values)
    }

    #[test]
    fn a_long_link_is_split_and_put_together_again() {
        let (assignments, mut values) = link(20);
        let parts = encode(&assignments, &mut values).expect("every value is there");
        assert!(parts.len() >= 3, "{} parts", parts.len());
        assert!(parts.iter().all(|part| part.encoded_len() <= SESSION_MESSAGE_MAX));
        let mut assembler = Assembler::default();
        let mut whole = None;
        for part in parts {
            assert!(whole.is_none(), "a part follows the last one");
            whole = assembler.push(part).expect("parts fit");
        }
        let Link { assignments: decoded, values, left_out } = whole.expect("the last part completes the link");
        assert_eq!((decoded, left_out), (assignments, Vec::new()));
        assert_eq!(values.configs.len(), 20);
        assert_eq!(values.secrets.values().next().expect("one secret").text(), Ok("hidden"));
    }

    #[test]
    fn a_missing_value_is_named() {
        let (assignments, _) = link(0);
        let error = encode(&assignments, &mut Values::default()).expect_err("there is no value");
        assert_eq!(error, MissingValue::Secret(SecretId::from_random([1; 16]), 7));
    }

    #[test]
    fn parts_of_different_links_do_not_mix() {
        let (assignments, mut values) = link(0);
        let mut part = encode(&assignments, &mut values).expect("every value is there").remove(0);
        let other = v1::Assignments { applies_to: 1, results_in: 2, changes: Vec::new(), ..part.clone() };
        part.continues = true;
        let mut assembler = Assembler::default();
        assert!(matches!(assembler.push(part), Ok(None)));
        assert!(assembler.push(other).is_err());
    }

    /// A manager that is newer, or that stored what it should not have, costs the node
    /// what it wrote wrongly, and nothing else.
    #[test]
    fn a_change_that_does_not_decode_is_left_out_between_two_that_do() {
        let (config, bad) = (ConfigId::from_random([2; 16]), TaskId::from_random([3; 16]));
        let good = |version| Change::RemoveConfig(v1::RemoveValue { id: config.encode(), version });
        let status = v1::TaskStatus { state: v1::TaskState::Running.into(), ..v1::TaskStatus::default() };
        let status = Some(v1::TaskStatusSection { version: 1, value: Some(status) });
        let tasks =
            [v1::Task { id: bad.encode(), status, ..v1::Task::default() }, v1::Task { id: "?".into(), ..v1::Task::default() }];
        let [with_id, without_id] = tasks.map(|task| Some(Change::PutTask(task)));
        let part = |changes: Vec<Option<Change>>, continues| v1::Assignments {
            is_complete: true,
            applies_to: 0,
            results_in: 1,
            changes: changes.into_iter().map(|change| v1::AssignmentChange { change }).collect(),
            continues,
        };
        let mut assembler = Assembler::default();
        assert!(matches!(assembler.push(part(vec![Some(good(1)), with_id, Some(good(2))], true)), Ok(None)));
        // The last is of a kind that nobody knows yet.
        let link = assembler.push(part(vec![without_id, Some(good(3)), None], false)).expect("it reads").expect("it is whole");
        let kept: Vec<AssignmentChange> = (1..=3).map(|version| AssignmentChange::RemoveConfig(config, version)).collect();
        assert_eq!(link.assignments, Assignments { is_complete: true, applies_to: 0, results_in: 1, changes: kept });
        let left_out: Vec<_> = link.left_out.iter().map(|left| (left.error.field.as_str(), left.task)).collect();
        let [first, second, third] = left_out[..] else { panic!("{left_out:?}") };
        assert!(first.0.starts_with("changes[1].put_task") && first.1 == Some((bad, TaskState::Running)), "{first:?}");
        assert!(second.0.starts_with("changes[3].put_task") && second.1.is_none(), "{second:?}");
        assert!(third.0.starts_with("changes[5]") && third.1.is_none(), "{third:?}");
    }

    #[test]
    fn values_are_never_printed() {
        let (assignments, mut values) = link(0);
        let before = format!("{values:?}");
        let parts = encode(&assignments, &mut values).expect("every value is there");
        for text in [before, format!("{parts:?}")] {
            assert!(text.contains("Confidential(6 bytes)"), "{text}");
            assert!(!text.contains("104, 105") && !text.contains("hidden"), "{text}");
        }
    }
}
