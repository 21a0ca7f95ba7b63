//! References of a spec to secrets and configs.

use super::admitted::{exists, unchanged};
use crate::store::Store;
use crate::transaction::{Precondition, SectionName};
use skep_model::container::ContainerSpec;
use skep_model::container::check::check_files_length;
use skep_model::{Kind, Refusal};

/// Checks that what is referred to exists under the name given, and that all of it
/// together reaches a task.
pub(super) fn check(store: &Store, container: &ContainerSpec) -> Result<(), Refusal> {
    let mut n_bytes = 0;
    for reference in &container.secrets {
        let stored = store.secret(reference.id);
        let stored = stored.filter(|secret| secret.spec.annotations.name == reference.name);
        let secret = stored.ok_or_else(|| missing(Kind::Secret, &reference.name))?;
        let of = |n: u64| secret.spec.versions.iter().find(|version| version.n == n).map(|version| version.sealed.bytes.len());
        check_version(Kind::Secret, &reference.name, reference.version, |n| of(n).is_some())?;
        n_bytes += of(reference.version.unwrap_or(secret.spec.current)).unwrap_or_default() as u64;
    }
    for reference in &container.configs {
        let stored = store.config(reference.id);
        let stored = stored.filter(|config| config.spec.annotations.name == reference.name);
        let config = stored.ok_or_else(|| missing(Kind::Config, &reference.name))?;
        let of = |n: u64| config.spec.versions.iter().find(|version| version.n == n).map(|version| version.sealed.bytes.len());
        check_version(Kind::Config, &reference.name, reference.version, |n| of(n).is_some())?;
        n_bytes += of(reference.version.unwrap_or(config.spec.current)).unwrap_or_default() as u64;
    }
    check_files_length(n_bytes)
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
