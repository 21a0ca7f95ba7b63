//! Networks: create, with everything that is settled once for all, and remove.

use super::admitted::{Admitted, cluster, removal, transaction, unchanged};
use super::subnet;
use crate::mint::Mint;
use crate::store::Store;
use crate::transaction::{SectionName, Write};
use skep_model::cluster::ClusterSpec;
use skep_model::name::check_name;
use skep_model::network::{INGRESS_NAME, MTU_OPTION, Network, NetworkPlan, NetworkSpec, check_mtu};
use skep_model::service::Annotations;
use skep_model::text::check_labels;
use skep_model::{Kind, Meta, NetworkId, Object, ObjectRef, Refusal, Section, Time};

/// Names that mean something to every node already.
const PREDEFINED: [&str; 4] = ["host", "none", "bridge", "docker_gwbridge"];
/// Labels that Swarm keeps for itself.
const INTERNAL_LABEL: &str = "com.docker.swarm.internal";

pub(super) fn create(store: &Store, now: Time, mint: &mut Mint, spec: NetworkSpec) -> Result<Admitted, Refusal> {
    check(&spec)?;
    let name = &spec.annotations.name;
    if store.networks().any(|other| other.spec.annotations.name.eq_ignore_ascii_case(name)) {
        return Err(Refusal::NameConflict { kind: Kind::Network, name: name.clone() });
    }
    if let Some(present) = store.ingress_network().filter(|_| spec.ingress) {
        let text = format!("ingress network ({}) is already present", present.spec.annotations.name);
        return Err(Refusal::FailedPrecondition(text));
    }
    let network = settled(store, &cluster(store)?.spec, mint, spec)?;
    let id = network.id;
    Ok(transaction(now, id.0, 0, Vec::new(), vec![Write::Create(Object::Network(Box::new(network)))]))
}

/// The network that a cluster begins with. It is of both families, so that clients
/// of both reach published ports.
pub(super) fn ingress(store: &Store, cluster: &ClusterSpec, mint: &mut Mint) -> Result<Network, Refusal> {
    let spec = NetworkSpec {
        annotations: Annotations { name: INGRESS_NAME.into(), ..Annotations::default() },
        driver: "overlay".into(),
        ingress: true,
        ipv6: true,
        ..NetworkSpec::default()
    };
    settled(store, cluster, mint, spec)
}

/// As in Swarm: a network goes while no service asks for it and no task that is
/// wanted is on it, and the ingress network while nothing is published through it.
pub(super) fn remove(store: &Store, now: Time, reference: &str) -> Result<Admitted, Refusal> {
    let stored = store.resolve_network(reference)?;
    let name = stored.spec.annotations.name.clone();
    if let Some(by) = store.user_of(ObjectRef { kind: Kind::Network, id: stored.id.0 }) {
        return Err(Refusal::InUse { kind: Kind::Network, name, by });
    }
    let precondition = unchanged(Kind::Network, stored.id.0, SectionName::Spec, stored.spec.version);
    Ok(transaction(now, stored.id.0, 0, vec![precondition], vec![removal(Kind::Network, stored.id.0)]))
}

/// A network with its number and subnets.
fn settled(store: &Store, cluster: &ClusterSpec, mint: &mut Mint, mut spec: NetworkSpec) -> Result<Network, Refusal> {
    let pools = subnet::settle(store, cluster, &spec)?;
    spec.pools.iter_mut().for_each(|pool| pool.subnet = pool.subnet.trunc());
    let numbers = "every network number (VNI) is in use: remove a network";
    let vni = store.indexes.claims.next_vni().ok_or_else(|| Refusal::Exhausted(numbers.into()))?;
    let id = NetworkId::from_random(mint.id());
    Ok(Network { id, meta: Meta::default(), spec: Section::new(spec), plan: Section::new(NetworkPlan { vni, pools }) })
}

fn check(spec: &NetworkSpec) -> Result<(), Refusal> {
    let name = &spec.annotations.name;
    check_name("network name", name)?;
    let is_predefined = PREDEFINED.iter().any(|predefined| predefined.eq_ignore_ascii_case(name));
    if is_predefined || (name.eq_ignore_ascii_case(INGRESS_NAME) && !spec.ingress) {
        return Err(Refusal::PermissionDenied(format!("operation is not permitted on predefined {name} network")));
    }
    check_labels("network label", &spec.annotations.labels)?;
    if spec.annotations.labels.contains_key(INTERNAL_LABEL) {
        let text = format!("label {INTERNAL_LABEL} is for predefined internal networks and cannot be applied by users");
        return Err(Refusal::PermissionDenied(text));
    }
    if spec.driver != "overlay" {
        return Err(Refusal::invalid("network driver", &spec.driver, "networks of a cluster have the driver overlay"));
    }
    let clashes = [(spec.internal, "it cannot be internal"), (spec.attachable, "it cannot be attachable")];
    if let Some((_, reason)) = clashes.iter().find(|(is_set, _)| spec.ingress && *is_set) {
        return Err(Refusal::invalid("ingress network", name, *reason));
    }
    spec.options.iter().try_for_each(|(option, value)| check_option(spec, option, value))
}

fn check_option(spec: &NetworkSpec, option: &str, value: &str) -> Result<(), Refusal> {
    match option {
        MTU_OPTION => {
            // What is no number is as far out of range as the largest.
            let mtu = value.parse().unwrap_or(u32::MAX);
            check_mtu(mtu, spec.ipv6).map_err(|invalid| Refusal::invalid(MTU_OPTION, value, invalid.reason))
        }
        "encrypted" => Err(Refusal::Unsupported { what: "the network option encrypted".into() }),
        other => Err(Refusal::Unsupported { what: format!("the network option {:.128}", other) }),
    }
}
