//! Wire form of transactions and log entries.
//!
//! Canonical: equal transactions have equal bytes. An entry names its format
//! first; one that is newer than this manager can read must not be guessed at.

use crate::transaction::{Precondition, SectionName, Transaction, Write};
use prost::Message as _;
use skep_model::{Id, Object, ObjectRef, RequestId, Time};
use skep_proto::{Malformed, v1};
use std::fmt;
use v1::precondition::Precondition as WirePrecondition;
use v1::write::Write as WireWrite;

/// Why an entry of the log or a record of a snapshot cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It was written by a newer release.
    Format {
        /// Its format.
        format: u32,
        /// The newest format that this manager can read.
        format_max: u32,
    },
    /// It is damaged, although its seal was whole.
    Malformed(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format { format, format_max } => {
                write!(
                    f,
                    "it has format {format} and this release reads formats up to {format_max}: upgrade skep on this manager"
                )
            }
            Self::Malformed(text) => write!(f, "it is malformed: {text}"),
        }
    }
}

impl std::error::Error for Unreadable {}

impl From<Malformed> for Unreadable {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<prost::DecodeError> for Unreadable {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The data of a log entry.
pub fn encode(transaction: &Transaction, format: u32) -> Vec<u8> {
    v1::LogEntry { format, transaction: Some(to_wire(transaction)) }.encode_to_vec()
}

/// The transaction in the data of a log entry.
///
/// # Errors
/// The entry is of a format above `format_max`, or damaged.
pub fn decode(data: &[u8], format_max: u32) -> Result<Transaction, Unreadable> {
    let entry = v1::LogEntry::decode(data)?;
    if entry.format > format_max {
        return Err(Unreadable::Format { format: entry.format, format_max });
    }
    from_wire(given(entry.transaction, "transaction")?)
}

fn to_wire(transaction: &Transaction) -> v1::Transaction {
    v1::Transaction {
        time: transaction.time.0,
        wall: transaction.wall.0,
        request_id: transaction.request.map(|request| request.0.to_vec()),
        outcome: transaction.outcome.map(v1::Outcome::from),
        preconditions: transaction.preconditions.iter().map(precondition_to_wire).collect(),
        writes: transaction.writes.iter().map(|write| v1::Write { write: Some(write_to_wire(write)) }).collect(),
    }
}

fn from_wire(wire: v1::Transaction) -> Result<Transaction, Unreadable> {
    Ok(Transaction {
        time: Time(wire.time),
        wall: Time(if wire.wall == 0 { wire.time } else { wire.wall }),
        request: wire.request_id.map(request_id).transpose()?,
        outcome: wire.outcome.map(TryInto::try_into).transpose()?,
        preconditions: wire.preconditions.into_iter().map(precondition_from_wire).collect::<Result<_, _>>()?,
        writes: wire.writes.into_iter().map(|write| write_from_wire(given(write.write, "write")?)).collect::<Result<_, _>>()?,
    })
}

pub(super) fn request_id(bytes: Vec<u8>) -> Result<RequestId, Unreadable> {
    bytes.try_into().map(RequestId).map_err(|_| Unreadable::Malformed("a request id has 16 bytes".into()))
}

pub(super) fn given<T>(value: Option<T>, name: &str) -> Result<T, Unreadable> {
    value.ok_or_else(|| Unreadable::Malformed(format!("{name} is missing")))
}

fn precondition_to_wire(precondition: &Precondition) -> v1::Precondition {
    let precondition = match precondition {
        Precondition::Unchanged(object, section, version) => WirePrecondition::Unchanged(v1::Unchanged {
            object: Some(object.into()),
            section: section_to_wire(*section) as i32,
            version: *version,
        }),
        Precondition::Exists(object) => WirePrecondition::Exists(object.into()),
        Precondition::Absent(object) => WirePrecondition::Absent(object.into()),
    };
    v1::Precondition { precondition: Some(precondition) }
}

fn precondition_from_wire(wire: v1::Precondition) -> Result<Precondition, Unreadable> {
    Ok(match given(wire.precondition, "precondition")? {
        WirePrecondition::Unchanged(wire) => {
            let section = section_from_wire(wire.section())?;
            Precondition::Unchanged(given(wire.object, "object")?.try_into()?, section, wire.version)
        }
        WirePrecondition::Exists(object) => Precondition::Exists(object.try_into()?),
        WirePrecondition::Absent(object) => Precondition::Absent(object.try_into()?),
    })
}

fn section_to_wire(section: SectionName) -> v1::SectionName {
    match section {
        SectionName::Spec => v1::SectionName::Spec,
        SectionName::Description => v1::SectionName::Description,
        SectionName::Status => v1::SectionName::Status,
        SectionName::Plan => v1::SectionName::Plan,
    }
}

fn section_from_wire(section: v1::SectionName) -> Result<SectionName, Unreadable> {
    match section {
        v1::SectionName::Spec => Ok(SectionName::Spec),
        v1::SectionName::Description => Ok(SectionName::Description),
        v1::SectionName::Status => Ok(SectionName::Status),
        v1::SectionName::Plan => Ok(SectionName::Plan),
        v1::SectionName::Unspecified => Err(Unreadable::Malformed("the section of a precondition is missing".into())),
    }
}

/// Pairs the writes of one section of one object, in both directions.
macro_rules! sections {
    ($($variant:ident => $message:ident),* $(,)?) => {
        fn write_to_wire(write: &Write) -> WireWrite {
            match write {
                Write::Create(object) => WireWrite::Create(object.into()),
                Write::Remove(object) => WireWrite::Remove(object.into()),
                Write::ClusterSpec(value) => WireWrite::ClusterSpec(value.into()),
                Write::ClusterPlan(value) => WireWrite::ClusterPlan((&**value).into()),
                Write::ServiceSpec(id, value) => {
                    WireWrite::ServiceSpec(v1::WriteServiceSpec { id: id.to_string(), value: Some((&**value).into()) })
                }
                $(Write::$variant(id, value) => {
                    WireWrite::$variant(v1::$message { id: id.to_string(), value: Some(value.into()) })
                })*
            }
        }

        fn write_from_wire(wire: WireWrite) -> Result<Write, Unreadable> {
            Ok(match wire {
                WireWrite::Create(object) => Write::Create(Object::try_from(object)?),
                WireWrite::Remove(object) => Write::Remove(ObjectRef::try_from(object)?),
                WireWrite::ClusterSpec(value) => Write::ClusterSpec(value.try_into()?),
                WireWrite::ClusterPlan(value) => Write::ClusterPlan(Box::new(value.try_into()?)),
                WireWrite::ServiceSpec(wire) => {
                    Write::ServiceSpec(id(&wire.id)?, Box::new(given(wire.value, "value")?.try_into()?))
                }
                $(WireWrite::$variant(wire) => Write::$variant(id(&wire.id)?, given(wire.value, "value")?.try_into()?),)*
            })
        }
    };
}

sections! {
    NodeSpec => WriteNodeSpec,
    NodeDescription => WriteNodeDescription,
    NodeStatus => WriteNodeStatus,
    NodePlan => WriteNodePlan,
    NetworkSpec => WriteNetworkSpec,
    NetworkPlan => WriteNetworkPlan,
    SecretSpec => WriteSecretSpec,
    ConfigSpec => WriteConfigSpec,
    ServicePlan => WriteServicePlan,
    ServiceDeployment => WriteServiceDeployment,
    TaskPlan => WriteTaskPlan,
    TaskStatus => WriteTaskStatus,
}

trait TypedId: Sized {
    fn of(id: Id) -> Self;
}

macro_rules! typed_ids {
    ($($kind:ident),*) => {$(
        impl TypedId for skep_model::$kind {
            fn of(id: Id) -> Self {
                Self(id)
            }
        }
    )*};
}

typed_ids!(NodeId, NetworkId, SecretId, ConfigId, ServiceId, TaskId);

fn id<T: TypedId>(text: &str) -> Result<T, Unreadable> {
    text.parse().map(T::of).map_err(|error: skep_model::id::InvalidId| Unreadable::Malformed(error.to_string()))
}
