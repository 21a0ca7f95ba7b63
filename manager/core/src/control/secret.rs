//! Secrets: making, adding versions, removing.

use super::{Admitted, done, removal, rollout, text, transaction, unchanged};
use crate::store::Store;
use crate::transaction::{SectionName, Write};
use skep_model::container::ContainerSpec;
use skep_model::name::check_secret_name;
use skep_model::secret::VERSIONS_MAX;
use skep_model::secret::{SECRET_MAX, Secret, SecretSpec, SecretVersion};
use skep_model::service::{Annotations, Service};
use skep_model::{Kind, Meta, Object, Refusal, SecretId, Section, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What sealing adds to a value, in bytes.
const TAG: usize = 16;
/// The length of a fingerprint, in hex digits.
const FINGERPRINT: usize = 16;

pub(super) fn create(
    store: &Store,
    now: Time,
    id: SecretId,
    annotations: Annotations,
    version: SecretVersion,
) -> Result<Admitted, Refusal> {
    check_secret_name("secret name", &annotations.name)?;
    text::check_labels("secret label", &annotations.labels)?;
    check_version(&version, 1)?;
    if store.secrets().any(|other| other.spec.annotations.name.eq_ignore_ascii_case(&annotations.name)) {
        return Err(Refusal::NameConflict { kind: Kind::Secret, name: annotations.name });
    }
    let spec = SecretSpec { annotations, current: version.n, versions: vec![version] };
    let object = Secret { id, meta: Meta::default(), spec: Section::new(spec) };
    Ok(transaction(now, id.0, 1, Vec::new(), vec![Write::Create(Object::Secret(Box::new(object)))]))
}

pub(super) fn update(
    store: &Store,
    now: Time,
    reference: &str,
    version: Option<SecretVersion>,
    labels: Option<BTreeMap<String, String>>,
) -> Result<Admitted, Refusal> {
    let stored = store.resolve_secret(reference)?;
    let mut spec = stored.spec.value.clone();
    if let Some(labels) = labels {
        text::check_labels("secret label", &labels)?;
        spec.annotations.labels = labels;
    }
    let mut preconditions = vec![unchanged(Kind::Secret, stored.id.0, SectionName::Spec, stored.spec.version)];
    let mut writes = Vec::new();
    if let Some(version) = version {
        let newest = spec.versions.iter().map(|version| version.n).max().unwrap_or(0);
        let is_same = spec.versions.iter().any(|old| old.n == spec.current && old.fingerprint == version.fingerprint);
        // The same value again changes nothing and rolls nothing.
        if !is_same {
            if version.n != newest + 1 {
                return Err(Refusal::OutOfSequence);
            }
            check_version(&version, version.n)?;
            spec.current = version.n;
            spec.versions.push(version);
            prune(store, stored, &mut spec)?;
            let what = format!("secret {}", spec.annotations.name);
            let rolled = rollout::roll(store, now, &what, &followers(store, stored.id))?;
            preconditions.extend(rolled.0);
            writes.extend(rolled.1);
        }
    }
    let number = spec.current;
    if spec == stored.spec.value {
        return Ok(done(store, stored.id.0, number));
    }
    writes.insert(0, Write::SecretSpec(stored.id, spec));
    Ok(transaction(now, stored.id.0, number, preconditions, writes))
}

pub(super) fn remove(store: &Store, now: Time, reference: &str) -> Result<Admitted, Refusal> {
    let stored = store.resolve_secret(reference)?;
    let users: Vec<Arc<Service>> = store.services_of_secret(stored.id).cloned().collect();
    if !users.is_empty() {
        let by = rollout::in_use_by(&users);
        return Err(Refusal::InUse { kind: Kind::Secret, name: stored.spec.annotations.name.clone(), by });
    }
    let precondition = unchanged(Kind::Secret, stored.id.0, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![removal(Kind::Secret, stored.id.0)]))
}

/// Services whose spec follows the current version.
fn followers(store: &Store, id: SecretId) -> Vec<Arc<Service>> {
    let follows = |service: &&Arc<Service>| {
        let references = &service.spec.spec.task_template.container_spec.secrets;
        references.iter().any(|reference| reference.id == id && reference.version.is_none())
    };
    store.services_of_secret(id).filter(follows).cloned().collect()
}

fn check_version(version: &SecretVersion, expected: u64) -> Result<(), Refusal> {
    if version.n != expected {
        return Err(Refusal::OutOfSequence);
    }
    let length = version.sealed.bytes.len().saturating_sub(TAG);
    if length == 0 {
        return Err(Refusal::invalid("secret value", "", "it must not be empty"));
    }
    if length >= SECRET_MAX {
        return Err(Refusal::TooLarge {
            what: format!("secret value of {length} bytes"),
            limit: format!("{} bytes", SECRET_MAX - 1),
        });
    }
    let is_fingerprint =
        version.fingerprint.len() == FINGERPRINT && version.fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_fingerprint {
        return Err(Refusal::invalid("secret fingerprint", &version.fingerprint, "it has 16 hex digits"));
    }
    Ok(())
}

/// Drops the oldest versions that nobody refers to, down to the most that are kept.
fn prune(store: &Store, stored: &Secret, spec: &mut SecretSpec) -> Result<(), Refusal> {
    if spec.versions.len() <= VERSIONS_MAX {
        return Ok(());
    }
    let numbers = |container: &ContainerSpec| {
        container.secrets.iter().filter(|reference| reference.id == stored.id).filter_map(|reference| reference.version).collect()
    };
    let mut in_use = rollout::numbers_in_use(store, numbers);
    // The one that was current is what its followers' previous specs will be pinned to.
    in_use.extend([spec.current, stored.spec.current]);
    while spec.versions.len() > VERSIONS_MAX {
        let Some(unused) = spec.versions.iter().position(|version| !in_use.contains(&version.n)) else {
            let name = &spec.annotations.name;
            let text = format!(
                "secret {name} has {VERSIONS_MAX} versions and all are in use; update the services that are pinned to old ones"
            );
            return Err(Refusal::Exhausted(text));
        };
        spec.versions.remove(unused);
    }
    Ok(())
}
