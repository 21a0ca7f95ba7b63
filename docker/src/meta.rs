//! What every stored object of Swarm's begins with: its id, its version and its times.

use crate::scalar::stamp;
use serde::Serialize;

/// The first keys of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Meta {
    #[serde(rename = "ID")]
    id: String,
    version: Version,
    created_at: String,
    updated_at: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    index: u64,
}

impl Meta {
    pub(crate) fn of(id: impl ToString, meta: &skep_model::Meta) -> Self {
        Self {
            id: id.to_string(),
            version: Version { index: meta.version },
            created_at: stamp(meta.created_at),
            updated_at: stamp(meta.updated_at),
        }
    }
}
