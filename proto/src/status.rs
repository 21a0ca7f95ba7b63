//! From refusals to gRPC status and back: the one place, for servers and clients.
//!
//! The status's message is the refusal's text, for people; its details are the
//! encoded refusal, for programs.

use crate::v1;
use prost::Message;
use skep_model::Refusal;
use tonic::{Code, Status};

/// The status that carries a refusal.
pub fn from_refusal(refusal: &Refusal) -> Status {
    let details = v1::Refusal::from(refusal).encode_to_vec();
    Status::with_details(code(refusal), refusal.to_string(), details.into())
}

/// The refusal that a status carries, if it does.
pub fn to_refusal(status: &Status) -> Option<Refusal> {
    if status.details().is_empty() {
        return None;
    }
    let message = v1::Refusal::decode(status.details()).ok()?;
    Refusal::try_from(message).ok()
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NotFound { .. } => Code::NotFound,
        Refusal::NameConflict { .. } => Code::AlreadyExists,
        Refusal::Ambiguous { .. } | Refusal::Invalid { .. } | Refusal::TooLarge { .. } => Code::InvalidArgument,
        Refusal::InUse { .. } | Refusal::FailedPrecondition(_) => Code::FailedPrecondition,
        Refusal::OutOfSequence | Refusal::Aborted => Code::Aborted,
        Refusal::Unsupported { .. } => Code::Unimplemented,
        Refusal::Exhausted(_) => Code::ResourceExhausted,
        Refusal::PermissionDenied(_) => Code::PermissionDenied,
        Refusal::NotLeader { .. } | Refusal::Unavailable(_) | Refusal::NoQuorum(_) => Code::Unavailable,
    }
}
