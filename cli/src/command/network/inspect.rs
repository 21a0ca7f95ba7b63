//! `skep network inspect`: docker's JSON. Where docker shows the containers of the
//! node that is asked, this shows the tasks of the whole cluster.

use crate::client::Client;
use crate::command::service;
use crate::command::task::ps::tasks;
use crate::failure::{self, Failure};
use crate::render::{inspect, output, shape};
use skep_docker::{Network, Population};
use skep_model::{Kind, Object};
use skep_proto::request::Query;

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
        let population = population(client).await?;
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for network in &self.networks {
            match super::get(client, network).await {
                Ok(network) => found.push(Network::of(&network, &population, self.verbose)),
                Err(failure) => failures.push(failure),
            }
        }
        output::write(&inspect::render(&found, shape::NETWORK, self.format.as_deref())?)?;
        failure::all(failures)
    }
}

/// Everybody who may be on a network.
async fn population(client: &Client) -> Result<Population, Failure> {
    let node = |object| if let Object::Node(node) = object { Some((node.id, *node)) } else { None };
    let nodes = client.list(&Query::List(Kind::Node, Vec::new())).await?;
    Ok(Population {
        tasks: tasks(client.list(&Query::List(Kind::Task, Vec::new())).await?),
        services: service::all(client).await?,
        nodes: nodes.into_iter().filter_map(node).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;
    use skep_model::network as model;
    use std::collections::BTreeMap;

    #[test]
    fn a_network_is_shown_as_docker_shows_it() {
        let mut ended = sample::published_task();
        ended.id = skep_model::TaskId::from_random([9; 16]);
        ended.status.value.state = skep_model::TaskState::Failed;
        let population = Population {
            tasks: vec![sample::published_task(), ended],
            services: vec![sample::published_service()],
            nodes: BTreeMap::from([(sample::node().id, sample::node())]),
        };
        let text =
            |network: &model::Network| inspect::render(&[Network::of(network, &population, true)], &[], None).expect("text");
        expect![[r#"
            [
                {
                    "Name": "backend",
                    "Id": "0000000000000000000000006",
                    "Created": "1970-01-01T00:00:10Z",
                    "Scope": "swarm",
                    "Driver": "overlay",
                    "EnableIPv4": true,
                    "EnableIPv6": false,
                    "IPAM": {
                        "Driver": "default",
                        "Options": null,
                        "Config": [
                            {
                                "Subnet": "10.0.16.0/20",
                                "Gateway": "10.0.16.1"
                            }
                        ]
                    },
                    "Internal": false,
                    "Attachable": false,
                    "Ingress": false,
                    "ConfigFrom": {
                        "Network": ""
                    },
                    "ConfigOnly": false,
                    "Containers": {
                        "0000000000000000000000005": {
                            "Name": "web.1.0000000000000000000000005",
                            "EndpointID": "0000000000000000000000005",
                            "MacAddress": "02:42:0a:00:10:03",
                            "IPv4Address": "10.0.16.3/20",
                            "IPv6Address": ""
                        }
                    },
                    "Options": {
                        "com.docker.network.driver.overlay.vxlanid_list": "4097"
                    },
                    "Labels": {
                        "tier": "front"
                    },
                    "Peers": [
                        {
                            "Name": "m1",
                            "IP": "10.0.0.1"
                        }
                    ],
                    "Services": {
                        "web": {
                            "VIP": "10.0.16.2",
                            "Ports": [
                                "Target: 80, Publish: 8080",
                                "Target: 9090, Publish: 9090"
                            ],
                            "LocalLBIndex": 0,
                            "Tasks": [
                                {
                                    "Name": "web.1.0000000000000000000000005",
                                    "EndpointID": "0000000000000000000000005",
                                    "EndpointIP": "10.0.16.3",
                                    "Info": {
                                        "Host IP": "10.0.0.1"
                                    },
                                    "Publication": "published"
                                }
                            ]
                        }
                    }
                }
            ]
        "#]]
        .assert_eq(&text(&sample::network()));
        let lonely = Population { tasks: Vec::new(), services: Vec::new(), ..population.clone() };
        let format = Some("{{len .Peers}}{{len .Containers}}{{len .Services}}");
        let text = |network: &model::Network| {
            inspect::render(&[Network::of(network, &lonely, false)], shape::NETWORK, format).expect("text")
        };
        assert_eq!((text(&sample::ingress()).as_str(), text(&sample::network()).as_str()), ("100\n", "000\n"));
    }
}
