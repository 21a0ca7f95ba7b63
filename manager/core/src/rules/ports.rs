//! The ports that a service publishes: their rules, their owners, and the choice
//! of those that are left to the cluster.
//!
//! A port that was chosen stays the service's while its target and protocol do.

use crate::store::Store;
use skep_model::Refusal;
use skep_model::ServiceId;
use skep_model::endpoint::{DYNAMIC_PORTS, EndpointMode, EndpointSpec, INGRESS_PORTS_MAX, PublishMode, PublishedPort, Transport};
use skep_model::service::{NetworkMode, Service, ServiceSpec};
use std::collections::BTreeSet;

/// Checks what can be checked without the cluster.
pub(crate) fn check(spec: &ServiceSpec) -> Result<(), Refusal> {
    let EndpointSpec { mode, ports } = &spec.endpoint_spec;
    let mut seen = BTreeSet::new();
    for port in ports {
        if port.target_port == 0 {
            return Err(Refusal::invalid("target port", "0", "a port of the container is between 1 and 65535"));
        }
        if spec.task_template.network != NetworkMode::Bridge {
            let reason = "a service with the node's own network, or none, publishes no ports";
            return Err(Refusal::invalid("published port", told(port), reason));
        }
        if *mode == EndpointMode::Dnsrr && port.publish_mode == PublishMode::Ingress {
            let reason = "port published with ingress mode can't be used with dnsrr mode";
            return Err(Refusal::invalid("endpoint mode", "dnsrr", reason));
        }
        if port.published_port != 0 && !seen.insert((port.published_port, port.transport)) {
            return Err(Refusal::invalid("published port", told(port), "duplicate published ports provided"));
        }
    }
    let n_ingress = ports.iter().filter(|port| port.publish_mode == PublishMode::Ingress).count();
    if n_ingress > INGRESS_PORTS_MAX {
        let reason = format!("a service publishes at most {INGRESS_PORTS_MAX} ports in ingress mode");
        return Err(Refusal::invalid("number of published ports", n_ingress.to_string(), reason));
    }
    Ok(())
}

/// The ports of a spec with every ingress port chosen; `service` is the one whose
/// spec it becomes, if it exists.
pub(crate) fn settle(store: &Store, service: Option<&Service>, spec: &EndpointSpec) -> Result<Vec<PublishedPort>, Refusal> {
    let own = service.map(|service| service.id);
    let named = || spec.ports.iter().filter(|port| port.published_port != 0);
    named().try_for_each(|port| check_cluster(store, port))?;
    named().try_for_each(|port| check_owner(store, own, port))?;
    let mut used: BTreeSet<_> = spec.ports.iter().map(|port| (port.published_port, port.transport)).collect();
    let had: &[PublishedPort] = service.map_or(&[], |service| &service.plan.endpoint.ports);
    let mut settled = spec.ports.clone();
    let is_open = |port: &PublishedPort| port.published_port == 0 && port.publish_mode == PublishMode::Ingress;
    for port in settled.iter_mut().filter(|port| is_open(port)) {
        let is_same = |old: &&PublishedPort| {
            let same = old.target_port == port.target_port && old.transport == port.transport;
            same && old.publish_mode == PublishMode::Ingress && !used.contains(&(old.published_port, old.transport))
        };
        let kept = had.iter().find(is_same).map(|old| old.published_port);
        let is_free = |number: &u16| {
            let claimed = (*number, port.transport);
            let claims = &store.indexes.claims;
            !used.contains(&claimed)
                && use_of(store, claimed).is_none()
                && claims.ingress_port(claimed).is_none()
                && claims.host_port(claimed, None).is_none()
        };
        let (first, last) = DYNAMIC_PORTS;
        let chosen = kept.or_else(|| (first..=last).find(is_free));
        port.published_port = chosen.ok_or_else(|| {
            let protocol = port.transport.name();
            Refusal::Exhausted(format!("every {protocol} port from {first} to {last} is published already: name another one"))
        })?;
        used.insert((port.published_port, port.transport));
    }
    Ok(settled)
}

/// The port that managers listen on unless they are told another one.
const CONTROL_PORT: u16 = 2377;

/// What the cluster itself uses a port for on every node that may come to need it.
fn use_of(store: &Store, (number, transport): (u16, Transport)) -> Option<&'static str> {
    let of_managers = || {
        let addresses = store.nodes().filter_map(|node| node.plan.manager.as_ref());
        let mut ports = addresses.filter_map(|manager| manager.address.rsplit_once(':')?.1.parse::<u16>().ok());
        number == CONTROL_PORT || ports.any(|port| port == number)
    };
    let data_path = || store.cluster().is_some_and(|cluster| cluster.spec.data_path_port == number);
    match transport {
        Transport::Tcp => of_managers().then_some("managers listen on it (the control port)"),
        Transport::Udp => data_path().then_some("overlay networks pass through it (the data path port)"),
    }
}

/// A published port is taken from whatever listens on it: without its own ports the
/// cluster would have no quorum or no networks.
fn check_cluster(store: &Store, port: &PublishedPort) -> Result<(), Refusal> {
    let Some(used_for) = use_of(store, (port.published_port, port.transport)) else { return Ok(()) };
    let key = format!("{}/{}", port.published_port, port.transport.name());
    let reason = format!("port {key} is the cluster's own: {used_for}; publish another port, or none to have one chosen");
    Err(Refusal::invalid("published port", told(port), reason))
}

/// As in Swarm, several services may publish one port in mode host, and nobody
/// else may have one that is published in mode ingress.
fn check_owner(store: &Store, own: Option<ServiceId>, port: &PublishedPort) -> Result<(), Refusal> {
    let claims = &store.indexes.claims;
    let key = (port.published_port, port.transport);
    let ingress = claims.ingress_port(key).filter(|other| Some(*other) != own);
    let host = || if port.publish_mode == PublishMode::Ingress { claims.host_port(key, own) } else { None };
    let (other, how) = match (ingress, host()) {
        (Some(other), _) => (other, "as an ingress port"),
        (None, Some(other)) => (other, "as a host-published port"),
        (None, None) => return Ok(()),
    };
    let name = store.service(other).map_or("", |service| service.spec.spec.annotations.name.as_str());
    let reason = format!("port '{}' is already in use by service '{name}' ({other}) {how}", port.published_port);
    Err(Refusal::invalid("published port", told(port), reason))
}

fn told(port: &PublishedPort) -> String {
    format!("{}:{}/{}", port.published_port, port.target_port, port.transport.name())
}
