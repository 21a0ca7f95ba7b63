//! Refusals as details of a status, so that a client has more than a text.

use crate::limits::TEXT_MAX;
use crate::wire::{Wire, at_most, border, field};
use crate::{Malformed, v1};
use skep_model::Refusal;
use v1::refusal::Refusal as Any;

impl Wire<v1::Refusal> for Refusal {
    fn encode(&self) -> v1::Refusal {
        v1::Refusal { refusal: Some(encode(self.clone())) }
    }

    fn decode(wire: v1::Refusal) -> Result<Self, Malformed> {
        decode(wire.refusal.ok_or_else(Malformed::missing)?)
    }
}

border!(Refusal, v1::Refusal);

fn encode(refusal: Refusal) -> Any {
    match refusal {
        Refusal::NotFound { kind, reference } => Any::NotFound(v1::NotFound { kind: kind.encode(), reference }),
        Refusal::Ambiguous { kind, reference, matches, ids } => {
            Any::Ambiguous(v1::Ambiguous { kind: kind.encode(), reference, matches: matches as u64, ids })
        }
        Refusal::NameConflict { kind, name } => Any::NameConflict(v1::NameConflict { kind: kind.encode(), name }),
        Refusal::InUse { kind, name, by } => Any::InUse(v1::InUse { kind: kind.encode(), name, by }),
        Refusal::Invalid { field, value, reason } => Any::Invalid(v1::Invalid { field, value, reason }),
        Refusal::OutOfSequence => Any::OutOfSequence(v1::OutOfSequence {}),
        Refusal::FailedPrecondition(text) => Any::FailedPrecondition(text),
        Refusal::Unsupported { what } => Any::Unsupported(what),
        Refusal::TooLarge { what, limit } => Any::TooLarge(v1::TooLarge { what, limit }),
        Refusal::Exhausted(text) => Any::Exhausted(text),
        Refusal::PermissionDenied(text) => Any::PermissionDenied(text),
        Refusal::NotLeader { leader, address } => Any::NotLeader(v1::NotLeader { leader: leader.encode(), address }),
        Refusal::Unavailable(text) => Any::Unavailable(text),
        Refusal::NoQuorum(text) => Any::NoQuorum(text),
        Refusal::Aborted => Any::Aborted(v1::Aborted {}),
    }
}

fn decode(wire: Any) -> Result<Refusal, Malformed> {
    let text = |text: String| at_most("", text.len(), TEXT_MAX, "bytes").map(|()| text);
    Ok(match wire {
        Any::NotFound(it) => Refusal::NotFound { kind: field("kind", it.kind)?, reference: field("reference", it.reference)? },
        Any::Ambiguous(it) => Refusal::Ambiguous {
            kind: field("kind", it.kind)?,
            reference: field("reference", it.reference)?,
            matches: usize::try_from(it.matches).unwrap_or(usize::MAX),
            ids: field("ids", it.ids)?,
        },
        Any::NameConflict(it) => Refusal::NameConflict { kind: field("kind", it.kind)?, name: field("name", it.name)? },
        Any::InUse(it) => {
            Refusal::InUse { kind: field("kind", it.kind)?, name: field("name", it.name)?, by: field("by", it.by)? }
        }
        Any::Invalid(it) => Refusal::Invalid {
            field: field("field", it.field)?,
            value: field("value", it.value)?,
            reason: field("reason", it.reason)?,
        },
        Any::OutOfSequence(_) => Refusal::OutOfSequence,
        Any::FailedPrecondition(it) => Refusal::FailedPrecondition(text(it)?),
        Any::Unsupported(it) => Refusal::Unsupported { what: text(it)? },
        Any::TooLarge(it) => Refusal::TooLarge { what: field("what", it.what)?, limit: field("limit", it.limit)? },
        Any::Exhausted(it) => Refusal::Exhausted(text(it)?),
        Any::PermissionDenied(it) => Refusal::PermissionDenied(text(it)?),
        Any::NotLeader(it) => Refusal::NotLeader { leader: field("leader", it.leader)?, address: field("address", it.address)? },
        Any::Unavailable(it) => Refusal::Unavailable(text(it)?),
        Any::NoQuorum(it) => Refusal::NoQuorum(text(it)?),
        Any::Aborted(_) => Refusal::Aborted,
    })
}
