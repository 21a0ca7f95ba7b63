//! Secrets and configs: making, adding versions, removing. One mechanism for both; [`Held`] is what differs.

use super::admitted::{Admitted, done, removal, transaction, unchanged};
use super::rollout;
use crate::store::Store;
use crate::transaction::{SectionName, Write};
use skep_model::config::{CONFIG_MAX, Config, ConfigSpec};
use skep_model::container::ContainerSpec;
use skep_model::name::check_secret_name;
use skep_model::secret::{SECRET_MAX, Secret, SecretSpec};
use skep_model::service::{Annotations, Service};
use skep_model::task::Task;
use skep_model::text::check_labels;
use skep_model::versioned::{VERSIONS_MAX, ValueVersion, Versioned, VersionedSpec};
use skep_model::{ConfigId, Id, Kind, Meta, Object, Refusal, SecretId, Section, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tasks that a refusal names.
const USERS_NAMED_MAX: usize = 5;
/// What sealing adds to a value, in bytes.
const TAG: usize = 16;
/// The length of a fingerprint, in hex digits.
const FINGERPRINT: usize = 16;

/// The id of a kind that has versions, and where the store and the services keep what it names.
pub(super) trait Held<const CONFIDENTIAL: bool>: Copy + Eq + 'static {
    /// The kind.
    const KIND: Kind;
    /// A value is shorter than this, in bytes.
    const VALUE_MAX: usize;

    fn raw(self) -> Id;
    fn all(store: &Store) -> impl Iterator<Item = &Arc<Versioned<Self, CONFIDENTIAL>>>;
    fn resolve<'a>(store: &'a Store, reference: &str) -> Result<&'a Arc<Versioned<Self, CONFIDENTIAL>>, Refusal>;
    /// The services that refer to it.
    fn services(self, store: &Store) -> impl Iterator<Item = &Arc<Service>>;
    /// The tasks that refer to it and have not ended.
    fn tasks(self, store: &Store) -> impl Iterator<Item = &Arc<Task>>;
    /// What a container refers to, with the version if it is pinned.
    fn references(container: &ContainerSpec) -> impl Iterator<Item = (Self, Option<u64>)>;
    fn object(new: Versioned<Self, CONFIDENTIAL>) -> Object;
    fn write(self, spec: VersionedSpec<CONFIDENTIAL>) -> Write;
}

impl Held<true> for SecretId {
    const KIND: Kind = Kind::Secret;
    const VALUE_MAX: usize = SECRET_MAX;

    fn raw(self) -> Id {
        self.0
    }

    fn all(store: &Store) -> impl Iterator<Item = &Arc<Secret>> {
        store.secrets()
    }

    fn resolve<'a>(store: &'a Store, reference: &str) -> Result<&'a Arc<Secret>, Refusal> {
        store.resolve_secret(reference)
    }

    fn services(self, store: &Store) -> impl Iterator<Item = &Arc<Service>> {
        store.services_of_secret(self)
    }

    fn tasks(self, store: &Store) -> impl Iterator<Item = &Arc<Task>> {
        store.tasks_of_secret(self)
    }

    fn references(container: &ContainerSpec) -> impl Iterator<Item = (Self, Option<u64>)> {
        container.secrets.iter().map(|reference| (reference.id, reference.version))
    }

    fn object(new: Secret) -> Object {
        Object::Secret(Box::new(new))
    }

    fn write(self, spec: SecretSpec) -> Write {
        Write::SecretSpec(self, spec)
    }
}

impl Held<false> for ConfigId {
    const KIND: Kind = Kind::Config;
    const VALUE_MAX: usize = CONFIG_MAX;

    fn raw(self) -> Id {
        self.0
    }

    fn all(store: &Store) -> impl Iterator<Item = &Arc<Config>> {
        store.configs()
    }

    fn resolve<'a>(store: &'a Store, reference: &str) -> Result<&'a Arc<Config>, Refusal> {
        store.resolve_config(reference)
    }

    fn services(self, store: &Store) -> impl Iterator<Item = &Arc<Service>> {
        store.services_of_config(self)
    }

    fn tasks(self, store: &Store) -> impl Iterator<Item = &Arc<Task>> {
        store.tasks_of_config(self)
    }

    fn references(container: &ContainerSpec) -> impl Iterator<Item = (Self, Option<u64>)> {
        container.configs.iter().map(|reference| (reference.id, reference.version))
    }

    fn object(new: Config) -> Object {
        Object::Config(Box::new(new))
    }

    fn write(self, spec: ConfigSpec) -> Write {
        Write::ConfigSpec(self, spec)
    }
}

pub(super) fn create<I: Held<C>, const C: bool>(
    store: &Store,
    now: Time,
    id: I,
    annotations: Annotations,
    version: ValueVersion<C>,
) -> Result<Admitted, Refusal> {
    let kind = I::KIND;
    check_secret_name(&format!("{kind} name"), &annotations.name)?;
    check_labels(&format!("{kind} label"), &annotations.labels)?;
    check_version::<I, C>(&version, 1)?;
    if I::all(store).any(|other| other.spec.annotations.name.eq_ignore_ascii_case(&annotations.name)) {
        return Err(Refusal::NameConflict { kind, name: annotations.name });
    }
    let spec = VersionedSpec { annotations, current: version.n, versions: vec![version] };
    let object = I::object(Versioned { id, meta: Meta::default(), spec: Section::new(spec) });
    Ok(transaction(now, id.raw(), 1, Vec::new(), vec![Write::Create(object)]))
}

pub(super) fn update<I: Held<C>, const C: bool>(
    store: &Store,
    now: Time,
    reference: &str,
    version: Option<ValueVersion<C>>,
    labels: Option<BTreeMap<String, String>>,
) -> Result<Admitted, Refusal> {
    let kind = I::KIND;
    let stored = I::resolve(store, reference)?;
    let id = stored.id.raw();
    let mut spec = stored.spec.value.clone();
    if let Some(labels) = labels {
        check_labels(&format!("{kind} label"), &labels)?;
        spec.annotations.labels = labels;
    }
    let mut preconditions = vec![unchanged(kind, id, SectionName::Spec, stored.spec.version)];
    let mut writes = Vec::new();
    if let Some(version) = version {
        let newest = spec.versions.iter().map(|version| version.n).max().unwrap_or(0);
        let is_same = spec.versions.iter().any(|old| old.n == spec.current && old.fingerprint == version.fingerprint);
        // The same value again changes nothing and rolls nothing.
        if !is_same {
            if version.n != newest + 1 {
                return Err(Refusal::OutOfSequence);
            }
            check_version::<I, C>(&version, version.n)?;
            spec.current = version.n;
            spec.versions.push(version);
            prune(store, stored, &mut spec)?;
            let what = format!("{kind} {}", spec.annotations.name);
            let rolled = rollout::roll(store, now, &what, &followers(store, stored.id))?;
            preconditions.extend(rolled.0);
            writes.extend(rolled.1);
        }
    }
    let number = spec.current;
    if spec == stored.spec.value {
        return Ok(done(store, id, number));
    }
    writes.insert(0, stored.id.write(spec));
    Ok(transaction(now, id, number, preconditions, writes))
}

pub(super) fn remove<I: Held<C>, const C: bool>(store: &Store, now: Time, reference: &str) -> Result<Admitted, Refusal> {
    let stored = I::resolve(store, reference)?;
    let in_use = |by: String| Refusal::InUse { kind: I::KIND, name: stored.spec.annotations.name.clone(), by };
    let users: Vec<Arc<Service>> = stored.id.services(store).cloned().collect();
    if !users.is_empty() {
        return Err(in_use(rollout::in_use_by(&users)));
    }
    // A node may have to be told of such a task anew at any time, value and all.
    let mut tasks = stored.id.tasks(store);
    let named: Vec<String> = tasks.by_ref().take(USERS_NAMED_MAX).map(|task| store.user_task(task)).collect();
    if !named.is_empty() {
        let more = tasks.count();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return Err(in_use(format!("{}{more}", named.join("; "))));
    }
    let id = stored.id.raw();
    let precondition = unchanged(I::KIND, id, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, id, 0, vec![precondition], vec![removal(I::KIND, id)]))
}

/// Services whose spec follows the current version.
fn followers<I: Held<C>, const C: bool>(store: &Store, id: I) -> Vec<Arc<Service>> {
    let follows = |service: &&Arc<Service>| {
        I::references(&service.spec.spec.task_template.container_spec).any(|reference| reference == (id, None))
    };
    id.services(store).filter(follows).cloned().collect()
}

fn check_version<I: Held<C>, const C: bool>(version: &ValueVersion<C>, expected: u64) -> Result<(), Refusal> {
    let kind = I::KIND;
    if version.n != expected {
        return Err(Refusal::OutOfSequence);
    }
    let length = version.sealed.bytes.len().saturating_sub(TAG);
    if length == 0 {
        return Err(Refusal::invalid(format!("{kind} value"), "", "it must not be empty"));
    }
    if length >= I::VALUE_MAX {
        return Err(Refusal::TooLarge {
            what: format!("{kind} value of {length} bytes"),
            limit: format!("{} bytes", I::VALUE_MAX - 1),
        });
    }
    let is_fingerprint =
        version.fingerprint.len() == FINGERPRINT && version.fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_fingerprint {
        return Err(Refusal::invalid(format!("{kind} fingerprint"), &version.fingerprint, "it has 16 hex digits"));
    }
    Ok(())
}

/// Drops the oldest versions that nobody refers to, down to the most that are kept.
fn prune<I: Held<C>, const C: bool>(store: &Store, stored: &Versioned<I, C>, spec: &mut VersionedSpec<C>) -> Result<(), Refusal> {
    if spec.versions.len() <= VERSIONS_MAX {
        return Ok(());
    }
    let numbers = |container: &ContainerSpec| {
        I::references(container).filter(|(id, _)| *id == stored.id).filter_map(|(_, version)| version).collect()
    };
    let mut in_use = rollout::numbers_in_use(store, numbers);
    // The one that was current is what its followers' previous specs will be pinned to.
    in_use.extend([spec.current, stored.spec.current]);
    while spec.versions.len() > VERSIONS_MAX {
        let Some(unused) = spec.versions.iter().position(|version| !in_use.contains(&version.n)) else {
            let (kind, name) = (I::KIND, &spec.annotations.name);
            let text = format!(
                "{kind} {name} has {VERSIONS_MAX} versions and all are in use; update the services that are pinned to old ones"
            );
            return Err(Refusal::Exhausted(text));
        };
        spec.versions.remove(unused);
    }
    Ok(())
}
