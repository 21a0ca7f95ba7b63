//! Why a transaction is refused at apply.

use crate::transaction::SectionName;
use ipnet::IpNet;
use skep_model::endpoint::Transport;
use skep_model::request::Outcome;
use skep_model::{Kind, NetworkId, ObjectRef, Refusal, ServiceId};

/// Why a transaction did not take effect. The store is as it was, but for its
/// version and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The request it belongs to was carried out before, with this outcome.
    Repeated(Outcome),
    /// A section was written since the proposer read it.
    Changed(ObjectRef, SectionName),
    /// An object that it needs does not exist.
    Missing(ObjectRef),
    /// An object that it makes exists.
    Exists(ObjectRef),
    /// The name of an object that it makes or renames is taken.
    NameTaken {
        /// The kind of object.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// Something that it removes is referred to.
    InUse {
        /// The secret, config or network.
        object: ObjectRef,
        /// Its name.
        name: String,
        /// What refers to it, as a phrase.
        by: String,
    },
    /// Another network has the number of one that it makes.
    NumberTaken(u32),
    /// Another network has addresses of one that it makes.
    SubnetTaken {
        /// The other's subnet.
        subnet: IpNet,
        /// The other.
        network: NetworkId,
    },
    /// It makes a second ingress network.
    IngressExists(NetworkId),
    /// Another service publishes a port that it publishes.
    PortTaken {
        /// The published port.
        port: u16,
        /// Its protocol.
        transport: Transport,
        /// The other.
        service: ServiceId,
    },
}

impl Conflict {
    /// What the caller whose request this was is answered: the outcome of the
    /// first call if it is a repeat.
    pub fn into_result(self) -> Result<Outcome, Refusal> {
        Err(match self {
            Self::Repeated(outcome) => return Ok(outcome),
            Self::Changed(..) => Refusal::OutOfSequence,
            Self::Missing(object) => Refusal::NotFound { kind: object.kind, reference: object.id.to_string() },
            Self::Exists(object) => Refusal::NameConflict { kind: object.kind, name: object.id.to_string() },
            Self::NameTaken { kind, name } => Refusal::NameConflict { kind, name },
            Self::InUse { object, name, by } => Refusal::InUse { kind: object.kind, name, by },
            Self::NumberTaken(_) | Self::SubnetTaken { .. } | Self::IngressExists(_) | Self::PortTaken { .. } => {
                Refusal::Unavailable("what was chosen for it was given to another meanwhile; the request may be repeated".into())
            }
        })
    }

    /// Whether the proposer lost a race: for something that has one owner, or to change
    /// something first. Whoever won it got on, so such a request may be decided again as
    /// often as it takes.
    pub fn is_lost_race(&self) -> bool {
        matches!(
            self,
            Self::Changed(..) | Self::NumberTaken(_) | Self::SubnetTaken { .. } | Self::IngressExists(_) | Self::PortTaken { .. }
        )
    }
}
