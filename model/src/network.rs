//! Networks, so far as objects only: they can be stored, listed and read.

use crate::service::Annotations;
use crate::{Meta, NetworkId, Section};

/// A network. Writer: users (`spec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// When it was made and last changed.
    pub meta: Meta,
    /// What users want.
    pub spec: Section<NetworkSpec>,
}

/// The section that users write.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NetworkSpec {
    /// Name and labels.
    pub annotations: Annotations,
    /// `host` and `none` are predefined; `overlay` networks come with netd.
    pub driver: String,
    /// No way out.
    pub internal: bool,
}
