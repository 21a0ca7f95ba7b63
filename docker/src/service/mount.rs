//! `Mounts` of a container: binds and memory; other types are refused by name.

use crate::scalar::is_zero;
use crate::word::Word;
use serde::{Deserialize, Serialize};
use skep_model::Refusal;
use skep_model::container as model;
use skep_model::container::MountKind;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(skip_serializing_if = "is_zero")]
    source: String,
    target: String,
    #[serde(skip_serializing_if = "is_zero")]
    read_only: bool,
    #[serde(skip_serializing_if = "is_zero")]
    bind_options: BindOptions,
    #[serde(skip_serializing_if = "is_zero")]
    tmpfs_options: TmpfsOptions,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct BindOptions {
    #[serde(skip_serializing_if = "is_zero")]
    propagation: String,
    #[serde(skip_serializing_if = "is_zero")]
    create_mountpoint: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TmpfsOptions {
    #[serde(skip_serializing_if = "is_zero")]
    size_bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u32,
}

impl Mount {
    pub(crate) fn of(mount: &model::Mount) -> Self {
        Self {
            kind: mount.kind.word().into(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            read_only: mount.read_only,
            bind_options: BindOptions { propagation: mount.propagation.clone(), create_mountpoint: mount.create_source },
            tmpfs_options: TmpfsOptions { size_bytes: mount.tmpfs_size, mode: mount.tmpfs_mode },
        }
    }

    pub(crate) fn to_model(&self) -> Result<model::Mount, Refusal> {
        Ok(model::Mount {
            kind: MountKind::parse("Mounts.Type", &self.kind)?,
            source: self.source.clone(),
            target: self.target.clone(),
            read_only: self.read_only,
            tmpfs_size: self.tmpfs_options.size_bytes,
            tmpfs_mode: self.tmpfs_options.mode,
            propagation: self.bind_options.propagation.clone(),
            create_source: self.bind_options.create_mountpoint,
        })
    }
}
