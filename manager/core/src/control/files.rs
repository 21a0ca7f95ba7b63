//! References of a spec to secrets and configs, and where they appear.

use super::{exists, text, unchanged};
use crate::store::Store;
use crate::transaction::{Precondition, SectionName};
use skep_model::container::{ContainerSpec, FileTarget};
use skep_model::service::ServiceSpec;
use skep_model::{Kind, Refusal};
use std::collections::BTreeMap;

/// Checks that what is referred to exists under the name given, and that no two
/// things appear at the same path.
pub(super) fn check(store: &Store, container: &ContainerSpec) -> Result<(), Refusal> {
    let mut targets: BTreeMap<String, String> = BTreeMap::new();
    for mount in &container.mounts {
        let path = mount.target.trim_end_matches('/').to_owned();
        if targets.insert(path, format!("mount {}", mount.target)).is_some() {
            return Err(Refusal::invalid("mount target", &mount.target, "duplicate mount point: two mounts have this target"));
        }
    }
    for reference in &container.secrets {
        let stored = store.secret(reference.id);
        let stored = stored.filter(|secret| secret.spec.annotations.name == reference.name);
        let secret = stored.ok_or_else(|| missing(Kind::Secret, &reference.name))?;
        let has = |n: u64| secret.spec.versions.iter().any(|version| version.n == n);
        check_version(Kind::Secret, &reference.name, reference.version, has)?;
        add("secret", &reference.name, &reference.file, "/run/secrets/", &mut targets)?;
    }
    for reference in &container.configs {
        let stored = store.config(reference.id);
        let stored = stored.filter(|config| config.spec.annotations.name == reference.name);
        let config = stored.ok_or_else(|| missing(Kind::Config, &reference.name))?;
        let has = |n: u64| config.spec.versions.iter().any(|version| version.n == n);
        check_version(Kind::Config, &reference.name, reference.version, has)?;
        add("config", &reference.name, &reference.file, "/", &mut targets)?;
    }
    Ok(())
}

/// Whether every secret and config version that a spec refers to is still there.
pub(super) fn all_exist(store: &Store, spec: &ServiceSpec) -> bool {
    let container = &spec.task_template.container_spec;
    let has_secret = |id, wanted: Option<u64>| {
        let secret = store.secret(id);
        secret.is_some_and(|secret| wanted.is_none_or(|n| secret.spec.versions.iter().any(|version| version.n == n)))
    };
    let has_config = |id, wanted: Option<u64>| {
        let config = store.config(id);
        config.is_some_and(|config| wanted.is_none_or(|n| config.spec.versions.iter().any(|version| version.n == n)))
    };
    container.secrets.iter().all(|reference| has_secret(reference.id, reference.version))
        && container.configs.iter().all(|reference| has_config(reference.id, reference.version))
}

/// What a spec relies on at apply: the secrets and configs it refers to, and that a
/// version it names has not been dropped meanwhile.
pub(super) fn preconditions(store: &Store, container: &ContainerSpec) -> Vec<Precondition> {
    let relies = |kind, id, version: Option<u64>, stored: Option<u64>| match (version, stored) {
        (Some(_), Some(stored)) => unchanged(kind, id, SectionName::Spec, stored),
        _ => exists(kind, id),
    };
    let secrets = container.secrets.iter().map(|reference| {
        let stored = store.secret(reference.id).map(|secret| secret.spec.version);
        relies(Kind::Secret, reference.id.0, reference.version, stored)
    });
    let configs = container.configs.iter().map(|reference| {
        let stored = store.config(reference.id).map(|config| config.spec.version);
        relies(Kind::Config, reference.id.0, reference.version, stored)
    });
    secrets.chain(configs).collect()
}

fn missing(kind: Kind, name: &str) -> Refusal {
    Refusal::NotFound { kind, reference: name.to_owned() }
}

fn check_version(kind: Kind, name: &str, version: Option<u64>, has: impl Fn(u64) -> bool) -> Result<(), Refusal> {
    match version {
        Some(n) if !has(n) => {
            let reason = format!("{kind} {name} has no version {n} (any more)");
            Err(Refusal::invalid(format!("{kind} version"), n.to_string(), reason))
        }
        _ => Ok(()),
    }
}

fn add(what: &str, name: &str, file: &FileTarget, folder: &str, targets: &mut BTreeMap<String, String>) -> Result<(), Refusal> {
    let field = format!("{what} target");
    if file.name.is_empty() {
        return Err(Refusal::invalid(field, name, "a target must be given"));
    }
    if file.mode > 0o7777 {
        return Err(Refusal::invalid(format!("{what} mode"), format!("{:o}", file.mode), "a mode has at most four octal digits"));
    }
    let path = if file.name.starts_with('/') {
        text::check_absolute(&field, &file.name)?;
        // Where it appears: a slash at the end makes no other place.
        file.name.trim_end_matches('/').to_owned()
    } else {
        text::check(&field, &file.name)?;
        text::check_parts(&field, &file.name, &file.name)?;
        format!("{folder}{}", file.name)
    };
    match targets.insert(path.clone(), format!("{what} {name}")) {
        Some(other) => {
            let reason = format!("{other} and {what} {name} have a conflicting target: both would appear at {path}");
            Err(Refusal::invalid(field, &file.name, reason))
        }
        None => Ok(()),
    }
}
