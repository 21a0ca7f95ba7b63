//! What can go wrong in this crate, in words for whoever asked.
//!
//! A failure becomes a status with its causes in one line; a refusal keeps its
//! code and details, so that the other end may act on it.

use skep_identity::ca::CaError;
use skep_identity::keystore::KeystoreError;
use skep_identity::seal::SealError;
use skep_identity::tls::TlsError;
use skep_model::{NodeId, Refusal};
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

use crate::state::StateError;

/// Something that the node was to do and did not.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request cannot be carried out.
    #[error("{0}")]
    Refused(Refusal),
    /// The certificate of a peer, its CA or this node's own was not accepted.
    #[error(transparent)]
    Identity(#[from] skep_identity::Refusal),
    /// The node's place in the cluster.
    #[error("cannot keep this node's place in the cluster")]
    State(#[from] StateError),
    /// The keystore.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// A key or a signing request.
    #[error("cannot make this node's key")]
    Key(#[from] CaError),
    /// The unsealing key.
    #[error("cannot use this manager's unsealing key")]
    Unsealing(#[from] SealError),
    /// The certificate as TLS has it.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate does not read.
    #[error("the certificate that the manager issued cannot be used")]
    Certificate(#[from] skep_identity::certificate::CertificateError),
    /// The manager could not be started.
    #[error("cannot start the manager")]
    Manager(#[from] skep_manager::StartError),
    /// The agent could not be started.
    #[error("cannot start the agent")]
    Agent(#[from] skep_agent::StartError),
    /// Containers of a node whose place is unreadable could not be ended.
    #[error("cannot end this node's tasks")]
    Clear(#[from] skep_agent::ClearError),
    /// The image store could not be opened.
    #[error("cannot open the image store")]
    Images(#[from] skep_agent::image::ImageError),
    /// Files of a cluster that was left.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A manager could not be reached.
    #[error("cannot reach a manager at {address}")]
    Unreachable {
        /// Its address.
        address: String,
        /// The cause.
        #[source]
        source: tonic::transport::Error,
    },
    /// A manager's name could not be looked up.
    #[error("cannot find the manager {address}")]
    Unresolved {
        /// Its address.
        address: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A manager answered with an error.
    #[error("{}", .0.message())]
    Answered(Status),
    /// A manager answered with what makes no sense.
    #[error("the manager at {address} gave no usable {what}")]
    Senseless {
        /// Its address.
        address: String,
        /// What was wrong.
        what: &'static str,
    },
    /// A join failed after the cluster had noted the node.
    #[error("{}; the cluster still lists this node, remove it on a manager with `skep node rm {node}`", cause.line())]
    Noted {
        /// Under which id.
        node: NodeId,
        /// The failure.
        cause: Box<Failure>,
    },
    /// It took too long.
    #[error("{what} was not done within {} s{last}", limit.as_secs())]
    Late {
        /// What.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
        /// What went wrong last, after a colon; empty if nothing did.
        last: String,
    },
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Failure {
    /// A sentence that the state of this node does not allow it.
    pub fn precondition(text: impl Into<String>) -> Self {
        Self::Refused(Refusal::FailedPrecondition(text.into()))
    }

    /// The refusal that a manager answered with, if it did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal.clone()),
            Self::Answered(status) => skep_manager::to_refusal(status),
            _ => None,
        }
    }

    /// Whether another manager, or the same one a little later, may answer otherwise.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => skep_identity::Refusal::of(source).is_none(),
            Self::Answered(status) => match self.refusal() {
                Some(refusal) => refusal.is_retryable(),
                None => matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::Unknown
                ),
            },
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Late { .. } | Self::Unresolved { .. } => true,
            _ => false,
        }
    }

    /// Where the leader is, as a manager said when it refused.
    pub fn leader(&self) -> Option<String> {
        match self.refusal() {
            Some(Refusal::NotLeader { address, .. }) if !address.is_empty() => Some(address),
            _ => None,
        }
    }

    /// The whole of it in one line. What TLS found out goes before its wording.
    pub fn line(&self) -> String {
        if let Self::Unreachable { address, source } = self
            && let Some(refusal) = skep_identity::Refusal::of(source)
        {
            return format!("the manager at {address} cannot be trusted, or does not trust this node: {refusal}");
        }
        let mut line = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Layers of the transport repeat one another.
            if !text.is_empty() && text != "transport error" && !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = cause.source();
        }
        line
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        if let Some(refusal) = failure.refusal() {
            return skep_manager::from_refusal(&refusal);
        }
        Status::new(failure.code(), failure.line())
    }
}

impl Failure {
    fn code(&self) -> Code {
        match self {
            Failure::Noted { cause, .. } => {
                cause.refusal().map_or_else(|| cause.code(), |refusal| skep_manager::from_refusal(&refusal).code())
            }
            Failure::Identity(_) => Code::PermissionDenied,
            Failure::Keystore(KeystoreError::WrongKey(_) | KeystoreError::UnlockKey) => Code::InvalidArgument,
            // This node is here and has decided: nothing is to be tried again by itself.
            Failure::Unreachable { .. } | Failure::Unresolved { .. } => Code::FailedPrecondition,
            Failure::Answered(status) => status.code(),
            Failure::Late { .. } => Code::DeadlineExceeded,
            Failure::Manager(_) | Failure::Keystore(KeystoreError::Exists(_)) => Code::FailedPrecondition,
            _ => Code::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_code_and_details() {
        let refusal = Refusal::NotLeader { leader: Some(NodeId::from_random([3; 16])), address: "m1:2377".into() };
        let answered = Failure::Answered(skep_manager::from_refusal(&refusal));
        assert!(answered.may_pass());
        assert_eq!(answered.leader().as_deref(), Some("m1:2377"));
        let status = Status::from(answered);
        assert_eq!(skep_manager::to_refusal(&status), Some(refusal));
        assert!(!Failure::precondition("no").may_pass());
    }

    #[test]
    fn a_node_that_the_cluster_noted_is_named() {
        let node = NodeId::from_random([3; 16]);
        let status = Status::from(Failure::Noted { node, cause: Box::new(Failure::precondition("no")) });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().ends_with(&format!("skep node rm {node}`")), "{status:?}");
    }

    #[test]
    fn causes_stand_in_one_line() {
        let source = std::io::Error::other("no space");
        let failure = Failure::from(StateError::Io { operation: "write", path: "/x/node.json".into(), source });
        assert_eq!(failure.line(), "cannot keep this node's place in the cluster: cannot write /x/node.json: no space");
        assert_eq!(Status::from(failure).code(), Code::Internal);
    }
}
