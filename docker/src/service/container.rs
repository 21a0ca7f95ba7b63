//! `ContainerSpec`: what runs in a task.
//!
//! Ours: `StopDrain`, and `Version` in a reference to a secret or config.

use super::mount::Mount;
use crate::scalar::{is_zero, nanos};
use serde::{Deserialize, Serialize};
use skep_model::container::{self as model, HostEntry};
use skep_model::id::InvalidId;
use skep_model::{ConfigId, Refusal, SecretId};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// The one isolation that containers of Linux have.
const ISOLATION: &str = "default";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ContainerSpec {
    #[serde(skip_serializing_if = "is_zero")]
    image: String,
    #[serde(skip_serializing_if = "is_zero")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    command: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    args: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    hostname: String,
    #[serde(skip_serializing_if = "is_zero")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dir: String,
    #[serde(skip_serializing_if = "is_zero")]
    user: String,
    #[serde(skip_serializing_if = "is_zero")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    privileges: Option<Privileges>,
    #[serde(skip_serializing_if = "is_zero")]
    init: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    stop_signal: String,
    #[serde(skip_serializing_if = "is_zero")]
    read_only: bool,
    #[serde(skip_serializing_if = "is_zero")]
    mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "is_zero")]
    stop_grace_period: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "is_zero")]
    hosts: Vec<String>,
    #[serde(rename = "DNSConfig", skip_serializing_if = "is_zero")]
    dns: Option<DnsConfig>,
    #[serde(skip_serializing_if = "is_zero")]
    secrets: Vec<SecretReference>,
    #[serde(skip_serializing_if = "is_zero")]
    configs: Vec<ConfigReference>,
    #[serde(skip_serializing_if = "is_zero")]
    isolation: String,
    #[serde(skip_serializing_if = "is_zero")]
    sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    capability_add: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    capability_drop: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    ulimits: Vec<Ulimit>,
    #[serde(skip_serializing_if = "is_zero")]
    oom_score_adj: i32,
    #[serde(skip_serializing_if = "is_zero")]
    stop_drain: Option<u64>,
}

/// What a process may gain. The first two keys are always there, as null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Privileges {
    credential_spec: (),
    #[serde(rename = "SELinuxContext")]
    selinux_context: (),
    no_new_privileges: bool,
}

/// A duration of 0 is one that was given; one that is absent is the image's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Healthcheck {
    #[serde(skip_serializing_if = "is_zero")]
    test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    interval: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DnsConfig {
    #[serde(skip_serializing_if = "is_zero")]
    nameservers: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    search: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    options: Vec<String>,
}

/// Where a secret or config appears. Owners are texts in Docker's JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct File {
    name: String,
    #[serde(rename = "UID")]
    uid: String,
    #[serde(rename = "GID")]
    gid: String,
    mode: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SecretReference {
    file: File,
    #[serde(rename = "SecretID")]
    id: String,
    #[serde(rename = "SecretName")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    version: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigReference {
    file: File,
    #[serde(rename = "ConfigID")]
    id: String,
    #[serde(rename = "ConfigName")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    version: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ulimit {
    name: String,
    hard: i64,
    soft: i64,
}

impl ContainerSpec {
    /// What was asked for.
    pub(crate) fn of(spec: &model::ContainerSpec) -> Self {
        let secret = |it: &model::SecretReference| SecretReference {
            file: File::of(&it.file),
            id: it.id.to_string(),
            name: it.name.clone(),
            version: it.version,
        };
        let config = |it: &model::ConfigReference| ConfigReference {
            file: File::of(&it.file),
            id: it.id.to_string(),
            name: it.name.clone(),
            version: it.version,
        };
        Self {
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            command: spec.command.clone(),
            args: spec.args.clone(),
            hostname: spec.hostname.clone(),
            env: spec.env.clone(),
            dir: spec.dir.clone(),
            user: spec.user.clone(),
            groups: spec.groups.clone(),
            privileges: spec.no_new_privileges.then(|| Privileges { no_new_privileges: true, ..Privileges::default() }),
            init: spec.init,
            stop_signal: spec.stop_signal.clone(),
            read_only: spec.read_only,
            mounts: spec.mounts.iter().map(Mount::of).collect(),
            stop_grace_period: spec.stop_grace_period.map(nanos),
            healthcheck: spec.healthcheck.as_ref().map(Healthcheck::of),
            hosts: spec.hosts.iter().map(|host| format!("{} {}", host.address, host.name)).collect(),
            dns: Some(DnsConfig {
                nameservers: spec.dns.nameservers.clone(),
                search: spec.dns.search.clone(),
                options: spec.dns.options.clone(),
            }),
            secrets: spec.secrets.iter().map(secret).collect(),
            configs: spec.configs.iter().map(config).collect(),
            isolation: ISOLATION.into(),
            sysctls: spec.sysctls.clone(),
            capability_add: spec.capability_add.clone(),
            capability_drop: spec.capability_drop.clone(),
            ulimits: spec.ulimits.iter().map(|it| Ulimit { name: it.name.clone(), hard: it.hard, soft: it.soft }).collect(),
            oom_score_adj: spec.oom_score_adj,
            stop_drain: spec.stop_drain.map(nanos),
        }
    }

    /// Writes down whether there is an init, which Docker shows of services and tasks alike.
    pub(crate) fn with_init(mut self) -> Self {
        self.init.get_or_insert(false);
        self
    }

    /// Writes down the grace period that counts where none was asked for.
    pub(crate) fn with_grace(mut self) -> Self {
        self.stop_grace_period.get_or_insert(nanos(model::STOP_GRACE));
        self
    }

    /// Back to the model.
    ///
    /// # Errors
    /// Names the field.
    pub(crate) fn to_model(&self) -> Result<model::ContainerSpec, Refusal> {
        if !["", ISOLATION].contains(&self.isolation.as_str()) {
            let reason = "containers have one isolation here: leave it out, or write default";
            return Err(Refusal::invalid("ContainerSpec.Isolation", &self.isolation, reason));
        }
        let dns = self.dns.clone().unwrap_or_default();
        let hosts = self.hosts.iter().map(|line| hosts(line)).collect::<Result<Vec<_>, _>>()?;
        Ok(model::ContainerSpec {
            image: self.image.clone(),
            labels: self.labels.clone(),
            command: self.command.clone(),
            args: self.args.clone(),
            hostname: self.hostname.clone(),
            env: self.env.clone(),
            dir: self.dir.clone(),
            user: self.user.clone(),
            groups: self.groups.clone(),
            init: self.init,
            read_only: self.read_only,
            mounts: self.mounts.iter().map(Mount::to_model).collect::<Result<_, _>>()?,
            stop_signal: self.stop_signal.clone(),
            stop_grace_period: self.stop_grace_period.map(Duration::from_nanos),
            stop_drain: self.stop_drain.map(Duration::from_nanos),
            healthcheck: self.healthcheck.as_ref().map(Healthcheck::to_model),
            hosts: hosts.concat(),
            dns: model::DnsConfig { nameservers: dns.nameservers, search: dns.search, options: dns.options },
            secrets: self.secrets.iter().map(SecretReference::to_model).collect::<Result<_, _>>()?,
            configs: self.configs.iter().map(ConfigReference::to_model).collect::<Result<_, _>>()?,
            capability_add: self.capability_add.clone(),
            capability_drop: self.capability_drop.clone(),
            sysctls: self.sysctls.clone(),
            ulimits: self
                .ulimits
                .iter()
                .map(|it| model::Ulimit { name: it.name.clone(), soft: it.soft, hard: it.hard })
                .collect(),
            oom_score_adj: self.oom_score_adj,
            no_new_privileges: self.privileges.as_ref().is_some_and(|privileges| privileges.no_new_privileges),
        })
    }
}

/// A line of `/etc/hosts`: an address and its names.
fn hosts(line: &str) -> Result<Vec<HostEntry>, Refusal> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let address = words.next().unwrap_or_default();
    let entries: Vec<HostEntry> = words.map(|name| HostEntry { address: address.clone(), name }).collect();
    if entries.is_empty() {
        return Err(Refusal::invalid("ContainerSpec.Hosts", line, "write it as \"10.0.0.9 db\": an address and its names"));
    }
    Ok(entries)
}

impl Healthcheck {
    fn of(check: &model::HealthConfig) -> Self {
        Self {
            test: check.test.clone(),
            interval: check.interval.map(nanos),
            timeout: check.timeout.map(nanos),
            start_period: check.start_period.map(nanos),
            start_interval: check.start_interval.map(nanos),
            retries: check.retries,
        }
    }

    fn to_model(&self) -> model::HealthConfig {
        model::HealthConfig {
            test: self.test.clone(),
            interval: self.interval.map(Duration::from_nanos),
            timeout: self.timeout.map(Duration::from_nanos),
            start_period: self.start_period.map(Duration::from_nanos),
            start_interval: self.start_interval.map(Duration::from_nanos),
            retries: self.retries,
        }
    }
}

impl File {
    fn of(file: &model::FileTarget) -> Self {
        Self { name: file.name.clone(), uid: file.uid.to_string(), gid: file.gid.to_string(), mode: file.mode }
    }

    fn to_model(&self) -> Result<model::FileTarget, Refusal> {
        let number = |field: &str, text: &str| match text {
            "" => Ok(0),
            text => {
                text.parse().map_err(|_| Refusal::invalid(field, text, "it must be a number: the node has no names of users"))
            }
        };
        let (uid, gid) = (number("File.UID", &self.uid)?, number("File.GID", &self.gid)?);
        Ok(model::FileTarget { name: self.name.clone(), uid, gid, mode: self.mode })
    }
}

fn id<I: FromStr<Err = InvalidId>>(field: &str, text: &str) -> Result<I, Refusal> {
    text.parse().map_err(|invalid: InvalidId| Refusal::invalid(field, "", invalid.to_string()))
}

impl SecretReference {
    fn to_model(&self) -> Result<model::SecretReference, Refusal> {
        let id: SecretId = id("Secrets.SecretID", &self.id)?;
        Ok(model::SecretReference { id, name: self.name.clone(), version: self.version, file: self.file.to_model()? })
    }
}

impl ConfigReference {
    fn to_model(&self) -> Result<model::ConfigReference, Refusal> {
        let id: ConfigId = id("Configs.ConfigID", &self.id)?;
        Ok(model::ConfigReference { id, name: self.name.clone(), version: self.version, file: self.file.to_model()? })
    }
}
