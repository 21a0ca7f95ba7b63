//! Secrets and configs. A secret is shown without its value; a config's is in base64.
//!
//! Ours: `Current` and `Versions`.

use crate::meta::Meta;
use crate::read::read;
use crate::scalar::{is_zero, stamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use skep_model::Refusal;
use skep_model::service::Annotations;
use skep_model::versioned::Versioned;
use std::collections::BTreeMap;
use std::fmt;

/// What `secret inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Secret(Object);

/// What `config inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Config(Object);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    #[serde(flatten)]
    meta: Meta,
    spec: ValueSpec,
    current: u64,
    versions: Vec<Version>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    number: u64,
    fingerprint: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

/// What a user wants of a secret or config. Its value is shown in JSON alone.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ValueSpec {
    name: String,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    data: Option<String>,
}

/// The bytes of a secret or config, which no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(pub Vec<u8>);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for ValueSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueSpec").field("name", &self.name).field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Secret {
    /// A secret, without its values.
    pub fn of(secret: &skep_model::secret::Secret) -> Self {
        Self(Object::of(secret, &BTreeMap::new()))
    }
}

impl Config {
    /// A config, with those of its values that are given.
    pub fn of(config: &skep_model::config::Config, values: &BTreeMap<u64, Vec<u8>>) -> Self {
        Self(Object::of(config, values))
    }
}

impl Object {
    fn of<I: ToString + Copy, const C: bool>(object: &Versioned<I, C>, values: &BTreeMap<u64, Vec<u8>>) -> Self {
        let spec = &object.spec;
        let version = |it: &skep_model::versioned::ValueVersion<C>| Version {
            number: it.n,
            fingerprint: it.fingerprint.clone(),
            created_at: stamp(it.created_at),
            data: values.get(&it.n).map(|value| STANDARD.encode(value)),
        };
        Self {
            meta: Meta::of(object.id, &object.meta),
            spec: ValueSpec::of(&spec.annotations, values.get(&spec.current).map(Vec::as_slice)),
            current: spec.current,
            versions: spec.versions.iter().map(version).collect(),
        }
    }
}

impl ValueSpec {
    /// A name, labels and a value. [`ValueSpec::to_model`] gives the same back.
    pub fn of(annotations: &Annotations, value: Option<&[u8]>) -> Self {
        Self {
            name: annotations.name.clone(),
            labels: annotations.labels.clone(),
            data: value.map(|value| STANDARD.encode(value)),
        }
    }

    /// Reads a spec, as a client sends it to create or update a secret or config.
    ///
    /// # Errors
    /// Names the field, also one that this version does not know, and never shows a value.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        read("spec", text)
    }

    /// Name and labels, and the value if there is one.
    ///
    /// # Errors
    /// The value is not base64.
    pub fn to_model(&self) -> Result<(Annotations, Option<Value>), Refusal> {
        let decode = |text: &String| {
            let refusal = |_| Refusal::invalid("Data", "", "it is not base64 (RFC 4648, with padding)");
            STANDARD.decode(text).map(Value).map_err(refusal)
        };
        let annotations = Annotations { name: self.name.clone(), labels: self.labels.clone() };
        Ok((annotations, self.data.as_ref().map(decode).transpose()?))
    }
}
