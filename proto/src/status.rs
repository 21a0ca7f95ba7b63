//! From refusals to gRPC status and back: the one place, for servers and clients.
//!
//! The status's message is the refusal's text, for people; its details are a
//! `google.rpc.Status` with the refusal in it, for programs, as gRPC's own tools read them.

use crate::v1;
use prost::Message;
use skep_model::Refusal;
use tonic::{Code, Status};

/// The name of a refusal among the details of a status.
const REFUSAL_URL: &str = "type.googleapis.com/skep.v1.Refusal";

/// `google.rpc.Status`, the message that the details of a status are by gRPC's convention.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The status that carries a refusal.
pub fn from_refusal(refusal: &Refusal) -> Status {
    let (code, message) = (code(refusal), refusal.to_string());
    let value = v1::Refusal::from(refusal).encode_to_vec();
    let details = vec![AnyMessage { type_url: REFUSAL_URL.into(), value }];
    let details = RpcStatus { code: code.into(), message: message.clone(), details }.encode_to_vec();
    Status::with_details(code, message, details.into())
}

/// The refusal that a status carries, if it does.
pub fn to_refusal(status: &Status) -> Option<Refusal> {
    if status.details().is_empty() {
        return None;
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let refusal = details.iter().find(|detail| detail.type_url == REFUSAL_URL)?;
    Refusal::try_from(v1::Refusal::decode(&refusal.value[..]).ok()?).ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::Kind;

    #[test]
    fn a_refusal_travels_in_the_details_that_grpc_has_for_it() {
        let refusal = Refusal::NotFound { kind: Kind::Service, reference: "web".into() };
        let status = from_refusal(&refusal);
        assert_eq!((status.code(), to_refusal(&status)), (Code::NotFound, Some(refusal)));
        let details = RpcStatus::decode(status.details()).expect("google.rpc.Status");
        assert_eq!((details.code, details.message.as_str()), (Code::NotFound as i32, status.message()));
        // Of others, and of nobody's making.
        let other = RpcStatus { details: vec![AnyMessage::default()], ..RpcStatus::default() }.encode_to_vec();
        for details in [Vec::new(), vec![0xff; 9], other] {
            assert_eq!(to_refusal(&Status::with_details(Code::NotFound, "", details.into())), None);
        }
    }
}
