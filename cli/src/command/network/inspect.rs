//! `skep network inspect`: docker's JSON. Where docker shows the containers of the
//! node that is asked, this shows the tasks of the whole cluster.

use super::known::Networks;
use crate::client::Client;
use crate::command::service;
use crate::command::task::ps::tasks;
use crate::failure::{self, Failure};
use crate::render::{inspect, json, output, shape};
use serde_json::{Map, Value, json};
use skep_model::network::Network;
use skep_model::node::Node;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{Kind, NodeId, Object};
use skep_proto::request::Query;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Display detailed information on one or more networks
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// json, or a Go template
    #[arg(long, short)]
    format: Option<String>,
    /// Verbose output for diagnostics: the services on the network and their tasks
    #[arg(long, short)]
    verbose: bool,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let cluster = Cluster::read(client).await?;
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for network in &self.networks {
            match super::get(client, network).await {
                Ok(network) => found.push(cluster.json(&network, self.verbose)?),
                Err(failure) => failures.push(failure),
            }
        }
        output::write(&inspect::render(&found, shape::NETWORK, self.format.as_deref())?)?;
        failure::all(failures)
    }
}

/// Who may be on a network.
struct Cluster {
    tasks: Vec<Task>,
    services: Vec<Service>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    async fn read(client: &Client) -> Result<Self, Failure> {
        let node = |object| if let Object::Node(node) = object { Some((node.id, *node)) } else { None };
        let nodes = client.list(&Query::List(Kind::Node, Vec::new())).await?;
        Ok(Self {
            tasks: tasks(client.list(&Query::List(Kind::Task, Vec::new())).await?),
            services: service::all(client).await?,
            nodes: nodes.into_iter().filter_map(node).collect(),
        })
    }

    fn json(&self, network: &Network, verbose: bool) -> Result<Value, Failure> {
        let mut object = json::network(network);
        object["Containers"] = Value::Object(self.containers(network));
        object["Peers"] = Value::Array(self.peers(network));
        if verbose {
            object["Services"] = Value::Object(self.services(network)?);
        }
        Ok(object)
    }

    /// The tasks that have an address on the network and have not ended.
    fn on<'a>(&'a self, network: &Network) -> impl Iterator<Item = (&'a Task, &'a [IpAddr])> {
        let id = network.id;
        let living = self.tasks.iter().filter(|task| !task.status.state.is_final());
        living.filter_map(move |task| {
            let attachment = task.networks.iter().find(|attachment| attachment.network == id)?;
            Some((task, &attachment.addresses[..]))
        })
    }

    fn containers(&self, network: &Network) -> Map<String, Value> {
        let known = Networks::from(vec![network.clone()]);
        let address = |addresses: &[IpAddr], is_v6: bool| {
            let address = addresses.iter().find(|address| address.is_ipv6() == is_v6);
            address.map(|address| known.with_prefix(network.id, *address)).unwrap_or_default()
        };
        let container = |(task, addresses): (&Task, &[IpAddr])| {
            let value = json!({
                "Name": task.name(),
                "EndpointID": task.id,
                "IPv4Address": address(addresses, false),
                "IPv6Address": address(addresses, true),
            });
            (task.id.to_string(), value)
        };
        self.on(network).map(container).collect()
    }

    /// The nodes that take part: with a task on it, or all that serve published ports.
    fn peers(&self, network: &Network) -> Vec<Value> {
        let with_task: BTreeSet<NodeId> = self.on(network).filter_map(|(task, _)| task.plan.node).collect();
        let takes_part = |node: &&Node| with_task.contains(&node.id) || (network.spec.ingress && node.plan.ingress.is_some());
        self.nodes
            .values()
            .filter(takes_part)
            .map(|node| json!({ "Name": node.description.hostname, "IP": host(node) }))
            .collect()
    }

    fn services(&self, network: &Network) -> Result<Map<String, Value>, Failure> {
        let mut services = Map::new();
        for service in &self.services {
            let tasks: Vec<Value> = self
                .on(network)
                .filter(|(task, _)| task.service_id == service.id)
                .map(|(task, on)| self.task(task, on))
                .collect();
            let own = service.plan.endpoint.virtual_addresses.get(&network.id);
            if tasks.is_empty() && own.is_none() {
                continue;
            }
            let addresses: Vec<String> = own.into_iter().flat_map(|own| &own.addresses).map(ToString::to_string).collect();
            let ports: Vec<String> = service
                .plan
                .endpoint
                .ports
                .iter()
                .map(|port| format!("Target: {}, Publish: {}", port.target_port, port.published_port))
                .collect();
            let value = json!({ "VIP": addresses.join(" "), "Ports": ports, "Tasks": tasks });
            services.insert(service.spec.spec.annotations.name.clone(), value);
        }
        Ok(services)
    }

    fn task(&self, task: &Task, addresses: &[IpAddr]) -> Value {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let node = task.plan.node.and_then(|id| self.nodes.get(&id));
        json!({
            "Name": task.name(),
            "EndpointID": task.id,
            "EndpointIP": addresses.join(" "),
            "Publication": json::publication(task),
            "Info": { "Host IP": node.map(host).unwrap_or_default() },
        })
    }
}

/// Where other nodes reach a node.
fn host(node: &Node) -> String {
    node.description.underlay.as_ref().map_or_else(|| node.status.address.clone(), |underlay| underlay.address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_network_is_shown_as_docker_shows_it() {
        let mut ended = sample::published_task();
        ended.id = skep_model::TaskId::from_random([9; 16]);
        ended.status.value.state = skep_model::TaskState::Failed;
        let cluster = Cluster {
            tasks: vec![sample::published_task(), ended],
            services: vec![sample::published_service()],
            nodes: BTreeMap::from([(sample::node().id, sample::node())]),
        };
        let text = |network: &Network| inspect::render(&[cluster.json(network, true).expect("json")], &[], None).expect("text");
        expect![[r#"
            [
                {
                    "Attachable": false,
                    "ConfigFrom": {
                        "Network": ""
                    },
                    "ConfigOnly": false,
                    "Containers": {
                        "0000000000000000000000005": {
                            "EndpointID": "0000000000000000000000005",
                            "IPv4Address": "10.0.16.3/20",
                            "IPv6Address": "",
                            "Name": "web.1.0000000000000000000000005"
                        }
                    },
                    "Created": "1970-01-01T00:00:10Z",
                    "Driver": "overlay",
                    "EnableIPv4": true,
                    "EnableIPv6": false,
                    "IPAM": {
                        "Config": [
                            {
                                "Gateway": "10.0.16.1",
                                "Subnet": "10.0.16.0/20"
                            }
                        ],
                        "Driver": "default",
                        "Options": null
                    },
                    "Id": "0000000000000000000000006",
                    "Ingress": false,
                    "Internal": false,
                    "Labels": {
                        "tier": "front"
                    },
                    "Name": "backend",
                    "Options": {
                        "com.docker.network.driver.overlay.vxlanid_list": "4097"
                    },
                    "Peers": [
                        {
                            "IP": "10.0.0.1",
                            "Name": "m1"
                        }
                    ],
                    "Scope": "swarm",
                    "Services": {
                        "web": {
                            "Ports": [
                                "Target: 80, Publish: 8080",
                                "Target: 9090, Publish: 9090"
                            ],
                            "Tasks": [
                                {
                                    "EndpointID": "0000000000000000000000005",
                                    "EndpointIP": "10.0.16.3",
                                    "Info": {
                                        "Host IP": "10.0.0.1"
                                    },
                                    "Name": "web.1.0000000000000000000000005",
                                    "Publication": "published"
                                }
                            ],
                            "VIP": "10.0.16.2"
                        }
                    }
                }
            ]
        "#]]
        .assert_eq(&text(&sample::network()));
        let lonely = Cluster { tasks: Vec::new(), services: Vec::new(), ..cluster };
        let ingress = lonely.json(&sample::ingress(), false).expect("json");
        assert_eq!(ingress["Peers"], json!([{ "Name": "m1", "IP": "10.0.0.1" }]));
        assert_eq!((&ingress["Containers"], &ingress["Services"]), (&json!({}), &Value::Null));
        assert_eq!(lonely.json(&sample::network(), false).expect("json")["Peers"], json!([]));
    }
}
