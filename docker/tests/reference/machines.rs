//! Networks and nodes of `tests/data`, in the model.

use super::objects::{annotations, map, meta, read};
use skep_docker::TrustRoot;
use skep_model::network::{Attachment, Network, NetworkPlan, NetworkSpec, Pool};
use skep_model::node::*;
use skep_model::resources::Resources;
use skep_model::service::Platform;
use skep_model::{Meta, Section};

fn network(id: &str, meta: Meta, spec: NetworkSpec, vni: u32, pools: &[(&str, &str)]) -> Network {
    let pool = |(subnet, gateway): &(&str, &str)| Pool { subnet: read(subnet), range: None, gateway: Some(read(gateway)) };
    let plan = NetworkPlan { vni, pools: pools.iter().map(pool).collect() };
    let asked = if spec.ingress { Vec::new() } else { plan.pools.clone() };
    let spec = NetworkSpec { driver: "overlay".into(), pools: asked, ..spec };
    Network { id: read(id), meta, spec: Section::new(spec), plan: Section::new(plan) }
}

/// The network of published ports.
pub fn ingress() -> Network {
    let spec = NetworkSpec { annotations: annotations("ingress", &[]), ingress: true, ..NetworkSpec::default() };
    let meta = meta(6, "14:21:27.641462373", "14:21:27.644204142");
    network("4qr7lim46gfm0hvjzsqqem86u", meta, spec, 4096, &[("10.0.0.0/24", "10.0.0.1")])
}

/// An attachable network with a small MTU.
pub fn back() -> Network {
    let spec = NetworkSpec {
        annotations: annotations("back", &[("x", "y")]),
        attachable: true,
        options: map(&[("com.docker.network.driver.mtu", "1400")]),
        ..NetworkSpec::default()
    };
    let meta = meta(20, "14:21:29.450298831", "14:21:29.450879147");
    network("67rsvxhb98gxbiqz5nlllzgs3", meta, spec, 4097, &[("10.50.0.0/24", "10.50.0.1")])
}

/// An internal network with IPv6.
pub fn inner() -> Network {
    let spec = NetworkSpec { annotations: annotations("inner", &[]), internal: true, ipv6: true, ..NetworkSpec::default() };
    let meta = meta(22, "14:21:29.462057469", "14:21:29.462578336");
    let pools = [("10.51.0.0/24", "10.51.0.1"), ("fd00:51::/64", "fd00:51::1")];
    network("xxwyjurxub2nqtpzpli8hdaqm", meta, spec, 4098, &pools)
}

/// A place on a network.
pub fn attachment(network: &Network) -> Attachment {
    let addresses = network.plan.pools.iter().map(|pool| pool.gateway.expect("settled")).collect();
    Attachment { network: network.id, addresses, aliases: Vec::new(), any_source: false }
}

/// Whom nodes trust.
pub fn trust() -> TrustRoot {
    TrustRoot {
        certificate: "-----BEGIN CERTIFICATE-----\n".into(),
        subject: "MBMxETAPBgNVBAMTCHN3YXJtLWNh".into(),
        public_key: "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWrwMsEhOPj8Gv5IT1RXGzheZjPmf5kEBHKLhj5XtvVOHRB054mUbyN0mhD/\
                     rTeEHErN2By1UAUIpZ2DMuyOkBw=="
            .into(),
    }
}

fn node(id: &str, meta: Meta, hostname: &str, address: &str) -> Node {
    let description = NodeDescription {
        hostname: hostname.into(),
        platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
        resources: Resources { nano_cpus: 2_000_000_000, memory_bytes: 25_276_059_648 },
        engine_version: "20.10.24".into(),
        ..NodeDescription::default()
    };
    let status = NodeStatus { state: NodeState::Ready, address: address.into(), ..NodeStatus::default() };
    Node {
        id: read(id),
        meta,
        spec: Section::new(NodeSpec::default()),
        description: Section::new(description),
        status: Section::new(status),
        plan: Section::new(NodePlan::default()),
    }
}

/// The leader.
pub fn manager() -> Node {
    let meta = meta(189, "14:21:27.641439669", "14:22:35.093365828");
    let mut node = node("44nvpyk0wlqn8vm5ewspfzzbo", meta, "node1", "192.0.2.1");
    node.spec.value =
        NodeSpec { labels: map(&[("disk", "ssd"), ("zone", "a")]), desired_role: Role::Manager, ..NodeSpec::default() };
    node.plan.value.role = Role::Manager;
    node.plan.value.manager =
        Some(ManagerStatus { raft_id: 1, address: "192.0.2.1:2377".into(), format_max: 1, unreachable: false });
    node
}

/// A worker.
pub fn worker() -> Node {
    node("sbenhvvzy266a1xkxs2h6yh5u", meta(15, "14:21:28.288505795", "14:21:28.347583805"), "node2", "192.0.2.2")
}
