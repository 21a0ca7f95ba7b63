//! Networks, as objects only.

use super::{Admitted, removal, text, transaction, unchanged};
use crate::mint::Mint;
use crate::store::Store;
use crate::transaction::{SectionName, Write};
use skep_model::name::check_name;
use skep_model::network::{Network, NetworkSpec};
use skep_model::{Kind, Meta, NetworkId, Object, Refusal, Section, Time};

/// Names that mean something to every node already.
const PREDEFINED: [&str; 3] = ["host", "none", "bridge"];

pub(super) fn create(store: &Store, now: Time, mint: &mut Mint, spec: NetworkSpec) -> Result<Admitted, Refusal> {
    check_name("network name", &spec.annotations.name)?;
    text::check_labels("network label", &spec.annotations.labels)?;
    if spec.driver != "overlay" {
        return Err(Refusal::invalid("network driver", &spec.driver, "networks of a cluster have the driver overlay"));
    }
    let name = &spec.annotations.name;
    let is_taken = store.networks().any(|other| other.spec.annotations.name.eq_ignore_ascii_case(name));
    if is_taken || PREDEFINED.contains(&name.as_str()) {
        return Err(Refusal::NameConflict { kind: Kind::Network, name: name.clone() });
    }
    let id = NetworkId::from_random(mint.id());
    let network = Network { id, meta: Meta::default(), spec: Section::new(spec), plan: Section::default() };
    Ok(transaction(now, id.0, 0, Vec::new(), vec![Write::Create(Object::Network(Box::new(network)))]))
}

pub(super) fn remove(store: &Store, now: Time, reference: &str) -> Result<Admitted, Refusal> {
    let stored = store.resolve_network(reference)?;
    let precondition = unchanged(Kind::Network, stored.id.0, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![removal(Kind::Network, stored.id.0)]))
}
