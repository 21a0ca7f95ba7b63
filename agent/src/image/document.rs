//! The JSON documents of an image: index, manifest and config, as OCI and Docker write them.
//!
//! Only what a node needs is read; unknown fields are left alone, `null` is the default. The bytes
//! themselves are kept as blobs, so nothing is ever written back from these types except the
//! manifest that a Docker archive lacks.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::digest::Digest;
use super::error::{ImageError, Result};

/// Bytes a manifest, index or config may have.
pub(super) const DOCUMENT_MAX: u64 = 4 << 20;
/// Layers an image may have; overlayfs takes 500, and the mount options must fit a page.
pub(super) const LAYERS_MAX: usize = 127;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What an image is built for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// As Go names it: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// `v7`, `v8`, …; none if it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// Whether an image built for `offered` is meant when `self` is wanted. A variant that either
    /// side leaves out fits any.
    pub fn accepts(&self, offered: &Self) -> bool {
        let variant = match (&self.variant, &offered.variant) {
            (Some(wanted), Some(offered)) => wanted == offered,
            _ => true,
        };
        self.os == offered.os && self.architecture == offered.architecture && variant
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Names a blob by digest and size.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests for several platforms, or the top of an OCI layout.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

/// Config and layers of one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Either of the two, told apart by what they contain.
pub(super) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    /// Reads an index or a manifest. `object` names it in errors.
    pub(super) fn parse(bytes: &[u8], object: &str) -> Result<Self> {
        let bad = |reason: String| ImageError::BadDocument { object: object.to_owned(), reason };
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if value.get("schemaVersion").and_then(serde_json::Value::as_u64) != Some(2) {
            return Err(bad("schema version 2 is needed".into()));
        }
        let media_type = value.get("mediaType").and_then(serde_json::Value::as_str);
        let is_index = match media_type {
            Some(OCI_INDEX | DOCKER_LIST) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            Some(other) => return Err(bad(format!("media type {other:?} is not supported"))),
            None => value.get("manifests").is_some(),
        };
        // A document that could be read both ways could mean different images to two readers.
        if value.get("manifests").is_some() && (value.get("layers").is_some() || value.get("config").is_some()) {
            return Err(bad("it is a manifest and a list of manifests at once".into()));
        }
        if is_index {
            return Ok(Self::Index(serde_json::from_value(value).map_err(|error| bad(error.to_string()))?));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(ImageError::TooLarge { object: object.to_owned(), limit: LAYERS_MAX as u64, unit: "layers" });
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Index {
    /// The manifest for `platform`; an entry that names none fits only if nothing better does.
    pub(super) fn choose(&self, platform: &Platform, object: &str) -> Result<&Descriptor> {
        let exact = self.manifests.iter().find(|entry| entry.platform.as_ref() == Some(platform));
        let fitting =
            || self.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(|offered| platform.accepts(offered)));
        let unnamed = || self.manifests.iter().find(|entry| entry.platform.is_none());
        exact.or_else(fitting).or_else(unnamed).ok_or_else(|| {
            let mut available: Vec<String> =
                self.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).take(16).collect();
            available.dedup();
            let available = if available.is_empty() { "none".into() } else { available.join(", ") };
            ImageError::NoPlatform { object: object.to_owned(), platform: platform.to_string(), available }
        })
    }
}

/// How to probe a container's health, as the image says. Durations in nanoseconds, 0 = default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Nanoseconds between two probes.
    pub interval: u64,
    /// Nanoseconds after which a probe has failed.
    pub timeout: u64,
    /// Nanoseconds at the start in which failures do not count.
    pub start_period: u64,
    /// Nanoseconds between two probes in the start period.
    pub start_interval: u64,
    /// Failures in a row that make a container unhealthy.
    pub retries: u32,
}

/// What an image asks of its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Arguments that always come first.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Working directory; empty means `/`.
    pub workdir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// `80/tcp` each.
    pub exposed_ports: Vec<String>,
    /// Paths that want a volume.
    pub volumes: Vec<String>,
    /// How to probe, if the image says.
    pub healthcheck: Option<Healthcheck>,
    /// `SIGTERM` or a number, if the image says.
    pub stop_signal: Option<String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// As Go names it.
    pub architecture: String,
    /// Variant of the architecture, if any.
    pub variant: Option<String>,
    /// `linux`.
    pub os: String,
    /// When it was built, RFC 3339, as the image says.
    pub created: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConfig {
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    variant: Option<String>,
    #[serde(deserialize_with = "or_default")]
    os: String,
    created: Option<String>,
    #[serde(deserialize_with = "or_default")]
    config: RawRun,
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRootfs {
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, serde_json::Value>,
    healthcheck: Option<Healthcheck>,
    stop_signal: Option<String>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// Reads a config and the diff ids of its layers, bottom first.
    pub(super) fn parse(bytes: &[u8], object: &str) -> Result<(Self, Vec<Digest>)> {
        let raw: RawConfig = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::BadDocument { object: object.to_owned(), reason: error.to_string() })?;
        let run = raw.config;
        let config = Self {
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            env: run.env,
            workdir: run.working_dir,
            user: run.user,
            exposed_ports: run.exposed_ports.into_keys().collect(),
            volumes: run.volumes.into_keys().collect(),
            healthcheck: run.healthcheck.filter(|check| !check.test.is_empty()),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            labels: run.labels,
            architecture: raw.architecture,
            variant: raw.variant.filter(|variant| !variant.is_empty()),
            os: raw.os,
            created: raw.created,
        };
        Ok((config, raw.rootfs.diff_ids))
    }
}

/// Chain ids of layers given their diff ids, bottom first (OCI image spec, "Layer ChainID").
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        let next = match chain.last() {
            None => diff.clone(),
            Some(below) => Digest::of(format!("{below} {diff}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(byte: u8, platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(&[byte]),
            size: 1,
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(str::to_owned),
            }),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn the_best_fitting_platform_is_chosen() {
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![
                entry(0, Some(("unknown", "unknown", None))),
                entry(1, Some(("linux", "amd64", None))),
                entry(2, Some(("linux", "arm", Some("v6")))),
                entry(3, Some(("linux", "arm", Some("v7")))),
                entry(4, Some(("linux", "arm64", None))),
            ],
        };
        let wanted = |architecture: &str, variant: Option<&str>| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        };
        let check = |platform: &Platform, byte: u8| {
            assert_eq!(index.choose(platform, "x").expect("a manifest").digest, Digest::of(&[byte]), "{platform}");
        };
        check(&wanted("amd64", None), 1);
        check(&wanted("arm", Some("v7")), 3);
        check(&wanted("arm", Some("v6")), 2);
        check(&wanted("arm64", Some("v8")), 4);
        let error = index.choose(&wanted("riscv64", None), "redis").expect_err("nothing fits").to_string();
        assert!(error.contains("linux/riscv64") && error.contains("linux/arm/v7"), "{error}");
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let diffs = [Digest::of(b"a"), Digest::of(b"b")];
        let chain = chain_ids(&diffs);
        assert_eq!(chain[0], diffs[0]);
        assert_eq!(chain[1], Digest::of(format!("{} {}", diffs[0], diffs[1]).as_bytes()));
    }

    #[test]
    fn nulls_and_missing_fields_are_defaults() {
        let (config, diffs) = ImageConfig::parse(
            br#"{"os":"linux","architecture":"amd64","config":{"Cmd":null,"Entrypoint":["/x"],"ExposedPorts":{"80/tcp":{}},
                "Healthcheck":{"Test":["CMD","true"],"Interval":5},"StopSignal":"","Volumes":null},"rootfs":{"type":"layers","diff_ids":null}}"#,
            "config",
        )
        .expect("a config");
        assert_eq!(config.entrypoint, ["/x"]);
        assert_eq!(config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.healthcheck.expect("a check").interval, 5);
        assert_eq!(config.stop_signal, None);
        assert!(config.cmd.is_empty() && diffs.is_empty());
    }

    #[test]
    fn a_document_with_two_meanings_is_refused() {
        let text = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(Document::parse(text, "x"), Err(ImageError::BadDocument { .. })));
    }
}
