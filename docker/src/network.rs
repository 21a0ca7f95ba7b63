//! A network and who is on it. Where Docker shows the containers of the node that is asked, this
//! shows the tasks of the whole cluster; the nodes that take part come from the cluster's state.
//!
//! Ours: `Publication` of a task under `Services`.

mod spec;

pub use spec::NetworkSpec;

use crate::networks::with_prefix;
use crate::scalar::{is_zero, stamp};
use crate::task::publication;
use serde::Serialize;
use skep_model::NodeId;
use skep_model::network as model;
use skep_model::node::Node;
use skep_model::service::Service;
use skep_model::task::Task;
use spec::Ipam;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Where the cluster's networks are.
pub(crate) const SCOPE: &str = "swarm";
/// What gives out addresses.
pub(crate) const IPAM_DRIVER: &str = "default";
/// The option that names the numbers of a network on the wire.
const VXLAN_ID_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// What `network inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv4")]
    ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<String, Container>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_zero")]
    peers: Vec<Peer>,
    #[serde(skip_serializing_if = "is_zero")]
    services: BTreeMap<String, ServiceInfo>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4: String,
    #[serde(rename = "IPv6Address")]
    ipv6: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    name: String,
    #[serde(rename = "IP")]
    ip: String,
}

/// A service on the network; its load balancer has no number of its own here.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceInfo {
    #[serde(rename = "VIP")]
    vip: String,
    ports: Vec<String>,
    #[serde(rename = "LocalLBIndex")]
    local_lb_index: u32,
    tasks: Vec<TaskInfo>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskInfo {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "EndpointIP")]
    endpoint_ip: String,
    info: BTreeMap<&'static str, String>,
    publication: &'static str,
}

/// The options of a network, with its numbers on the wire once they are settled.
pub(crate) fn driver_options(spec: &model::NetworkSpec, plan: &model::NetworkPlan) -> BTreeMap<String, String> {
    let mut options = spec.options.clone();
    if plan.vni != 0 {
        options.insert(VXLAN_ID_OPTION.into(), plan.vni.to_string());
    }
    options
}

/// Everybody who may be on a network.
#[derive(Clone, Debug, Default)]
pub struct Population {
    /// All tasks of the cluster.
    pub tasks: Vec<Task>,
    /// All services.
    pub services: Vec<Service>,
    /// All nodes.
    pub nodes: BTreeMap<NodeId, Node>,
}

impl Network {
    /// A network and who is on it; `verbose` shows its services, too.
    pub fn of(network: &model::Network, population: &Population, verbose: bool) -> Self {
        let (spec, plan) = (&network.spec, &network.plan);
        // Before the leader has settled them, those that were asked for.
        let pools = if plan.pools.is_empty() { &spec.pools } else { &plan.pools };
        Self {
            name: spec.annotations.name.clone(),
            id: network.id.to_string(),
            created: stamp(network.meta.created_at),
            scope: SCOPE,
            driver: spec.driver.clone(),
            ipv4: true,
            ipv6: spec.ipv6,
            ipam: Ipam::of(pools),
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: spec.ingress,
            config_from: ConfigFrom::default(),
            config_only: false,
            containers: population.containers(network),
            options: driver_options(spec, plan),
            labels: spec.annotations.labels.clone(),
            peers: population.peers(network),
            services: if verbose { population.services(network) } else { BTreeMap::new() },
        }
    }
}

impl Population {
    /// The tasks that have an address on the network and have not ended.
    fn on<'a>(&'a self, network: &model::Network) -> impl Iterator<Item = (&'a Task, &'a [IpAddr])> {
        let id = network.id;
        let living = self.tasks.iter().filter(|task| !task.status.state.is_final());
        living.filter_map(move |task| {
            let attachment = task.networks.iter().find(|attachment| attachment.network == id)?;
            Some((task, &attachment.addresses[..]))
        })
    }

    fn containers(&self, network: &model::Network) -> BTreeMap<String, Container> {
        let address = |addresses: &[IpAddr], is_v6: bool| {
            let address = addresses.iter().find(|address| address.is_ipv6() == is_v6);
            address.map(|address| with_prefix(network, *address)).unwrap_or_default()
        };
        let container = |(task, addresses): (&Task, &[IpAddr])| {
            let container = Container {
                name: task.name(),
                endpoint_id: task.id.to_string(),
                mac_address: mac_address(addresses),
                ipv4: address(addresses, false),
                ipv6: address(addresses, true),
            };
            (task.id.to_string(), container)
        };
        self.on(network).map(container).collect()
    }

    /// The nodes that take part: with a task on it, or all that serve published ports.
    fn peers(&self, network: &model::Network) -> Vec<Peer> {
        let with_task: BTreeSet<NodeId> = self.on(network).filter_map(|(task, _)| task.plan.node).collect();
        let takes_part = |node: &&Node| with_task.contains(&node.id) || (network.spec.ingress && node.plan.ingress.is_some());
        let peer = |node: &Node| Peer { name: node.description.hostname.clone(), ip: host(node) };
        self.nodes.values().filter(takes_part).map(peer).collect()
    }

    fn services(&self, network: &model::Network) -> BTreeMap<String, ServiceInfo> {
        let mut services = BTreeMap::new();
        for service in &self.services {
            let of_it = self.on(network).filter(|(task, _)| task.service_id == service.id);
            let tasks: Vec<TaskInfo> = of_it.map(|(task, addresses)| self.task(task, addresses)).collect();
            let own = service.plan.endpoint.virtual_addresses.get(&network.id);
            if tasks.is_empty() && own.is_none() {
                continue;
            }
            let addresses: Vec<String> = own.into_iter().flat_map(|own| &own.addresses).map(ToString::to_string).collect();
            let ports = service.plan.endpoint.ports.iter();
            let info = ServiceInfo {
                vip: addresses.join(" "),
                ports: ports.map(|port| format!("Target: {}, Publish: {}", port.target_port, port.published_port)).collect(),
                local_lb_index: 0,
                tasks,
            };
            services.insert(service.spec.spec.annotations.name.clone(), info);
        }
        services
    }

    fn task(&self, task: &Task, addresses: &[IpAddr]) -> TaskInfo {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let node = task.plan.node.and_then(|id| self.nodes.get(&id));
        TaskInfo {
            name: task.name(),
            endpoint_id: task.id.to_string(),
            endpoint_ip: addresses.join(" "),
            info: BTreeMap::from([("Host IP", node.map(host).unwrap_or_default())]),
            publication: publication(task),
        }
    }
}

/// Where other nodes reach a node.
fn host(node: &Node) -> String {
    node.description.underlay.as_ref().map_or_else(|| node.status.address.clone(), |underlay| underlay.address.to_string())
}

/// The link address that goes with an IPv4 address, as in Docker; empty where there is none.
fn mac_address(addresses: &[IpAddr]) -> String {
    let v4 = addresses.first().and_then(|first| if let IpAddr::V4(v4) = first { Some(v4.octets()) } else { None });
    v4.map(|[a, b, c, d]| format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")).unwrap_or_default()
}
